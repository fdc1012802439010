"""Retries are ours alone: what an engine retries by itself would run twice."""

from __future__ import annotations

from collections.abc import Callable

from penstock.client import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import fail, flaky
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


def test_a_failing_job_without_retries_starts_exactly_once(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    worker = start_worker()
    jobs = [queue.enqueue(fail, file=record.file, how="own") for _ in range(5)]
    assert {row.state for row in all_final(queue, jobs)} == {State.FAILED}
    worker.stop()
    assert len(record.starts()) == 5


def test_a_failing_job_is_tried_again_until_it_succeeds(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(flaky, file=record.file, failures=2, max_attempts=5, backoff="50ms..100ms")
    row = final(queue, job)
    assert (row.state, row.attempt, row.errors) == (State.SUCCEEDED, 3, 2)
    assert job.result() == 3
    assert [entry.attempt for entry in record.starts()] == [1, 2, 3]


def test_a_failing_job_fails_for_good_after_max_attempts(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(flaky, file=record.file, failures=99, max_attempts=3, backoff="50ms")
    row = final(queue, job)
    assert (row.state, row.reason, row.attempt) == (State.FAILED, "error", 3)
    assert [attempt.outcome for attempt in job.attempts()] == ["error"] * 3
    assert len(record.starts()) == 3


def test_between_two_tries_a_job_waits_for_its_backoff(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    final(queue, queue.enqueue(flaky, file=record.file, failures=1, max_attempts=2, backoff="600ms"))
    first, second = record.starts()
    assert 0.55 <= second.at_s - first.at_s < 5


def test_an_error_that_is_not_worth_another_try_ends_the_job(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    backoff = {"base_s": 0.05, "discard_on": ["Oddity"]}
    row = final(queue, queue.enqueue(flaky, file=record.file, failures=9, max_attempts=5, backoff=backoff))
    assert (row.state, row.attempt) == (State.FAILED, 1)
    assert len(record.starts()) == 1
