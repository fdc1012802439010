"""An async engine behind synchronous verbs: bodies, forks and stops that cross from one colour to the other."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path

import pytest

from penstock import JobQueue, Run, task
from penstock.core.exceptions import BackendError, BackendUnavailableError
from penstock.job.lifecycle import State
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import ahold, hold, note
from penstock.testing.conformance.record import Record, write
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import CALM, harness_for, wait_until

pytest.importorskip("saq")

from penstock.backends.saq.queue import SaqBackend


@task(name="async-engines.submits")
async def submits(file: str, run: Run) -> str:
    """A synchronous verb on the loop of the engine."""
    write(file, "start", "submits", run.job_id, run.attempt)
    return JobQueue.default().enqueue(note, file=file, label="submitted").id


@task(name="async-engines.blocks")
async def blocks(file: str, gate: str, run: Run) -> None:
    """What an async body must not do."""
    write(file, "start", "blocks", run.job_id, run.attempt)
    until = time.monotonic() + 20
    while not Path(gate).exists() and time.monotonic() < until:  # noqa: ASYNC240 - that is the point
        time.sleep(0.01)  # noqa: ASYNC251


async def leave() -> None:
    raise SystemExit(3)


@task(name="async-engines.leaves", max_attempts=1)
async def leaves(file: str, gate: str, run: Run) -> None:
    """Ends the loop that it runs on, by a task of its own."""
    write(file, "start", "leaves", run.job_id, run.attempt)
    while not Path(gate).exists():  # noqa: ASYNC110, ASYNC240 - a stat, within a test
        await asyncio.sleep(0.01)
    await asyncio.gather(leave())


@pytest.fixture
def queue(redis_url, tmp_path):
    harness = harness_for(f"saq+{redis_url}")(tmp_path)
    made = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=(bodies.MODULE,), sweep=CALM)
    JobQueue.set_default(made)
    yield made
    JobQueue.set_default(None)
    harness.reset()
    made.close()


@pytest.fixture
def record(tmp_path) -> Record:
    return Record(tmp_path)


def test_an_async_body_may_call_a_synchronous_verb(queue, record):
    with queue.worker(concurrency=2):
        first = queue.enqueue(submits, file=record.file)
        second = queue.job(first.result(20))
        assert final(queue, second).state is State.SUCCEEDED


def test_a_body_that_blocks_its_loop_does_not_hold_up_publishing(queue, record):
    with queue.worker(concurrency=2):
        job = queue.enqueue(blocks, file=record.file, gate=str(record.gate()))
        record.wait_started()
        queue.enqueue(note, file=record.file, queue="elsewhere")
        assert queue.gateway.depth("elsewhere") == 1
        record.open_gate()
        assert final(queue, job).state is State.SUCCEEDED


def test_a_stop_returns_at_once_while_a_body_blocks_the_loop(queue, record):
    with queue.worker(concurrency=2):
        job = queue.enqueue(blocks, file=record.file, gate=str(record.gate()))
        record.wait_started()
        began = time.monotonic()
        queue.gateway.stop()
        assert time.monotonic() - began < 1.0
        record.open_gate()
        assert final(queue, job).state is State.SUCCEEDED


def test_stops_from_many_threads_are_one(queue):
    worker = queue.worker(concurrency=2)
    worker.start()
    threads = [threading.Thread(target=queue.gateway.stop) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    worker.stop()
    queue.gateway.stop()


def test_a_body_whose_task_ends_the_loop_costs_its_neighbours_no_error(queue, record):
    beside = [
        queue.enqueue(body.options(max_attempts=1), file=record.file, gate=str(record.gate("never")))
        for body in (hold, ahold)
    ]
    guilty = queue.enqueue(leaves, file=record.file, gate=str(record.gate()))
    worker = queue.worker(concurrency=3)
    with pytest.raises(BackendError, match=r"SystemExit\(3\)"):
        worker.run(on_ready=lambda: (record.wait_started(count=3), record.open_gate()))
    rows = [queue.ledger.get(job.id) for job in beside]
    assert {(row.state, row.errors) for row in rows} == {(State.QUEUED, 0)}
    assert [row.crashes for row in rows] == [0, 1]
    assert queue.ledger.get(guilty.id).errors + queue.ledger.get(guilty.id).crashes == 1


def test_an_engine_that_is_told_to_stop_at_each_look_hears_it_once(queue, record, monkeypatch):
    heard: list[object] = []
    stop = SaqBackend.stop

    async def hear(backend: SaqBackend) -> None:
        heard.append(backend)
        await stop(backend)

    monkeypatch.setattr(SaqBackend, "stop", hear)
    worker = queue.worker(concurrency=1)
    worker.start()
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    for _ in range(20):
        queue.gateway.stop()
    record.open_gate()
    final(queue, job)
    worker.stop()
    assert len(heard) == 1


def test_a_worker_can_be_started_again(queue, record):
    for label in ("first", "second"):
        with queue.worker(concurrency=2):
            assert queue.enqueue(note, file=record.file, label=label).result(20) == label


def test_a_forked_child_publishes_by_connections_of_its_own(queue, record):
    queue.enqueue(note, file=record.file)
    child = os.fork()
    if child == 0:
        try:
            queue.enqueue(note, file=record.file)
        finally:
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    wait_until(lambda: queue.gateway.depth("default") == 2)
    queue.enqueue(note, file=record.file)
    assert queue.gateway.depth("default") == 3


@pytest.mark.parametrize(
    "url", ["saq+redis://127.0.0.1:1/0", "arq+redis://127.0.0.1:1/0", "taskiq+redis://127.0.0.1:1/0"]
)
def test_a_worker_whose_engine_is_down_says_so_at_its_start(tmp_path, url):
    pytest.importorskip(url.partition("+")[0])
    with (
        JobQueue(url, ledger="memory://", root=tmp_path) as cut_off,
        pytest.raises(BackendUnavailableError, match="cannot be reached"),
    ):
        cut_off.worker().start()
