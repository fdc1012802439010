"""What may be said of a schedule, checked: its rule, and what is done when runs overlap or are missed."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import msgspec

from penstock import templates
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import InvalidScheduleError, did_you_mean
from penstock.core.triggers import At, Cron, Every, zone_of
from penstock.job import limits, slots
from penstock.job.models import Intent
from penstock.job.rules import After, Rule, Written, interval, parse_instant, parse_rule
from penstock.job.schedules import Plan, Template
from penstock.options import JobOptions
from penstock.options import tags as checked_tags
from penstock.signing import RESERVED

_RULES = ("cron", "every", "at", "rule")
_OF_RULES = (*_RULES, "from_end", "follows", "timezone", "start")
OPTIONS = (
    *_OF_RULES, "end", "overlap", "catch_up", "catch_up_max", "grace", "jitter", "max_fires", "soft_start", "reanchor",
    "tags", "description",
)  # fmt: skip
"""Beside the options of the jobs that it makes."""
_TEXT_MAX = 4_000
_NO_INSTANT = "expires takes a duration here, such as '1h': it is counted from each fire time"
_JOB_OPTIONS = (
    "queue", "priority", "max_attempts", "max_crashes", "timeout", "backoff", "retry_on", "discard_on", "isolation",
    "expires", "limits", "metadata", *limits.OPTIONS,
)  # fmt: skip


def template_of(intent: Intent) -> Template:
    """Take what belongs to every job of a schedule out of the intent of one. Raises `InvalidJobError`."""
    if intent.key is not None or intent.at is not None or intent.delay_s:
        raise InvalidScheduleError(
            "key, at and delay belong to one job; a schedule's own rule says when its jobs start"
        )
    if intent.unique_key is not None:
        raise InvalidScheduleError(
            "unique belongs to jobs that are enqueued. A schedule has one for each fire time: its overlap says what "
            "happens while the one before runs"
        )
    if intent.expires_at is not None:
        raise InvalidScheduleError(_NO_INSTANT)
    spec = intent.spec.decode()
    templates.check(spec)
    names = [name for name in Template.__struct_fields__ if name != "spec"]
    return Template(spec=spec, **{name: getattr(intent, name) for name in names})


def make_plan(
    template: Template, options: Mapping[str, Any], *, source: str, where: str, timezone: str, now: datetime
) -> Plan:
    """Check the options of a new schedule. Raises `InvalidScheduleError`."""
    given = _known(options)
    zone = given.get("timezone", timezone)
    read = _rule(given, zone, now)
    if read is None:
        raise InvalidScheduleError(
            "a schedule needs a rule: cron='0 2 * * *', every='15m', at='2026-11-22T02:00', or rule='R/.../PT1H'"
        )
    plan = Plan(
        rule=read.rule, template=template, timezone=zone, source=source, where=where, max_fires=read.max_fires,
        start_at=read.rule.anchor if given.get("rule", "")[:1] == "R" and isinstance(read.rule, Every) else None,
    )  # fmt: skip
    return _with_options(plan, given, zone)


def change_plan(plan: Plan, options: Mapping[str, Any], now: datetime) -> Plan:
    """Return a plan with some options changed. Raises `InvalidScheduleError`."""
    jobs = {name: value for name, value in options.items() if name in _JOB_OPTIONS}
    given = _known({name: value for name, value in options.items() if name not in jobs})
    zone = given.get("timezone", plan.timezone)
    read = _rule(given, zone, now)
    if read is None and "timezone" in given:
        with _told("timezone"):
            zone_of(zone)
        rule = Cron(plan.rule.expr, zone) if isinstance(plan.rule, Cron) else plan.rule
        read = Written(rule, plan.max_fires)
    if read is not None:
        plan = msgspec.structs.replace(plan, rule=read.rule, timezone=zone, max_fires=read.max_fires)
    plan = _with_options(plan, given, zone)
    if jobs:
        plan = msgspec.structs.replace(plan, template=_changed(plan.template, JobOptions.parse(jobs)))
    return plan


def _changed(template: Template, asked: JobOptions) -> Template:
    """Return the template with what is asked of its jobs; limits that are not named stay."""
    if asked.expires_at is not None:
        raise InvalidScheduleError(_NO_INSTANT)
    changes: dict[str, Any] = {
        name: value
        for name in Template.__struct_fields__
        if name in JobOptions.__struct_fields__ and (value := getattr(asked, name)) is not None
    }
    policy = template.backoff if asked.backoff is None else asked.backoff.or_rules_of(template.backoff)
    changes["backoff"] = policy.with_rules(asked.retry_on, asked.discard_on)
    ours = {name: value for name, value in template.metadata.items() if name.startswith(RESERVED)}
    held = limits.changed(
        ours.pop(limits.FIELD, None), memory_bytes=asked.max_memory_bytes, cpu_s=asked.max_cpu_s,
        open_files=asked.max_open_files,
    )  # fmt: skip
    if asked.slots is not None:
        ours.pop(slots.FIELD, None)
        ours |= slots.slots_entry(asked.slots)
    theirs = {name: value for name, value in template.metadata.items() if not name.startswith(RESERVED)}
    after = msgspec.structs.replace(
        template, **{**changes, "metadata": {**changes.get("metadata", theirs), **ours, **held}}
    )
    if held and after.isolation == "inline":
        raise InvalidScheduleError(
            "limits hold for the process of a job; let it run with isolation='process', or take the limits off "
            "(max_memory='none' and so on)"
        )
    return after


def _known(options: Mapping[str, Any]) -> dict[str, Any]:
    for name in options:
        if name not in OPTIONS:
            raise InvalidScheduleError(
                f"unknown option of a schedule: {name!r}; there are: {', '.join(OPTIONS)}.{did_you_mean(name, OPTIONS)}"
            )
    return {name: value for name, value in options.items() if value is not None}


def _rule(given: Mapping[str, Any], zone: str, now: datetime) -> Written | None:
    named = [name for name in _RULES if name in given]
    if len(named) > 1:
        raise InvalidScheduleError(f"{' and '.join(named)} are two rules; a schedule has one")
    if not named:
        return None
    (name,) = named
    value = given[name]
    with _told("timezone"):
        zone_of(zone)
    with _told(name):
        read = _READ[name](value, zone, now, given)
    from_end = bool(given.get("from_end") or given.get("follows"))
    if from_end:
        if not isinstance(read.rule, Every):
            raise InvalidScheduleError("from_end and follows need an interval: every='15m'")
        with _told("start"):
            first = parse_instant(given["start"], zone) if "start" in given else None
        read = Written(After(read.rule.seconds, first, bool(given.get("follows"))), read.max_fires)
    return read


def _cron(value: Any, zone: str, _now: datetime, _given: Mapping[str, Any]) -> Written:
    if not isinstance(value, str):
        raise ValueError(f"{value!r} is not a cron expression")  # noqa: TRY004 - one error class for bad options
    return Written(Cron(value, zone))


def _every(value: Any, zone: str, now: datetime, given: Mapping[str, Any]) -> Written:
    anchor = parse_instant(given["start"], zone) if "start" in given else None
    return Written(interval(value, now=now, anchor=anchor))


def _at(value: Any, zone: str, _now: datetime, _given: Mapping[str, Any]) -> Written:
    return Written(At(parse_instant(value, zone)))


def _written(value: Any, zone: str, now: datetime, _given: Mapping[str, Any]) -> Written:
    return parse_rule(str(value), timezone=zone, now=now)


_READ: dict[str, Callable[[Any, str, datetime, Mapping[str, Any]], Written]] = {
    "cron": _cron, "every": _every, "at": _at, "rule": _written,
}  # fmt: skip


def _with_options(plan: Plan, given: Mapping[str, Any], zone: str) -> Plan:
    changes: dict[str, Any] = {}
    for name, (field, check) in _CHECKS.items():
        if name in given:
            with _told(name):
                changes[field] = check(given[name], zone)
    plan = msgspec.structs.replace(plan, **changes)
    if plan.end_at is not None and plan.start_at is not None and plan.end_at < plan.start_at:
        raise InvalidScheduleError("end lies before start: the schedule would never fire")
    if isinstance(plan.rule, After) and plan.overlap != "skip":
        raise InvalidScheduleError(
            "a schedule that counts from the end of its last run never overlaps; leave overlap out"
        )
    return plan


def _one_of(*known: str) -> Callable[[Any, str], str]:
    def check(value: Any, _zone: str) -> str:
        if value not in known:
            raise ValueError(f"{value!r} is none of {', '.join(known)}.{did_you_mean(str(value), known)}")
        return value

    return check


def _duration(value: Any, _zone: str) -> float:
    seconds = parse_duration_s(value)
    if seconds < 0:
        raise ValueError(f"{value!r} is negative")
    return seconds


def _count(value: Any, _zone: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 100_000:
        raise ValueError(f"{value!r} is not a whole number from 1 to 100000")
    return value


def _flag(value: Any, _zone: str) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"{value!r} is neither true nor false")  # noqa: TRY004 - one error class for bad options
    return value


def _text(value: Any, _zone: str) -> str:
    if not isinstance(value, str) or len(value) > _TEXT_MAX:
        raise ValueError(f"{value!r:.100} is not a text of at most {_TEXT_MAX:,} letters")
    return value


def _or_none(check: Callable[[Any, str], Any]) -> Callable[[Any, str], Any]:
    """Take ``"none"`` as well: it takes away what was said before."""
    return lambda value, zone: None if value == "none" else check(value, zone)


_CHECKS: dict[str, tuple[str, Callable[[Any, str], Any]]] = {
    "start": ("start_at", _or_none(parse_instant)),
    "end": ("end_at", _or_none(parse_instant)),
    "overlap": ("overlap", _one_of("skip", "queue", "allow", "cancel_previous")),
    "catch_up": ("catch_up", _one_of("none", "latest", "all")),
    "catch_up_max": ("catch_up_max", _count),
    "grace": ("grace_s", _or_none(_duration)),
    "jitter": ("jitter_s", _duration),
    "max_fires": ("max_fires", _or_none(_count)),
    "soft_start": ("soft_start", _flag),
    "description": ("description", _text),
    "reanchor": ("reanchor", _flag),
    "tags": ("tags", lambda value, _zone: checked_tags(value)),
}


@contextmanager
def _told(name: str) -> Generator[None]:
    try:
        yield
    except ValueError as error:
        raise InvalidScheduleError(f"{name}: {error}") from None


__all__ = ["OPTIONS", "Rule", "change_plan", "make_plan", "template_of"]
