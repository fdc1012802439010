"""What a submitter holds of a job: its id, and every question and verb about it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from penstock.absence import LOOK_S, Absence
from penstock.audit import note
from penstock.bridge import Stream, in_thread
from penstock.core.exceptions import (
    BackendError,
    JobCancelledError,
    JobFailedError,
    LedgerUnavailableError,
    ResultTimeoutError,
    TransitionRefusedError,
    UnsupportedError,
)
from penstock.events import nodes_of, stream
from penstock.gateway import message_ids
from penstock.job import lifecycle
from penstock.job.lifecycle import FINAL, State
from penstock.job.models import Attempt, HistoryEntry, Job, JobQuery, LogLine, NodeRun, Outcome

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.client import JobQueue
    from penstock.job.events import JobEvent

_FIRST_POLL_S = 0.002
_LAST_POLL_S = 0.1
_ASKED_AT_ONCE = 1_000


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
        self.queue = queue
        """The queue that it was submitted to, or looked up in."""
        self.job = job
        """The row as last read; see `refresh`."""
        self.id = job.id
        self.outcome = outcome
        """What the enqueue did: ``created`` or ``kept``; None for a handle that was looked up."""
        self._absence = Absence(f"the wait for job {job.id} goes on")

    def __repr__(self) -> str:
        return f"<job {self.id} {self.job.name} {self.job.state}>"

    @property
    def name(self) -> str:
        """The task's or pipeline's name."""
        return self.job.name

    def refresh(self) -> Job:
        """Read the row again. Raises `JobNotFoundError` when it was purged."""
        if not self.job.state.final:
            self.job = self.queue.ledger.get(self.id)
        return self.job

    @property
    def state(self) -> str:
        """The state now, as people are shown it: ``scheduled``, ``retrying``, ... beside the stored five."""
        return lifecycle.shown_state(self.refresh(), self.queue.ledger.now())

    def wait(self, timeout: float | None = None) -> Job:
        """Wait until the job is final and return its row.

        Where no worker will ever come (``inline://``), the waiter runs what falls due meanwhile. A ledger that is away
        is waited for.

        Raises:
            ResultTimeoutError: it is not final after ``timeout`` seconds; it goes on all the same.
            LedgerUnavailableError: the ledger is away when they are over.
        """
        until = None if timeout is None else time.monotonic() + timeout
        pause_s = _FIRST_POLL_S
        while True:
            longest_s = _LAST_POLL_S
            try:
                if self._has_ended():
                    return self.job
                self._absence.over()
                if timeout is not None and until is not None and time.monotonic() >= until:
                    raise ResultTimeoutError(self.id, timeout, self.state)
            except LedgerUnavailableError as error:
                if until is not None and time.monotonic() >= until:
                    raise
                self._absence.tell(error)
                longest_s = LOOK_S
            left_s = longest_s if until is None else max(0.0, until - time.monotonic())
            time.sleep(min(pause_s, left_s))
            pause_s = min(2 * pause_s, longest_s)

    def _has_ended(self) -> bool:
        if self.refresh().state.final:
            return True
        if not self.queue.gateway.in_process:
            return False
        self.queue.sweeper.publish_due()  # nobody else will
        return self.refresh().state.final

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
        return self.queue.results.decode(job.result)

    def cancel(self, *, why: str | None = None) -> CancelOutcome:
        """Cancel the job, or ask its worker to stop it; the answer says which.

        What was done stands in the audit trail, with ``why``.
        """
        outcome = call_off(self)
        if outcome is not CancelOutcome.FINISHED:
            note(self.queue, "cancel", self.id, why=why, name=self.name, outcome=outcome)
        return outcome

    def retry(self, *, why: str | None = None) -> JobHandle:
        """Run a final job again: a new job with the same input, whose ``parent_id`` is this one's id.

        It stands in the audit trail, with ``why``.

        Raises:
            TransitionRefusedError: the job is not final yet.
        """
        job = self.refresh()
        if not job.state.final:
            raise TransitionRefusedError(self.id, "retry", f"{self.state}, not final")
        again = self.queue.resubmit(job)
        note(self.queue, "retry", self.id, why=why, name=self.name, job=again.id)
        return again

    def logs(self, *, attempt: int | None = None, after_seq: int = 0) -> list[LogLine]:
        """Return what the body wrote, oldest first; of one attempt, or of all."""
        return self.queue.ledger.logs(self.id, attempt=attempt, after_seq=after_seq)

    def attempts(self) -> list[Attempt]:
        """Return the tries, oldest first."""
        return self.queue.ledger.attempts(self.id)

    def history(self) -> list[HistoryEntry]:
        """Return every transition, oldest first."""
        return self.queue.ledger.history(self.id)

    def nodes(self, *, attempt: int | None = None) -> list[NodeRun]:
        """Return the pipeline nodes of an attempt; of the newest one by default.

        A node that ran when its attempt ended (its process died, or was killed) has failed, and says so.
        """
        return nodes_of(self.queue.ledger, self.id, attempt=attempt)

    def events(self, *, follow: bool = True, timeout: float | None = None) -> Stream[JobEvent]:
        """Tell what happens to the job, from its beginning, as it happens: for ``for`` and for ``async for``.

        Changes of state, progress and messages, news of pipeline nodes, log lines (see `penstock.job.events`), each
        with its instant, wherever the job runs. It ends when the job is final and all of it has been told. A ledger
        that is away is waited for; what came meanwhile is told when it is back.

        Args:
            follow: False: tell what there is, and end.
            timeout: for how many seconds to follow.

        Raises:
            ResultTimeoutError: while iterating: the job is not final after ``timeout`` seconds.
            JobNotFoundError: while iterating: it was purged.
        """
        return stream(self.queue, self.id, follow=follow, timeout_s=timeout)

    @property
    def progress(self) -> float | None:
        """How far the newest attempt is, 0 to 1."""
        return self.refresh().progress

    @property
    def scheduled_at(self) -> datetime:
        """When the job is, or was, due."""
        return self.job.scheduled_at

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

    async def acancel(self, *, why: str | None = None) -> CancelOutcome:
        """`cancel`, awaited."""
        return await in_thread(self.cancel, why=why)

    async def aretry(self, *, why: str | None = None) -> JobHandle:
        """`retry`, awaited."""
        return await in_thread(self.retry, why=why)

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


def call_off(handle: JobHandle) -> CancelOutcome:
    """Cancel a job as `JobHandle.cancel` does, and write nothing down: what a schedule calls off is nobody's action."""
    ledger = handle.queue.ledger
    while True:
        job = ledger.get(handle.id)
        if ledger.apply(lifecycle.cancel(handle.id)) is not None:
            # The row is what counts; a message that stays behind is refused when it comes up.
            with contextlib.suppress(UnsupportedError, BackendError):
                handle.queue.gateway.withdraw(message_ids(job))
            handle.refresh()
            return CancelOutcome.CANCELLED
        if ledger.apply(lifecycle.request_cancel(handle.id)) is not None:
            return CancelOutcome.REQUESTED
        if handle.refresh().state.final:
            return CancelOutcome.FINISHED


def newly_final(handles: Sequence[JobHandle], *, gone_too: bool = False) -> list[JobHandle]:
    """Return those of these jobs that are final, in the order in which they ended; their rows are read for that.

    Each ledger is asked once for some hundreds of jobs. ``gone_too``: those that were purged are among them.
    """
    ended = [handle for handle in handles if handle.job.state.final]
    live: dict[int, list[JobHandle]] = {}
    for handle in handles:
        if not handle.job.state.final:
            live.setdefault(id(handle.queue), []).append(handle)
    for waiting in live.values():
        queue = waiting[0].queue
        if queue.gateway.in_process:
            queue.sweeper.publish_due()  # nobody else will
        by_id: dict[str, list[JobHandle]] = {}
        for handle in waiting:
            by_id.setdefault(handle.id, []).append(handle)
        ids = list(by_id)
        for start in range(0, len(ids), _ASKED_AT_ONCE):
            some = tuple(ids[start : start + _ASKED_AT_ONCE])
            states = () if gone_too else tuple(FINAL)
            found = {job.id: job for job in queue.ledger.find(JobQuery(ids=some, states=states, limit=len(some)))}
            for job_id in some:
                job = found.get(job_id)
                for handle in by_id[job_id]:
                    handle.job = job or handle.job
                    if (gone_too and job is None) or (job is not None and job.state.final):
                        ended.append(handle)
    return sorted(ended, key=lambda handle: (handle.job.finished_at or handle.job.created_at).timestamp())
