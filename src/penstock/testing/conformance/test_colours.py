"""Sync and async: bodies of both colours run on every engine, and every verb can be awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from penstock.client import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.conformance.bodies import anote, hold, note
from penstock.testing.conformance.capability import either_way, has
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


@pytest.mark.parametrize("body", [note, anote], ids=["def", "async def"])
@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_body_of_either_colour_runs(
    queue: JobQueue, start_worker: StartWorker, record: Record, body: Any, isolation: str
) -> None:
    start_worker()
    job = queue.enqueue(body, file=record.file, label="ran", isolation=isolation)
    assert job.result(20) == "ran"
    assert [entry.event for entry in record.entries()] == ["start", "end"]


def test_async_bodies_run_beside_each_other(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker(concurrency=4)
    jobs = queue.enqueue_many([anote.call(file=record.file, label=str(n)) for n in range(40)])
    assert {row.state for row in all_final(queue, jobs)} == {State.SUCCEEDED}


@either_way("workers")
def test_as_many_bodies_run_at_once_as_the_worker_was_told(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    many = 45  # more than the threads that blocking verbs share
    if not has(queue, "workers"):  # they run one after the other, within the enqueue
        record.open_gate()
    start_worker(concurrency=many)
    jobs = queue.enqueue_many([hold.call(file=record.file, gate=str(record.gate())) for _ in range(many)])
    record.wait_started(count=many)
    record.open_gate()
    assert {row.state for row in all_final(queue, jobs)} == {State.SUCCEEDED}


def test_the_async_twins_do_what_their_verbs_do(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()

    async def main() -> None:
        job = await queue.aenqueue(note, file=record.file, label="awaited")
        assert await job.aresult(20) == "awaited"
        assert (await job.arefresh()).state is State.SUCCEEDED
        many = await queue.aenqueue_many([note.call(file=record.file, label=str(n)) for n in range(3)])
        assert [await each.aresult(20) for each in many] == ["0", "1", "2"]
        assert (await queue.ajob(job.id)).id == job.id
        assert len(await queue.ajobs()) == 4
        assert (await queue.acounts())["succeeded"] == 4
        later = await queue.aenqueue(note, file=record.file, delay="1h")
        assert await later.acancel() == "cancelled"
        again = await later.aretry()
        assert again.job.parent_id == later.id
        assert (await again.await_(20)).state is State.SUCCEEDED
        assert [attempt.number for attempt in await job.aattempts()] == [1]
        assert [entry.event for entry in await job.ahistory()] == ["enqueue", "claim", "succeed"]

    asyncio.run(main())


@pytest.mark.parametrize("body", [note, anote], ids=["def", "async def"])
def test_an_enqueue_within_a_running_loop_works(
    queue: JobQueue, start_worker: StartWorker, record: Record, body: Any
) -> None:
    start_worker()

    async def main() -> str:
        return queue.enqueue(body, file=record.file, label="from a notebook").result(20)

    assert asyncio.run(main()) == "from a notebook"


def test_many_awaited_enqueues_at_once_are_many_jobs(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()

    async def main() -> list[Any]:
        return await asyncio.gather(*(queue.aenqueue(note, file=record.file, label=str(n)) for n in range(20)))

    jobs = asyncio.run(main())
    all_final(queue, jobs)
    assert len({job.id for job in jobs}) == 20
    assert sorted(int(entry.label) for entry in record.starts()) == list(range(20))
