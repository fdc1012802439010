"""Backfill: the jobs of fire times that are past, a few at a time; what has succeeded is not run again.

Where a backfill stands is written in its jobs, each under the name of its fire time: it may be killed and started
again, or run twice at once, and goes on with what failed or is missing. Which fire times have succeeded is also noted
apart, since jobs are purged. Of those before anything was noted a schedule's own may have run and been purged: they are
told, and run only if that is asked for.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from datetime import date, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import backfill_span, calls, scheduler
from penstock.audit import note
from penstock.core.config import seconds
from penstock.core.exceptions import InvalidScheduleError, JobNotFoundError, QueueFullError
from penstock.done_times import DoneTimes
from penstock.job.lifecycle import State
from penstock.job.models import Intent, Job, JobQuery
from penstock.job.schedules import BACKFILL, FIRE_AT, MANUAL, SCHEDULE, Schedule
from penstock.submission import record

if TYPE_CHECKING:
    from penstock.client import JobQueue

RERUN = ("failed", "missing")
"""What is run where nothing is said."""
KINDS = (*RERUN, "purged")

_PAGE = 500
_POLL_S = (0.01, 0.25)
_FULL_S = 1.0
_NOTE_S = 2.0


class Did(StrEnum):
    """What an event of a backfill tells of."""

    PLANNED = "planned"
    STARTED = "started"
    """A job was made."""
    FOUND = "found"
    """A job was there already and is not final: it is waited for, and counts as one of those at once."""
    ENDED = "ended"


class Counts(msgspec.Struct, frozen=True, kw_only=True):
    """How many fire times there are, and what became of them."""

    fire_times: int
    ahead: int = 0
    """Left out: they have not come yet, and are the schedule's own."""
    done: int = 0
    """Had succeeded before."""
    failed_before: int = 0
    missing: int = 0
    purged: int = 0
    """Of the schedule's own life, and older than ``history.keep_succeeded``: its job may have run and been purged."""
    live: int = 0
    """Had a job that was not final."""
    succeeded: int = 0
    failed: int = 0
    """Failed or were cancelled now."""
    gone: int = 0
    """Were purged before anybody looked: ``history.keep_succeeded`` is that short."""
    left: int = 0
    """Not run, as ``rerun`` says."""

    @property
    def ended(self) -> int:
        """How many ended while it ran."""
        return self.succeeded + self.failed + self.gone


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a backfill."""

    did: Did
    counts: Counts
    fire_at: datetime | None = None
    job: Job | None = None


class _Seen:
    """What the ledger knows of one fire time."""

    __slots__ = ("live", "succeeded", "tries")

    def __init__(self) -> None:
        self.tries = 0
        self.succeeded = False
        self.live: Job | None = None

    def add(self, job: Job) -> None:
        self.tries += 1
        self.succeeded = self.succeeded or job.state is State.SUCCEEDED
        if not job.state.final:
            self.live = job


class Backfill:
    """The jobs of one schedule's fire times within a span."""

    def __init__(
        self,
        queue: JobQueue,
        schedule: Schedule,
        times: Sequence[datetime],
        *,
        ahead: int = 0,
        max_active: int = 4,
        rerun: Collection[str] = RERUN,
    ) -> None:
        """See `prepare`, which makes one from what a user says."""
        self.schedule = schedule
        self.times = times
        self.why: str | None = None
        """The reason, for the audit trail."""
        self._queue = queue
        self._max_active = max_active
        self._done = DoneTimes(queue.ledger, schedule.name)
        self._noted_at = time.monotonic()
        seen = self._look()
        self._tries = {at: known.tries for at, known in seen.items()}
        self._found = {at: known.live for at, known in seen.items() if known.live is not None}
        done = {at for at, known in seen.items() if known.succeeded}
        self._done.note(done)
        done |= self._done.among(times)
        open_times = [at for at in times if at not in done and at not in self._found]
        failed = [at for at in open_times if at in seen]
        purged = {at for at in open_times if at not in seen and self._may_be_purged(at)}
        wanted = {"failed": set(failed), "missing": set(open_times) - set(failed) - purged, "purged": purged}
        chosen = set[datetime]().union(*(wanted[kind] for kind in rerun))
        self.todo = tuple(at for at in open_times if at in chosen)
        self.counts = Counts(
            fire_times=len(times), ahead=ahead, done=len(done - set(self._found)), failed_before=len(failed),
            missing=len(wanted["missing"]), purged=len(purged), live=len(self._found),
            left=len(open_times) - len(self.todo),
        )  # fmt: skip

    def run(self, tell: Callable[[Event], None] | None = None) -> Counts:
        """Make the jobs, never more than ``max_active`` of them live, and return when all are final.

        That it has begun stands in the audit trail, with `why`. ``tell`` is called with each step. Somebody else has
        to work the jobs off, unless the engine is ``inline://``.

        Raises:
            BackendError, LedgerError: what was made goes on, and is found by the next backfill of the same span.
        """
        tell = tell or (lambda event: None)
        tell(Event(did=Did.PLANNED, counts=self.counts))
        if self.todo:
            note(self._queue, "backfill", self.schedule.name, why=self.why, fire_times=len(self.todo))
        live: dict[datetime, Job] = {}
        todo = deque(self.todo)
        for at, job in self._found.items():
            live[at] = job
            tell(Event(did=Did.FOUND, counts=self.counts, fire_at=at, job=job))
        pause_s = _POLL_S[0]
        while todo or live:
            moved = False
            room = self._max_active - len(live)
            for at, job, made in self._make([todo.popleft() for _ in range(min(room, len(todo)))], todo):
                moved, live[at] = True, job
                tell(Event(did=Did.STARTED if made else Did.FOUND, counts=self.counts, fire_at=at, job=job))
            if self._queue.gateway.in_process:
                self._queue.sweeper.publish_due()
            for at, job in [(at, self._newest(job)) for at, job in live.items()]:
                if job is None or job.state.final:
                    moved = True
                    del live[at]
                    self._count(job)
                    if job is not None and job.state is State.SUCCEEDED:
                        self._done.note([at])
                    tell(Event(did=Did.ENDED, counts=self.counts, fire_at=at, job=job))
            if time.monotonic() - self._noted_at > _NOTE_S:
                self._write_done()
            pause_s = _POLL_S[0] if moved else min(2 * pause_s, _POLL_S[1])
            if live or todo:
                time.sleep(pause_s)
        self._write_done()
        return self.counts

    def _write_done(self) -> None:
        self._done.write()
        self._noted_at = time.monotonic()

    def _may_be_purged(self, at: datetime) -> bool:
        """Whether the schedule itself has dealt with a fire time, so long ago that a success of it is gone."""
        schedule, keep_s = self.schedule, seconds(self._queue.config.history.keep_succeeded)
        if schedule.cursor_at is None or not schedule.made_at <= at <= schedule.cursor_at:
            return False
        return (self._queue.now() - at).total_seconds() > keep_s

    def _newest(self, job: Job) -> Job | None:
        try:
            return self._queue.ledger.get(job.id)
        except JobNotFoundError:
            return None

    def _count(self, job: Job | None) -> None:
        name = "gone" if job is None else "succeeded" if job.state is State.SUCCEEDED else "failed"
        self.counts = msgspec.structs.replace(self.counts, **{name: getattr(self.counts, name) + 1})

    def _make(self, times: list[datetime], todo: deque[datetime]) -> Iterator[tuple[datetime, Job, bool]]:
        """Yield a job for each fire time, and whether it is new; what a full queue refuses is put back."""
        while times:
            try:
                answers = record(self._queue, [self._intent(at) for at in times])
            except QueueFullError:
                todo.extendleft(reversed(times[1:]))
                if len(times) == 1:
                    todo.appendleft(times[0])
                    time.sleep(_FULL_S)
                    return
                times = times[:1]
                continue
            again: list[datetime] = []
            for at, answer in zip(times, answers, strict=True):
                job, made = answer.job, answer.outcome.made
                if not made and job.state.final and job.state is not State.SUCCEEDED:
                    # Another try of which nothing was known: its row has changed since, or belongs to another plan.
                    self._tries[at] = self._tries.get(at, 0) + 1
                    again.append(at)
                else:
                    yield at, job, made
            times = again

    def _intent(self, at: datetime) -> Intent:
        intent = scheduler.intent_of(self.schedule, at)
        tries = self._tries.get(at, 0)
        return msgspec.structs.replace(
            intent, at=None, metadata={**intent.metadata, BACKFILL: "1"},
            tick_key=f"{intent.tick_key}#{tries}" if tries else intent.tick_key,
        )  # fmt: skip

    def _look(self) -> dict[datetime, _Seen]:
        """Find the jobs that these fire times have: those of the schedule, of backfills, and retries of either."""
        found: dict[datetime, _Seen] = {}
        wanted, before = set(self.times), None
        while True:
            query = JobQuery(name=self.schedule.plan.template.name, limit=_PAGE, before=before)
            page = self._queue.ledger.find(query)
            for job in page:
                if job.metadata.get(SCHEDULE) == self.schedule.name and MANUAL not in job.metadata:
                    at = _fire_at(job)
                    if at is not None and at in wanted:
                        found.setdefault(at, _Seen()).add(job)
            if len(page) < _PAGE:
                return found
            before = page[-1].id


