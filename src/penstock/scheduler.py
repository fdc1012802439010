"""Turns fire times into jobs: exactly one for each, over any number of schedulers, none of which leads.

A tick inserts the job under the name of its fire time (the ledger takes one of that name), then moves the schedule on,
if nobody else has since it was read. So a scheduler that dies in between leaves a fire time that the next one looks at
again, and finds made.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from penstock import templates
from penstock.core.config import seconds
from penstock.core.exceptions import JobNotFoundError, LedgerError, QueueFullError, ResultError
from penstock.core.records import Change, Record
from penstock.core.running import Scheduler
from penstock.core.typed import prepared
from penstock.job import lifecycle, schedules
from penstock.job.models import Intent, Job, Submission, new_job_id
from penstock.job.rules import After
from penstock.job.schedules import KIND, Schedule, TickEvent
from penstock.readable import UNREADABLE, read

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.core.config import Config
    from penstock.signing import Problem

logger = logging.getLogger("penstock.scheduler")

_BATCH = 200
_ALSO_EVERY_S = 10.0
_TURNS = 100
_FULL_S = 5.0
_LEFT_S = 0.25
"""The least time between two ticks while schedules that make no jobs here stay due."""
_LOOK_S = (0.25, 10.0)
"""How often the end of a job is looked for that decides the next fire time: a twentieth of what has passed."""

decoder = msgspec.json.Decoder(prepared(Schedule))
_encode = msgspec.json.Encoder().encode


class LedgerScheduler(Scheduler):
    """The schedules of one ledger. `tick` may be called by anybody at any time; `start` does so in a thread."""

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        *,
        submit: Callable[[Sequence[Intent]], Sequence[Submission]],
        cancel: Callable[[str], object],
        value_of: Callable[[Job], object],
        also: Callable[[], object] = lambda: None,
        problem: Callable[[Schedule], Problem | None] = lambda schedule: None,
    ) -> None:
        """Set up a scheduler.

        Args:
            ledger: where the schedules are.
            config: how often to look.
            submit: inserts jobs and publishes those that are new; raises `QueueFullError`, having written none.
            cancel: cancels a job, by id.
            value_of: reads what a job has returned.
            also: what the thread is to look at beside schedules, now and then.
            problem: says why a schedule must make no jobs.
        """
        self.counts: Counter[str] = Counter()
        self._ledger = ledger
        self._submit = submit
        self._cancel = cancel
        self._value_of = value_of
        self._also = also
        self._problem = problem
        self._left: dict[str, int] = {}
        """Schedules that are due and make no jobs here, by the newest look, each with its version."""
        self._interval_s = seconds(config.scheduler.interval)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def tick(self) -> int:
        """See `Scheduler.tick`."""
        made = 0
        turns: Counter[str] = Counter()
        told, self._left = self._left, {}
        # More than one turn for what has many fire times to be looked at; never for ever.
        while found := [r for r in self._ledger.records.due(KIND, _BATCH) if turns[r.name] < _TURNS]:
            turns.update(record.name for record in found)
            looked = [(record, schedule) for record in found if (schedule := self._read(record, told)) is not None]
            made += self._turn(looked, told)
            turns.update(dict.fromkeys(self._left, _TURNS))
        return made

    def next_at(self) -> datetime | None:
        """See `Scheduler.next_at`."""
        return self._ledger.records.next_due_at(KIND)

    def _read(self, record: Record, told: Mapping[str, int]) -> Schedule | None:
        if (schedule := schedule_of(record)) is None:
            return self._leave(record, told, "unreadable", "it cannot be read, it is damaged in the ledger")
        if (problem := self._problem(schedule)) is not None:
            return self._leave(record, told, problem.kind, problem.told)
        return schedule

    def _leave(self, record: Record, told: Mapping[str, int], kind: str, why: str) -> None:
        self._left[record.name] = record.version
        if told.get(record.name) != record.version:  # it stays due, and would be told of at each tick
            self.counts[kind] += 1
            logger.error("schedule %s makes no jobs here: %s", record.name, why)

    def _turn(self, found: Sequence[tuple[Record, Schedule]], told: Mapping[str, int]) -> int:
        now = self._ledger.now()
        turns: list[_Turn] = []
        for record, schedule in found:
            turn = _Turn(record, schedule, now)
            try:
                turn.decide(self._job, self._value_of)
                turn.intents = [intent_of(turn.schedule, at, near=turn.cursor_at) for at in turn.fires]
            except UNREADABLE as error:  # where it stands is not signed, and may make no sense
                self._leave(record, told, "unreadable", f"where it stands makes no sense: {error}")
            else:
                turns.append(turn)
        submitted = self._make(turns)
        changes = [turn.change() for turn in turns]
        for turn, version in zip(turns, self._ledger.records.write(changes), strict=True):
            self.counts["moved_by_others"] += version == 0
            for job in turn.to_cancel if version else ():
                self._cancel(job.id)
        self.counts["made"] += submitted
        return submitted

    def _make(self, turns: Sequence[_Turn]) -> int:
        wanted = [(turn, at) for turn in turns for at in turn.fires]
        if not wanted:
            return 0
        intents = [intent for turn in turns for intent in turn.intents]
        try:
            answers = self._submit(intents)
        except QueueFullError:
            answers = [self._one(turn, intent) for (turn, _), intent in zip(wanted, intents, strict=True)]
        made = 0
        for (turn, at), answer in zip(wanted, answers, strict=True):
            if answer is not None:
                turn.made(at, answer.job)
                made += answer.outcome.made
        return made

    def _one(self, turn: _Turn, intent: Intent) -> Submission | None:
        try:
            return self._submit([intent])[0]
        except QueueFullError as error:
            # The fire time is kept: it is looked at again when the queue may have room.
            turn.hold(str(error))
            self.counts["queue_full"] += 1
            return None

    def _job(self, job_id: str) -> Job | None:
        try:
            return self._ledger.get(job_id)
        except JobNotFoundError:
            return None

    # -- in a thread ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Tick in the background until `stop`."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._loop, name="penstock-scheduler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a tick that is under way is finished."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        also_at = 0.0
        while not self._stop.is_set():
            wait_s = self._interval_s
            try:
                self.tick()
                if time.monotonic() >= also_at:
                    also_at = time.monotonic() + _ALSO_EVERY_S
                    self._also()
                if (at := self.next_at()) is not None:
                    least_s = _LEFT_S if self._left else 0.01
                    wait_s = min(wait_s, max(least_s, (at - self._ledger.now()).total_seconds()))
            except LedgerError as error:
                logger.warning("the schedules could not be looked at: %s", error)
            except Exception:
                logger.exception("a tick failed, the next one follows")
            self._stop.wait(wait_s)


def _said_by(job: Job, value_of: Callable[[Job], object]) -> object:
    try:
        return value_of(job)
    except ResultError as error:
        logger.warning("what job %s has said of the next run is lost: %s", job.id, error)
        return None


def schedule_of(record: Record) -> Schedule | None:
    """Read a schedule; None for what cannot be read, and for the copy of one under another name."""
    schedule = read(record, decoder)
    return schedule if schedule is not None and schedule.name == record.name else None


class _Turn:
    """One look at one schedule."""

    def __init__(self, record: Record, schedule: Schedule, now: datetime) -> None:
        self.record = record
        self.schedule = schedule
        self.cursor_at = schedule.cursor_at
        self.now = now
        self.fires: list[datetime] = []
        self.intents: list[Intent] = []
        self.to_cancel: list[Job] = []
        self._again_s: float | None = None

    def decide(self, job_of: Callable[[str], Job | None], value_of: Callable[[Job], object]) -> None:
        """Choose the fire times that become jobs now, and move the schedule past all that are due."""
        if self.schedule.pause is not None:
            return
        if self.schedule.awaits is not None and not self._has_ended(job_of, value_of):
            return
        looked = schedules.look(self.schedule, self.now)
        self.schedule = looked.after
        last = None if self.schedule.last_job is None else job_of(self.schedule.last_job)
        live = last is not None and not last.state.final
        self._admit(looked.fires, last if live else None)
        if self.schedule.waiting and not live and not self.fires:
            first, *rest = self.schedule.waiting
            self.fires = [first]
            self.schedule = msgspec.structs.replace(self.schedule, waiting=tuple(rest))

    def _admit(self, fires: Sequence[datetime], live: Job | None) -> None:
        plan = self.schedule.plan
        match plan.overlap:
            case "allow":
                self.fires = list(fires)
            case "queue":
                self.schedule = schedules.put_in_line(self.schedule, tuple(fires), self.now)
            case "cancel_previous":
                self.fires = list(fires[-1:])
                self._skip(fires[:-1], "skipped: replaced")
                if self.fires and live is not None:
                    self.to_cancel = [live]
            case _:
                missed = [at for at in fires if (self.now - at).total_seconds() > schedules.ON_TIME_S]
                if plan.catch_up == "all":  # each of these is wanted: one after the other
                    self.schedule = schedules.put_in_line(self.schedule, tuple(missed), self.now)
                else:
                    missed = []
                fresh = [at for at in fires if at not in missed]
                free = live is None and not self.schedule.waiting
                self.fires = fresh[:1] if free else []
                self._skip(fresh[len(self.fires) :], "skipped: overlap")

    def _skip(self, fires: Sequence[datetime], what: str) -> None:
        for at in fires:
            self.schedule = self.schedule.told(TickEvent(at=self.now, what=what, fire_at=at))

    def _has_ended(self, job_of: Callable[[str], Job | None], value_of: Callable[[Job], object]) -> bool:
        """Look whether the run has ended that decides when the next one is, and note when that is."""
        schedule, rule = self.schedule, self.schedule.plan.rule
        job = job_of(schedule.awaits or "")
        if job is not None and not job.state.final:
            since = job.started_at or job.created_at
            self._again_s = min(max(_LOOK_S[0], (self.now - since).total_seconds() / 20), _LOOK_S[1])
            return False
        ended_at = self.now if job is None or job.finished_at is None else job.finished_at
        step_s = rule.seconds if isinstance(rule, After) else 0.0
        next_at: datetime | None = ended_at + timedelta(seconds=step_s)
        if isinstance(rule, After) and rule.follows and job is not None and job.state is lifecycle.State.SUCCEEDED:
            answer = schedules.read_answer(_said_by(job, value_of))
            if answer.warning:
                logger.warning(
                    "schedule %s: %s; the next run is after the default interval", schedule.name, answer.warning
                )
                schedule = schedule.told(TickEvent(at=self.now, what="warning: " + answer.warning, job_id=job.id))
            next_at = answer.next_at(ended_at, self.now, next_at)
        plan = schedule.plan
        if plan.max_fires is not None and schedule.fired >= plan.max_fires:
            next_at = None
        if next_at is not None and plan.end_at is not None and next_at > plan.end_at:
            next_at = None
        if next_at is not None and schedule.cursor_at is not None:
            next_at = max(next_at, schedule.cursor_at + timedelta(microseconds=1))  # a fire time comes once
        self.schedule = msgspec.structs.replace(schedule, awaits=None, next_at=next_at, over=next_at is None)
        return True

    def made(self, at: datetime, job: Job) -> None:
        """Note the job that a fire time has become."""
        event = TickEvent(at=self.now, what="fired", fire_at=at, job_id=job.id)
        awaits = job.id if isinstance(self.schedule.plan.rule, After) else None
        self.schedule = msgspec.structs.replace(self.schedule.told(event), last_job=job.id, awaits=awaits)

    def hold(self, why: str) -> None:
        """Leave the schedule as it was, to be looked at again."""
        before = decoder.decode(self.record.body)
        if not before.events or before.events[-1].what != "held: queue full":
            before = before.told(TickEvent(at=self.now, what="held: queue full"))
            logger.warning("schedule %s: %s", before.name, why)
        self.schedule, self._again_s = before, _FULL_S

    def change(self) -> Change:
        """Return the record as it is to be."""
        if self._again_s is None and (self.schedule.awaits or self.schedule.waiting):
            self._again_s = _LOOK_S[0]
        return change_of(self.record, self.schedule, self.now, again_s=self._again_s)


def change_of(seen: Record | None, schedule: Schedule, now: datetime, *, again_s: float | None = None) -> Change:
    """Return the change that writes a schedule; ``again_s``: it is looked at so soon, whatever its next fire time."""
    due_at = schedule.next_at
    if again_s is not None:
        again = now + timedelta(seconds=again_s)
        due_at = again if due_at is None or due_at <= now else min(due_at, again)
    if schedule.pause is not None:
        due_at = None
    body = _encode(schedule)
    return Change(kind=KIND, name=schedule.name, seen=seen.version if seen else 0, body=body, due_at=due_at)


def intent_of(schedule: Schedule, fire_at: datetime, *, near: datetime | None = None, manual: bool = False) -> Intent:
    """Make the job of one fire time; ``near`` is what may be the one before."""
    plan, template = schedule.plan, schedule.plan.template
    starts, _ = interval = schedules.interval_of(plan, fire_at, near)
    spec = templates.filled(
        template.spec, schedule=schedule.name, fire_at=fire_at, interval=interval, timezone=plan.timezone
    )
    metadata = {
        **template.metadata,
        schedules.SCHEDULE: schedule.name,
        schedules.FIRE_AT: fire_at.isoformat(),
        schedules.INTERVAL_START: starts.isoformat(),
    }
    if manual:
        metadata[schedules.MANUAL] = "1"
    if isinstance(plan.rule, After) and plan.rule.follows:
        metadata[schedules.FOLLOWS] = plan.timezone
    jitter = 0.0 if manual else schedules.jitter_s(plan, schedule.name, fire_at)
    if isinstance(plan.rule, After):
        key = schedules.run_key(schedule)
    else:
        key = None if manual else schedules.tick_key(schedule.name, fire_at)
    return Intent(
        id=new_job_id(), kind=template.kind, name=template.name, spec=spec, queue=template.queue,
        priority=template.priority, isolation=template.isolation, timeout_s=template.timeout_s,
        max_attempts=template.max_attempts, max_crashes=template.max_crashes, backoff=template.backoff,
        tags=tuple(dict.fromkeys((*template.tags, *plan.tags))), metadata=metadata,
        tick_key=key,
        at=fire_at + timedelta(seconds=jitter) if jitter else None,
    )  # fmt: skip
