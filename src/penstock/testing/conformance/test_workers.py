"""A worker's life: burst, a number of jobs, drain, hand back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from penstock.client import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import hold, nap, note
from penstock.testing.conformance.capability import has
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import CALM, WorkerProcess, WorkerThread, wait_until

StartWorker = Callable[..., WorkerThread]
StartProcess = Callable[..., WorkerProcess]


def test_a_burst_works_off_what_is_due_and_ends(queue: JobQueue, record: Record) -> None:
    due = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(20)])
    later = queue.enqueue(note, file=record.file, label="later", delay="1h")
    assert queue.worker(burst=True).run() == 0
    assert {job.state for job in due} == {"succeeded"}
    assert later.state == "scheduled"


def test_a_burst_with_nothing_to_do_ends(queue: JobQueue) -> None:
    assert queue.worker(burst=True).run() == 0


def test_a_burst_publishes_again_what_the_engine_lost(queue: JobQueue, record: Record) -> None:
    from penstock.gateway import message_ids

    job = queue.enqueue(note, file=record.file)
    if has(queue, "withdraw"):
        queue.gateway.withdraw(message_ids(job.job))
    assert queue.worker(burst=True).run() == 0
    assert job.state == "succeeded"


def test_a_worker_ends_after_the_number_of_jobs_it_was_given(
    queue: JobQueue, start_process: StartProcess, record: Record
) -> None:
    jobs = queue.enqueue_many([note.options(delay="1s").call(file=record.file, label=str(n)) for n in range(6)])
    worker = start_process("--concurrency", "1", "--max-jobs", "3")
    assert worker.wait() == 0, worker.output
    begun = len(record.starts())
    # What had been taken when the third was claimed is finished too: at most one per thread, and one in hand.
    assert begun >= 3
    assert begun == len(record.ends())
    start_process("--concurrency", "1")
    assert {row.state for row in all_final(queue, jobs)} == {State.SUCCEEDED}


def test_a_stopped_worker_finishes_what_runs_and_takes_nothing_new(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    worker = start_worker(concurrency=2)
    jobs = [queue.enqueue(nap, file=record.file, seconds=0.3, label=str(n), delay="50ms") for n in range(12)]
    record.wait_started(count=1)
    worker.stop()
    begun = len(record.starts())
    assert len(record.ends()) == begun
    assert begun < 12
    states = [queue.ledger.get(job.id).state for job in jobs]
    assert states.count(State.SUCCEEDED) == begun
    assert states.count(State.QUEUED) == 12 - begun


def test_a_stopped_worker_runs_nothing_that_is_published_afterwards(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    if not has(queue, "workers"):
        # The publisher itself runs its messages: there is nobody who could go on after a stop.
        assert queue.gateway.in_process
        return
    start_worker().stop()
    job = queue.enqueue(note, file=record.file)
    with pytest.raises(TimeoutError):
        wait_until(lambda: record.starts(), timeout_s=1.0)
    assert job.state == "queued"


def test_what_a_worker_had_not_begun_waits_on_when_it_leaves(
    open_queue: Callable[..., JobQueue], start_worker: StartWorker, record: Record
) -> None:
    queue = open_queue(sweep=CALM)
    first = start_worker(queue, concurrency=1)
    jobs = [queue.enqueue(nap, file=record.file, seconds=0.1, label=str(n)) for n in range(10)]
    record.wait_started()
    first.stop()
    # A sweep would only come after a minute: what is left must still be with the engine.
    start_worker(queue, concurrency=4)
    all_final(queue, jobs, timeout_s=8)
    assert len(record.starts()) == 10


def test_a_worker_takes_no_more_bodies_at_once_than_its_concurrency(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    jobs = [queue.enqueue(nap, file=record.file, seconds=0.05, label=str(n)) for n in range(12)]
    start_worker(concurrency=3)
    all_final(queue, jobs)
    marks = sorted((entry.at_s, entry.event == "start") for entry in record.entries())
    at_once = most = 0
    for _, began in marks:
        at_once += 1 if began else -1
        most = max(most, at_once)
    assert most <= 3


def test_the_ledger_lists_a_worker_while_it_lives(queue: JobQueue, start_worker: StartWorker) -> None:
    worker = start_worker(queues=["a", "b"], concurrency=2)
    (told,) = queue.ledger.workers()
    assert (told.queues, told.concurrency) == (("a", "b"), 2)
    worker.stop()
    assert queue.ledger.workers() == []


def test_sigterm_drains_and_exits_with_0(queue: JobQueue, start_process: StartProcess, record: Record) -> None:
    worker = start_process("--concurrency", "1")
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()), delay="100ms")
    after = queue.enqueue(note, file=record.file, label="after", delay="300ms")
    record.wait_started()
    worker.terminate()
    record.open_gate()
    assert worker.wait() == 0, worker.output
    assert queue.ledger.get(job.id).state is State.SUCCEEDED
    assert queue.ledger.get(after.id).state is State.QUEUED


def test_a_second_sigterm_hands_jobs_back_without_spending_their_budget(
    queue: JobQueue, start_process: StartProcess, record: Record
) -> None:
    worker = start_process("--concurrency", "1")
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()), delay="100ms", max_attempts=1)
    record.wait_started()
    worker.terminate()
    # The first signal must have been seen as one of its own: two at once are one to the kernel.
    wait_until(lambda: _draining(worker), what="the worker drains")
    worker.terminate()
    assert worker.wait() == 143, worker.output
    row = queue.ledger.get(job.id)
    assert (row.state, row.errors, row.crashes) == (State.QUEUED, 0, 0)
    assert [attempt.outcome for attempt in job.attempts()] == ["released"]
    record.open_gate()
    start_process("--concurrency", "1")
    assert final(queue, job).state is State.SUCCEEDED


def _draining(worker: WorkerProcess) -> bool:
    """Whether SIGTERM is no longer pending in the process: its handler has been called."""
    from pathlib import Path

    status = Path(f"/proc/{worker.pid}/status").read_text()
    pending = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return not any(mask & (1 << 14) for mask in pending)
