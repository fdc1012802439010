"""One worker process: the engine's worker, the sweeper and the heart, started, drained and stopped together."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from penstock.capture import Capture
from penstock.core.base import WorkOrder
from penstock.core.config import seconds
from penstock.core.exceptions import (
    BackendError,
    BackendUnavailableError,
    JobNotFoundError,
    LedgerError,
    LedgerUnavailableError,
)
from penstock.declared import declare
from penstock.finishing import Finish, Runs
from penstock.job.limits import parse_memory_bytes
from penstock.presence import Presence
from penstock.recycling import Recycling
from penstock.rescan import Rescan
from penstock.resting import Resting
from penstock.vitals import Vitals

if TYPE_CHECKING:
    from types import FrameType

    from penstock.client import JobQueue
    from penstock.job.models import WorkerInfo

logger = logging.getLogger("penstock.worker")

EXIT_FORCED = 143
"""128 + SIGTERM: a second signal, bodies were stopped and their jobs handed back."""
_BURST_POLL_S = 0.02
_FORCED_WAIT_S = 0.2
_RELEASE_S = 1.0
"""How much longer than the grace bodies may take to end themselves, at most."""
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 5.0


class _SignalledError(BaseException):
    """A signal came before the worker had begun."""


class Worker(Runs):
    """Works a queue's jobs off until it is told to stop.

    As a command: ``worker.run()`` blocks, handles SIGTERM and SIGINT (the first drains, the second stops at once
    and hands jobs back) and returns the exit code. Embedded: ``with queue.worker(concurrency=4): ...``. For scripts and
    tests: `run_until_finished` and `run_at_most`.
    """

    def __init__(
        self,
        queue: JobQueue,
        *,
        queues: Sequence[str] | None = None,
        concurrency: int | None = None,
        burst: bool = False,
        until_finished: bool = False,
        max_jobs: int | None = None,
        max_memory: str | int | None = None,
        echo: bool = False,
        connect_timeout: str | float = 0,
        scheduler: bool | None = None,
        dependencies: Mapping[str, Any] | None = None,
    ) -> None:
        """Set a worker up; nothing runs yet, nothing is connected.

        Args:
            queue: whose jobs.
            queues: names, in order of preference; default: as configured.
            concurrency: bodies at once; default: as configured.
            burst: work off what is due and return; what is scheduled for later stays.
            until_finished: as a burst, but wait for what is scheduled for later too; see `run_until_finished`.
            max_jobs: return after that many claimed jobs.
            max_memory: drain and return when this process holds more, such as "500MB"; default: as configured.
            echo: also write what inline bodies print and log to this process's stderr.
            connect_timeout: for how long an engine or a ledger that does not answer is tried again at the start.
            scheduler: also make the jobs of schedules; default: as configured. One that ends by itself never does.
            dependencies: what surrounds the body of each job; default: as configured.
        """
        config = queue.config
        self.queue = queue
        self.queues = tuple(queues or config.worker.queues)
        self.concurrency = concurrency or config.worker.concurrency
        self._finish = Finish(queue, self.queues, later=until_finished) if burst or until_finished else None
        self.max_jobs = max_jobs
        self.recycled = ""
        """Why it has ended so that a new process takes its place; empty if it did not."""
        most = config.worker.max_memory if max_memory is None else max_memory
        self._recycling = Recycling(
            max_memory_bytes=None if most is None else parse_memory_bytes(most) or None,
            max_jobs=config.worker.max_jobs_per_process,
        )
        self._grace_s = seconds(config.worker.grace)
        self._cancel_grace_s = seconds(config.lease.cancel_grace)
        self._connect_timeout_s = seconds(connect_timeout)
        self._echo = echo
        self._dependencies = dependencies
        self._schedules = (config.worker.scheduler if scheduler is None else scheduler) and self._finish is None
        self.vitals = Vitals(
            owner=queue.owner, queues=self.queues, concurrency=self.concurrency,
            patience_s=seconds(config.worker.health_patience),
        )  # fmt: skip
        self._presence = Presence(queue, self.vitals, queues=self.queues, concurrency=self.concurrency)
        self._resting = Resting(queue, self.vitals)
        self._ready = threading.Event()
        self._done = threading.Event()
        self._signals = 0
        self._in_run: threading.Thread | None = None
        self._run_over = threading.Event()
        self._failure: BaseException | None = None
        self._thread: threading.Thread | None = None
        self._opening = False
        self._rescan = Rescan(queue, declare=self._schedules)

    @property
    def ready(self) -> bool:
        """Whether messages are, or were, being taken."""
        return self._ready.is_set()

    @property
    def holds(self) -> bool:
        """Whether bodies still run in threads of this process, which heed no interrupt: only its end stops them."""
        return bool("execution" in self.queue.__dict__ and self.queue.execution.running)

    # -- as a command -------------------------------------------------------------------------------------------

    def run(self, *, on_ready: Callable[[], None] | None = None) -> int:
        """Work until a signal or a `stop`, or until the burst or ``max_jobs`` is over; return the exit code.

        0 after a drain or a signal before it was ready, `EXIT_FORCED` after a second signal. In another than the main
        thread signals are left to others.

        Raises:
            BackendError: the engine failed, or did not answer within the ``connect_timeout``.
            LedgerError: the ledger did not answer within the ``connect_timeout``, or a newer penstock has come to it
                meanwhile, which leaves this one out (`NewerLedgerError`, after a drain).
        """
        with self._heeding_signals():
            try:
                self._start()
            except _SignalledError:
                return 0
            if on_ready is not None:
                on_ready()
            while not self._done.is_set() and self._signals == 0 and not self.recycled and self._failure is None:
                self.vitals.turn()
                self._watch()
                if self._finish is None:
                    self._rescan.turn()
                self.recycled = self._recycling.due(self.queue.execution.claims.claimed)
            if self.recycled:
                logger.info("this process has had %s; it drains, and another may take its place", self.recycled)
            code = 0 if self._drain() else self._force()
            if self._failure is not None:
                raise self._failure
            return code

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._signals += 1
        if self._opening:  # a driver is waiting for its server, for seconds
            raise _SignalledError

    def _drain(self) -> bool:
        """Take nothing new and wait for what runs; False when a second signal or the grace ended the waiting."""
        until = time.monotonic() + self._grace_s
        self.vitals.phase = "draining"
        self._take_nothing_new()
        while not self._done.wait(0.02):
            if self._signals > 1:
                return False
            if time.monotonic() > until:
                logger.warning("the grace of %g s is over; what still runs is handed back", self._grace_s)
                self._release(min(self._cancel_grace_s, _RELEASE_S))
                return self._signals < 2
            self.vitals.turn()
            self._put_back()  # not only at the end: what runs may run for long
            self._presence.tell_in_time()
        return True

    def _take_nothing_new(self) -> None:
        self._resting.leave()
        self.queue.sweeper.stop()
        if self._schedules:
            self.queue.job_files.stop()
            self.queue.scheduler.stop()
        self._rescan.stop()
        self.queue.gateway.stop()
        self.queue.execution.claims.stop()

    def _refuse(self, error: LedgerError) -> None:
        self._failure = error  # `run` drains and raises it
        self._take_nothing_new()

    def _force(self) -> int:
        self._release(_FORCED_WAIT_S)
        if self.queue.execution.running:
            self.queue.execution.hand_back()  # what is still on its way to the ledger need not be waited for
        return EXIT_FORCED

    def _release(self, wait_s: float) -> None:
        """Stop the bodies and hand their jobs back: T6, which spends no budget.

        Bodies in child processes that have not ended after ``wait_s`` are killed; those that block a thread of this
        process are given up, as it is about to end.
        """
        execution = self.queue.execution
        execution.releasing = True
        execution.interrupt_all("released")
        until = time.monotonic() + wait_s
        while not self._done.wait(0.02) and time.monotonic() < until and self._signals < 2:
            pass
        if self._done.wait(_FORCED_WAIT_S if self._signals > 1 else 0):
            return
        self.queue.kill_children()
        if not self._done.wait(_FORCED_WAIT_S / 2) and execution.running:
            execution.hand_back()

    def abandon(self) -> None:
        """End the children and hand back what runs: the process ends in a moment, wherever its main thread is."""
        self.queue.kill_children()
        if "execution" in self.queue.__dict__:
            self.queue.execution.hand_back()

    # -- embedded -----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begin to work in the background and return when messages are being taken.

        Raises:
            BackendError: the engine could not be started.
            LedgerError: the ledger could not be opened.
        """
        self._start()
        if self._finish is None:
            self._rescan.start()

    def _start(self) -> None:
        until = time.monotonic() + self._connect_timeout_s
        pause_s = _FIRST_PAUSE_S
        while True:
            try:
                self._begin()
                return
            except (BackendUnavailableError, LedgerUnavailableError) as error:
                left_s = until - time.monotonic()
                what = "ledger" if isinstance(error, LedgerUnavailableError) else "engine"
                if self._connect_timeout_s == 0:
                    raise
                if left_s <= 0:
                    told = f"the {what} did not answer for {self._connect_timeout_s:g} s: {error}"
                    raise type(error)(told) from error
                pause_s = min(pause_s, left_s)
                logger.warning(
                    "the %s does not answer, trying again in %.1f s, for %.1f s more: %s", what, pause_s, left_s, error
                )
                self._pause(pause_s)
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _begin(self) -> None:
        self._opening = True
        try:
            execution = self.queue.execution  # opens the ledger
            self.queue.home.surround(self._dependencies)
            self._presence.begin(self._rescan.pipelines())
        finally:
            self._opening = False
        if self._schedules:
            declare(self.queue)  # before the engine begins: a ledger that goes away now is tried again
        self.vitals.join(running=lambda: len(execution.heart.owned), counts=execution.counts)
        execution.releasing = False
        execution.claims.begin(self._recycling.at_most(self.max_jobs))
        execution.capture = Capture.install(echo=self._echo)
        self._failure = None
        self._ready.clear()
        self._done.clear()
        self.vitals.phase = "starting"
        self._thread = threading.Thread(target=self._work, name="penstock-worker", daemon=True)
        self._thread.start()
        while not self._ready.wait(_BURST_POLL_S) and not self._done.is_set():
            if self._signals:
                raise _SignalledError
        if self._failure is not None:
            self._end()
            raise self._failure
        self.vitals.begin()
        self.queue.sweeper.start(each_time=self._look, refused=self._refuse)
        if self._schedules:
            self.queue.job_files.start()
            self._rescan.scan()
            self.queue.scheduler.start()
        self._presence.tell(wait=True)  # a sweep may be telling, of less than there is now

    def _pause(self, pause_s: float) -> None:
        until = time.monotonic() + pause_s
        while time.monotonic() < until:
            if self._signals:
                raise _SignalledError
            time.sleep(_BURST_POLL_S)

    def stop(self, *, grace_s: float | None = None) -> None:
        """Take nothing new, wait for what runs up to the grace, hand the rest back. Ends a `run` of another thread."""
        if grace_s is not None:
            self._grace_s = grace_s
        if self._in_run not in (None, threading.current_thread()):
            self._signals += 1
            self._run_over.wait()
            return
        if self._thread is None:
            return
        self._drain()
        self._end()

    def __enter__(self) -> Worker:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    def wait_idle(self, timeout_s: float = 60.0) -> None:
        """Wait until nothing is due and nothing runs in these queues. Raises TimeoutError."""
        until = time.monotonic() + timeout_s
        while self.queue.ledger.backlog(self.queues) != (0, 0):
            if time.monotonic() > until:
                raise TimeoutError(f"still busy after {timeout_s:g} s: {self.queue.counts()}")
            time.sleep(_BURST_POLL_S)

    # -- inside -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        order = WorkOrder(
            queues=self.queues,
            concurrency=self.concurrency,
            on_ready=self._ready.set,
            on_contact=self.vitals.contact,
            on_turn=self.vitals.loop_turned,
            around=self.queue.home.on_this_loop,
        )
        try:
            self._resting.work(order)
        except BaseException as error:  # noqa: BLE001 - told to the thread that waits
            self._failure = error if isinstance(error, Exception) else BackendError(f"a body ended it: {error!r}")
            if self.ready:
                logger.error("the engine's worker ended: %s", self._failure)
                self.queue.execution.give_up()
        finally:
            self.vitals.phase = "ended"
            self._done.set()

    def _watch(self) -> None:
        """One look while working: is everything done, have enough jobs been taken?"""
        self._presence.tell_in_time()
        self._put_back()
        if self.queue.execution.claims.spent:
            self.queue.gateway.stop()
            self._done.wait(0.05)
            return
        if self._finish is None:
            self._done.wait(_BURST_POLL_S)  # a signal is looked at that often
            return
        try:
            over = self._finish.reached()
        except LedgerError as error:
            logger.warning("the ledger did not answer: %s", error)
            over = False
        if over:
            self.queue.gateway.stop()
        self._done.wait(_BURST_POLL_S)

    def _put_back(self) -> None:
        """Publish again what was taken from the engine after ``max_jobs`` had been reached."""
        left = self.queue.execution.claims.left()
        if not left:
            return
        try:
            self.queue.sweeper.push([self.queue.ledger.get(job_id) for job_id in left])
        except (LedgerError, JobNotFoundError) as error:
            logger.warning("%d messages were not put back, a sweep will do it: %s", len(left), error)

    def _look(self) -> None:
        self._presence.tell_in_time()
        self._resting.look()

    def watch(self) -> None:
        """Have engine and ledger looked at all the time: for who asks by a health port."""
        self.vitals.watch(self.queue.ledger, self.queue.gateway, tell=self._presence.tell_in_time)

    def info(self) -> WorkerInfo:
        """Describe this worker as the ledger lists it."""
        return self._presence.info()

    def counts(self) -> dict[str, int]:
        """What happened so far: claimed, refused, each way of ending, published again, rescued, ..."""
        counted: dict[str, Any] = {**self.queue.execution.counts, **self.queue.sweeper.counts}
        return {name: count for name, count in counted.items() if count}

    def _end(self) -> None:
        thread, self._thread = self._thread, None
        if thread is None:
            return  # not even begun: the ledger may be out of reach
        self.queue.sweeper.close()
        self._put_back()
        capture, self.queue.execution.capture = self.queue.execution.capture, None
        if capture is not None:
            capture.uninstall()
        thread.join(1 if self._done.is_set() else 0)
        self.queue.close_shared()
        self._presence.sign_off()
