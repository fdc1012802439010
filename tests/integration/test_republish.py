"""A backlog is not published over and over, and a lost message is found all the same."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import JobQueue, sweeper, task
from penstock.core.config import SweepConfig
from penstock.gateway import message_ids
from penstock.testing.harness import short_config, wait_until

SWEEP = SweepConfig(publish_grace="200ms", max_publish_grace="400ms", interval="200ms", due_interval="50ms")
JOBS = 30


@task(name="republish.nothing")
def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    config = short_config(backend="huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", sweep=SWEEP)
    with JobQueue(config=config, root=tmp_path) as made:
        yield made


def swept(queue: JobQueue) -> None:
    """Sweep as soon as a publish is due."""
    wait_until(lambda: queue.ledger.publishable(1), what="a publish is due")
    queue.sweeper.publish_due()


def test_what_the_engine_still_holds_is_not_published_again(queue: JobQueue) -> None:
    queue.enqueue_many([nothing.call() for _ in range(JOBS)])
    for _ in range(3):
        swept(queue)
    assert queue.gateway.depth("default") == JOBS
    assert queue.sweeper.counts["postponed"] >= 3 * JOBS


def test_of_lost_messages_as_many_are_published_as_are_missing(queue: JobQueue) -> None:
    jobs = queue.enqueue_many([nothing.call() for _ in range(JOBS)])
    queue.gateway.withdraw([name for job in jobs[:5] for name in message_ids(job.job)])
    swept(queue)
    assert queue.gateway.depth("default") == JOBS
    assert [job.refresh().publishes for job in jobs] == [2] * 5 + [1] * (JOBS - 5)


def test_a_job_whose_time_has_come_is_published_before_any_backlog(queue: JobQueue) -> None:
    queue.enqueue_many([nothing.call() for _ in range(2 * queue.config.sweep.batch)])
    wait_until(lambda: len(queue.ledger.publishable(1000)) == 200, what="the backlog is due")
    job = queue.enqueue(nothing, delay="1ms")
    wait_until(lambda: queue.now() >= job.job.scheduled_at)
    queue.sweeper.publish_due()
    assert job.refresh().publishes == 1


def test_a_message_that_is_never_delivered_is_not_trusted_for_ever(queue: JobQueue) -> None:
    job = queue.enqueue(nothing)
    wait_until(lambda: queue.sweeper.publish_due() and job.refresh().publishes == 2, what="it is published again")
    assert queue.gateway.depth("default") == 2


def test_a_backlog_that_waits_for_hours_is_sent_again_in_small_parts_and_the_oldest_first(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_TRUSTED", 0)  # nothing is believed, as after an hour
    monkeypatch.setattr(sweeper, "_RESENT", 3)
    queue.sweeper._max_grace_s = 3600.0  # all of the test counts as one time
    jobs = queue.enqueue_many([nothing.call() for _ in range(2 * queue.config.sweep.batch)])
    for _ in range(3):
        swept(queue)
    assert [job.refresh().publishes for job in jobs] == [2] * 3 + [1] * (len(jobs) - 3)
    assert queue.gateway.depth("default") == len(jobs) + 3


def test_all_run_once_after_a_backlog_was_postponed(queue: JobQueue) -> None:
    jobs = queue.enqueue_many([nothing.call() for _ in range(JOBS)])
    swept(queue)
    worker = queue.worker(burst=True)
    worker.run()
    assert {job.refresh().attempt for job in jobs} == {1}
    assert queue.counts() == {"succeeded": JOBS}
