"""Tasks that run again and again: each job that is over makes the next one, and workers begin the automatic ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from penstock import Cron, JobQueue, Perpetual, Retry, task
from penstock.core.exceptions import ArgumentsError, ConfigError
from penstock.dependencies.successors import Successors, seed
from penstock.job import lifecycle
from penstock.testing.harness import wait_until

HOUR = timedelta(hours=1)


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with closing(JobQueue("inline://", ledger="memory://", root=tmp_path)) as opened:
        yield opened


def after(queue: JobQueue, job: Any) -> Any:
    """Return the job that one has made."""
    (made,) = wait_until(lambda: queue.jobs(parent_id=job.id), what="a next job")
    return made


@pytest.mark.parametrize("fails", [False, True], ids=["success", "failure"])
def test_a_job_that_is_over_makes_the_next_with_its_arguments_and_options(queue, fails):
    @task
    def checks(url: str, perpetual: Perpetual = Perpetual(every=HOUR)) -> None:
        if fails:
            raise ValueError

    job = queue.enqueue(checks, "http://here", tags=["web"], metadata={"team": "web"})
    following = after(queue, job)
    assert following.job.spec == job.job.spec
    assert (following.job.tags, following.job.metadata) == (("web",), {"team": "web"})
    assert following.scheduled_at == job.refresh().started_at + HOUR


def test_an_error_that_is_tried_again_makes_no_next_job_yet(queue):
    @task
    def flaky(perpetual: Perpetual = Perpetual(every=HOUR), retry: Retry = Retry(2, "1h")) -> None:
        raise ValueError

    job = queue.enqueue(flaky)
    assert job.state == "retrying"
    assert queue.jobs(parent_id=job.id) == []


def test_a_body_may_change_what_comes_next(queue):
    then = datetime.now(UTC).replace(microsecond=0) + timedelta(days=3)

    @task
    def polls(page: int = 1, perpetual: Perpetual = Perpetual(every=HOUR)) -> None:
        perpetual.perpetuate(page + 1)
        perpetual.at(then)

    following = after(queue, queue.enqueue(polls))
    assert b"[2]" in following.job.spec
    assert abs(following.scheduled_at - then) < timedelta(milliseconds=1)


def test_the_next_arguments_are_checked(queue):
    @task
    def polls(page: int = 1, perpetual: Perpetual = Perpetual(every=HOUR)) -> None:
        with pytest.raises(ArgumentsError, match="'page'"):
            perpetual.perpetuate("two")

    assert queue.enqueue(polls).wait(10).state == "succeeded"


def test_a_body_may_say_that_this_was_the_last_time(queue):
    @task
    def polls(perpetual: Perpetual = Perpetual()) -> None:
        perpetual.cancel()

    job = queue.enqueue(polls)
    job.wait(10)
    assert queue.jobs(parent_id=job.id) == []


def test_a_key_goes_over_to_the_next_job(queue):
    @task
    def polls(perpetual: Perpetual = Perpetual(every=HOUR)) -> None: ...

    job = queue.enqueue(polls, key="poll")
    following = after(queue, job)
    assert following.job.key == "poll"
    assert queue.enqueue(polls, key="poll").id == following.id


def test_one_job_has_one_next_job_however_often_its_end_comes(queue):
    @task
    def polls(perpetual: Perpetual = Perpetual(every=HOUR)) -> None: ...

    job = queue.enqueue(polls)
    Successors(lambda: queue).make(job.refresh(), "returned", None)
    assert len(queue.jobs(parent_id=job.id)) == 1


def test_what_a_body_in_a_child_says_of_the_next_time_counts(tmp_path, queue):
    import dependency_bodies as bodies

    from penstock.sources.decorators import TASKS

    TASKS.add(bodies.says_when)
    with closing(JobQueue("inline://", ledger=f"sqlite:///{tmp_path}/ledger.db", root=tmp_path)) as apart:
        job = apart.enqueue(bodies.says_when, isolation="process")
        following = after(apart, job)
        assert following.scheduled_at - job.refresh().finished_at > timedelta(hours=1)
        assert b"[5]" in following.job.spec


def test_automatic_tasks_are_begun_once_and_again_when_they_are_gone(queue):
    @task
    def cleans(perpetual: Perpetual = Perpetual(every=HOUR, automatic=True)) -> None: ...

    @task
    def reports(cron: Cron = Cron("0 9 * * 1", tz="Europe/Berlin")) -> None: ...

    seed(queue)
    seed(queue)
    (first,) = queue.jobs(name="cleans", states=("succeeded",))
    following = after(queue, first)
    (monday,) = queue.jobs(name="reports")
    assert monday.state == "scheduled"
    assert monday.scheduled_at.weekday() == 0
    following.cancel()
    seed(queue)
    assert len(queue.jobs(name="cleans")) == 2
    seed(queue, rest_s=0)
    assert len(queue.jobs(name="cleans")) > 2


def test_a_worker_begins_automatic_tasks(tmp_path):
    @task
    def beats(perpetual: Perpetual = Perpetual(every="20ms", automatic=True)) -> None: ...

    url = f"huey+sqlite:///{tmp_path}/queue.db"
    with closing(JobQueue(url, ledger="memory://", root=tmp_path)) as queue, queue.worker(concurrency=1):
        wait_until(lambda: len(queue.jobs(name="beats", states=("succeeded",))) >= 2, what="the second time")


def test_an_automatic_task_that_needs_an_argument_is_refused():
    with pytest.raises(ConfigError, match="'url' needs an argument"):

        @task
        def checks(url: str, cron: Cron = Cron("@daily")) -> None: ...


def test_a_job_that_kills_its_workers_is_followed_too(tmp_path):
    @task
    def kills(perpetual: Perpetual = Perpetual(every=HOUR)) -> None: ...

    url = f"huey+sqlite:///{tmp_path}/queue.db"
    with closing(JobQueue(url, ledger="memory://", root=tmp_path)) as queue:
        job = queue.enqueue(kills, max_crashes=1)
        assert queue.ledger.apply(lifecycle.claim(job.id, owner="host:1:dead", lease_s=0.001)) is not None
        wait_until(queue.sweeper.rescue)
        assert job.refresh().reason == "crash_loop"
        assert after(queue, job).state == "scheduled"


def test_the_next_job_does_not_expire_with_the_one_before(queue):
    @task
    def polls(perpetual: Perpetual = Perpetual(every=HOUR)) -> None: ...

    assert after(queue, queue.enqueue(polls, expires="10s")).job.expires_at is None


def test_what_runs_where_it_is_enqueued_does_not_run_within_the_one_before(queue):
    depths: list[int] = []
    running: list[int] = []

    @task
    def loops(n: int = 0, perpetual: Perpetual = Perpetual()) -> None:
        running.append(n)
        depths.append(len(running))
        perpetual.cancel() if n == 3 else perpetual.perpetuate(n + 1)
        running.pop()

    job = queue.enqueue(loops)
    for _ in range(3):
        job = after(queue, job)
    assert job.wait(20).state == "succeeded"
    assert len(depths) == 4
    states = [entry.id for entry in queue.jobs(states=("succeeded",))]
    assert len(states) == 4
