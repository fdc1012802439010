"""Two releases on one ledger: schema N and N-1 work together, a newer one that leaves the old out is refused."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import JobQueue, task
from penstock.core.exceptions import LedgerError, NewerLedgerError
from penstock.ledger import postgres_schema, redis_server, sqlite_schema, versions
from penstock.testing import mould
from penstock.testing.harness import WorkerProcess, environment, filled, not_here, short_config, wait_until

NEXT = len(sqlite_schema.MIGRATIONS) + 1
_WAITS = """
import time
from pathlib import Path
from penstock import task

@task(name="versions.wait")
def wait(gate: str) -> str:
    while not Path(gate).exists():
        time.sleep(0.01)
    return "whole"
"""
_ADDS = "ALTER TABLE jobs ADD COLUMN of_the_next_release TEXT DEFAULT 'x'"


@task(name="versions.noop")
def noop() -> int:
    """Return something."""
    return 7


@task(name="versions.wait")
def wait(gate: str) -> str:
    """Only the name and the signature of what `_WAITS` has."""
    raise NotImplementedError


class NextRelease:
    """While it is entered, this process has the code of the release after: its schema adds a column."""

    def __init__(self, *, oldest: int) -> None:
        self._patch = pytest.MonkeyPatch()
        self._oldest = oldest

    def __enter__(self) -> None:
        for schema in (sqlite_schema, postgres_schema):
            self._patch.setattr(schema, "MIGRATIONS", (*schema.MIGRATIONS, lambda: (_ADDS,)))
        self._patch.setattr(redis_server, "SCHEMA", NEXT)
        self._patch.setattr(versions, "OLDEST", self._oldest)

    def __exit__(self, *_exc: object) -> None:
        self._patch.undo()


@pytest.fixture(
    params=[
        "sqlite:///{folder}/ledger.db",
        *(pytest.param(url, marks=pytest.mark.servers) for url in ("{redis}", "{postgres}")),
    ]
)
def open_queue(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[object]:
    if (why_not := not_here(request.param)) is not None:
        pytest.skip(why_not)
    opened: list[JobQueue] = []
    (tmp_path / "waits.py").write_text(_WAITS)
    config = short_config(
        backend="huey+sqlite:///queue.db",
        ledger=filled(request.param, tmp_path),
        namespace=f"versions{abs(hash(tmp_path)) % 10**9}",
    )

    def make() -> JobQueue:
        opened.append(JobQueue(config=config, root=tmp_path))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


def test_a_release_works_on_beside_the_next_one_that_only_adds(open_queue):
    old = open_queue()
    before = old.enqueue(noop)
    with NextRelease(oldest=1):
        new = open_queue()
        assert new.job(before.id).state == "queued"
        of_new = new.enqueue(noop)
    # The old release: the process that was there before, and one that starts afterwards.
    late = open_queue()
    with old.worker():
        assert [before.result(20), old.job(of_new.id).result(20), late.enqueue(noop).result(20)] == [7, 7, 7]
    assert new.job(of_new.id).state == "succeeded"


def test_a_next_release_that_leaves_this_one_out_is_refused_with_both_versions(open_queue):
    open_queue().enqueue(noop)
    with NextRelease(oldest=NEXT):
        open_queue().enqueue(noop)
    with pytest.raises(LedgerError, match=rf"newer penstock \(schema {NEXT}, this one knows \d\); upgrade"):
        open_queue().counts()


def test_a_worker_drains_and_ends_once_a_release_comes_that_leaves_it_out(open_queue, tmp_path):
    queue = open_queue()
    gate = tmp_path / "gate"
    running = queue.enqueue(wait, str(gate))
    worker = WorkerProcess(queue, "--concurrency=1", PENSTOCK_TASKS='["waits.py"]')
    try:
        wait_until(lambda: running.state == "running")
        with NextRelease(oldest=NEXT):
            later = open_queue().enqueue(noop)
            wait_until(lambda: "takes nothing new" in worker.said(), what="the worker has noticed")
            gate.touch()
            assert worker.wait() == 4
        assert "written by a newer penstock" in worker.output.splitlines()[-2]
        assert (running.state, running.result(0)) == ("succeeded", "whole")
        assert (later.state, later.job.attempt) == ("queued", 0)
    finally:
        worker.stop()


def test_what_runs_on_in_a_worker_that_is_left_out_is_handed_back(open_queue, tmp_path):
    queue = open_queue()
    running = queue.enqueue(wait, str(tmp_path / "never"))
    worker = WorkerProcess(queue, "--concurrency=1", "--grace=100ms", PENSTOCK_TASKS='["waits.py"]')
    try:
        wait_until(lambda: running.state == "running")
        with NextRelease(oldest=NEXT):
            open_queue().counts()
            assert worker.wait() == 4
        assert "written by a newer penstock" in worker.output
        assert (running.state, running.job.errors, running.job.crashes) == ("queued", 0, 0)
    finally:
        worker.stop()


@pytest.mark.parametrize("open_queue", ["sqlite:///{folder}/ledger.db"], indirect=True)
def test_a_scheduler_ends_too(open_queue, tmp_path):
    queue, log = open_queue(), tmp_path / "scheduler.log"
    queue.counts()
    environ = {**os.environ, **environment(queue.config)}
    scheduler = mould.start(["scheduler"], cwd=tmp_path, environ=environ, output=log)
    try:
        wait_until(lambda: log.exists() and "is ready" in log.read_text(), what="the scheduler is ready")
        with NextRelease(oldest=NEXT):
            open_queue().counts()
        assert scheduler.wait(20) == 4
        assert "written by a newer penstock" in log.read_text()
    finally:
        scheduler.kill()


def test_an_embedded_worker_that_is_left_out_takes_nothing_new(open_queue):
    queue = open_queue()
    with queue.worker() as worker:
        with NextRelease(oldest=NEXT):
            other = open_queue()
            other.counts()
        wait_until(lambda: worker.vitals.phase == "ended", what="the worker has noticed")
        job = other.enqueue(noop)
    assert job.state == "queued"


def test_an_older_ledger_is_brought_up_and_only_once(open_queue):
    open_queue().enqueue(noop)
    with NextRelease(oldest=1):
        assert open_queue().counts() == {"queued": 1}
        assert open_queue().counts() == {"queued": 1}
    assert open_queue().counts() == {"queued": 1}


@pytest.mark.parametrize(("schema", "oldest"), [(1, 1), (3, 3), (3, 2), (65_535, 1)])
def test_a_version_is_read_as_it_was_written(monkeypatch, schema, oldest):
    monkeypatch.setattr(versions, "OLDEST", oldest)
    assert versions.read(versions.packed(schema)) == (schema, oldest)


@pytest.mark.parametrize("number", [-5, 65_536, 99_999, 2**31 - 1])
def test_a_version_that_no_release_writes_is_refused_and_told(number):
    with pytest.raises(NewerLedgerError, match=rf"here says schema {number}, which no penstock"):
        versions.refuse_newer(number, known=3, told="here")


def test_a_file_with_such_a_version_is_left_as_it_is(tmp_path):
    path = tmp_path / "ledger.db"
    with JobQueue("inline://", ledger=f"sqlite:///{path}") as queue:
        queue.counts()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        file.execute("PRAGMA user_version = 99999")
    before = path.read_bytes()
    with JobQueue("inline://", ledger=f"sqlite:///{path}") as queue, pytest.raises(NewerLedgerError, match="99999"):
        queue.counts()
    assert path.read_bytes() == before
