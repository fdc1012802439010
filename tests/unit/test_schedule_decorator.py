"""``@schedule``: what it makes of a function, and what it refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from penstock import schedule, task
from penstock.core.exceptions import ConfigError, InvalidScheduleError
from penstock.core.triggers import Every
from penstock.job import schedules
from penstock.job.schedules import Plan, Schedule, Template
from penstock.sources.decorators import TASKS, Task

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def no_task_stays():
    before = set(TASKS)
    yield
    for name in set(TASKS) - before:
        TASKS.discard(name)


def test_a_marked_function_stays_a_function_and_becomes_a_task():
    @schedule(timedelta(minutes=15))
    def marked_plain(x: int = 1) -> int:
        return x + 1

    assert marked_plain(2) == 3
    assert isinstance(marked_plain, Task)
    assert TASKS["marked_plain"] is marked_plain
    assert [mark.name for mark in marked_plain.marks] == ["marked_plain"]


def test_job_options_are_those_of_the_task():
    @schedule(cron="0 2 * * *", timeout="5m", queue="etl")
    def marked_options(): ...

    assert (marked_options.defaults.timeout_s, marked_options.defaults.queue) == (300, "etl")


@pytest.mark.parametrize("said", [timedelta(minutes=15), "15m", 900, "PT15M"])
def test_an_interval_is_written_in_many_ways(said):
    @schedule(said)
    def marked_interval(): ...

    assert marked_interval.marks[0].options["every"] == timedelta(minutes=15)


def test_one_function_may_have_several_schedules():
    @schedule(cron="0 2 * * *", name="marked at night")
    @schedule("1h")
    @task(max_attempts=3)
    def marked_twice(): ...

    assert [mark.name for mark in marked_twice.marks] == ["marked_twice", "marked at night"]
    assert marked_twice.defaults.max_attempts == 3


def test_two_schedules_of_one_name_are_refused():
    with pytest.raises(ConfigError, match="two schedules are named 'marked_same'"):

        @schedule("1h")
        @schedule("2h")
        def marked_same(): ...


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"cron": "61 * * * *"}, "cron"),
        ({"every": "soon"}, "every: 'soon' is not a duration"),
        ({"every": "1h", "cron": "* * * * *"}, "two rules"),
        ({}, "needs a rule"),
        ({"every": "1h", "overlapp": "skip"}, "Did you mean 'overlap'"),
        ({"every": "1h", "timeout": "soon"}, "timeout: 'soon'"),
        ({"every": "1h", "timezone": "Mars/Base"}, "Mars/Base"),
    ],
)
def test_a_wrong_option_is_told_where_it_stands(options, told):
    with pytest.raises((ConfigError, InvalidScheduleError), match=told):
        schedule(**options)(lambda: None)
    assert "<lambda>" not in TASKS


def test_without_a_rule_the_decorator_says_what_it_needs():
    with pytest.raises(ConfigError, match="needs to know when"):

        @schedule
        def marked_bare(): ...


def test_marking_imports_no_engine_driver_or_screen():
    code = (
        "from datetime import timedelta\nfrom penstock import schedule\n"
        "@schedule(timedelta(minutes=15))\ndef f(): ...\n"
        "import sys, json; print(json.dumps(sorted(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    loaded = {name.partition(".")[0] for name in json.loads(told.stdout)}
    heavy = {"huey", "rq", "saq", "redis", "psycopg", "sqlite3", "rich", "cyclopts", "textual", "fsspec", "asyncio"}
    assert loaded & heavy == set()


def _look(*, reanchor: bool, late: timedelta) -> schedules.Looked:
    plan = Plan(
        rule=Every(3600, NOON), template=Template(kind="task", name="t", spec="{}"), grace_s=1e9, reanchor=reanchor
    )
    return schedules.look(Schedule(name="t", plan=plan, made_at=NOON, changed_at=NOON, next_at=NOON), NOON + late)


def test_what_was_missed_for_days_runs_once_and_counts_from_now():
    late = timedelta(days=3, minutes=50)
    looked = _look(reanchor=True, late=late)
    assert len(looked.fires) == 1
    assert looked.after.next_at == NOON + late + timedelta(hours=1)


def test_an_interval_that_is_not_late_keeps_its_pace():
    looked = _look(reanchor=True, late=timedelta(seconds=1))
    assert looked.after.next_at == NOON + timedelta(hours=1)


def test_elsewhere_an_interval_keeps_its_anchor():
    looked = _look(reanchor=False, late=timedelta(minutes=50))
    assert looked.after.next_at == NOON + timedelta(hours=1)
