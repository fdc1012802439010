"""Many jobs waited for at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import penstock
from penstock import JobQueue, task
from penstock.core.exceptions import JobCancelledError, JobFailedError, JobNotFoundError, ResultTimeoutError
from penstock.handle import JobHandle
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import JobQuery


@task(name="gather_double")
def double(number: int) -> int:
    if number < 0:
        raise ValueError(number)
    return 2 * number


@pytest.fixture(autouse=True)
def _known() -> None:
    from penstock.sources.decorators import TASKS

    TASKS._tasks.setdefault("gather_double", double)  # pyright: ignore[reportPrivateUsage]


def test_what_is_no_job_is_told_with_what_to_write(queue: JobQueue) -> None:
    jobs = [queue.enqueue(double, 1)]
    with pytest.raises(TypeError, match=r"write gather\(\*jobs\)"):
        penstock.gather(jobs)  # type: ignore[arg-type]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    # An engine with workers, of which none runs: the tests write what a worker would.
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        yield queue


def end(queue: JobQueue, job: JobHandle) -> None:
    queue.ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=60))
    queue.ledger.apply(lifecycle.succeed(job.id, attempt=1))


def test_results_stand_in_the_order_of_the_handles(job_queue: JobQueue) -> None:
    jobs = [job_queue.enqueue(double, number) for number in (3, 1, 2)]
    assert penstock.gather(*jobs, timeout=20) == [6, 2, 4]


def test_nothing_gathered_is_nothing(job_queue: JobQueue) -> None:
    assert penstock.gather() == []
    assert list(penstock.as_completed([])) == []


def test_the_first_failure_is_raised(job_queue: JobQueue) -> None:
    jobs = [job_queue.enqueue(double, number) for number in (1, -1)]
    with pytest.raises(JobFailedError, match="ValueError"):
        penstock.gather(*jobs, timeout=20)


def test_failures_stand_among_the_results_where_that_was_asked(job_queue: JobQueue) -> None:
    jobs = [job_queue.enqueue(double, number) for number in (1, -1)]
    jobs.append(job_queue.enqueue(double, 5, delay="1h"))
    jobs[2].cancel()
    good, failed, cancelled = penstock.gather(*jobs, timeout=20, return_exceptions=True)
    assert good == 2
    assert isinstance(failed, JobFailedError)
    assert isinstance(cancelled, JobCancelledError)


def test_a_handle_given_twice_has_its_result_twice(job_queue: JobQueue) -> None:
    job = job_queue.enqueue(double, 4)
    assert penstock.gather(job, job, job_queue.job(job.id)) == [8, 8, 8]


def test_jobs_are_yielded_as_they_end(queue: JobQueue) -> None:
    jobs = [queue.enqueue(double, number) for number in range(3)]
    ended = iter(penstock.as_completed(jobs, timeout=20))
    for wanted in (1, 2, 0):
        end(queue, jobs[wanted])
        assert next(ended) is jobs[wanted]
    assert list(ended) == []


def test_what_is_not_final_in_time_is_named(queue: JobQueue) -> None:
    jobs = [queue.enqueue(double, number) for number in range(3)]
    end(queue, jobs[1])
    with pytest.raises(
        ResultTimeoutError, match=rf"2 of 3 jobs are not final after 0\.05 s: {jobs[0].id}, {jobs[2].id}"
    ):
        penstock.gather(*jobs, timeout=0.05)


def test_what_is_not_final_in_time_stands_among_the_results(queue: JobQueue) -> None:
    jobs = [queue.enqueue(double, number) for number in range(2)]
    end(queue, jobs[1])
    late, done = penstock.gather(*jobs, timeout=0.05, return_exceptions=True)
    assert isinstance(late, ResultTimeoutError)
    assert (late.job_id, done) == (jobs[0].id, None)


def test_a_purged_job_is_not_waited_for(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("penstock.gathering._GONE_EVERY_S", 0.05)
    job = queue.enqueue(double, 1)
    end(queue, queue.job(job.id))
    queue.ledger.purge(State.SUCCEEDED, older_than_s=-1, limit=10)
    with pytest.raises(JobNotFoundError):
        penstock.gather(job, timeout=20)


def test_jobs_of_two_ledgers_are_waited_for_together(queue: JobQueue, job_queue: JobQueue) -> None:
    here, there = job_queue.enqueue(double, 1), queue.enqueue(double, 2)
    end(queue, there)
    assert penstock.gather(here, there, timeout=20) == [2, None]


def test_an_async_caller_gathers_while_its_loop_turns(queue: JobQueue) -> None:
    jobs = [queue.enqueue(double, number) for number in range(3)]

    async def both() -> tuple[Any, list[JobHandle]]:
        gathering = asyncio.create_task(penstock.agather(*jobs, timeout=20))
        for job in jobs:
            await asyncio.sleep(0)
            end(queue, job)
        return await gathering, [job async for job in penstock.as_completed(jobs, timeout=20)]

    results, ended = asyncio.run(both())
    assert results == [None] * 3
    assert set(ended) == set(jobs)


def test_a_look_asks_once_however_many_jobs_there_are(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = queue.enqueue_many([double.call(number) for number in range(500)])
    queue.ledger.apply_many([lifecycle.claim(job.id, owner="w", lease_s=60) for job in jobs])
    queue.ledger.apply_many([lifecycle.succeed(job.id, attempt=1) for job in jobs])
    asked: list[str] = []
    find, get = queue.ledger.find, queue.ledger.get

    def counted_find(query: JobQuery) -> Any:
        asked.append("find")
        return find(query)

    def counted_get(job_id: str) -> Any:
        asked.append("get")
        return get(job_id)

    monkeypatch.setattr(queue.ledger, "find", counted_find)
    monkeypatch.setattr(queue.ledger, "get", counted_get)
    assert penstock.gather(*jobs, timeout=20) == [None] * 500
    assert asked == ["find"]
