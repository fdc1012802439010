"""Dead letters at the command line: listed, put right, requeued one by one or all at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

TASK_FILE = """
from datetime import date
from penstock import task

@task(queue="math")
def divide(a: int, b: int, day: date | None = None) -> float:
    return a / b

@task
def code(zip: str) -> str:
    return 1 / 0 if zip == "0" else zip
"""


@pytest.fixture
def penstock(tmp_path: Path, monkeypatch, capfd) -> Shell:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tasks.py").write_text(TASK_FILE)
    (tmp_path / "penstock.toml").write_text('backend = "inline://"\ntasks = ["jobs/"]\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    return Shell(capfd)


def failed(penstock: Shell, *words: str) -> str:
    penstock.json("enqueue", *words)
    return penstock.json("dead-letters")[0]["id"]


def test_a_failed_job_is_listed_with_its_error(penstock):
    job_id = failed(penstock, "divide", "a=1", "b=0")
    assert penstock("dead-letters") == 0
    assert job_id in penstock.out
    assert "ZeroDivisionError" in penstock.out


def test_a_requeued_job_prints_its_new_id_and_is_not_listed(penstock):
    job_id = failed(penstock, "divide", "a=1", "b=0")
    assert penstock("requeue", job_id, "b=4") == 0
    (new,) = penstock.out.split()
    assert penstock.json("result", new)[0] == 0.25 or "0.25" in penstock.out
    assert penstock.json("status", new)[0]["parent_id"] == job_id
    assert penstock.json("dead-letters") == []


def test_a_word_is_read_as_the_task_s_own_type(penstock):
    job_id = failed(penstock, "code", "zip=0")
    (job,) = penstock.json("requeue", job_id, "zip=01234")
    assert job["spec"] == {"kwargs": {"zip": "01234"}}


def test_a_command_is_put_right_by_its_parts(penstock):
    penstock("enqueue", "--isolation", "inline", "--", "false")
    (letter,) = penstock.json("dead-letters")
    (job,) = penstock.json("requeue", letter["id"], 'argv=["true"]', "cwd=/")
    assert job["spec"] == {"argv": ["true"], "cwd": "/"}
    assert penstock.json("status", job["id"])[0]["state"] == "succeeded"


def test_inputs_may_be_json_and_options_are_for_the_new_job(penstock):
    job_id = failed(penstock, "divide", "a=1", "b=0")
    (job,) = penstock.json(
        "requeue",
        job_id,
        "--inputs",
        '{"b": 2}',
        "--delay",
        "1h",
        "--to-queue",
        "slow",
        "--max-attempts",
        "4",
        "--why",
        "b was wrong",
    )
    assert penstock.json("audit")[0]["why"] == "b was wrong"
    assert (job["state"], job["queue"], job["max_attempts"]) == ("scheduled", "slow", 4)


def test_a_wrong_input_is_a_usage_error(penstock):
    job_id = failed(penstock, "divide", "a=1", "b=0")
    assert penstock("requeue", job_id, "c=2") == 2
    assert "has no parameter 'c'" in penstock.err


def test_all_that_fit_are_requeued_or_only_told(penstock):
    job_id = failed(penstock, "divide", "a=1", "b=0")
    failed(penstock, "code", "zip=0")
    (told,) = penstock.json("requeue", "--all", "--queue", "math", "--since", "1h", "--reason", "error", "--dry-run")
    assert (told["found"], told["jobs"], told["dry_run"]) == (1, [job_id], True)
    (told,) = penstock.json("requeue", "--all", "--task", "div*", "--delay", "1h")
    assert (told["found"], told["requeued"]) == (1, 1)
    assert [job["name"] for job in penstock.json("dead-letters")] == ["code"]


def test_jobs_and_letters_are_found_by_their_metadata(penstock):
    job_id = failed(penstock, "divide", "a=1", "b=0", "--metadata", "team=etl", "--metadata", "day=a=b")
    failed(penstock, "divide", "a=2", "b=0", "--metadata", "team=web")
    for listing in ("jobs", "dead-letters"):
        (job,) = penstock.json(listing, "--metadata", "team=etl", "--metadata", "day=a=b")
        assert (job["id"], job["metadata"]) == (job_id, {"team": "etl", "day": "a=b"})
    (told,) = penstock.json("requeue", "--all", "--metadata", "team=etl", "--delay", "1h")
    assert (told["found"], told["requeued"]) == (1, 1)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["jobs", "--metadata", "team"], "--metadata takes KEY=VALUE"),
        (["requeue", "x", "--metadata", "team=etl"], "--metadata goes with --all"),
        (["requeue"], "which job?"),
        (["requeue", "x", "--all"], "give one or the other"),
        (["requeue", "x", "--queue", "math"], "--queue goes with --all"),
        (["requeue", "x", "--dry-run"], "--dry-run goes with --all"),
        (["dead-letters", "--limit", "0"], "--limit takes a number over 0"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(penstock, words, told):
    assert penstock(*words) == 2
    assert told in penstock.err


def test_an_error_is_json_too(penstock):
    assert penstock("dead-letters", "--reason", "bad", "--json") == 2
    assert "no job fails by 'bad'" in json.loads(penstock.err)["error"]["message"]


def test_each_option_has_a_variable(penstock, monkeypatch):
    failed(penstock, "divide", "a=1", "b=0")
    monkeypatch.setenv("PENSTOCK_REQUEUE_ALL", "true")
    monkeypatch.setenv("PENSTOCK_REQUEUE_DRY_RUN", "true")
    monkeypatch.setenv("PENSTOCK_DEAD_LETTERS_QUEUE", "other")
    assert penstock.json("requeue")[0]["found"] == 1
    assert penstock.json("dead-letters") == []


def test_rules_of_retries_are_flags(penstock):
    (job,) = penstock.json(
        "enqueue", "divide", "a=1", "b=0", "--retry-on", "ZeroDivisionError=3,1h", "--discard-on", "KeyError"
    )
    assert penstock.json("status", job["id"])[0]["state"] == "retrying"
