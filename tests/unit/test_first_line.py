"""What an engine is told of how an attempt ended."""

from __future__ import annotations

import pytest

from penstock import JobQueue, task
from penstock.gateway import message_for


@task(name="first_line.fails")
def fails(text: str) -> None:
    raise ValueError(text)


@task(name="first_line.succeeds")
def succeeds() -> int:
    return 1


@pytest.fixture
def queue(tmp_path):
    with JobQueue(f"huey+sqlite:///{tmp_path}/queue.db", ledger="memory://", root=tmp_path) as opened:
        yield opened


def run(queue, job):
    return queue.execution.run(message_for(job.job))


def test_a_failed_attempt_tells_the_first_line_of_its_error(queue):
    assert run(queue, queue.enqueue(fails, "no such day\nand more")) == "ValueError: no such day"


def test_a_line_without_end_is_cut(queue):
    told = run(queue, queue.enqueue(fails, "x" * 10_000))
    assert told is not None
    assert len(told) == 500


def test_an_attempt_that_succeeded_tells_nothing(queue):
    assert run(queue, queue.enqueue(succeeds)) is None


def test_a_message_that_is_refused_tells_nothing(queue):
    job = queue.enqueue(fails, "once")
    run(queue, job)
    assert run(queue, job) is None


def test_an_async_engine_is_told_the_same(queue):
    import asyncio

    message = message_for(queue.enqueue(fails, "no such day\nand more").job)
    assert asyncio.run(queue.execution.arun(message)) == "ValueError: no such day"
