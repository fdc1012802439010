"""Cancelling: what has not started never does, what runs is stopped, what is over stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.client import JobQueue
from penstock.core.exceptions import JobCancelledError
from penstock.handle import CancelOutcome
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import ahold, flaky, hold, note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import WorkerThread, wait_until

StartWorker = Callable[..., WorkerThread]


def test_a_cancelled_job_never_starts(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    job = queue.enqueue(note, file=record.file, label="cancelled", delay="300ms")
    assert job.cancel() is CancelOutcome.CANCELLED
    start_worker()
    final(queue, queue.enqueue(note, file=record.file, label="later", delay="600ms"))
    assert record.starts("cancelled") == []
    assert job.state == "cancelled"


def test_a_message_of_a_cancelled_job_is_refused(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    from penstock.gateway import message_for

    job = queue.enqueue(note, file=record.file, delay="300ms")
    job.cancel()
    worker = start_worker()
    queue.gateway.publish([message_for(job.job)])
    wait_until(lambda: worker.counts().get("refused", 0) + queue.execution.counts["refused"] == 1)
    assert record.starts() == []


@pytest.mark.parametrize("body", [hold, ahold], ids=["def", "async def"])
def test_a_running_job_is_stopped(queue: JobQueue, start_worker: StartWorker, record: Record, body: object) -> None:
    start_worker()
    # Delayed, so that where messages run in the publishing process it is not this thread that runs the body.
    job = queue.enqueue(body, file=record.file, gate=str(record.gate()), delay="100ms")  # type: ignore[arg-type]
    record.wait_started()
    assert job.cancel() is CancelOutcome.REQUESTED
    assert final(queue, job).state is State.CANCELLED
    assert record.ends() == []
    with pytest.raises(JobCancelledError):
        job.result(5)


def test_a_job_that_waits_for_its_next_try_can_be_cancelled(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(flaky, file=record.file, failures=9, max_attempts=9, backoff="1h")
    wait_until(lambda: job.state == "retrying")
    assert job.cancel() is CancelOutcome.CANCELLED
    assert job.state == "cancelled"


def test_cancelling_a_final_job_changes_nothing(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    job = queue.enqueue(note, file=record.file, label="done")
    job.wait(20)
    assert job.cancel() is CancelOutcome.FINISHED
    assert job.result() == "done"
