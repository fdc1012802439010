"""What a user says of a backfill: which schedule is meant, and which of its fire times."""

from __future__ import annotations

import hashlib
from datetime import date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import calls, declared
from penstock.core.exceptions import InvalidScheduleError, ScheduleNotFoundError
from penstock.core.triggers import At, Cron, Every, zone_of
from penstock.job.rules import Rule, parse_instant
from penstock.job.schedules import Plan, Schedule
from penstock.sources.decorators import Call

if TYPE_CHECKING:
    from penstock.client import JobQueue

MOST = 100_000
"""Fire times that one backfill may have."""


def known(queue: JobQueue, name: str) -> Schedule | None:
    """Return a schedule: as the ledger has it, or as the configuration declares it where no worker has been yet."""
    try:
        found = queue.schedules.get(name)
        queue.signer.check_schedule(found)
        return found
    except ScheduleNotFoundError:
        table = queue.config.schedules.get(name)
    if table is None:
        return None
    plan = declared.plan_of(queue, name, table, source=f"config:{queue.root}", where=f"[schedules.{name}]")
    now = queue.now()
    return Schedule(name=name, plan=plan, made_at=now, changed_at=now)


def no_rule(queue: JobQueue, name: str) -> Exception:
    """Return the error for a name that is no schedule, where nobody said when its jobs were due."""
    if name in queue.tasks() or name in queue.pipelines():
        return InvalidScheduleError(
            f"{name} is no schedule; say when its jobs were due: --every 1d or --cron '0 2 * * *'"
        )
    return ScheduleNotFoundError(name, [schedule.name for schedule in queue.schedules.list()])


def unnamed(queue: JobQueue, call: Call, begin: datetime, **rule: Any) -> Schedule:
    """Make the schedule of a backfill that has none: its name is made of what it runs, when, and with what input."""
    plan = queue.schedules.plan(calls.intent_of(queue.config, call), **rule)
    if isinstance(plan.rule, Every):
        plan = msgspec.structs.replace(plan, rule=Every(plan.rule.seconds, begin))
    now = queue.now()
    return Schedule(name=f"{call.name}/backfill-{_digest(plan)}", plan=plan, made_at=now, changed_at=now)


def _digest(plan: Plan) -> str:
    spec = msgspec.json.decode(plan.template.spec)
    match plan.rule:
        case Cron(expr=expr, timezone=zone):
            when = f"{' '.join(expr.split())} {zone}"
        case Every(seconds=seconds):
            when = f"every {seconds:g}"
        case rule:
            when = rule.explain()
    said = msgspec.json.encode([plan.template.kind, plan.template.name, when, plan.timezone, spec], order="sorted")
    return hashlib.sha256(said).hexdigest()[:8]


def instant(value: str | date, zone: str, name: str, *, whole_day: bool = False) -> datetime:
    """Read the begin of a span, or its end where a day without a time means ``whole_day``.

    Raises:
        InvalidScheduleError: it is neither a day nor a time; ``name`` is what the user calls it.
    """
    try:
        if isinstance(value, str):
            value = datetime.fromisoformat(value) if len(value.strip()) > 10 else date.fromisoformat(value.strip())
        if isinstance(value, datetime):
            return parse_instant(value, zone)
        day = value + timedelta(days=1) if whole_day else value
        at = parse_instant(datetime(day.year, day.month, day.day), zone)  # noqa: DTZ001 - of that zone
        return at - timedelta(microseconds=1) if whole_day else at
    except (ValueError, OverflowError):
        raise InvalidScheduleError(
            f"{name}: {value!r} is neither a day (2013-01-31) nor an ISO 8601 time (2013-01-31T02:00)"
        ) from None


def times(schedule: Schedule, begin: datetime, until: datetime) -> list[datetime]:
    """Return the fire times from ``begin`` to ``until``, both included; those before the schedule began, too.

    Raises:
        InvalidScheduleError: they are over `MOST`, or the rule has none that are past.
    """
    rule: Rule = schedule.plan.rule
    match rule:
        case At(instant=instant):
            return [instant] if begin <= instant <= until else []
        case Every(seconds=seconds, anchor=anchor) if anchor > begin:
            step = timedelta(seconds=seconds)
            rule = Every(seconds, anchor - ((anchor - begin) // step + 1) * step)
        case Every() | Cron():
            pass
        case _:
            raise InvalidScheduleError(
                f"{schedule.name} counts from the end of each run: it has no fire times to make up for. Name its task "
                "or pipeline, and a rule"
            )
    zone_of(schedule.plan.timezone)
    found: list[datetime] = []
    at = rule.next_after(begin - timedelta(microseconds=1))
    while at is not None and at <= until:
        if len(found) == MOST:
            raise InvalidScheduleError(
                f"there are over {MOST:,} fire times from {begin} to {until}; choose a shorter span"
            )
        found.append(at)
        at = rule.next_after(at)
    return found
