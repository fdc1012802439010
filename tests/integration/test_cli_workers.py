"""Which workers there are, and what each can run, at the command line."""

from __future__ import annotations

from pathlib import Path

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock import JobQueue, task
from penstock.core.exceptions import LedgerUnavailableError
from penstock.job.models import WorkerInfo
from penstock.worker import Worker


@pytest.fixture
def penstock(tmp_path: Path, monkeypatch, capfd) -> Shell:
    (tmp_path / "penstock.toml").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    return Shell(capfd)


def test_a_worker_is_listed_with_what_it_can_run(penstock):
    @task(name="listed.task", aliases=["listed.old"], concurrency=2)
    def listed() -> None: ...

    with JobQueue() as queue, queue.worker(queues=["etl"]):
        (worker,) = penstock.json("workers", "--queue", "etl")
        assert (worker["id"], worker["queues"], worker["version"] != "") == (queue.owner, ["etl"], True)
        assert {"listed.task", "listed.old"} <= set(worker["tasks"])
        assert penstock("workers") == 0
        assert queue.owner in penstock.out
        assert [found["id"] for found in penstock.json("workers", "for-task", "listed.old")] == [queue.owner]
        assert penstock.json("workers", "for-task", "unknown") == []
        assert penstock.json("workers", "--queue", "other") == []
        (row,) = penstock.json("tasks", "listed.old")
        assert (row["name"], row["options"]) == ("listed.task", {"aliases": ["listed.old"], "concurrency": 2})


def test_each_option_has_a_variable(penstock, monkeypatch):
    monkeypatch.setenv("PENSTOCK_WORKERS_QUEUE", "etl")
    monkeypatch.setenv("PENSTOCK_WORKERS_FOR_TASK_SEEN_WITHIN", "soon")
    with JobQueue() as queue, queue.worker(queues=["default"]):
        assert penstock.json("workers") == []
        assert penstock("workers", "for-task", "x") == 2


def test_a_time_that_is_none_is_a_usage_error(penstock):
    assert penstock("workers", "--seen-within", "soon") == 2
    assert "--seen-within: 'soon' is not a duration" in penstock.err


def test_a_worker_outlives_a_ledger_that_goes_away_when_it_tells_of_itself(penstock, monkeypatch):
    with JobQueue() as queue:
        job = queue.enqueue_command(["true"])
    info, away = Worker.info, [LedgerUnavailableError("it went away")]

    def once(worker: Worker) -> WorkerInfo:
        if away:
            raise away.pop()
        return info(worker)

    monkeypatch.setattr(Worker, "info", once)
    assert penstock("worker", "--burst") == 0
    assert "its ledger does not answer any more" in penstock.err
    (found,) = penstock.json("status", job.id)
    assert found["state"] == "succeeded"
