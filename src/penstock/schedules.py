"""`Schedules`: what people and programs do with schedules. The scheduler makes the jobs."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import audit, scheduler
from penstock.bridge import in_thread
from penstock.calls import intent_of
from penstock.core.exceptions import InvalidScheduleError, ScheduleDeclaredError
from penstock.core.triggers import At, zone_of
from penstock.job import schedules
from penstock.job.models import Intent
from penstock.job.rules import After, parse_rule
from penstock.job.schedules import KIND, Pause, Plan, Schedule, TickEvent
from penstock.schedule_options import change_plan, make_plan, template_of
from penstock.schedule_records import Did, ScheduleRecords, with_plan
from penstock.submission import record

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.handle import JobHandle
    from penstock.sources.decorators import Call


class Fire(msgspec.Struct, frozen=True):
    """One fire time to come, in the schedule's zone. ``change`` tells of a change of clocks on that day."""

    at: datetime
    change: str = ""


class Schedules:
    """The schedules of one queue's ledger. Every verb has an a-twin."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._records = ScheduleRecords(queue)
        self._change = self._records.change

    # -- asking -------------------------------------------------------------------------------------------------------

    def get(self, name: str) -> Schedule:
        """Return one schedule. Raises `ScheduleNotFoundError`."""
        return self._records.read(name)

    def list(self, *, tag: str | None = None, source: str | None = None) -> list[Schedule]:
        """List schedules by name; ``source`` is what it begins with."""
        found = (scheduler.schedule_of(record) for record in self._queue.ledger.records.all(KIND))
        return [
            schedule
            for schedule in found
            if schedule is not None
            and (tag is None or tag in schedule.plan.tags)
            and (source is None or schedule.plan.source.startswith(source))
        ]

    def held(self, schedule: Schedule) -> list[str]:
        """Name the strikes and pauses by which its next job would not begin."""
        made = schedule.plan.template
        job = Intent(id="", kind=made.kind, name=made.name, spec=made.spec.encode(), queue=made.queue)
        return [rule.held for rule in self._queue.steering.rules_for(job)]

    def next(self, name: str, count: int = 5) -> list[Fire]:
        """Return the next fire times of a schedule. Raises `ScheduleNotFoundError`."""
        schedule = self.get(name)
        times = schedules.upcoming(schedule, self._queue.now(), count)
        return _fires(times, schedule.plan.timezone)

    def explain(self, rule: str, *, timezone: str | None = None, count: int = 5) -> tuple[str, list[Fire]]:
        """Say a rule in words, and when it would fire next; nothing is stored. Raises `InvalidScheduleError`."""
        zone, now = timezone or self._queue.config.timezone, self._queue.now()
        try:
            read = parse_rule(rule, timezone=zone, now=now)
            zone_of(zone)
        except ValueError as error:
            raise InvalidScheduleError(str(error)) from None
        times: list[datetime] = []
        at: datetime | None = now
        while len(times) < min(count, read.max_fires or count) and not isinstance(read.rule, After):
            at = read.rule.next_after(at)
            if at is None:
                break
            times.append(at)
        return read.rule.explain(), _fires(times, zone)

    # -- making and changing ------------------------------------------------------------------------------------------

    def put(
        self,
        call: Call,
        *,
        name: str | None = None,
        source: str = "",
        where: str = "",
        why: str | None = None,
        **options: Any,
    ) -> tuple[Schedule, Did]:
        """Make a schedule, or change the one of this name; see `JobQueue.schedule` for the options.

        Raises:
            InvalidScheduleError: an option is wrong, or there is no rule; nothing was written.
            ScheduleDeclaredError: a file declares the one that is there: it is changed there.
        """
        queue, called = self._queue, name or call.name
        if not schedules.NAME.fullmatch(called):
            raise InvalidScheduleError(
                f"{called!r} is no name for a schedule: 1 to 200 of A-Z a-z 0-9 _ . : - / [ ] < > and spaces"
            )
        plan = self.plan(intent_of(queue.config, call), source=source, where=where, **options)
        made, did = self._records.put(called, plan)
        if did is not Did.KEPT and not source:
            self._note("add" if did is Did.CREATED else "update", called, why, rule=plan.rule.explain())
        return made, did

    def plan(self, intent: Intent, *, source: str = "", where: str = "", **options: Any) -> Plan:
        """Check what is said of a schedule, and return its plan. Raises `InvalidScheduleError`."""
        template = template_of(intent)
        return make_plan(
            template, options, source=source, where=where, timezone=self._queue.config.timezone, now=self._queue.now()
        )

    def update(self, name: str, *, why: str | None = None, **options: Any) -> Schedule:
        """Change options of a schedule; what is not named stays, and so does where it stands.

        Raises:
            ScheduleNotFoundError: there is none of this name.
            InvalidScheduleError: an option is wrong; nothing was written.
            ScheduleDeclaredError: a file declares it.
        """

        def change(schedule: Schedule, now: datetime) -> Schedule:
            _refuse_declared(schedule)
            self._queue.signer.check_schedule(schedule)
            return self._queue.signer.signed_schedule(
                with_plan(schedule, change_plan(schedule.plan, options, now), now)
            )

        after = self._change(name, change)
        self._note("update", name, why, changed=", ".join(options))
        return after

    def pause(self, name: str, note: str = "", *, by: str | None = None) -> Schedule:
        """Let a schedule make no jobs until `resume`; it stays so over deploys. Raises `ScheduleNotFoundError`."""

        def change(schedule: Schedule, now: datetime) -> Schedule:
            pause = schedule.pause or Pause(at=now, by=_who(by), note=note)
            return msgspec.structs.replace(schedule, pause=pause, changed_at=now)

        after = self._change(name, change)
        self._note("pause", name, note, by=by)
        return after

    def resume(self, name: str, *, why: str | None = None) -> Schedule:
        """Let a paused schedule go on. Fire times of the pause are not made up for. Raises `ScheduleNotFoundError`."""

        def change(schedule: Schedule, now: datetime) -> Schedule:
            if schedule.pause is None:
                return schedule
            after = msgspec.structs.replace(schedule, pause=None, changed_at=now)
            if schedule.next_at is not None and schedule.next_at <= now and not isinstance(schedule.plan.rule, After):
                later = schedules.next_after(schedule, now)
                after = msgspec.structs.replace(after, next_at=later, cursor_at=now, over=later is None)
                after = after.told(TickEvent(at=now, what="skipped: paused", fire_at=schedule.next_at))
            return after

        resumed = self._change(name, change)
        self._note("resume", name, why)
        return resumed

    def trigger(self, name: str, *, by: str | None = None, why: str | None = None) -> JobHandle:
        """Make a job now, whatever the rule says; it is recorded as manual. Raises `ScheduleNotFoundError`.

        A schedule whose next run counts from the end of the last one (and so never overlaps) answers with the job
        that is live, if one is.
        """
        seen = self.get(name)
        self._queue.signer.check_schedule(seen)
        if seen.awaits is not None and not (live := self._queue.job(seen.awaits)).refresh().state.final:
            return live
        now = self._queue.now()
        (made,) = record(self._queue, [scheduler.intent_of(seen, now, manual=True)])
        job = self._queue.job(made.job.id)

        def change(schedule: Schedule, _now: datetime) -> Schedule:
            if isinstance(schedule.plan.rule, After) and schedule.runs != seen.runs:
                return schedule  # another press, or a tick, has told of this very job
            after = schedule.told(TickEvent(at=now, what="manual", fire_at=now, job_id=job.id))
            if isinstance(schedule.plan.rule, After):
                after = msgspec.structs.replace(after, awaits=job.id, next_at=None, over=False)
            return msgspec.structs.replace(after, last_job=job.id)

        self._change(name, change)
        self._note("run", name, why, by=by, job=job.id)
        return job

    def remove(self, name: str, *, why: str | None = None) -> None:
        """Take a schedule away; its jobs stay. Raises `ScheduleNotFoundError`, `ScheduleDeclaredError`."""
        self._records.remove(name, unless=_refuse_declared)
        self._note("rm", name, why)

    def declare(self, source: str, wanted: Mapping[str, Plan], *, kept: Collection[str] = ()) -> dict[str, Did | str]:
        """Make the schedules of one source what it says: new ones, changed ones, and none that it no longer names.

        Where a schedule stands, and whether it is paused, stays. One that somebody else declares, or that was made by
        hand, is left alone, and so are those in ``kept``. Returns what became of each; for those that were left alone,
        why.
        """
        told: dict[str, Did | str] = {}
        for name, plan in wanted.items():
            try:
                told[name] = self._records.put(name, msgspec.structs.replace(plan, source=source))[1]
            except ScheduleDeclaredError as error:
                told[name] = str(error)
        for schedule in self.list():
            if schedule.plan.source == source and schedule.name not in wanted and schedule.name not in kept:
                self._records.take_away(schedule.name, source)
                told[schedule.name] = "removed"
        return told

    def is_past(self, name: str, plan: Plan) -> bool:
        """Whether a plan is for one time, which is over, and no schedule of its name and source stands for it yet."""
        if not isinstance(plan.rule, At) or plan.rule.instant > self._queue.now():
            return False
        if (schedule := self._records.find(name)) is None:
            return True
        there = schedule.plan
        return there.source == plan.source and there.rule != plan.rule

    def begin_at(self, name: str, at: datetime) -> Schedule:
        """Set when a schedule fires next that counts from the end of its last run, also when it was over.

        While a run is under way nothing changes: its end says when the next one is. Raises `ScheduleNotFoundError`.
        """

        def change(schedule: Schedule, _now: datetime) -> Schedule:
            if schedule.awaits is not None or not isinstance(schedule.plan.rule, After):
                return schedule
            return msgspec.structs.replace(schedule, next_at=at, over=False)

        return self._change(name, change)

    def stagger(self, names: Iterable[str], apart_s: float) -> None:
        """Put first runs off so that they begin ``apart_s`` after one another, in the order of their own times.

        Those that are overdue begin now, one after the other; of equal times the order is that of ``names``.
        """
        found = [self.get(name) for name in names]
        soft = [(s.next_at, s.name) for s in found if s.next_at is not None and s.plan.soft_start and s.pause is None]
        last: datetime | None = None
        for at, name in sorted(soft, key=lambda first: first[0]):
            begin = max(at, self._queue.now() if last is None else last + timedelta(seconds=apart_s))
            last = begin
            if begin != at:
                self._change(name, lambda s, _now, begin=begin: msgspec.structs.replace(s, next_at=begin))

    def _note(self, verb: str, name: str, why: str | None, *, by: str | None = None, **details: object) -> None:
        """Write down what somebody did by hand; what files declare is nobody's action."""
        audit.note(self._queue, f"schedules {verb}", name, why=why, by=by, **details)

    # The a-twins: each is its verb in a thread.

    async def aget(self, name: str) -> Schedule:
        """`get`, awaited."""
        return await in_thread(self.get, name)

    async def alist(self, *, tag: str | None = None, source: str | None = None) -> Sequence[Schedule]:
        """`list`, awaited."""
        return await in_thread(self.list, tag=tag, source=source)

    async def anext(self, name: str, count: int = 5) -> Sequence[Fire]:
        """`next`, awaited."""
        return await in_thread(self.next, name, count)

    async def aupdate(self, name: str, *, why: str | None = None, **options: Any) -> Schedule:
        """`update`, awaited."""
        return await in_thread(self.update, name, why=why, **options)

    async def apause(self, name: str, note: str = "", *, by: str | None = None) -> Schedule:
        """`pause`, awaited."""
        return await in_thread(self.pause, name, note, by=by)

    async def aresume(self, name: str, *, why: str | None = None) -> Schedule:
        """`resume`, awaited."""
        return await in_thread(self.resume, name, why=why)

    async def atrigger(self, name: str, *, by: str | None = None, why: str | None = None) -> JobHandle:
        """`trigger`, awaited."""
        return await in_thread(self.trigger, name, by=by, why=why)

    async def aremove(self, name: str, *, why: str | None = None) -> None:
        """`remove`, awaited."""
        await in_thread(self.remove, name, why=why)


def _who(by: str | None) -> str:
    return audit.actor() if by is None else by


def _refuse_declared(schedule: Schedule) -> None:
    if schedule.plan.source:
        raise ScheduleDeclaredError(schedule.name, schedule.plan.where or schedule.plan.source)


def _fires(times: Sequence[datetime], timezone: str) -> list[Fire]:
    """Return fire times in their zone, with a word about a change of clocks on their day."""
    zone = zone_of(timezone)
    told: list[Fire] = []
    for at in times:
        local = at.astimezone(zone)
        midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        before, after = midnight.utcoffset(), (midnight + timedelta(days=1)).utcoffset()
        change = ""
        if before is not None and after is not None and before != after:
            step = after - before
            change = f"clocks go {'forward' if step > timedelta() else 'back'} by {abs(step)}".removesuffix(":00")
        told.append(Fire(local, change))
    return told