def _fire_at(job: Job) -> datetime | None:
    try:
        return datetime.fromisoformat(job.metadata.get(FIRE_AT, ""))
    except ValueError:  # a row may say anything
        return None


def prepare(
    queue: JobQueue,
    what: Any,
    *,
    start: str | date,
    end: str | date,
    max_active: int = 4,
    rerun: Collection[str] = RERUN,
    inputs: Mapping[str, Any] | None = None,
    cron: str | None = None,
    every: Any = None,
    timezone: str | None = None,
    **options: Any,
) -> Backfill:
    """Find the fire times of a span, and what has become of them; nothing is written.

    ``what`` is a schedule's name; or a task, a pipeline's name or a `Call`, with a rule (``cron`` or ``every``),
    ``inputs`` and job options. A day without a time means all of it, in the schedule's zone.

    Raises:
        ScheduleNotFoundError: there is no such schedule, and no rule was given.
        InvalidScheduleError: the span, the rule or an option is wrong.
        InvalidJobError: the input is.
    """
    if max_active < 1:
        raise InvalidScheduleError(f"max_active: {max_active} jobs at once is not a number over 0")
    for kind in rerun:
        if kind not in KINDS:
            raise InvalidScheduleError(f"rerun: {kind!r} is none of {', '.join(KINDS)}")
    rule = {name: value for name, value in (("cron", cron), ("every", every)) if value is not None}
    schedule = backfill_span.known(queue, what) if isinstance(what, str) else None
    if schedule is not None:
        if rule or inputs or timezone or options:
            said = ", ".join([*rule, *(["inputs"] if inputs else []), *(["timezone"] if timezone else []), *options])
            raise InvalidScheduleError(f"{schedule.name} is a schedule and has its own: leave out {said}")
    elif not rule:
        if isinstance(what, str):
            raise backfill_span.no_rule(queue, what)
        raise InvalidScheduleError("a backfill of what is no schedule needs a rule: cron='0 2 * * *' or every='1d'")
    zone = schedule.plan.timezone if schedule is not None else timezone or queue.config.timezone
    begin, until = backfill_span.instant(start, zone, "start"), backfill_span.instant(end, zone, "end", whole_day=True)
    if until < begin:
        raise InvalidScheduleError(f"end lies before start: {end} is before {start}")
    if schedule is None:
        call = calls.scheduled(queue, what, (), inputs or {}, options)
        schedule = backfill_span.unnamed(queue, call, begin, timezone=zone, **rule)
    now = queue.now()
    times = backfill_span.times(schedule, begin, until)
    past = [at for at in times if at <= now]
    return Backfill(
        queue, schedule, past, ahead=len(times) - len(past), max_active=max_active, rerun=tuple(dict.fromkeys(rerun))
    )


def backfill(
    queue: JobQueue,
    what: Any,
    *,
    tell: Callable[[Event], None] | None = None,
    dry_run: bool = False,
    why: str | None = None,
    **said: Any,
) -> Counts:
    """See `JobQueue.backfill`."""
    prepared = prepare(queue, what, **said)
    if dry_run:
        return prepared.counts
    prepared.why = why
    return prepared.run(tell)
