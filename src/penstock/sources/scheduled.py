"""``@schedule``: a function says itself when it runs; who loads its file makes the schedule (see `discovery`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, ParamSpec, TypeVar, cast

from penstock.core.durations import Duration, parse_duration_s
from penstock.core.exceptions import ConfigError, InvalidScheduleError, PenstockError, did_you_mean
from penstock.job.schedules import Template
from penstock.options import NAMES as JOB_OPTIONS
from penstock.options import JobOptions
from penstock.schedule_options import OPTIONS, make_plan
from penstock.sources.decorators import TASKS, Mark, Task

P = ParamSpec("P")
R = TypeVar("R")

_FOR_EVER = timedelta(days=36_500)
_OF_JOBS = tuple(name for name in JOB_OPTIONS if name not in ("at", "delay", "key", "job_id", "tags"))


def schedule(
    interval: Duration | None = None,
    /,
    *,
    name: str | None = None,
    inputs: Mapping[str, Any] | None = None,
    **options: Any,
) -> Callable[[Callable[P, R] | Task[P, R]], Task[P, R]]:
    """Mark a function to be run by a schedule: ``@schedule(timedelta(minutes=15))``, ``@schedule(cron="0 2 * * *")``.

    The function becomes a task, as by ``@task``, and stays a plain function; nothing is connected to and nothing is
    written here. Workers and ``penstock scan`` make the schedule when they load the file.

    The interval may also be written ``every="15m"``; ``cron=``, ``at=`` and ``rule=`` are the other rules, and all
    options of `JobQueue.schedule` and of ``@task`` may follow. ``inputs`` are the function's arguments. Without
    options, runs never overlap; what was missed while nothing ran is run once, however long ago, and an interval then
    counts from that moment. ``name`` is that of task and schedule; on a function that is a task already, that of
    the schedule alone.

    Raises:
        ConfigError: an option is unknown or wrong, there is no rule, or the name is taken by another function.
    """
    if callable(interval):
        raise ConfigError("@schedule needs to know when: write @schedule(timedelta(minutes=15)) or cron='0 2 * * *'")
    if interval is not None:
        options |= _read(interval)
    of_jobs = {key: options.pop(key) for key in _OF_JOBS if key in options}
    for key in options:
        if key not in OPTIONS:
            known = (*OPTIONS, *_OF_JOBS, "name", "inputs")
            raise ConfigError(f"@schedule: unknown option {key!r}; there are: {', '.join(known)}."
                              f"{did_you_mean(key, known)}")  # fmt: skip
    for key, usual in _usual(options).items():
        options.setdefault(key, usual)

    def register(fn: Callable[P, R] | Task[P, R]) -> Task[P, R]:
        if isinstance(fn, Task):
            found = cast("Task[P, R]", fn)
            mark = _mark(found, name or found.name, inputs, {**options, **of_jobs})
            found.marks = (*found.marks, mark)
            return found
        called = name or fn.__name__
        made = Task(fn, called, JobOptions.parse_for_task(of_jobs, called))
        made.marks = (_mark(made, called, inputs, options),)
        TASKS.add(made)
        return made

    return register


def _read(interval: Duration) -> dict[str, Any]:
    try:
        return {"every": timedelta(seconds=parse_duration_s(interval))}
    except ValueError:
        if isinstance(interval, str):
            return {"rule": interval}
        raise ConfigError(f"@schedule: {interval!r} is no interval; write timedelta(minutes=15) or '15m'") from None


def _usual(options: Mapping[str, Any]) -> dict[str, Any]:
    """What holds unless the function says otherwise. A time that is past is no missed one: ``at`` keeps its grace."""
    usual: dict[str, Any] = {"overlap": "skip", "catch_up": "latest"}
    if "at" not in options and options.get("catch_up", "latest") == "latest":
        usual["grace"] = _FOR_EVER
        usual["reanchor"] = True
    return usual


def _mark(task: Task[..., Any], name: str, inputs: Mapping[str, Any] | None, options: dict[str, Any]) -> Mark:
    if any(mark.name == name for mark in task.marks):
        raise ConfigError(f"@schedule {task.name}: two schedules are named {name!r}; give one of them a name=")
    said = {key: value for key, value in options.items() if key in OPTIONS}
    try:
        JobOptions.parse_for_task({key: value for key, value in options.items() if key not in OPTIONS}, task.name)
        # Read here as well, so that the error is told with the line that it stands in.
        now = datetime.now(UTC)
        make_plan(Template(kind="task", name=name, spec="{}"), said, source="", where="", timezone="UTC", now=now)
    except ConfigError:
        raise
    except PenstockError as error:
        raise InvalidScheduleError(f"@schedule {task.name}: {error}") from None
    return Mark(name, dict(inputs or {}), options)
