"""Bodies in child processes: apart from the worker, watched by it, and rescued when they die."""

from __future__ import annotations

import os
from collections.abc import Callable

from penstock.client import JobQueue
from penstock.core.config import LeaseConfig
from penstock.handle import CancelOutcome
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import die, hold, nap, note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


def test_an_isolated_body_runs_in_another_process_which_is_used_again(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker(concurrency=1)
    jobs = [queue.enqueue(note, file=record.file, label=str(n), isolation="process", delay="50ms") for n in range(4)]
    all_final(queue, jobs)
    pids = {entry.pid for entry in record.starts()}
    assert os.getpid() not in pids
    assert len(pids) == 1


def test_a_child_that_dies_is_noticed_and_its_job_runs_again(
    open_queue: Callable[..., JobQueue], start_worker: StartWorker, record: Record
) -> None:
    # A lease that is over only when the test has long failed: the parent tells, no sweeper has to.
    queue = open_queue(lease=LeaseConfig())
    start_worker(queue)
    job = queue.enqueue(die, file=record.file, deaths=1, isolation="process", delay="50ms")
    row = final(queue, job)
    assert (row.state, row.attempt, row.crashes, row.errors) == (State.SUCCEEDED, 2, 1, 0)
    first, _ = job.attempts()
    assert first.outcome == "crashed"


def test_a_child_that_dies_again_and_again_is_a_crash_loop(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(die, file=record.file, deaths=9, isolation="process", max_crashes=2, delay="50ms")
    row = final(queue, job)
    assert (row.state, row.reason) == (State.FAILED, "crash_loop")
    assert len(record.starts()) == 2


def test_a_cancelled_isolated_body_is_killed_even_while_it_blocks(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    job = queue.enqueue(nap, file=record.file, seconds=30, isolation="process", delay="50ms")
    record.wait_started()
    assert job.cancel() is CancelOutcome.REQUESTED
    assert final(queue, job, timeout_s=5).state is State.CANCELLED
    assert record.ends() == []


def test_an_isolated_body_is_handed_back_when_its_worker_must_go(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    worker = start_worker()
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()), isolation="process", delay="50ms")
    record.wait_started()
    worker.stop(grace_s=0.2)
    row = queue.ledger.get(job.id)
    assert (row.state, row.errors, row.crashes) == (State.QUEUED, 0, 0)
