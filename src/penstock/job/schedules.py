"""A schedule: a rule that makes jobs, and where it stands. Pure: what to do about a moment is decided here."""

from __future__ import annotations

import hashlib
import re
from collections import deque
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import msgspec

from penstock.core.triggers import At, Cron, Every, zone_of
from penstock.job.models import Instant, Isolation, RetryPolicy
from penstock.job.rules import After, Rule

KIND = "schedule"
"""What kind of record a schedule is in the ledger."""

NAME = re.compile(r"[A-Za-z0-9_.:\-/ \[\]<>]{1,200}", re.ASCII)

SCHEDULE, FIRE_AT, INTERVAL_START, MANUAL, FOLLOWS, BACKFILL = (
    f"penstock.{name}" for name in ("schedule", "fire_at", "interval_start", "manual", "follows", "backfill")
)
"""What the metadata of a scheduled job tells of where it comes from."""

Overlap = Literal["skip", "queue", "allow", "cancel_previous"]
CatchUp = Literal["none", "latest", "all"]

ON_TIME_S = 5.0
"""A fire time that is looked at no later than this was not missed: the scheduler was busy, or another one took over."""
_BATCH = 1_000_000
"""Fire times that are looked at in one turn: eleven days of one a second. The rest comes in the next turn."""
_LOOKS_BACK_S = (2, 100, 7_200, 200_000, 3_500_000, 35_000_000, 130_000_000)
"""How far to look back for the fire time before one: far enough for each common step, and never over many of them."""
_EVENTS = 50
_BACKLOG_MAX = 1000


