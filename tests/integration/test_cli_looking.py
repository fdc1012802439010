"""``snapshot``, ``queues``, ``explain``, ``watch``, ``audit``: in a pipe, on a terminal, as JSON, by variables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock import JobQueue
from penstock.cli.session import Session
from penstock.job.models import WorkerInfo

TASK_FILE = """
import os
from penstock import Run, task

@task(queue="etl")
def greet(name: str, run: Run) -> str:
    run.progress = 0.5
    print("greeting", name)
    return f"Hello {name}"

@task
def fail(text: str = "bad") -> None:
    raise ValueError(text)

@task(isolation="process", max_crashes=1)
def die() -> None:
    print("the last words", flush=True)
    os._exit(3)
"""


@pytest.fixture
def penstock(tmp_path: Path, monkeypatch, capfd) -> Shell:
    folder = tmp_path / "shop"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "tasks.py").write_text(TASK_FILE)
    (folder / "penstock.toml").write_text('backend = "inline://"\ntasks = ["jobs/"]\n')
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    monkeypatch.setenv("PENSTOCK_ACTOR", "ada")
    return Shell(capfd)


@pytest.fixture
def terminal(monkeypatch):
    monkeypatch.setattr(Session, "pretty", property(lambda session: not session.json))
    monkeypatch.setenv("COLUMNS", "160")


def submitted(penstock: Shell, *words: str) -> str:
    (job,) = penstock.json("enqueue", *words)
    return job["id"]


# -- status -----------------------------------------------------------------------------------------------------------


def test_the_status_of_a_crash_loop_ends_with_what_it_wrote_last(penstock, terminal):
    job = submitted(penstock, "die")
    assert penstock("status", job) == 0
    assert "ProcessDied: the process that ran the job died: exit status 3\n" in penstock.out
    assert "the last words" in penstock.out.split("kind")[0]
    assert penstock("explain", job) == 0
    assert "died: exit status 3." in penstock.out


# -- snapshot and queues ----------------------------------------------------------------------------------------------


def test_a_snapshot_counts_and_lists(penstock):
    submitted(penstock, "greet", "name=Ada")
    later = submitted(penstock, "greet", "name=Bob", "--in", "1h")
    (taken,) = penstock.json("snapshot")
    assert (taken["schema"], taken["total"], taken["states"]) == (
        "penstock.snapshot/1", 2, {"scheduled": 1, "succeeded": 1},
    )  # fmt: skip
    assert taken["queues"] == {"etl": {"scheduled": 1, "succeeded": 1}}
    assert taken["tasks"] == {"greet": {"scheduled": 1, "succeeded": 1}}
    assert [one["id"] for one in taken["future"]] == [later]


def test_a_snapshot_in_a_pipe_is_lines(penstock):
    later = submitted(penstock, "greet", "name=Bob", "--in", "1h")
    assert penstock("snapshot") == 0
    lines = [line.split("\t") for line in penstock.out.splitlines()]
    assert ["queue", "etl", "scheduled", "1"] in lines
    assert [line[:2] for line in lines if line[0] == "future"] == [["future", later]]


def test_a_snapshot_on_a_terminal_is_a_page(penstock, terminal):
    submitted(penstock, "greet", "name=Bob", "--in", "1h")
    assert penstock("snapshot") == 0
    assert "comes next" in penstock.out
    assert "no worker is alive" in penstock.out


def test_queues_are_listed(penstock, terminal):
    submitted(penstock, "greet", "name=Bob", "--in", "1h")
    found = {one["name"]: one for one in penstock.json("queues")}
    assert (found["etl"]["scheduled"], found["default"]["scheduled"], found["etl"]["depth"]) == (1, 0, None)
    assert penstock("queues") == 0
    assert penstock.out.split()[0] == "queue"


@pytest.mark.parametrize("width", ["80", "100"])
def test_a_narrow_terminal_shows_the_whole_name_of_a_queue_and_that_it_is_paused(
    penstock, terminal, monkeypatch, width
):
    monkeypatch.setenv("COLUMNS", width)
    penstock("pause", "queue", "etl")
    assert penstock("queues") == 0
    row = next(line for line in penstock.out.splitlines() if line.startswith("etl"))
    assert row.rstrip().endswith("paused: queue etl")
    assert "default" in penstock.out


def test_a_paused_worker_is_told_where_workers_are_listed(penstock, terminal):
    with JobQueue.from_config() as queue:
        queue.ledger.tell_worker(
            WorkerInfo(
                id="host:1:a", host="host", pid=1, backend="inline://", queues=("etl",), concurrency=1,
                started_at=queue.now(), seen_at=queue.now(), tasks=("greet",),
            )
        )  # fmt: skip
    penstock("pause", "worker", "host", "--why", "repair")
    for words in (["workers"], ["workers", "for-task", "greet"], ["snapshot"]):
        assert penstock(*words) == 0
        assert "‖ paused by ada: repair" in penstock.out
    assert penstock.json("workers")[0]["paused"] == "paused by ada: repair"


# -- explain ----------------------------------------------------------------------------------------------------------


def test_a_job_is_explained(penstock):
    job = submitted(penstock, "greet", "name=Bob", "--in", "1h")
    (told,) = penstock.json("explain", job[:20])
    assert (told["schema"], told["state"], told["job_id"]) == ("penstock.job.explanation/1", "scheduled", job)
    assert told["told"].startswith("It is scheduled for")
    assert penstock("explain", "greet") == 0
    assert penstock.out.startswith("scheduled\t")


def test_a_failed_job_is_explained_with_what_to_do_next(penstock, terminal):
    penstock("enqueue", "fail")
    assert penstock("explain", "fail") == 0
    assert "ValueError: bad" in penstock.out
    assert "next: penstock logs" in penstock.out


def test_what_is_not_there_cannot_be_explained(penstock):
    assert penstock("explain", "nobody") == 5


# -- watch ------------------------------------------------------------------------------------------------------------


def test_watching_a_job_tells_all_and_exits_as_it_ended(penstock):
    submitted(penstock, "greet", "name=Ada")
    assert penstock("watch", "greet") == 0
    kinds = [line.split("\t")[2] for line in penstock.out.splitlines()[1:]]
    assert sorted(set(kinds)) == ["log", "progress", "state"]
    assert "greeting Ada" in penstock.out
    penstock("enqueue", "fail")
    assert penstock("watch", "fail") == 1
    assert "penstock logs" in penstock.err


def test_watching_as_json_is_an_event_a_line(penstock):
    submitted(penstock, "greet", "name=Ada")
    found = penstock.json("watch", "greet")
    assert {event["schema"] for event in found} == {"penstock.event/1"}
    assert [event["event"] for event in found if event["type"] == "state"] == ["enqueue", "claim", "succeed"]


def test_watching_on_a_terminal_has_a_bar(penstock, terminal):
    submitted(penstock, "greet", "name=Ada")
    assert penstock("watch", "greet") == 0
    assert "✓ succeeded" in penstock.out


def test_watching_ends_with_its_time_and_once_at_once(penstock):
    submitted(penstock, "greet", "name=Bob", "--in", "1h")
    assert penstock("watch", "greet", "--wait-timeout", "50ms") == 124
    assert penstock("watch", "greet", "--once") == 0
    assert penstock("watch", "greet", "--wait-timeout", "soon") == 2


# -- audit ------------------------------------------------------------------------------------------------------------


def test_what_was_done_by_hand_is_listed(penstock):
    job = submitted(penstock, "greet", "name=Bob", "--in", "1h")
    assert penstock("cancel", job, "--why", "wrong day") == 0
    assert penstock("retry", job, "--why", "after all") == 0
    found = penstock.json("audit")
    assert [(one["actor"], one["verb"], one["why"]) for one in found] == [
        ("ada", "retry", "after all"), ("ada", "cancel", "wrong day"),
    ]  # fmt: skip
    assert [one["verb"] for one in penstock.json("audit", "--verb", "cancel", "--subject", job, "--since", "1h")] == [
        "cancel"
    ]
    assert penstock("audit") == 0
    assert penstock.out.splitlines()[0].split("\t")[:4] == ["at", "actor", "verb", "subject"]


def test_the_verbs_of_schedules_take_a_reason(penstock, terminal):
    assert penstock("schedules", "add", "greet", "@daily", "name=Ada", "--why", "a") == 0
    for words in (("update", "greet", "@hourly"), ("pause", "greet"), ("resume", "greet"), ("rm", "greet")):
        assert penstock("schedules", *words, "--why", words[0]) == 0
    assert [one["why"] for one in penstock.json("audit")] == ["rm", "resume", "pause", "update", "a"]
    assert penstock("audit") == 0
    assert "schedules rm" in penstock.out


# -- variables --------------------------------------------------------------------------------------------------------


def test_options_may_be_variables_and_flags_win(penstock, monkeypatch):
    job = submitted(penstock, "greet", "name=Bob", "--in", "1h")
    monkeypatch.setenv("PENSTOCK_CANCEL_WHY", "by a variable")
    penstock("cancel", job)
    penstock("retry", job)
    monkeypatch.setenv("PENSTOCK_AUDIT_VERB", "cancel")
    monkeypatch.setenv("PENSTOCK_WATCH_ONCE", "true")
    assert [one["why"] for one in penstock.json("audit")] == ["by a variable"]
    assert [one["verb"] for one in penstock.json("audit", "--verb", "retry")] == ["retry"]
    assert penstock("watch", "greet") == 0  # it is scheduled: without the variable it would be followed


def test_a_document_is_one_line_of_json(penstock):
    submitted(penstock, "greet", "name=Ada")
    for words in (("snapshot",), ("queues",), ("explain", "greet"), ("watch", "greet"), ("audit",)):
        assert penstock(*words, "--json") == 0
        for line in penstock.out.splitlines():
            assert json.loads(line)["schema"].startswith("penstock.")
