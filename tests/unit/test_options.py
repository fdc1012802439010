"""What may be said about a job, and what is refused before anything is written."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock.core.config import Config, Defaults
from penstock.core.exceptions import ConfigError, InvalidJobError
from penstock.job.models import RetryPolicy
from penstock.options import JobOptions, intent


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("delay", -1, "negative"),
        ("delay", "-5s", "negative"),
        ("delay", "soon", "is not a duration"),
        ("at", datetime(2030, 1, 1), "has no time zone"),  # noqa: DTZ001 - that is the point
        ("at", "tomorrow", "is not an ISO 8601 time"),
        ("timeout", 0, "is not a positive time"),
        ("priority", 10, "from 0 to 9"),
        ("priority", True, "from 0 to 9"),
        ("max_attempts", 0, "from 1 to 1000"),
        ("queue", "a/b", "is not a queue's name"),
        ("key", "", "is not a key"),
        ("key", "a\nb", "is not a key"),
        ("job_id", "../x", "is not a job id"),
        ("backoff", "fast", "is not a backoff"),
        ("backoff", "10m..10s", "must be positive and grow"),
        ("isolation", "thread", "neither 'inline' nor 'process'"),
        ("tags", [""], "is not a tag"),
        ("tags", 5, "5 is neither a tag nor several"),
        ("metadata", {"a": 1}, "must be texts"),
    ],
)
def test_a_wrong_option_is_refused_by_name(name: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidJobError, match=f"{name}: .*{told}"):
        JobOptions.parse({name: value})


def test_an_unknown_option_suggests_the_known_one() -> None:
    with pytest.raises(InvalidJobError, match=r"unknown job option 'max_atempts'.*Did you mean 'max_attempts'\?"):
        JobOptions.parse({"max_atempts": 3})


def test_a_decorator_takes_no_time_of_one_job() -> None:
    with pytest.raises(ConfigError, match="'delay' belongs to one job"):
        JobOptions.parse_for_task({"delay": "1s"}, "hello")


def test_the_later_of_delay_and_at_wins() -> None:
    at = datetime(2030, 1, 1, tzinfo=UTC)
    assert JobOptions.parse({"delay": "1h"}).merged(JobOptions.parse({"at": at})) == JobOptions(at=at)
    assert JobOptions.parse({"at": at}).merged(JobOptions.parse({"delay": "1h"})) == JobOptions(delay_s=3600.0)


def test_options_win_over_the_projects_defaults() -> None:
    config = Config(defaults=Defaults(max_attempts=5, timeout="1h", queue="slow", backoff="1s"))
    options = JobOptions.parse({"max_attempts": 2, "queue": "fast"})
    made = intent(config, options, kind="task", name="hello", spec=b"{}", isolation="inline")
    assert (made.max_attempts, made.timeout_s, made.queue) == (2, 3600.0, "fast")
    assert made.backoff == RetryPolicy(base_s=1.0, cap_s=1.0, factor=1.0, jitter=0.0)


def test_no_timeout_can_be_asked_for_where_the_project_has_one() -> None:
    config = Config(defaults=Defaults(timeout="1h"))
    made = intent(config, JobOptions(timeout_s=math.inf), kind="task", name="a", spec=b"{}", isolation="inline")
    assert made.timeout_s is None


def test_a_timedelta_is_a_delay() -> None:
    assert JobOptions.parse({"delay": timedelta(minutes=2)}).delay_s == 120.0


def test_the_wait_after_an_error_doubles_up_to_its_cap() -> None:
    policy = RetryPolicy(base_s=10, cap_s=60, jitter=0.0)
    assert [policy.delay_s(errors) for errors in (1, 2, 3, 4, 5000)] == [10, 20, 40, 60, 60]


def test_jitter_takes_away_at_most_its_share() -> None:
    policy = RetryPolicy(base_s=10, cap_s=60, jitter=0.5)
    assert policy.delay_s(1, lambda: 0.0) == 5.0
    assert policy.delay_s(1, lambda: 1.0) == 10.0


@pytest.mark.parametrize("job_id", [".", "..", "a/b", ""])
def test_an_id_that_a_file_cannot_be_named_by_is_refused(job_id):
    with pytest.raises(InvalidJobError, match="job_id"):
        JobOptions.parse({"job_id": job_id})
