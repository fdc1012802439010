"""The records of schedules in the ledger: made, changed and removed, however many do so at once."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from penstock import scheduler
from penstock.core.exceptions import ConfigError, LedgerError, ScheduleDeclaredError, ScheduleNotFoundError
from penstock.core.records import Change, Record
from penstock.core.triggers import Every
from penstock.job import schedules
from penstock.job.rules import After, Rule
from penstock.job.schedules import KIND, Plan, Schedule

if TYPE_CHECKING:
    from penstock.client import JobQueue

_TRIES = 20


class Did(StrEnum):
    """What became of a schedule that was made or declared."""

    CREATED = "created"
    CHANGED = "changed"
    KEPT = "kept"


class ScheduleRecords:
    """The records of one queue's ledger. Each change is made to what was read, or else tried again.

    Who finds no peace in twenty tries is told so by a `ConfigError`.
    """

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def put(self, name: str, plan: Plan) -> tuple[Schedule, Did]:
        """Make a schedule, or give the one of this name another plan; where it stands, and a pause, stay.

        Raises:
            ScheduleDeclaredError: it is of another source.
        """
        for _ in range(_TRIES):
            now = self._queue.now()
            record, there = self._look(name)
            if there is None:  # or damaged: made anew in its place
                made = self._queue.signer.signed_schedule(
                    Schedule(name=name, plan=plan, made_at=now, changed_at=now, next_at=schedules.first_look(plan, now))
                )
                if self._write(scheduler.change_of(record, made, now)):
                    return made, Did.CREATED
                continue
            if there.plan.source != plan.source:
                raise ScheduleDeclaredError(name, there.plan.where or there.plan.source)
            if _same(there.plan, plan) and self._queue.signer.schedule_problem(there) is None:
                return there, Did.KEPT
            changed = self._queue.signer.signed_schedule(with_plan(there, plan, now))
            if self._write(scheduler.change_of(record, changed, now)):
                return changed, Did.CHANGED
        raise self._busy(name)

    def read(self, name: str) -> Schedule:
        """Return one schedule. Raises `ScheduleNotFoundError`, and `LedgerError` for one that is damaged."""
        return self._read(name)[1]

    def find(self, name: str) -> Schedule | None:
        """Return one schedule, None where there is none that can be read."""
        return self._look(name)[1]

    def change(self, name: str, change: Callable[[Schedule, datetime], Schedule]) -> Schedule:
        """Write what ``change`` makes of a schedule and the time, and return it. Raises `ScheduleNotFoundError`."""
        for _ in range(_TRIES):
            record, schedule = self._read(name)
            now = self._queue.now()
            after = change(schedule, now)
            if after == schedule or self._write(scheduler.change_of(record, after, now, again_s=_soon(after))):
                return after
        raise self._busy(name)

    def remove(self, name: str, *, unless: Callable[[Schedule], object]) -> None:
        """Take a schedule away, also a damaged one; ``unless`` raises for one that is to stay.

        Raises:
            ScheduleNotFoundError: there is none of this name.
        """
        for _ in range(_TRIES):
            record = self._record(name)
            if (schedule := scheduler.schedule_of(record)) is not None:
                unless(schedule)
            if self._write(Change(kind=KIND, name=name, seen=record.version, body=None)):
                return
        raise self._busy(name)

    def take_away(self, name: str, source: str) -> None:
        """Remove a schedule if it is of this source, also while a scheduler moves it on."""
        for _ in range(_TRIES):
            record, schedule = self._look(name)
            if record is None or schedule is None or schedule.plan.source != source:
                return
            if self._write(Change(kind=KIND, name=name, seen=record.version, body=None)):
                return
        raise self._busy(name)

    def _look(self, name: str) -> tuple[Record | None, Schedule | None]:
        record = self._queue.ledger.records.get(KIND, name)
        return record, None if record is None else scheduler.schedule_of(record)

    def _read(self, name: str) -> tuple[Record, Schedule]:
        record = self._record(name)
        if (schedule := scheduler.schedule_of(record)) is None:
            raise LedgerError(
                f"schedule {name} cannot be read, it is damaged in the ledger; remove it and make it again"
            )
        return record, schedule

    def _record(self, name: str) -> Record:
        record = self._queue.ledger.records.get(KIND, name)
        if record is None:
            known = [known.name for known in self._queue.ledger.records.all(KIND)]
            raise ScheduleNotFoundError(name, known)
        return record

    def _write(self, change: Change) -> bool:
        return bool(self._queue.ledger.records.write([change])[0])

    @staticmethod
    def _busy(name: str) -> ConfigError:
        return ConfigError(f"schedule {name}: others changed it all the time; try again")


def _soon(schedule: Schedule) -> float | None:
    return 0.25 if schedule.awaits or schedule.waiting else None


def _same(one: Plan, other: Plan) -> bool:
    """Whether two plans are the same but for when an interval was first reckoned from."""
    return msgspec.structs.replace(one, rule=_bare(one.rule)) == msgspec.structs.replace(other, rule=_bare(other.rule))


def _bare(rule: Rule) -> Rule:
    match rule:
        case Every():
            return Every(rule.seconds, datetime(2000, 1, 1, tzinfo=UTC))
        case After():
            return msgspec.structs.replace(rule, first_at=None)
        case _:
            return rule


def with_plan(schedule: Schedule, plan: Plan, now: datetime) -> Schedule:
    """Return a schedule with another plan: its revision grows, its cursor stays."""
    if _bare(schedule.plan.rule) == _bare(plan.rule) and schedule.plan.start_at == plan.start_at:
        plan = msgspec.structs.replace(plan, rule=schedule.plan.rule)
    if plan == schedule.plan:
        return schedule
    after = msgspec.structs.replace(schedule, plan=plan, revision=schedule.revision + 1, changed_at=now)
    before = schedule.plan
    if all(getattr(plan, field) == getattr(before, field) for field in ("rule", "start_at", "end_at", "max_fires")):
        return after
    if isinstance(plan.rule, After):
        next_at = None if after.awaits is not None else (schedule.next_at or schedules.first_look(plan, now))
    else:
        begin = now if schedule.cursor_at is None else max(now, schedule.cursor_at)
        next_at = schedules.first_look(plan, begin)
        if next_at is not None and next_at < begin:  # a time that was over when somebody said it
            next_at = None
        after = msgspec.structs.replace(after, awaits=None)
    return msgspec.structs.replace(after, next_at=next_at, over=next_at is None and after.awaits is None)
