"""`JobScheduler`: a Rio extension whose jobs are those of a penstock queue, worked off inside the app's process."""

from __future__ import annotations

import hashlib
import logging
import re
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import rio

from penstock.bridge import in_thread, running_loop
from penstock.core.exceptions import BackendUnavailableError, ConfigError, JobNotFoundError, LedgerUnavailableError
from penstock.rio.body import JobFunction, name_of
from penstock.rio.opened import Added, Opened, queue_for
from penstock.rio.shown import PastRun, ScheduledJob, past_runs, scheduled_jobs

if TYPE_CHECKING:
    from penstock.bridge import Loop
    from penstock.client import JobQueue

logger = logging.getLogger("penstock.rio")

J = TypeVar("J", bound=JobFunction)

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:\-/ \[\]<>]")
_BEGIN_WAIT_S = 1.0
_RETRY_S = 5.0
_OUT_OF_REACH = (BackendUnavailableError, LedgerUnavailableError)


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
            queue: whose engine and ledger to use, by a worker of their own; it stays the caller's to close, after the
                app has. Default: what a ``penstock.toml`` beside the app configures, else Huey and SQLite in
                ``.penstock`` beside it.
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
        self._added: dict[str, Added] = {}
        self._opened: Opened | None = None
        self._retry: threading.Thread | None = None
        self._closing = threading.Event()
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
        added = Added(
            name=self._name(title), title=title, function=job, interval=interval, waits=wait_for_initial_interval,
            soft=soft_start,
        )  # fmt: skip
        self._added[added.name] = added
        if self._opened is not None:
            self._opened.add(added)
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
        return self._opened.queue if self._opened is not None else self._given

    def jobs(self) -> list[ScheduledJob]:
        """Return the app's jobs by their next run, those that never run last; reads the ledger."""
        opened = self._opened
        if opened is None:
            return self.jobs_as_read()
        self._jobs_read = scheduled_jobs(opened.queue, opened.source)
        return self._jobs_read

    def runs(self, limit: int = 50) -> list[PastRun]:
        """Return the newest runs over all jobs, as far as they are to be kept; reads the ledger."""
        opened = self._opened
        if opened is None:
            return self._runs_read
        jobs = scheduled_jobs(opened.queue, opened.source)
        self._runs_read = past_runs(
            opened.queue,
            [(job.name, job.title) for job in jobs],
            lane=self._lane,
            keep_for=self._keep_for,
            keep_n=self._keep_n,
            limit=limit,
        )
        return self._runs_read

    def jobs_as_read(self) -> list[ScheduledJob]:
        """Return what `jobs` has returned last, or what was added here; reads nothing."""
        if self._opened is not None and self._jobs_read:
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
        if self._opened is None:
            return None
        handle = self._opened.queue.schedules.trigger(name, by="app")
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
        if self._opened is not None or self._retry is not None:
            raise ConfigError("this JobScheduler runs already; each app needs one of its own")
        self._closing.clear()
        loop = running_loop()
        try:
            self._opened = await in_thread(self._open, event.app, loop)
        except _OUT_OF_REACH as error:
            logger.error("no jobs run until this is over, it is tried again every %g s: %s", _RETRY_S, error)
            self._retry = threading.Thread(target=self._keep_trying, args=(event.app, loop), daemon=True)
            self._retry.start()

    @rio.extension_event.on_app_close
    async def _on_app_close(self, _event: rio.ExtensionAppCloseEvent) -> None:
        # In a thread: coroutines that are to end need the loop.
        await in_thread(self._close)

    def _open(self, app: rio.App, loop: Loop) -> Opened:
        added = list(self._added.values())
        queue = queue_for(app, self._given, added, keep_for=self._keep_for, keep_n=self._keep_n)
        return Opened(app, loop, queue, added, lane=self._lane, concurrency=self._concurrency)

    def _keep_trying(self, app: rio.App, loop: Loop) -> None:
        while not self._closing.wait(_RETRY_S):
            try:
                self._opened = self._open(app, loop)
            except _OUT_OF_REACH:
                continue
            except Exception:
                logger.exception("the jobs could not be started")
            else:
                logger.info("the jobs run now")
            return

    def _close(self) -> None:
        self._closing.set()
        if (retry := self._retry) is not None:
            retry.join()
        opened, self._opened, self._retry = self._opened, None, None
        if opened is not None:
            opened.close(self._grace_s)


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
