"""Several workers on one queue: none keeps from the others what it does not run itself."""

from __future__ import annotations

from collections.abc import Callable

from penstock.client import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import hold, nap, note
from penstock.testing.conformance.capability import has
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final
from penstock.testing.harness import CALM, WorkerProcess, WorkerThread, wait_until

StartWorker = Callable[..., WorkerThread]
StartProcess = Callable[..., WorkerProcess]
OpenQueue = Callable[..., JobQueue]


def test_a_worker_busy_with_a_long_job_holds_nothing_that_an_idle_one_could_take(
    open_queue: OpenQueue, start_worker: StartWorker, record: Record
) -> None:
    queue = open_queue(sweep=CALM)
    if not has(queue, "workers"):
        assert queue.gateway.in_process  # the publisher runs them: there is nobody to share with
        return
    long = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    shorts = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(6)])
    start_worker(queue, concurrency=1)
    record.wait_started(count=1)
    start_worker(queue, concurrency=1)
    all_final(queue, shorts, timeout_s=10)
    assert queue.ledger.get(long.id).state is State.RUNNING
    record.open_gate()
    all_final(queue, [long])


def test_max_jobs_is_exact_whatever_the_concurrency(open_queue: OpenQueue, record: Record) -> None:
    queue = open_queue(sweep=CALM)
    if not has(queue, "workers"):
        assert queue.gateway.in_process  # what is enqueued has run
        return
    queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(12)])
    assert queue.worker(concurrency=4, max_jobs=5).run() == 0
    assert queue.counts() == {"succeeded": 5, "queued": 7}


def test_what_was_taken_beyond_max_jobs_is_there_for_others_at_once(
    open_queue: OpenQueue, start_process: StartProcess, start_worker: StartWorker, record: Record
) -> None:
    queue = open_queue(sweep=CALM)
    if not has(queue, "workers"):
        assert queue.gateway.in_process
        return
    # Of the four that it takes at once, it may run any two.
    longs = queue.enqueue_many([hold.call(file=record.file, gate=str(record.gate()), label="long") for _ in range(4)])
    shorts = queue.enqueue_many([note.call(file=record.file) for _ in range(6)])
    start_process("--concurrency", "4", "--max-jobs", "2", on=queue)
    record.wait_started("long", count=2)
    # Neither its end nor a sweep is to be waited for.
    start_worker(queue, concurrency=3)
    record.wait_started("long", count=4)
    all_final(queue, shorts, timeout_s=10)
    record.open_gate()
    all_final(queue, longs)


def test_two_processes_of_one_command_share_the_work(
    queue: JobQueue, start_process: StartProcess, record: Record
) -> None:
    parent = WorkerProcess(queue, "--processes", "2", "--concurrency", "1")
    try:
        if not has(queue, "workers"):
            assert parent.wait() == 6
            assert "would get no job" in parent.output
            return
        wait_until(lambda: len(queue.ledger.workers()) == 2, 30, "two workers are ready")
        jobs = queue.enqueue_many([nap.call(file=record.file, seconds=0.2, label=str(n)) for n in range(8)])
        assert {row.state for row in all_final(queue, jobs)} == {State.SUCCEEDED}
        pids = {entry.pid for entry in record.starts()}
        assert pids == {worker.pid for worker in queue.ledger.workers()}
        assert parent.pid not in pids
        parent.terminate()
        assert parent.wait() == 0, parent.output
    finally:
        parent.stop()
