"""When a worker that is to end by itself has come to its end, and what it lets run until then."""

from __future__ import annotations

import logging
import signal
import threading
import time
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from penstock.body import Ended
from penstock.bridge import in_thread
from penstock.core.exceptions import InvalidJobError, PenstockError, UnsupportedError
from penstock.handle import call_off
from penstock.job.models import JobQuery
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from types import FrameType

    from penstock.client import JobQueue
    from penstock.job.models import Job

logger = logging.getLogger("penstock.worker")

_RUNNING = ("running", "cancelling", "overdue")
_LATER = ("scheduled", "retrying", "blocked")
_PAGE = 500
_TAKEN_S = 0.5
"""A message that has been taken is claimed sooner than this, or a sweep sees to it."""


class Finish:
    """Whether nothing is left to do in a worker's queues; repairs what would keep it from ever being so."""

    def __init__(self, queue: JobQueue, queues: Sequence[str], *, later: bool, at_most: AtMost | None = None) -> None:
        """``later``: what is scheduled for later, and what waits for another try, is to be done too."""
        self._queue = queue
        self._queues = queues
        self._later = later
        self._at_most = at_most
        self._empty_since: float | None = None

    def reached(self) -> bool:
        """Whether it is so now. Raises `LedgerError`."""
        if self._at_most is not None:
            self._at_most.cancel_rest(self._queue)
        ledger = self._queue.ledger
        due, running = ledger.backlog(self._queues)
        empty_since, self._empty_since = self._empty_since, None
        if self._queue.execution.running:
            return False
        if due == 0:
            # What the ledger has as running here and nobody runs here lost its lease, or the answer to its claim: the
            # sweep makes it due again. It may have done so since the first look.
            over = running == 0 or (not self._lost_some() and ledger.backlog(self._queues)[0] == 0)
            return over and not (self._later and (running or self._waits()))
        if self._engine_is_empty():
            # Jobs are due and no message is on its way: they were lost, or published to an engine that was down. What
            # somebody has taken and not yet claimed looks so too, for a moment.
            now = time.monotonic()
            self._empty_since = now if empty_since is None else empty_since
            if now - self._empty_since >= _TAKEN_S:
                self._publish_lost()
                self._empty_since = None
        return False

    def _waits(self) -> bool:
        """Whether a job of these queues is still to come that this worker can run, and that nobody holds back."""
        for name in self._queues:
            before: str | None = None
            while page := self._queue.ledger.find(
                JobQuery(states=("queued", *_LATER), queue=name, limit=_PAGE, before=before)
            ):
                if any(job.held is None and (job.kind != "task" or job.name in TASKS) for job in page):
                    return True
                before = page[-1].id
        return False

    def _lost_some(self) -> bool:
        running = [
            job
            for name in self._queues
            for job in self._queue.ledger.find(JobQuery(states=_RUNNING, queue=name, limit=_PAGE))
        ]
        return any(job.owner == self._queue.owner for job in running)

    def _engine_is_empty(self) -> bool:
        try:
            return all(self._queue.gateway.depth(queue) == 0 for queue in self._queues)
        except (UnsupportedError, PenstockError):
            return False

    def _publish_lost(self) -> None:
        for name in self._queues:
            waiting = self._queue.ledger.find(JobQuery(states=("queued",), queue=name, limit=_PAGE))
            if waiting and self._engine_is_empty() and not self._queue.execution.running:
                self._queue.sweeper.push(waiting)


