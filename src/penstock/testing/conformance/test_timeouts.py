"""Timeouts are ours, and with a process of its own no body outlives one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.client import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import ahold, hold, nap, note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


def test_a_body_that_blocks_is_ended_at_its_timeout_in_a_process_of_its_own(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    # The first call pays for the child's start.
    queue.enqueue(note, file=record.file, isolation="process").wait(20)
    job = queue.enqueue(nap, file=record.file, seconds=30, label="nap", timeout="500ms", isolation="process")
    row = final(queue, job)
    assert (row.state, row.reason) == (State.FAILED, "timeout")
    assert row.started_at is not None
    assert row.finished_at is not None
    assert 0.4 < (row.finished_at - row.started_at).total_seconds() < 3
    assert record.ends("nap") == []


@pytest.mark.parametrize("body", [hold, ahold], ids=["def", "async def"])
def test_an_inline_body_is_interrupted_at_its_timeout(
    queue: JobQueue, start_worker: StartWorker, record: Record, body: Any
) -> None:
    start_worker()
    job = queue.enqueue(
        body, file=record.file, gate=str(record.gate()), timeout="300ms", isolation="inline", delay="50ms"
    )
    row = final(queue, job)
    assert (row.state, row.reason) == (State.FAILED, "timeout")
    assert record.ends() == []


def test_a_timeout_is_an_error_that_is_worth_another_try(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(
        hold, file=record.file, gate=str(record.gate()), timeout="200ms", isolation="inline", max_attempts=2,
        backoff="50ms", delay="50ms",
    )  # fmt: skip
    row = final(queue, job)
    assert (row.reason, row.attempt, row.errors) == ("timeout", 2, 2)
    assert [attempt.outcome for attempt in job.attempts()] == ["timeout", "timeout"]


def test_a_body_may_run_longer_than_its_lease(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    start_worker()
    # The suite's lease is 2.5 s: only heartbeats keep the sweepers off.
    job = queue.enqueue(nap, file=record.file, seconds=3.5, delay="50ms")
    row = final(queue, job)
    assert (row.state, row.attempt, row.crashes) == (State.SUCCEEDED, 1, 0)
    assert len(record.starts()) == 1


def test_the_worker_runs_on_after_a_timeout(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker(concurrency=1)
    late = queue.enqueue(
        hold, file=record.file, gate=str(record.gate()), timeout="200ms", isolation="inline", delay="50ms"
    )
    final(queue, late)
    assert queue.enqueue(note, file=record.file, label="next").result(20) == "next"
