"""Schedules that files declare: ``[schedules.NAME]`` of the configuration, and what projects ask for.

What is gone there is gone here; what is paused stays paused.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from penstock import calls
from penstock.core.exceptions import InvalidScheduleError, PenstockError, did_you_mean
from penstock.job.schedules import Plan
from penstock.options import NAMES as JOB_OPTIONS
from penstock.project_schedules import declare_projects
from penstock.schedule_options import OPTIONS

if TYPE_CHECKING:
    from penstock.client import JobQueue

logger = logging.getLogger("penstock.schedules")

_WHAT = ("task", "pipeline", "command")
_JOB_OPTIONS = tuple(name for name in JOB_OPTIONS if name not in ("at", "delay", "key", "job_id", "tags"))
_KNOWN = (*_WHAT, "inputs", "args", "on_exit", *OPTIONS, *_JOB_OPTIONS)


def declare(queue: JobQueue) -> dict[str, str]:
    """Make the schedules of a configuration what it says; return what became of each.

    One that is wrong is told in the log, and stays as it was; the others are made.
    """
    source = f"config:{queue.root}"
    wanted: dict[str, Plan] = {}
    told: dict[str, str] = {}
    kept: set[str] = set()
    for name, table in queue.config.schedules.items():
        try:
            wanted[name] = plan_of(queue, name, table, source=source, where=f"[schedules.{name}]")
        except PenstockError as error:
            told[name] = str(error)
            kept.add(name)
            logger.error("schedule %s is not made: %s", name, error)
    told |= {name: str(did) for name, did in queue.schedules.declare(source, wanted, kept=kept).items()}
    return told | declare_projects(queue, plan_of)


def plan_of(queue: JobQueue, name: str, table: Mapping[str, Any], *, source: str, where: str) -> Plan:
    """Read one table: what to run (``task``, ``pipeline`` or ``command``), its input, its rule, its options.

    Raises:
        InvalidScheduleError: names the table, and what is wrong with it.
    """
    for key in table:
        if key not in _KNOWN:
            raise InvalidScheduleError(f"{where}: unknown key {key!r}.{did_you_mean(key, _KNOWN)}")
    named = [key for key in _WHAT if key in table]
    if len(named) > 1:
        raise InvalidScheduleError(f"{where}: {' and '.join(named)} are alternatives; a schedule runs one thing")
    if "on_exit" in table and "command" not in table:
        raise InvalidScheduleError(
            f"{where}: on_exit is for a command; a function raises RetryLater, Snooze or Discard"
        )
    try:
        inputs = table.get("inputs", {})
        if not isinstance(inputs, Mapping):
            raise InvalidScheduleError(f"inputs: {inputs!r} is not a table of names and values")
        options = {key: table[key] for key in _JOB_OPTIONS if key in table}
        args = tuple(table.get("args", ()))
        given = cast("Mapping[str, Any]", inputs)
        if "command" in table:
            call = queue.command(table["command"], on_exit=table.get("on_exit"), **options)
        elif "pipeline" in table:
            call = calls.named(queue, f"pipeline:{table['pipeline']}", args, given, options)
        else:
            call = calls.named(queue, str(table.get("task", name)), args, given, options)
        schedule = {key: table[key] for key in OPTIONS if key in table}
        return queue.schedules.plan(calls.intent_of(queue.config, call), source=source, where=where, **schedule)
    except PenstockError as error:
        raise InvalidScheduleError(f"{where}: {error}") from error