class AtMost:
    """Lets so many jobs of a key or a name run in this process, and cancels all further ones. A gate of `admission`."""

    def __init__(self, queue: JobQueue, bounds: Mapping[str, int]) -> None:
        """Raises `InvalidJobError` for a bound that is no number of jobs."""
        for key, most in bounds.items():
            if not isinstance(most, int) or isinstance(most, bool) or most < 0:  # pyright: ignore[reportUnnecessaryIsInstance]
                raise InvalidJobError(f"at most {most!r} jobs of {key!r}: write a whole number, 0 or more")
        self._queue = queue
        self._bounds = {self._known(key): most for key, most in bounds.items()}
        self._ran: defaultdict[str, set[str]] = defaultdict(set)
        self._lock = threading.Lock()

    def concerns(self, job: Job) -> bool:
        """See `Gate.concerns`."""
        return self._key(job) is not None

    def enter(self, job: Job) -> Ended | None:
        """See `Gate.enter`."""
        key = self._key(job)
        if key is None:
            return None
        with self._lock:
            ran = self._ran[key]
            if job.id in ran or len(ran) < self._bounds[key]:
                ran.add(job.id)  # each of its tries is the same job
                return None
        call_off(self._queue.job(job.id))  # it runs, so it is asked for, and has to be told as done
        return Ended(how="cancelled")

    def leave(self, job: Job) -> None:
        """See `Gate.leave`."""

    def cancel_rest(self, queue: JobQueue) -> None:
        """Cancel what waits of keys and names that have had their number."""
        for key in [key for key, most in self._bounds.items() if len(self._ran[key]) >= most]:
            waiting = ("queued", *_LATER)
            found = [
                *queue.jobs(states=waiting, key=key, limit=_PAGE),
                *(() if set("*?") & set(key) else queue.jobs(states=waiting, name=key, limit=_PAGE)),
            ]
            for handle in found:
                if handle.id not in self._ran[key]:
                    call_off(handle)

    def _key(self, job: Job) -> str | None:
        if job.key is not None and job.key in self._bounds:
            return job.key
        name = self._known(job.name)
        return name if name in self._bounds else None

    @staticmethod
    def _known(name: str) -> str:
        task = TASKS.get(name)
        return name if task is None else task.name


class Runs(ABC):
    """The part of `Worker` that says until when it works."""

    queue: JobQueue
    queues: tuple[str, ...]
    recycled: str
    _finish: Finish | None
    _schedules: bool
    _signals: int
    _in_run: threading.Thread | None
    _run_over: threading.Event

    @abstractmethod
    def run(self, *, on_ready: Callable[[], None] | None = None) -> int:
        """See `Worker.run`."""

    @abstractmethod
    def stop(self) -> None:
        """See `Worker.stop`."""

    @abstractmethod
    def _on_signal(self, _number: int, _frame: FrameType | None) -> None: ...

    @abstractmethod
    def _end(self) -> None: ...

    def run_forever(self) -> int:
        """`run` until a signal or a `stop`, whatever the worker was made for."""
        return self._run_for(None)

    def run_until_finished(self) -> int:
        """`run` until nothing is left in its queues: what is due, what is scheduled for later, what is to be retried.

        What somebody holds back is left, and so are jobs of tasks that this worker does not have. Schedules make no
        jobs meanwhile.
        """
        return self._run_for(Finish(self.queue, self.queues, later=True))

    def run_at_most(self, bounds: Mapping[str, int], *, on_ready: Callable[[], None] | None = None) -> int:
        """`run_until_finished`, but let at most so many jobs of each key, or of each name, run; cancel further ones.

        For jobs that make their own successors: ``worker.run_at_most({"poll": 3})``. Tries of one job count once.

        Raises:
            InvalidJobError: a bound is no number of jobs.
        """
        gate = AtMost(self.queue, bounds)
        with self.queue.execution.admission.having(gate):
            return self._run_for(Finish(self.queue, self.queues, later=True, at_most=gate), on_ready)

    def _run_for(self, finish: Finish | None, on_ready: Callable[[], None] | None = None) -> int:
        before = self._finish, self._schedules
        self._finish, self._schedules = finish, self._schedules and finish is None
        try:
            return self.run(on_ready=on_ready)
        finally:
            self._finish, self._schedules = before

    async def arun_forever(self) -> int:
        """`run_forever`, awaited; a cancel drains it."""
        return await self._awaited(self.run_forever)

    async def arun_until_finished(self) -> int:
        """`run_until_finished`, awaited; a cancel drains it."""
        return await self._awaited(self.run_until_finished)

    async def arun_at_most(self, bounds: Mapping[str, int]) -> int:
        """`run_at_most`, awaited; a cancel drains it."""
        return await self._awaited(lambda: self.run_at_most(bounds))

    async def _awaited(self, run: Callable[[], int]) -> int:
        try:
            return await in_thread(run)
        except BaseException:
            await in_thread(self.stop)
            raise

    @contextmanager
    def _heeding_signals(self) -> Generator[None]:
        here = threading.current_thread()
        numbers = (signal.SIGTERM, signal.SIGINT) if here is threading.main_thread() else ()
        previous = {number: signal.signal(number, self._on_signal) for number in numbers}
        self._run_over.clear()
        self._in_run, self._signals, self.recycled = here, 0, ""
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._end()
            self._in_run = None
            self._run_over.set()
