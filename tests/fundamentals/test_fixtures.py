"""What the pytest plugin gives to the tests of whoever uses penstock."""

from __future__ import annotations

import asyncio

import pytest

from penstock import JobFailedError, JobQueue, Run, task


@task(name="fixtures.greet")
def greet(name: str) -> str:
    return f"Hello {name}"


@task(name="fixtures.second_time_lucky", max_attempts=2, backoff="10ms")
def second_time_lucky(run: Run) -> int:
    if run.attempt == 1:
        raise ValueError("not yet")
    return run.attempt


@task(name="fixtures.broken")
def broken() -> None:
    raise ValueError("broken")


def test_job_queue_runs_a_job_within_its_enqueue(job_queue):
    job = job_queue.enqueue(greet, "Ada")
    assert job.job.state.final or job.refresh().state.final
    assert job.result() == "Hello Ada"


def test_job_queue_is_what_a_task_enqueues_on(job_queue):
    assert greet.enqueue("Ada").result() == "Hello Ada"
    assert JobQueue.default() is job_queue
    assert job_queue.counts() == {"succeeded": 1}


def test_job_queue_is_empty_in_each_test(job_queue):
    assert job_queue.jobs() == []


def test_job_queue_tells_of_a_failure(job_queue):
    with pytest.raises(JobFailedError, match="broken"):
        job_queue.enqueue(broken).result()


def test_job_queue_tries_again(job_queue):
    assert job_queue.enqueue(second_time_lucky).result(5) == 2


def test_job_worker_works_in_the_background(job_worker):
    assert job_worker.queue.enqueue(greet, "Ada").result(20) == "Hello Ada"
    assert greet.enqueue("Bob").result(20) == "Hello Bob"


def test_job_worker_tries_again(job_worker):
    assert job_worker.queue.enqueue(second_time_lucky).result(20) == 2


def test_job_worker_answers_async_callers(job_worker):
    async def main() -> str:
        job = await greet.aenqueue("Ada")
        return await job.aresult(20)

    assert asyncio.run(main()) == "Hello Ada"


def test_a_run_without_the_fixtures_leaves_no_default_behind():
    assert JobQueue._default is None
