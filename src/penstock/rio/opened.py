"""What is there between an app's start and its close: tasks, schedules, a worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.calls import intent_of
from penstock.client import JobQueue
from penstock.core.config import HistoryConfig, seconds
from penstock.core.exceptions import ConfigError
from penstock.job.rules import After
from penstock.options import JobOptions
from penstock.rio import start
from penstock.rio.body import place_of, task_of
from penstock.rio.shown import TITLE
from penstock.schedules import Did
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    import rio

    from penstock.bridge import Loop
    from penstock.job.schedules import Plan

_THREADS = 16
_KEEP_MAX = timedelta(days=90)
_SHORTEST_S = 0.001


class Added(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was added."""

    name: str
    title: str
    function: Any
    interval: timedelta
    waits: bool
    soft: bool

    @property
    def every_s(self) -> float:
        """The interval, at least what a schedule's can be."""
        return max(_SHORTEST_S, self.interval.total_seconds())


def queue_for(
    app: rio.App, given: JobQueue | None, added: Sequence[Added], *, keep_for: timedelta, keep_n: int
) -> JobQueue:
    """Return a queue of the app's own: on the engine and ledger of the one that is given, else as configured."""
    if given is not None:
        # Not the very one: it may have a worker already, and a queue can have one at a time.
        return JobQueue(config=given.config, root=given.root, ledger=given.ledger)
    found = JobQueue.from_config(app.assets_dir.parent)
    if found.config.history != HistoryConfig():
        return found
    longest = max((one.interval for one in added), default=timedelta())
    keep_s = max(keep_for, min(keep_n * longest, _KEEP_MAX)).total_seconds()
    history = HistoryConfig(keep_succeeded=keep_s, keep_failed=keep_s)
    return JobQueue(config=msgspec.structs.replace(found.config, history=history), root=found.root)


class Opened:
    """A queue whose worker runs an app's jobs. It is closed with it, also where it could not be opened."""

    def __init__(
        self, app: rio.App, loop: Loop, queue: JobQueue, added: Sequence[Added], *, lane: str, concurrency: int | None
    ) -> None:
        """Make the tasks and schedules, and start the worker.

        Raises:
            ConfigError: a name is taken.
            LedgerError: the ledger could not be opened.
            BackendError: the engine could not be started.
        """
        self.queue = queue
        self.source = f"rio:{app.name}" if lane == "rio" else f"rio:{app.name}:{lane}"
        self._app = app
        self._loop = loop
        self._lane = lane
        self._added: dict[str, Added] = {}
        self._worker = queue.worker(queues=(lane,), concurrency=concurrency or max(_THREADS, len(added)))
        try:
            self._register(added)
            anew = start.begins_anew(queue, self.source, lane, self._added)
            self._declare(all_of_it=anew)
            if anew:
                self._begin()
            self._worker.start()
        except BaseException:
            self._forget()
            raise

    def add(self, one: Added) -> None:
        """Make one more job, which waits for nobody. Raises as the beginning does."""
        self._register([one])
        self._declare(all_of_it=False)

    def close(self, grace_s: float) -> None:
        """Wait so long for what runs, hand back what goes on, and let go of everything."""
        try:
            self._worker.stop(grace_s=grace_s)
            start.ended(self.queue, self.source)
        finally:
            self._forget()

    def _forget(self) -> None:
        for name in self._added:
            TASKS.discard(name)
        self.queue.close()

    def _register(self, added: Iterable[Added]) -> None:
        self.queue.load_tasks()
        for one in added:
            if one.name in TASKS:
                raise ConfigError(
                    f"a task of this process is named {one.name!r} already; give the job another name: name=..."
                )
            TASKS.add(task_of(one.function, task=one.name, title=one.title, app=self._app, loop=self._loop))
            self._added[one.name] = one

    def _declare(self, *, all_of_it: bool) -> None:
        """Make the schedules what was added; ``all_of_it``: and take those away that were not."""
        now = self.queue.now()
        wanted = {added.name: self._plan(added, now) for added in self._added.values()}
        before = {schedule.name: schedule.plan.rule for schedule in self.queue.schedules.list(source=self.source)}
        kept = () if all_of_it else tuple(before)
        told: Mapping[str, str] = self.queue.schedules.declare(self.source, wanted, kept=kept)
        for name, did in told.items():
            if " " in did:  # a sentence: why not
                raise ConfigError(f"job {name!r} cannot be scheduled: {did}")
            if did == Did.CHANGED:
                self._hasten(self._added[name], before.get(name), now)

    def _hasten(self, added: Added, before: object, now: datetime) -> None:
        """Let a job whose interval was made shorter not wait for the end of the longer one."""
        at, soonest = self.queue.schedules.get(added.name).next_at, now + added.interval
        if isinstance(before, After) and added.every_s < before.seconds and at is not None and at > soonest:
            self.queue.schedules.begin_at(added.name, soonest)

    def _plan(self, added: Added, now: datetime) -> Plan:
        call = TASKS.find(added.name).call()
        call.options = JobOptions.parse(
            {"queue": self._lane, "max_attempts": 1, "isolation": "inline", "metadata": {TITLE: added.title}}
        )
        plan = self.queue.schedules.plan(
            intent_of(self.queue.config, call),
            where=place_of(added.function),
            every=added.every_s,
            follows=True,
            soft_start=added.soft,
        )
        rule = After(added.every_s, now + added.interval if added.waits else now, follows=True)
        return msgspec.structs.replace(plan, rule=rule)

    def _begin(self) -> None:
        """Begin the app anew: what does not wait runs at once, what was over is scheduled again."""
        now, schedules = self.queue.now(), self.queue.schedules
        for added in self._added.values():
            if not added.waits:
                schedules.begin_at(added.name, now)
            elif schedules.get(added.name).over:
                schedules.begin_at(added.name, now + added.interval)
        schedules.stagger(self._added, seconds(self.queue.config.scheduler.soft_start))
