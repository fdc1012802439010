"""A task that was renamed is still found by its earlier names."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.core.exceptions import ConfigError, UnknownTaskError
from penstock.job.lifecycle import State
from penstock.job.models import Intent, Job
from penstock.sources.decorators import TASKS


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        yield queue


@pytest.fixture
def greet():
    @task(name="new_greet", aliases=("old_greet", "older_greet"))
    def greet(name: str) -> str:
        return f"Hello {name}"

    return greet


def test_an_old_name_enqueues_the_task_under_its_new_name(queue, greet):
    job = queue.enqueue("old_greet", "Ada")
    assert (job.result(), job.name) == ("Hello Ada", "new_greet")


def test_a_row_with_an_old_name_runs_the_task(queue, greet):
    waiting = queue.enqueue(greet.options(delay="1h").call("Ada")).job
    asked = {name: getattr(waiting, name) for name in ("kind", "spec", "queue")}
    from penstock.submission import record

    (told,) = record(queue, [Intent(id="by-an-older-client", name="older_greet", **asked)])
    job = queue.job(told.job.id)
    assert (job.result(), job.name) == ("Hello Ada", "older_greet")


def test_a_worker_tells_that_it_has_the_old_names_too(greet):
    assert {"new_greet", "old_greet", "older_greet"} <= set(TASKS.names())
    assert "old_greet" not in list(TASKS)


@pytest.mark.parametrize(
    "other", [{"name": "old_greet"}, {"name": "x", "aliases": ["new_greet"]}, {"name": "x", "aliases": ["old_greet"]}]
)
def test_a_name_stands_for_one_task(greet, other):
    with pytest.raises(ConfigError, match="a name or an alias stands for one task"):

        @task(**other)
        def another() -> None: ...

    assert TASKS["old_greet"] is greet


def test_a_task_that_is_defined_again_keeps_its_aliases(greet):
    @task(name="new_greet", aliases="old_greet")
    def greet() -> None: ...

    assert TASKS["old_greet"] is greet
    with pytest.raises(UnknownTaskError):
        TASKS.find("older_greet")


@pytest.mark.parametrize(
    "options", [{"aliases": ["a\nb"]}, {"aliases": [3]}, {"concurrency": 0}, {"concurrency": True}]
)
def test_what_is_no_name_or_number_is_refused(options):
    with pytest.raises(ConfigError, match="@task refused: "):

        @task(name="refused", **options)
        def refused() -> None: ...


def test_input_for_the_old_name_is_checked_against_the_function(queue, greet):
    job = queue.enqueue("older_greet", name="Ada")
    assert msgspec.json.decode(job.job.spec) == {"kwargs": {"name": "Ada"}}


# -- rules by another of its names ------------------------------------------------------------------------------------


def by_an_older_client(queue, name: str):
    from penstock.submission import record

    (told,) = record(
        queue, [Intent(id=f"by-{name}", name=name, kind="task", spec=b'{"args":["Ada"]}', queue="default")]
    )
    return queue.job(told.job.id)


def job_of(name: str) -> Job:
    now = datetime.now(UTC)
    return Job(
        id=name,
        kind="task",
        name=name,
        spec=b"{}",
        queue="default",
        state=State.QUEUED,
        created_at=now,
        scheduled_at=now,
    )


@pytest.fixture
def waiting(tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("huey+sqlite:///q.db", ledger="memory://", root=tmp_path) as queue:
        yield queue


@pytest.mark.parametrize("name", ["new_greet", "old_greet", "older_greet"])
def test_a_strike_holds_a_task_under_all_its_names(waiting, greet, name):
    before = [waiting.enqueue(greet, "Ada"), by_an_older_client(waiting, "old_greet")]
    assert waiting.strike(name, "name", "==", "Ada").jobs == 2
    after = [waiting.enqueue("old_greet", "Ada"), by_an_older_client(waiting, "older_greet")]
    free = waiting.enqueue(greet, "Bob")
    waiting.worker(burst=True).run()
    assert [job.state for job in (*before, *after, free)] == ["blocked"] * 4 + ["succeeded"]
    assert waiting.restore(name, "name", "==", "Ada").jobs == 4


def test_a_pause_holds_a_task_under_all_its_names(waiting, greet):
    waiting.pause(task="old_greet")
    jobs = [waiting.enqueue(greet, "Ada"), by_an_older_client(waiting, "older_greet")]
    waiting.worker(burst=True).run()
    assert [job.state for job in jobs] == ["blocked", "blocked"]
    assert waiting.explain(jobs[0]).told.startswith("Task old_greet is paused")


def test_a_worker_that_is_configured_by_an_old_name_counts_the_task(greet):
    from penstock.turns import Turns

    turns = Turns({"old_greet": 1}, lambda job_ids: None)
    assert turns.enter(job_of("new_greet")) is None
    assert turns.enter(job_of("older_greet")) is not None


def test_a_name_that_no_job_can_have_is_refused_where_the_task_is_made():
    with pytest.raises(ConfigError, match="is not a name"):
        task(name="größe")(lambda: None)
