"""The verbs by which messages are carried, and the capabilities of each transport."""

from __future__ import annotations

import os
from collections.abc import Callable
from uuid import uuid4

import pytest

from penstock.client import JobQueue
from penstock.core.capabilities import FLAGS, Support
from penstock.gateway import message_for, message_ids
from penstock.job.lifecycle import State
from penstock.job.models import Message, new_job_id
from penstock.testing.conformance.bodies import hold, note
from penstock.testing.conformance.capability import asking, either_way, has, requires
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import CALM, WorkerProcess, WorkerThread, wait_until

StartWorker = Callable[..., WorkerThread]
StartProcess = Callable[..., WorkerProcess]


def test_every_flag_has_one_of_three_values(queue: JobQueue) -> None:
    assert {type(getattr(queue.gateway.capabilities, flag)) for flag in FLAGS} == {Support}


@pytest.mark.calm
@requires("priority")
def test_of_the_waiting_messages_the_highest_priority_goes_first(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    with asking(queue):
        jobs = [
            queue.enqueue(note, file=record.file, label=str(priority), priority=priority)
            for priority in (1, 9, 5, 3, 7, 0)
        ]
    start_worker(concurrency=1)
    all_final(queue, jobs)
    assert [entry.label for entry in record.starts()] == ["9", "7", "5", "3", "1", "0"]


def test_the_default_priority_needs_no_capability(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    job = queue.enqueue(note, file=record.file, priority=5)
    assert final(queue, job).state is State.SUCCEEDED


@pytest.mark.calm
def test_messages_of_equal_priority_keep_their_order(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    jobs = queue.enqueue_many([note.call(file=record.file, label=f"{n:02}") for n in range(20)])
    start_worker(concurrency=1)
    all_final(queue, jobs)
    assert [entry.label for entry in record.starts()] == [f"{n:02}" for n in range(20)]


@pytest.mark.calm
@requires("depth")
def test_depth_counts_the_messages_that_wait_in_one_queue(queue: JobQueue, record: Record) -> None:
    with asking(queue):
        assert queue.gateway.depth("default") == 0
    for n in range(7):
        queue.enqueue(note, file=record.file, queue="default" if n < 4 else "other")
    assert (queue.gateway.depth("default"), queue.gateway.depth("other")) == (4, 3)
    assert queue.gateway.depth("empty") == 0


@pytest.mark.calm
@requires("depth")
def test_depth_falls_to_nothing_when_the_messages_are_taken(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    with asking(queue):
        queue.gateway.depth("default")
    jobs = queue.enqueue_many([note.call(file=record.file) for _ in range(9)])
    start_worker()
    all_final(queue, jobs)
    wait_until(lambda: queue.gateway.depth("default") == 0, what="nothing waits")


@pytest.mark.calm
@requires("withdraw")
def test_a_withdrawn_message_does_not_arrive(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    jobs = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(3)])
    with asking(queue):
        taken = queue.gateway.withdraw(message_ids(jobs[1].job))
    assert taken == 1
    start_worker(concurrency=1)
    all_final(queue, [jobs[0], jobs[2]])
    assert record.starts("1") == []


@requires("withdraw")
def test_withdrawing_what_is_not_there_is_no_error(queue: JobQueue) -> None:
    with asking(queue):
        assert queue.gateway.withdraw([f"{new_job_id()}_1", "nonsense"]) == 0


@either_way("bulk")
def test_more_messages_than_one_trip_takes_all_arrive(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    # With or without the capability the answer is the same; with it, nothing may be left out at the seam of
    # two trips (1,000 messages each), and nothing sent twice.
    if has(queue, "depth") and has(queue, "bulk"):
        queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(1_003)])
        assert queue.gateway.depth("default") == 1_003
        return
    count = 30
    jobs = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(count)])
    start_worker(concurrency=4)
    all_final(queue, jobs, timeout_s=60)
    assert sorted(int(entry.label) for entry in record.starts()) == list(range(count))


