"""The rooms behind a queue: ledger, results, sweeper, children, execution.

Each is opened on first use; all are closed together.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable, Iterable
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock import registry
from penstock.core.config import Config, kept_s, seconds
from penstock.core.secrets import remember, secrets_in
from penstock.gateway import Gateway
from penstock.job.lifecycle import Transition
from penstock.job.limits import parse_memory_bytes
from penstock.job.models import Job, worker_id
from penstock.ledger import open_ledger, unmade
from penstock.settings.environment import remember_environment
from penstock.signing import Signer
from penstock.sweeper import Sweeper

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.core.base import Ledger
    from penstock.dependencies.home import Home
    from penstock.dependencies.successors import Successors
    from penstock.discovery import Discovery
    from penstock.execution import Execution
    from penstock.job_files import JobFiles
    from penstock.results import ResultStore
    from penstock.runners.isolation import ChildPool
    from penstock.scheduler import LedgerScheduler
    from penstock.schedules import Schedules
    from penstock.slots import Slots
    from penstock.sources.loading import LoadError
    from penstock.sources.scan import Loaded
    from penstock.steering import Steering
    from penstock.wakes import Wakes

logger = logging.getLogger("penstock")


class TasksNotLoadedWarning(UserWarning):
    """A file or module of `tasks` could not be loaded; ``traceback`` says where."""

    def __init__(self, file: Any, error: str, traceback: str = "") -> None:
        super().__init__(f"tasks not loaded: {file}: {error}")
        self.file = str(file)
        self.error = error
        self.traceback = traceback


if TYPE_CHECKING:
    opened = cached_property
else:

    class opened(cached_property):  # noqa: N801 - used as cached_property is
        """A `cached_property` that is made once whatever threads ask: since Python 3.12 the plain one may run twice."""

        def __get__(self, instance: Any, owner: Any = None) -> Any:
            """Return the room, opening it on first use."""
            if instance is None:
                return self
            with instance.opening:
                return super().__get__(instance, owner)


class Rooms:
    """What one process opens for one configuration. Safe from any thread."""

    def __init__(self, config: Config, *, root: Path, ledger: Ledger | None = None) -> None:
        """Open nothing yet. A ledger that is given stays the caller's to close."""
        self.config = config
        self.root = root
        self.owner = worker_id()
        remember(secrets_in(msgspec.to_builtins(config)))
        remember_environment()
        self.signer = Signer(config.security.signing_keys, config.namespace)
        self._given_ledger = ledger
        self.looks_only = False
        """Whether nothing is to be written: a ledger that nobody has made yet stays so, and looks empty."""
        self.opening = threading.RLock()
        """Held while a room is opened."""
        self._listeners: list[Callable[[Job, Transition], None]] = []
        self._closers: list[Callable[[], None]] = []
        self._loaded = False
        self.load_failures: list[TasksNotLoadedWarning] = []
        self.gateway = Gateway(
            self.config.backend,
            engines=self.config.engines,
            namespace=self.config.namespace,
            execute=lambda message: self.execution.run(message),
            aexecute=lambda message: self.execution.arun(message),
            refuse=lambda why: self.execution.refuse(why),
            claim_ahead=lambda messages: self.execution.claims.ahead(messages),
        )
        self._closers.append(self.gateway.close)

    @opened
    def ledger(self) -> Ledger:
        """The ledger. Raises `LedgerUnavailableError` on first use when it cannot be opened."""
        if self._given_ledger is not None:
            return self._given_ledger
        ledger = open_ledger(
            "memory://" if self.looks_only and self.unmade_ledger else self.config.ledger,
            durability=self.config.durability,
            unsafe_network_fs=self.config.unsafe_network_fs,
            namespace=self.config.namespace,
        )
        self._closers.append(ledger.close)
        return ledger

    @property
    def unmade_ledger(self) -> Path | None:
        """The file of the ledger, where nobody has made it yet."""
        return unmade(self.config.ledger) if self._given_ledger is None else None

    @opened
    def results(self) -> ResultStore:
        """The store of results that outgrow the ledger."""
        from penstock.results import ResultStore

        return ResultStore(
            self.config.results,
            inline_max_bytes=self.config.result_inline_max_bytes,
            max_bytes=self.config.limits.result_max_bytes,
        )

    @opened
    def sweeper(self) -> Sweeper:
        """The sweeper of this process; a worker runs it, others may call its methods."""
        return Sweeper(
            self.ledger,
            self.gateway,
            self.config,
            results=lambda: self.results,
            also=(self.steering.reconcile, self.slots.reconcile),
            gave_up=lambda job: self.successors.follow(job),
        )

    @opened
    def steering(self) -> Steering:
        """The strikes and pauses of this ledger, as this process knows them."""
        from penstock.steering import Steering

        return Steering(self.ledger)

    @opened
    def slots(self) -> Slots:
        """The slots of concurrency keys."""
        from penstock.slots import Slots

        return Slots(self.ledger, publish=lambda jobs: self.sweeper.push(jobs))

    @opened
    def schedules(self) -> Schedules:
        """The schedules in this ledger: to look at, change, pause, trigger."""
        from penstock.schedules import Schedules

        return Schedules(cast("JobQueue", self))

    @opened
    def discovery(self) -> Discovery:
        """The scheduled functions of the configured folders: scans them, and tells which files fail."""
        from penstock.discovery import Discovery

        return Discovery(cast("JobQueue", self))

    @opened
    def scheduler(self) -> LedgerScheduler:
        """The scheduler of this process; a worker runs it, others may call its methods."""
        from penstock.dependencies.successors import seed
        from penstock.handle import call_off
        from penstock.scheduler import LedgerScheduler
        from penstock.submission import record

        return LedgerScheduler(
            self.ledger,
            self.config,
            submit=lambda intents: record(self, intents),
            cancel=lambda job_id: call_off(cast("JobQueue", self).job(job_id)),
            value_of=lambda job: self.results.describe(job.result),  # a row could name any file to be loaded
            also=lambda: seed(cast("JobQueue", self)),
            problem=self.signer.schedule_problem,
        )

    @opened
    def job_files(self) -> JobFiles:
        """What watches the folder of job files for this process; a worker runs it."""
        from penstock.job_files import JobFiles

        return JobFiles(cast("JobQueue", self))

    @opened
    def children(self) -> ChildPool:
        """The warm child processes of this process."""
        from penstock.runners.isolation import ChildPool

        pool = ChildPool(
            results_url=self.config.results,
            inline_max_bytes=self.config.result_inline_max_bytes,
            max_jobs_per_child=self.config.worker.max_jobs_per_child,
            max_memory_bytes=parse_memory_bytes(most) if (most := self.config.worker.max_memory) else None,
            cancel_grace_s=seconds(self.config.lease.cancel_grace),
            silence_s=kept_s(self.config.lease) if self.config.lease.on_lost == "stop" else None,
            limits=self.config.limits,
        )
        self._closers.insert(0, pool.close)
        return pool

    def kill_children(self) -> None:
        """Kill what runs in child processes, at once."""
        if "children" in self.__dict__:
            self.children.close()

    @opened
    def wakes(self) -> Wakes:
        """What publishes jobs the moment they are due, where a second matters."""
        from penstock.wakes import Wakes

        made = Wakes(lambda: self.ledger, lambda: self.sweeper)
        self._closers.insert(0, made.close)
        return made

    @opened
    def successors(self) -> Successors:
        """What makes the next job of tasks that run again and again."""
        from penstock.dependencies.successors import Successors

        made = Successors(lambda: cast("JobQueue", self), lambda job_id, wait_s: self.wakes.at(job_id, wait_s))
        self._closers.insert(0, made.close)
        return made

    @opened
    def home(self) -> Home:
        """What this process keeps for the dependencies of bodies."""
        from penstock.dependencies.home import Home

        made = Home(lambda: cast("JobQueue", self), self.config, self.root)
        self._closers.insert(0, made.close)
        return made

    def close_shared(self) -> None:
        """Close what bodies of this process shared; what is asked for later is made anew."""
        if "home" in self.__dict__:
            self.home.close()

    @opened
    def execution(self) -> Execution:
        """What runs bodies in this process."""
        from penstock.dependencies.gate import LimitsGate
        from penstock.execution import Execution
        from penstock.runners import configure
        from penstock.turns import Turns

        self.load_tasks()
        configure(self.config, root=self.root)
        made = Execution(
            self.ledger,
            self.config,
            owner=self.owner,
            results=lambda: self.results,
            children=lambda: self.children,
            signer=self.signer,
            changed=self._tell,
            listened=lambda: bool(self._listeners or self._plugin_listeners),
            gates=(
                self.steering,
                self.slots,
                Turns(self.config.worker.task_concurrency, lambda job_ids: self.sweeper.wake(job_ids)),
                # The last: what it has let in once is not always let in again.
                LimitsGate(
                    lambda: self.ledger, lambda: self.slots, lambda job_id, wait_s: self.wakes.at(job_id, wait_s)
                ),
            ),
            home=lambda: self.home,
            successors=self.successors,
        )
        self._closers.insert(0, made.close)
        return made

    def load_tasks(self) -> list[str]:
        """Load the configured modules and folders once; return what could not be loaded, as texts.

        Warns:
            TasksNotLoadedWarning: for each failure; the other files' tasks work on.
        """
        if self._loaded or not self.config.tasks:
            return []
        self.has_loaded(self._load().errors)
        for failure in self.load_failures:
            warnings.warn(failure, stacklevel=2)
        return [str(failure) for failure in self.load_failures]

    def has_loaded(self, errors: Iterable[LoadError]) -> None:
        """Note that the tasks are loaded, and what could not be; `load_tasks` does so, and who loads them otherwise."""
        self._loaded = True
        self.load_failures = [
            TasksNotLoadedWarning(error.file, f"{error.type}: {error.message}", error.traceback) for error in errors
        ]

    def _load(self) -> Loaded:
        from penstock.sources.scan import load_tasks

        return load_tasks(
            self.config.tasks,
            root=self.root,
            timeout_s=seconds(self.config.scheduler.load_timeout),
            trust_world_writable=self.config.security.trust_world_writable,
        )

    def on_change(self, listener: Callable[[Job, Transition], None]) -> None:
        """Call ``listener`` after each attempt that ended in this process."""
        self._listeners.append(listener)

    @cached_property
    def _plugin_listeners(self) -> list[Callable[[Job, Transition], None]]:
        hook = registry.plugins().hook.job_changed
        return [lambda job, transition: hook(job=job, transition=transition)] if hook.get_hookimpls() else []

    def _tell(self, job: Job, transition: Transition) -> None:
        for listener in (*self._listeners, *self._plugin_listeners):
            try:
                listener(job, transition)
            except Exception:
                logger.exception("a listener failed on job %s", job.id)

    def close(self) -> None:
        """Let go of everything that was opened."""
        with self.opening:
            closers, self._closers = self._closers, []
            for close in closers:
                close()