class Template(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The job that each fire time makes: the fields of an `Intent` that do not belong to one job alone."""

    kind: str
    name: str
    spec: str
    """JSON, owned by the runner of this kind; texts in it may hold ``{{ fire_at }}`` and its like."""
    queue: str = "default"
    priority: int = 5
    isolation: Isolation = "inline"
    timeout_s: float | None = None
    max_attempts: int = 1
    max_crashes: int = 3
    backoff: RetryPolicy = RetryPolicy()
    expires_s: float | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}


class Plan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody wants of a schedule: everything but where it stands."""

    rule: Rule
    template: Template
    timezone: str = "UTC"
    """Of a cron's fields, of naive times that a run returns, and what people are shown."""
    overlap: Overlap = "skip"
    catch_up: CatchUp = "latest"
    catch_up_max: int = 100
    grace_s: float | None = None
    """How late a fire time that was missed may be made into a job; None: there is no limit."""
    jitter_s: float = 0.0
    start_at: Instant | None = None
    end_at: Instant | None = None
    max_fires: int | None = None
    soft_start: bool = False
    reanchor: bool = False
    """An interval that was missed is counted anew from when it is made up for, so that two runs do not follow close."""
    tags: tuple[str, ...] = ()
    source: str = ""
    """Where it was declared (``config:/srv/shop``); empty for one that was made by hand."""
    where: str = ""
    """The same for people: a file and a line."""
    description: str = ""
    """What it is for, in its owner's words."""


class Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """That a schedule makes no jobs, since when, by whom, and why."""

    at: Instant
    by: str = ""
    note: str = ""


class TickEvent(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What became of one fire time, or of several that were treated alike."""

    at: Instant
    what: str
    """``fired``, ``manual``, ``skipped: overlap``, ``skipped: late``, ``skipped: over`` ..."""
    fire_at: Instant | None = None
    count: int = 1
    job_id: str | None = None


class Schedule(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A schedule as the ledger holds it."""

    name: str
    plan: Plan
    made_at: Instant
    changed_at: Instant
    revision: int = 1
    """Grows with each change of the plan."""
    pause: Pause | None = None
    cursor_at: Instant | None = None
    """The newest fire time that has been dealt with: none at or before it is ever looked at again."""
    next_at: Instant | None = None
    """The next fire time; None: there is none, or it depends on a run that has not ended."""
    last_job: str | None = None
    """The newest job that was made."""
    awaits: str | None = None
    """The job whose end says when the next fire time is."""
    waiting: tuple[Instant, ...] = ()
    """Fire times that wait for the end of the job before them."""
    counts: dict[str, int] = {}
    """How often what became of fire times, over its whole life, by the words of `TickEvent.what`."""
    events: tuple[TickEvent, ...] = ()
    """The newest of them."""
    over: bool = False
    """It will never fire again by itself."""
    signature: str | None = None
    """Of name and plan, where there are keys; see `penstock.signing`."""

    def told(self, event: TickEvent) -> Schedule:
        """Return it with one more event counted."""
        counts = {**self.counts, event.what: self.counts.get(event.what, 0) + event.count}
        return msgspec.structs.replace(self, counts=counts, events=(*self.events, event)[-_EVENTS:])

    @property
    def fired(self) -> int:
        """How many fire times have become jobs, or wait for the end of another one."""
        return self.counts.get("fired", 0) + len(self.waiting)

    @property
    def runs(self) -> int:
        """How many jobs it has made, by its rule or by hand."""
        return self.counts.get("fired", 0) + self.counts.get("manual", 0)


class Looked(msgspec.Struct, frozen=True):
    """What a moment asks of a schedule: fire times to be made into jobs, and the schedule as it stands then."""

    fires: tuple[datetime, ...]
    after: Schedule


def first_look(plan: Plan, now: datetime) -> datetime | None:
    """Return the first fire time of a schedule that is made now."""
    begin = plan.start_at - timedelta(microseconds=1) if plan.start_at is not None and plan.start_at > now else now
    match plan.rule:
        case After(first_at=first_at):
            at = max(first_at or now, plan.start_at or now)
        case At(instant=instant):
            at = instant  # one that lies in the past is told as late
        case rule:
            at = rule.next_after(begin)
    return _within(plan, at)


def look(schedule: Schedule, now: datetime) -> Looked:
    """Decide about every fire time up to ``now``: which become jobs, which are skipped, and when the next one is.

    `Schedule.next_at` is taken as the first. A million are looked at, of which the last ones count as the newest; while
    ``next_at`` is not after ``now`` there is more to do.
    """
    plan = schedule.plan
    kept = {"none": 0, "latest": 1, "all": plan.catch_up_max}[plan.catch_up]
    missed: deque[datetime] = deque(maxlen=kept)
    on_time: list[datetime] = []
    first = last = None
    count = 0
    for at in _due(schedule, now):
        first, last, count = first or at, at, count + 1
        late_s = (now - at).total_seconds()
        if late_s <= ON_TIME_S:
            on_time.append(at)
        elif late_s <= plan.grace_s if plan.grace_s is not None else at >= schedule.made_at:
            missed.append(at)  # what was over before there was a schedule is made up for if a grace says so
    if last is None:
        if schedule.next_at is not None and schedule.next_at <= now:  # all of them have been dealt with
            schedule = msgspec.structs.replace(schedule, next_at=_next(plan, now))
        return Looked((), schedule)
    more = _next(plan, last)
    if (plan.catch_up == "latest" and on_time) or (more is not None and more <= now):
        missed.clear()  # there are later ones, here or in the next turn
    fires = [*missed, *on_time]
    if plan.max_fires is not None:
        fires = fires[: max(0, plan.max_fires - schedule.fired)]
        if schedule.fired + len(fires) >= plan.max_fires:
            more = None
    if plan.reanchor and isinstance(plan.rule, Every) and missed and more is not None:
        anew = Every(plan.rule.seconds, now + timedelta(seconds=plan.rule.seconds))
        plan, more = msgspec.structs.replace(plan, rule=anew), _within(plan, anew.anchor)
        schedule = msgspec.structs.replace(schedule, plan=plan)
    after = msgspec.structs.replace(schedule, cursor_at=last, next_at=more, over=more is None and not _follows(plan))
    if late := count - len(fires):
        after = after.told(TickEvent(at=now, what="skipped: late", fire_at=first, count=late))
    return Looked(tuple(fires), after)


def _due(schedule: Schedule, now: datetime) -> Iterator[datetime]:
    at, plan = schedule.next_at, schedule.plan
    for _ in range(_BATCH):
        if at is None or at > now:
            return
        if schedule.cursor_at is None or at > schedule.cursor_at:
            yield at
        at = _next(plan, at)


def _next(plan: Plan, after: datetime) -> datetime | None:
    return None if isinstance(plan.rule, After) else _within(plan, plan.rule.next_after(after))


def _within(plan: Plan, at: datetime | None) -> datetime | None:
    return None if at is None or (plan.end_at is not None and at > plan.end_at) else at


def _follows(plan: Plan) -> bool:
    return isinstance(plan.rule, After)


def next_after(schedule: Schedule, after: datetime) -> datetime | None:
    """Return the first fire time after ``after``, as far as it can be told now."""
    plan = schedule.plan
    if schedule.over:
        return None
    if isinstance(plan.rule, After):
        return schedule.next_at if schedule.next_at is not None and schedule.next_at > after else None
    begin = after if plan.start_at is None else max(after, plan.start_at - timedelta(microseconds=1))
    return _within(plan, plan.rule.next_after(begin))


def upcoming(schedule: Schedule, now: datetime, count: int) -> list[datetime]:
    """Return the next fire times; one alone where each depends on the run before."""
    if schedule.plan.max_fires is not None:
        count = min(count, schedule.plan.max_fires - schedule.fired)
    found: list[datetime] = []
    at = schedule.next_at if schedule.next_at is not None else next_after(schedule, now)
    while at is not None and len(found) < count:
        found.append(at)
        at = next_after(schedule, at)
    return found


def interval_of(plan: Plan, fire_at: datetime, near: datetime | None = None) -> tuple[datetime, datetime]:
    """Return the data interval of a fire time: from the fire time before it, whether or not that made a job, to it.

    ``near`` is tried first: mostly it is the one before.
    """
    rule = plan.rule
    if isinstance(rule, Every):
        return fire_at - timedelta(seconds=rule.seconds), fire_at
    if isinstance(rule, Cron):
        if near is not None and near < fire_at and rule.next_after(near) == fire_at and _fires_at(rule, near):
            return near, fire_at
        for back_s in _LOOKS_BACK_S:
            before = rule.next_after(fire_at - timedelta(seconds=back_s))
            while before is not None and before < fire_at:
                following = rule.next_after(before)
                if following is None or following >= fire_at:
                    return before, fire_at
                before = following
    return fire_at, fire_at


def _fires_at(rule: Cron, at: datetime) -> bool:
    return rule.next_after(at - timedelta(microseconds=1)) == at


def tick_key(name: str, fire_at: datetime) -> str:
    """Name a fire time: the ledger takes one job of that name, whoever makes it."""
    return f"{name}@{fire_at.astimezone(UTC):%Y-%m-%dT%H:%M:%S.%fZ}"


def run_key(schedule: Schedule) -> str:
    """Name the next run of a schedule whose runs follow one another, whether a tick or somebody by hand begins it."""
    return f"{tick_key(schedule.name, schedule.made_at)}#{schedule.runs}"


def jitter_s(plan: Plan, name: str, fire_at: datetime) -> float:
    """Return by how much the job of a fire time is put off: the same, whichever scheduler makes it."""
    if not plan.jitter_s:
        return 0.0
    digest = hashlib.sha256(tick_key(name, fire_at).encode()).digest()
    return plan.jitter_s * int.from_bytes(digest[:8], "big") / 2**64


def put_in_line(schedule: Schedule, fires: tuple[datetime, ...], now: datetime) -> Schedule:
    """Let fire times wait for the end of the job before them; the oldest give way when there are too many."""
    line = (*schedule.waiting, *fires)
    if (gone := len(line) - _BACKLOG_MAX) > 0:
        schedule = schedule.told(TickEvent(at=now, what="skipped: queue full", fire_at=line[0], count=gone))
        line = line[gone:]
    return msgspec.structs.replace(schedule, waiting=line)


# -- the task says when its next run is -------------------------------------------------------------------------------


class Answer(msgspec.Struct, frozen=True, kw_only=True, tag_field="penstock", tag="next run", omit_defaults=True):
    """What a run has said about the next one; it is the run's result."""

    next: Literal["default", "never", "at", "in", "wrong"]
    at: datetime | None = None
    in_s: float = 0.0
    told: str = ""

    @property
    def warning(self) -> str:
        """What was wrong with it; empty when nothing was."""
        if self.next != "wrong":
            return ""
        return f"a run returned {self.told}, which is neither None, a datetime, a timedelta nor 'never'"

    def next_at(self, ended_at: datetime, now: datetime, default: datetime | None) -> datetime | None:
        """Return when the next run is; None: never."""
        match self.next:
            case "never":
                return None
            case "at":
                return max(self.at or now, ended_at)
            case "in":
                return ended_at + timedelta(seconds=max(0.0, self.in_s))
            case _:
                return default


def answer_of(value: Any, timezone: str) -> Answer:
    """Read what a run returned: None (the default interval), a datetime (naive: of ``timezone``; past: at once), a
    timedelta (once), or ``"never"``. Anything else is a warning and the default interval.
    """  # noqa: D205 - one promise, two lines
    if value is None:
        return Answer(next="default")
    if isinstance(value, str) and value == "never":
        return Answer(next="never")
    if isinstance(value, timedelta):
        return Answer(next="in", in_s=value.total_seconds())
    if isinstance(value, datetime):
        at = value if value.utcoffset() is not None else value.replace(tzinfo=zone_of(timezone))
        return Answer(next="at", at=at.astimezone(UTC))
    return Answer(next="wrong", told=f"{value!r:.100}")


def read_answer(value: object) -> Answer:
    """Read the answer again out of a job's result; what is none asks for the default interval."""
    try:
        return msgspec.convert(value, Answer)
    except msgspec.ValidationError:
        return Answer(next="default")
