"""What a body raises is the job's error, whatever it is, and the worker lives on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from penstock.client import JobQueue
from penstock.core.exceptions import (
    JobFailedError,
    JobNotFoundError,
    ResultError,
    ResultTimeoutError,
    TransitionRefusedError,
)
from penstock.job.lifecycle import State
from penstock.job.models import new_job_id
from penstock.testing.conformance.bodies import afail, fail, give_callable, note, talk
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


RAISED = {"own": "Oddity", "silent": "SilentError", "exit": "SystemExit", "keyboard": "KeyboardInterrupt"}


@pytest.mark.parametrize("body", [fail, afail], ids=["def", "async def"])
@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_whatever_a_body_raises_is_the_jobs_error(
    queue: JobQueue, start_worker: StartWorker, record: Record, body: Any, isolation: str
) -> None:
    start_worker(concurrency=1)
    jobs = {how: queue.enqueue(body, file=record.file, how=how, isolation=isolation) for how in RAISED}
    rows = {how: final(queue, job) for how, job in jobs.items()}
    assert {(row.state, row.reason) for row in rows.values()} == {(State.FAILED, "error")}
    assert {how: row.error.type if row.error else None for how, row in rows.items()} == RAISED
    after = queue.enqueue(note, file=record.file, label="after", isolation=isolation)
    assert after.result(20) == "after"


def test_an_error_keeps_its_text_its_traceback_and_its_cause(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(fail, file=record.file, how="chained")
    with pytest.raises(JobFailedError, match="after a KeyError") as told:
        job.result(20)
    kept = told.value.error
    assert kept is not None
    assert kept.type == "Oddity"
    assert "KeyError: 'missing'" in kept.traceback
    assert "bodies.py" in kept.traceback


def test_a_result_that_cannot_be_kept_is_told_to_whom_asks_for_it(queue: JobQueue, start_worker: StartWorker) -> None:
    start_worker()
    job = queue.enqueue(give_callable)
    # The body's work is done and may not be done twice: the job has succeeded, its value is what is missing.
    assert final(queue, job).state is State.SUCCEEDED
    with pytest.raises(ResultError, match="function"):
        job.result(5)


def test_an_unknown_job_id_is_not_found_and_never_queued(queue: JobQueue) -> None:
    for unknown in (new_job_id(), "nonsense", ""):
        with pytest.raises(JobNotFoundError):
            queue.job(unknown)


def test_who_waits_too_long_is_told_and_the_job_goes_on(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    job = queue.enqueue(note, file=record.file, label="late", delay="700ms")
    with pytest.raises(ResultTimeoutError, match="scheduled"):
        job.result(0.1)
    start_worker()
    assert job.result(20) == "late"


def test_a_job_that_is_not_final_cannot_be_run_again(queue: JobQueue, record: Record) -> None:
    job = queue.enqueue(note, file=record.file, delay="1h")
    with pytest.raises(TransitionRefusedError):
        job.retry()


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_what_a_body_prints_and_logs_is_kept_with_its_attempt(
    queue: JobQueue, start_worker: StartWorker, isolation: str
) -> None:
    start_worker()
    # Delayed, so that it runs in the worker, which is what keeps printed lines.
    job = queue.enqueue(talk, text="a line of mine", isolation=isolation, delay="100ms")
    assert final(queue, job).progress == 0.5
    lines = [line for line in job.logs() if line.text == "a line of mine"]
    assert len(lines) == 2
    assert {line.attempt for line in lines} == {1}
