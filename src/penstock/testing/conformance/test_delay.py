"""Delayed jobs: never early, at most a second late, and not to be had before."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from penstock.client import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


def test_a_delayed_job_starts_when_due_and_at_most_a_second_late(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    jobs = [queue.enqueue(note, file=record.file, label=str(n), delay=0.3 * n) for n in (1, 2, 3)]
    for job in all_final(queue, jobs):
        assert job.started_at is not None
        late_s = (job.started_at - job.scheduled_at).total_seconds()
        assert 0 <= late_s < 1
    assert [entry.label for entry in record.starts()] == ["1", "2", "3"]


def test_a_job_for_an_instant_starts_at_that_instant(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    at = datetime.now(UTC) + timedelta(seconds=2)  # a busy machine may take a second to record it
    row = final(queue, queue.enqueue(note, file=record.file, at=at))
    assert row.scheduled_at == at
    assert row.started_at is not None
    assert row.started_at >= at


def test_a_job_for_the_past_starts_at_once(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    job = queue.enqueue(note, file=record.file, at=datetime.now(UTC) - timedelta(hours=1))
    assert final(queue, job).state is State.SUCCEEDED


def test_a_delayed_job_is_shown_as_scheduled_and_waits(queue: JobQueue, record: Record) -> None:
    job = queue.enqueue(note, file=record.file, delay="1h")
    assert job.state == "scheduled"
    assert queue.sweeper.publish_due() == 0
    assert record.starts() == []


def test_a_worker_refuses_a_message_that_comes_before_its_job_is_due(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    from penstock.gateway import message_for

    worker = start_worker()
    early = queue.enqueue(note, file=record.file, label="early", delay="1h")
    queue.gateway.publish([message_for(early.job)])
    probe = queue.enqueue(note, file=record.file, label="probe")
    probe.wait(20)
    from penstock.testing.harness import wait_until

    wait_until(
        lambda: worker.counts().get("refused", 0) + queue.execution.counts["refused"] == 1,
        what="the early message is refused",
    )
    assert record.starts("early") == []
    assert early.state == "scheduled"


def test_a_delayed_job_survives_a_worker_that_leaves(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker().stop()
    job = queue.enqueue(note, file=record.file, delay="200ms")
    start_worker()
    assert final(queue, job).state is State.SUCCEEDED
