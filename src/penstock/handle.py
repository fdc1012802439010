"""What a submitter holds of a job: its id, and every question and verb about it."""

from __future__ import annotations

import contextlib
import time
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from penstock.bridge import in_thread
from penstock.core.exceptions import (
    BackendError,
    JobCancelledError,
    JobFailedError,
    ResultTimeoutError,
    TransitionRefusedError,
    UnsupportedError,
)
from penstock.gateway import message_ids
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import Attempt, HistoryEntry, Job, LogLine, NodeRun, Outcome

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.client import JobQueue

_FIRST_POLL_S = 0.002
_LAST_POLL_S = 0.1


class CancelOutcome(StrEnum):
    """What a cancel did."""

    CANCELLED = "cancelled"
    """It had not started, and never will."""
    REQUESTED = "requested"
    """It is running; its worker has been asked to stop it."""
    FINISHED = "finished"
    """It was final already, and stays what it is."""


class JobHandle:
    """A job, by id. What it tells is read from the ledger when it is asked."""

    def __init__(self, queue: JobQueue, job: Job, outcome: Outcome | None = None) -> None:
        self._queue = queue
        self._job = job
        self.id = job.id
        self.outcome = outcome
        """What the enqueue did: ``created`` or ``kept``; None for a handle that was looked up."""

    def __repr__(self) -> str:
        return f"<job {self.id} {self._job.name} {self._job.state}>"

    @property
    def name(self) -> str:
        """The task's or pipeline's name."""
        return self._job.name

    @property
    def job(self) -> Job:
        """The row as last read; see `refresh`."""
        return self._job

    def refresh(self) -> Job:
        """Read the row again. Raises `JobNotFoundError` when it was purged."""
        if not self._job.state.final:
            self._job = self._queue.ledger.get(self.id)
        return self._job

    @property
    def state(self) -> str:
        """The state now, as people are shown it: ``scheduled``, ``retrying``, ... beside the stored five."""
        return lifecycle.shown_state(self.refresh(), self._queue.ledger.now())

    def wait(self, timeout: float | None = None) -> Job:
        """Wait until the job is final and return its row.

        Where no worker will ever come (``inline://``), the waiter runs what falls due meanwhile.

        Raises:
            ResultTimeoutError: it is not final after ``timeout`` seconds; it goes on all the same.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause_s = _FIRST_POLL_S
        while not self.refresh().state.final:
            if self._queue.gateway.in_process:
                self._queue.sweeper.publish_due()
                if self.refresh().state.final:
                    break
            left_s = _LAST_POLL_S if until is None else until - time.monotonic()
            if timeout is not None and left_s <= 0:
                raise ResultTimeoutError(self.id, timeout, self.state)
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, _LAST_POLL_S)
        return self._job

    def result(self, timeout: float | None = None) -> Any:
        """Wait for the job and return what its body returned.

        Raises:
            ResultTimeoutError: see `wait`.
            JobFailedError: with the reason and the last error.
            JobCancelledError: there is no result.
            ResultError: the stored value was dropped, deleted or damaged.
        """
        job = self.wait(timeout)
        if job.state is State.FAILED:
            raise JobFailedError(job.id, job.reason or "error", job.error)
        if job.state is State.CANCELLED:
            raise JobCancelledError(job.id)
        return self._queue.results.decode(job.result)

    def cancel(self) -> CancelOutcome:
        """Cancel the job, or ask its worker to stop it; the answer says which."""
        ledger = self._queue.ledger
        while True:
            job = ledger.get(self.id)
            if ledger.apply(lifecycle.cancel(self.id)) is not None:
                # The row is what counts; a message that stays behind is refused when it comes up.
                with contextlib.suppress(UnsupportedError, BackendError):
                    self._queue.gateway.withdraw(message_ids(job))
                self.refresh()
                return CancelOutcome.CANCELLED
            if ledger.apply(lifecycle.request_cancel(self.id)) is not None:
                return CancelOutcome.REQUESTED
            if self.refresh().state.final:
                return CancelOutcome.FINISHED

    def retry(self) -> JobHandle:
        """Run a final job again: a new job with the same input, whose ``parent_id`` is this one's id.

        Raises:
            TransitionRefusedError: the job is not final yet.
        """
        job = self.refresh()
        if not job.state.final:
            raise TransitionRefusedError(self.id, "retry", f"{self.state}, not final")
        return self._queue.resubmit(job)

    def logs(self, *, attempt: int | None = None, after_seq: int = 0) -> list[LogLine]:
        """Return what the body wrote, oldest first; of one attempt, or of all."""
        return self._queue.ledger.logs(self.id, attempt=attempt, after_seq=after_seq)

    def attempts(self) -> list[Attempt]:
        """Return the tries, oldest first."""
        return self._queue.ledger.attempts(self.id)

    def history(self) -> list[HistoryEntry]:
        """Return every transition, oldest first."""
        return self._queue.ledger.history(self.id)

    def nodes(self, *, attempt: int | None = None) -> list[NodeRun]:
        """Return the pipeline nodes of an attempt; of the newest one by default."""
        return self._queue.ledger.nodes(self.id, attempt=attempt)

    @property
    def progress(self) -> float | None:
        """How far the newest attempt is, 0 to 1."""
        return self.refresh().progress

    @property
    def scheduled_at(self) -> datetime:
        """When the job is, or was, due."""
        return self._job.scheduled_at

    # The a-twins: each is its verb in a thread. `await` is taken by the language, hence the underscore.

    async def arefresh(self) -> Job:
        """`refresh`, awaited."""
        return await in_thread(self.refresh)

    async def await_(self, timeout: float | None = None) -> Job:
        """`wait`, awaited."""
        return await in_thread(self.wait, timeout)

    async def aresult(self, timeout: float | None = None) -> Any:
        """`result`, awaited."""
        return await in_thread(self.result, timeout)

    async def acancel(self) -> CancelOutcome:
        """`cancel`, awaited."""
        return await in_thread(self.cancel)

    async def aretry(self) -> JobHandle:
        """`retry`, awaited."""
        return await in_thread(self.retry)

    async def alogs(self, *, attempt: int | None = None, after_seq: int = 0) -> list[LogLine]:
        """`logs`, awaited."""
        return await in_thread(self.logs, attempt=attempt, after_seq=after_seq)

    async def aattempts(self) -> list[Attempt]:
        """`attempts`, awaited."""
        return await in_thread(self.attempts)

    async def ahistory(self) -> list[HistoryEntry]:
        """`history`, awaited."""
        return await in_thread(self.history)

    async def anodes(self, *, attempt: int | None = None) -> list[NodeRun]:
        """`nodes`, awaited."""
        return await in_thread(self.nodes, attempt=attempt)