@either_way("workers")
def test_another_process_takes_the_messages_or_the_publishing_one_runs_them(
    open_queue: Callable[..., JobQueue], start_process: StartProcess, record: Record
) -> None:
    # Without the calm the worker's own sweep would publish the job again, in its own process.
    queue = open_queue(sweep=CALM)
    worker = start_process(on=queue)
    job = queue.enqueue(note, file=record.file)
    row = final(queue, job)
    assert row.state is State.SUCCEEDED
    assert record.starts()[0].pid == (worker.pid if has(queue, "workers") else os.getpid())


@either_way("persistent")
def test_waiting_messages_survive_or_are_published_again(
    queue: JobQueue,
    open_queue: Callable[..., JobQueue],
    start_process: StartProcess,
    record: Record,
) -> None:
    # Published by a process that has ended: the worker's clean end returns what it had not begun.
    calls = [
        hold.options(delay="100ms").call(file=record.file, gate=str(record.gate()), label=str(n)) for n in range(3)
    ]
    jobs = queue.enqueue_many(calls)
    first = start_process("--concurrency", "1")
    record.wait_started()
    first.kill()
    if has(queue, "persistent") and has(queue, "depth"):
        wait_until(lambda: queue.gateway.depth("default") >= 2, what="two messages wait still")
    record.open_gate()
    start_process("--concurrency", "1")
    assert {row.state for row in all_final(queue, jobs)} == {State.SUCCEEDED}
    assert {entry.label for entry in record.ends()} == {"0", "1", "2"}


def test_a_worker_prefers_its_queues_in_the_order_given(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    names = ("low", "high", "middle")
    if not has(queue, "workers"):
        # Nothing waits where publishing is running: the order of the queues is that of the calls.
        names = ("high", "middle", "low")
    jobs = [queue.enqueue(note, file=record.file, label=name, queue=name) for name in names for _ in range(3)]
    start_worker(queues=["high", "middle", "low"], concurrency=1)
    all_final(queue, jobs)
    assert [entry.label for entry in record.starts()] == ["high"] * 3 + ["middle"] * 3 + ["low"] * 3


def test_a_worker_takes_nothing_from_a_queue_that_is_not_its_own(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker(queues=["mine"])
    theirs = queue.enqueue(note, file=record.file, label="theirs", queue="theirs", delay="50ms")
    mine = queue.enqueue(note, file=record.file, label="mine", queue="mine", delay="400ms")
    final(queue, mine)
    if has(queue, "workers"):
        assert record.starts("theirs") == []
        assert theirs.state == "queued"


def test_a_queue_of_another_namespace_is_another_queue(
    queue: JobQueue, open_queue: Callable[..., JobQueue], start_worker: StartWorker, record: Record
) -> None:
    other = open_queue(namespace=f"n{uuid4().hex[:12]}", ledger="memory://")
    theirs = other.enqueue(note, file=record.file, label="theirs", delay="1h")
    other.gateway.publish([message_for(theirs.job)])
    start_worker()
    final(queue, queue.enqueue(note, file=record.file, label="ours", delay="200ms"))
    assert record.starts("theirs") == []


def test_two_projects_may_use_the_same_job_id_on_one_engine(
    open_queue: Callable[..., JobQueue], start_worker: StartWorker, record: Record
) -> None:
    # In calm weather: what one project took from the other would else be published again.
    ours = open_queue(sweep=CALM)
    theirs = open_queue(sweep=CALM, namespace=f"n{uuid4().hex[:12]}", ledger="sqlite:///{folder}/theirs.db")
    job_id = f"report.{uuid4().hex}"
    mine = ours.enqueue(note, file=record.file, label="ours", job_id=job_id)
    job = theirs.enqueue(note, file=record.file, label="theirs", job_id=job_id)
    mine.cancel()  # which takes the message back where that can be done
    start_worker(theirs)
    assert final(theirs, job).state is State.SUCCEEDED


def test_a_message_of_several_jobs_runs_them_all(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    jobs = queue.enqueue_many([note.options(delay="200ms").call(file=record.file, label=str(n)) for n in range(3)])
    ids = tuple(job.id for job in jobs)
    wait_until(lambda: jobs[0].state != "scheduled")
    queue.gateway.publish([Message(id=f"{ids[0]}_9", job_ids=ids)])
    all_final(queue, jobs)
    assert sorted(entry.label for entry in record.starts()) == ["0", "1", "2"]
