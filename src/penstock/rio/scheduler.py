"""`JobScheduler`: a Rio extension whose jobs are those of a penstock queue, worked off inside the app's process."""

from __future__ import annotations

import hashlib
import logging
import re
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
import rio

from penstock.bridge import in_thread, running_loop
from penstock.calls import intent_of
from penstock.client import JobQueue
from penstock.core.config import HistoryConfig, seconds
from penstock.core.exceptions import ConfigError, JobNotFoundError
from penstock.job.rules import After
from penstock.options import JobOptions
from penstock.rio import start
from penstock.rio.body import JobFunction, name_of, place_of, task_of
from penstock.rio.shown import TITLE, PastRun, ScheduledJob, past_runs, scheduled_jobs
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.bridge import Loop
    from penstock.job.schedules import Plan
    from penstock.worker import Worker

logger = logging.getLogger("penstock.rio")

J = TypeVar("J", bound=JobFunction)

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:\-/ \[\]<>]")
_THREADS = 16
_KEEP_MAX = timedelta(days=90)
_BEGIN_WAIT_S = 1.0
_SHORTEST_S = 0.001


class _Added(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it was added."""

    name: str
    title: str
    function: Any
    interval: timedelta
    waits: bool
    soft: bool


class _Running(msgspec.Struct, frozen=True, kw_only=True):
    """What is there between the app's start and its close."""

    app: Any
    loop: Any
    queue: Any
    worker: Any
    source: str


class JobScheduler(rio.Extension):
    """Runs functions periodically inside a Rio app; see rio-jobs, whose names these are.

    ``app._add_extension(scheduler)`` lets it start and stop with the app. Runs of a job never overlap:
    its interval is counted from the end of each run. History and the times of next runs are in the queue's ledger, so
    they survive a restart, and of several processes of the app one runs each job.

    Where no other process of the app is alive, its start is a new beginning: jobs that do not wait for their first
    interval run at once, and jobs that had said ``"never"`` are scheduled again.
    """

    def __init__(
        self,
        queue: JobQueue | None = None,
        *,
        keep_past_runs_for: timedelta = timedelta(days=1),
        keep_past_n_runs: int = 10,
        lane: str = "rio",
        concurrency: int | None = None,
        close_grace: timedelta = timedelta(seconds=2),
    ) -> None:
        """Set a scheduler up; nothing runs before the app starts.

        Args:
            queue: whose jobs these are, and whose ledger keeps them; it stays the caller's to close. Default: the one
                that a ``penstock.toml`` beside the app configures, else Huey and SQLite in ``.penstock`` beside it.
            keep_past_runs_for: how long runs are shown, and kept in a ledger of the default queue.
            keep_past_n_runs: how many runs of each job are shown, however old; the default queue keeps rarer runs
                for 90 days at most, a queue of yours as long as its ``[history]`` says.
            lane: the name of the queue within ``queue`` that the jobs go through; the app works it off.
            concurrency: how many jobs run at once in this process; default: 16, or one for each job if there are more.
            close_grace: for how long the app's close waits for runs; those that go on are interrupted, and begin again
                with the app.
        """
        super().__init__()
        self._given = queue
        self._keep_for = keep_past_runs_for
        self._keep_n = keep_past_n_runs
        self._lane = lane
        self._concurrency = concurrency
        self._grace_s = close_grace.total_seconds()
        self._added: dict[str, _Added] = {}
        self._running: _Running | None = None
        self._jobs_read: list[ScheduledJob] = []
        self._runs_read: list[PastRun] = []

    # -- adding jobs --------------------------------------------------------------------------------------------------

    def add_job(
        self,
        job: JobFunction,
        interval: timedelta,
        *,
        name: str | None = None,
        wait_for_initial_interval: bool = True,
        soft_start: bool = True,
    ) -> JobScheduler:
        """Call ``job`` with a `Run` every ``interval``, counted from the end of each run; return this scheduler.

        A ``def`` runs in a thread, an ``async def`` on the app's loop. What it returns says when the next run is: None
        (after the interval), a datetime (naive: local time; past: at once), a timedelta (once), ``"never"``. An
        exception is logged and kept with the run, and the interval goes on.

        Args:
            job: the function.
            interval: more than zero.
            name: what people call the job; default: the function's name in words.
            wait_for_initial_interval: False: the first run is at once.
            soft_start: at the app's start, begin 30 s after the soft job before it (``[scheduler] soft_start``).

        Raises:
            ValueError: an argument is wrong.
        """
        _check(job, interval, name, wait_for_initial_interval, soft_start)
        title = name_of(job) if name is None else name
        added = _Added(
            name=self._name(title), title=title, function=job, interval=interval, waits=wait_for_initial_interval,
            soft=soft_start,
        )  # fmt: skip
        self._added[added.name] = added
        if (running := self._running) is not None:
            self._register(running.queue, running.app, running.loop, [added])
            self._declare(running.queue, running.source, all_of_it=False)
        return self

    def job(
        self,
        interval: timedelta,
        *,
        name: str | None = None,
        wait_for_initial_interval: bool = True,
        soft_start: bool = True,
    ) -> Callable[[J], J]:
        """`add_job` as a decorator; the function stays what it is."""

        def add(function: J) -> J:
            self.add_job(
                function,
                interval,
                name=name,
                wait_for_initial_interval=wait_for_initial_interval,
                soft_start=soft_start,
            )
            return function

        return add

    def _name(self, title: str) -> str:
        name = _NOT_IN_NAMES.sub("_", title)[:180] or "job"
        if name != title:  # two titles may look alike without their letters
            name += "-" + hashlib.sha256(title.encode()).hexdigest()[:6]
        number, unique = 1, name
        while unique in self._added:
            number += 1
            unique = f"{name} {number}"
        return unique

    # -- asking and telling -------------------------------------------------------------------------------------------

    @property
    def queue(self) -> JobQueue | None:
        """The queue that the jobs are in; None before the app has started, unless it was given."""
        return self._running.queue if self._running is not None else self._given

    def jobs(self) -> list[ScheduledJob]:
        """Return the app's jobs by their next run, those that never run last; reads the ledger."""
        running = self._running
        if running is None:
            return self.jobs_as_read()
        self._jobs_read = scheduled_jobs(running.queue, running.source)
        return self._jobs_read

    def runs(self, limit: int = 50) -> list[PastRun]:
        """Return the newest runs over all jobs, as far as they are to be kept; reads the ledger."""
        running = self._running
        if running is None:
            return self._runs_read
        jobs = scheduled_jobs(running.queue, running.source)
        self._runs_read = past_runs(
            running.queue,
            [(job.name, job.title) for job in jobs],
            lane=self._lane,
            keep_for=self._keep_for,
            keep_n=self._keep_n,
            limit=limit,
        )
        return self._runs_read

    def jobs_as_read(self) -> list[ScheduledJob]:
        """Return what `jobs` has returned last, or what was added here; reads nothing."""
        if self._running is not None and self._jobs_read:
            return self._jobs_read
        return [ScheduledJob(name=a.name, title=a.title, doing="starting") for a in self._added.values()]

    def runs_as_read(self) -> list[PastRun]:
        """Return what `runs` has returned last; reads nothing."""
        return self._runs_read

    def run_now(self, name: str) -> str | None:
        """Run a job now, unless it runs already; return the id of its run. Its next one counts from the end of this.

        Returns when the run has begun, or after a second; None: the app is not running.

        Raises:
            ScheduleNotFoundError: there is no such job.
        """
        if self._running is None:
            return None
        handle = self._running.queue.schedules.trigger(name, by="app")
        until = time.monotonic() + _BEGIN_WAIT_S
        while time.monotonic() < until:
            try:
                if handle.refresh().state != "queued":
                    break
            except JobNotFoundError:
                break
            time.sleep(0.02)
        return str(handle.id)

    async def ajobs(self) -> list[ScheduledJob]:
        """`jobs`, awaited."""
        return await in_thread(self.jobs)

    async def aruns(self, limit: int = 50) -> list[PastRun]:
        """`runs`, awaited."""
        return await in_thread(self.runs, limit)

    async def arun_now(self, name: str) -> str | None:
        """`run_now`, awaited."""
        return await in_thread(self.run_now, name)

    # -- with the app -------------------------------------------------------------------------------------------------

    @rio.extension_event.on_app_start
    async def _on_app_start(self, event: rio.ExtensionAppStartEvent) -> None:
        if self._running is not None:
            raise ConfigError("this JobScheduler runs already; each app needs one of its own")
        loop = running_loop()
        self._running = await in_thread(self._open, event.app, loop)

    @rio.extension_event.on_app_close
    async def _on_app_close(self, _event: rio.ExtensionAppCloseEvent) -> None:
        running, self._running = self._running, None
        if running is not None:
            # Not on the loop: coroutines that are to end need it.
            await in_thread(self._close, running)

    def _open(self, app: rio.App, loop: Loop) -> _Running:
        queue = self._given if self._given is not None else self._own_queue(app)
        source = f"rio:{app.name}" if self._lane == "rio" else f"rio:{app.name}:{self._lane}"
        try:
            self._register(queue, app, loop, self._added.values())
            anew = start.begins_anew(queue, source, self._lane)
            self._declare(queue, source, all_of_it=anew)
            if anew:
                self._begin(queue)
            worker: Worker = queue.worker(
                queues=(self._lane,), concurrency=self._concurrency or max(_THREADS, len(self._added))
            )
            worker.start()
        except BaseException:
            self._forget(queue)
            raise
        return _Running(app=app, loop=loop, queue=queue, worker=worker, source=source)

    def _close(self, running: _Running) -> None:
        try:
            running.worker.stop(grace_s=self._grace_s)
            start.ended(running.queue, running.source)
        finally:
            self._forget(running.queue)

    def _forget(self, queue: JobQueue) -> None:
        for name in self._added:
            TASKS.discard(name)
        if self._given is None:
            queue.close()

    def _own_queue(self, app: rio.App) -> JobQueue:
        found = JobQueue.from_config(app.assets_dir.parent)
        if found.config.history != HistoryConfig():
            return found
        longest = max((added.interval for added in self._added.values()), default=timedelta())
        keep_s = max(self._keep_for, min(self._keep_n * longest, _KEEP_MAX)).total_seconds()
        history = HistoryConfig(keep_succeeded=keep_s, keep_failed=keep_s)
        return JobQueue(config=msgspec.structs.replace(found.config, history=history), root=found.root)

    def _register(self, queue: JobQueue, app: rio.App, loop: Loop, added: Any) -> None:
        queue.load_tasks()
        for one in added:
            if one.name in TASKS:
                raise ConfigError(
                    f"a task of this process is named {one.name!r} already; give the job another name: name=..."
                )
            TASKS.add(task_of(one.function, task=one.name, title=one.title, app=app, loop=loop))

    def _declare(self, queue: JobQueue, source: str, *, all_of_it: bool) -> None:
        """Make the schedules what was added; ``all_of_it``: and take those away that were not."""
        now = queue.now()
        wanted = {added.name: self._plan(queue, added, now) for added in self._added.values()}
        kept = () if all_of_it else [schedule.name for schedule in queue.schedules.list(source=source)]
        told: Mapping[str, str] = queue.schedules.declare(source, wanted, kept=kept)
        for name, did in told.items():
            if " " in did:  # a sentence: why not
                raise ConfigError(f"job {name!r} cannot be scheduled: {did}")

    def _plan(self, queue: JobQueue, added: _Added, now: Any) -> Plan:
        options = JobOptions.parse(
            {"queue": self._lane, "max_attempts": 1, "isolation": "inline", "metadata": {TITLE: added.title}}
        )
        call = TASKS.find(added.name).call()
        call.options = options
        every_s = max(_SHORTEST_S, added.interval.total_seconds())
        where = place_of(added.function)
        intent = intent_of(queue.config, call)
        plan = queue.schedules.plan(intent, where=where, every=every_s, follows=True, soft_start=added.soft)
        rule = After(every_s, now + added.interval if added.waits else now, follows=True)
        return msgspec.structs.replace(plan, rule=rule)

    def _begin(self, queue: JobQueue) -> None:
        """Begin the app anew: see the class."""
        now = queue.now()
        for added in self._added.values():
            there = queue.schedules.get(added.name)
            if not added.waits:
                queue.schedules.begin_at(added.name, now)
            elif there.over:
                queue.schedules.begin_at(added.name, now + added.interval)
        queue.schedules.stagger(self._added, seconds(queue.config.scheduler.soft_start))


def _check(job: Any, interval: Any, name: Any, wait: Any, soft: Any) -> None:
    if not callable(job):
        raise ValueError(f"the `job` must be a function, not {job!r}")  # noqa: TRY004 - as rio-jobs does
    if not isinstance(interval, timedelta) or interval <= timedelta(0):
        raise ValueError(f"the job's `interval` must be a timedelta greater than zero, not {interval!r}")
    if name is not None and (not isinstance(name, str) or not name.strip()):
        raise ValueError(f"the job's `name` must be a text or None, not {name!r}")
    for what, value in (("wait_for_initial_interval", wait), ("soft_start", soft)):
        if not isinstance(value, bool):
            raise ValueError(f"`{what}` must be True or False, not {value!r}")  # noqa: TRY004 - as rio-jobs does
