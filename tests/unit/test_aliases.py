"""A task that was renamed is still found by its earlier names."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.core.exceptions import ConfigError, UnknownTaskError
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
    from penstock.job.models import Intent
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
