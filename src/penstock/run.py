"""`Run`: what a body sees of its own attempt while it runs."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import msgspec

from penstock.core.secrets import mask_text
from penstock.job.models import NodeRun, Progress, secrets_of
from penstock.job.schedules import FIRE_AT, INTERVAL_START
from penstock.lines import MAX_BYTES, LineKeeper, printable

if TYPE_CHECKING:
    from penstock.body import Cause, Emit, Interrupt, Next
    from penstock.dependencies.around import Around
    from penstock.dependencies.home import Home
    from penstock.job.models import Job, Report

_PROGRESS_STEP = 0.001
_MESSAGE_MAX = 500
_making = threading.Lock()


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


class JobInterrupted(BaseException):
    """Raised inside a body that has to stop. ``cause`` says why, where that is known.

    A BaseException, so that ``except Exception`` in a body does not swallow it while ``finally`` still runs.
    """

    def __init__(self, cause: Cause | None = None) -> None:
        run = current_run.get()
        self.cause: Cause | None = cause or (run.stop_cause if run is not None else None)
        super().__init__(f"the job has to stop: {self.cause or 'asked from outside'}")


class Run:
    """The live view of an attempt, handed to a task that has a parameter annotated `Run`.

    Reports are passed on at once and never raise; what was reported last may be lost if the process dies.
    """

    __slots__ = ("_emit", "_extend", "_home", "_interrupt", "_job", "_keeper", "_log_max_bytes", "_message",
                 "_progress", "_secrets", "_told", "attempt", "began", "job_id", "name", "next", "own_process",
                 "started_at")  # fmt: skip

    def __init__(
        self,
        job: Job,
        *,
        emit: Emit,
        interrupt: Interrupt | None = None,
        own_process: bool = False,
        log_max_bytes: int = MAX_BYTES,
        home: Callable[[], Home] | Home | None = None,
        extend: Callable[[float], None] | None = None,
    ) -> None:
        self._job = job
        self._home: Callable[[], Home] | Home | None = home
        self._extend = extend
        self.began = time.monotonic()
        """When the body began, by the monotonic clock: its timeout is counted from there."""
        self.next: Next | None = None
        """What the body has said of the next time, where its task runs again and again."""
        self._secrets: frozenset[str] | None = None
        self._log_max_bytes = log_max_bytes
        self.job_id = job.id
        self.attempt = job.attempt
        """Counts from 1; a body that must not act twice looks at `idempotency_key` instead."""
        self.name = job.name
        self.started_at = datetime.now(UTC)
        self.own_process = own_process
        """Whether the body has a process (and process group) to itself, which is killed to stop it."""
        self._emit = emit
        self._interrupt = interrupt
        self._keeper: LineKeeper | None = None
        self._progress = 0.0
        self._told = -1.0
        self._message = ""

    @property
    def idempotency_key(self) -> str:
        """The same for every attempt of this job: hand it to services that refuse to do a thing twice."""
        return self.job_id

    @property
    def fire_at(self) -> datetime | None:
        """Which fire time of a schedule this job is for, aware UTC; None for a job that no schedule made."""
        return _instant(self._job.metadata.get(FIRE_AT))

    @property
    def interval(self) -> tuple[datetime, datetime] | None:
        """The data interval of a scheduled job: from the fire time before it to its own."""
        starts, ends = _instant(self._job.metadata.get(INTERVAL_START)), self.fire_at
        return None if starts is None or ends is None else (starts, ends)

    @property
    def job(self) -> Job:
        """The job's row as it was when the attempt began."""
        return self._job

    @property
    def home(self) -> Home:
        """What this process keeps for the dependencies of bodies. Raises RuntimeError where nobody runs any."""
        if callable(self._home):
            self._home = self._home()
        if self._home is None:
            raise RuntimeError("there are dependencies where a worker runs a body, and nowhere else")
        return self._home

    @home.setter
    def home(self, home: Home) -> None:
        self._home = home

    @property
    def around(self) -> Around | None:
        """What this process puts around each body, if anything."""
        return None if self._home is None else self.home.around

    def extend_timeout(self, by_s: float) -> None:
        """Let the body take so much longer than was allowed; without a timeout nothing happens."""
        if self._extend is not None and self._job.timeout_s is not None:
            self._extend(by_s)

    @property
    def progress(self) -> float:
        """How far the body is, from 0 to 1. Setting it tells the ledger, in steps of a thousandth."""
        return self._progress

    @progress.setter
    def progress(self, value: float) -> None:
        value = float(value)
        if math.isnan(value):
            raise ValueError("progress must be a number from 0 to 1, not nan")
        # Clamped: a body must not fail because 0.1 * 10 is a hair over 1.
        self._progress = value = min(1.0, max(0.0, value))
        if abs(value - self._told) >= _PROGRESS_STEP or (value != self._told and value in (0.0, 1.0)):
            self._told = value
            self._emit(Progress(job_id=self.job_id, attempt=self.attempt, progress=value))

    @property
    def message(self) -> str:
        """What the body is doing, in a few words, for people. Setting it tells the ledger."""
        return self._message

    @message.setter
    def message(self, value: str) -> None:
        value = self.veil(printable(str(value)))[:_MESSAGE_MAX]
        if value != self._message:
            self._message = value
            self._emit(Progress(job_id=self.job_id, attempt=self.attempt, message=value))

    @property
    def stop_cause(self) -> Cause | None:
        """Why the body has to stop, or None while it does not."""
        return self._interrupt.cause if self._interrupt is not None else None

    @property
    def cancelled(self) -> bool:
        """Whether the body was asked to stop, for whatever cause."""
        return self.stop_cause is not None

    def check(self) -> None:
        """Raise `JobInterrupted` if the body was asked to stop: for loops that no signal reaches."""
        if (cause := self.stop_cause) is not None:
            raise JobInterrupted(cause)

    def log(self, text: str, level: str = "INFO") -> None:
        """Keep a line with this attempt."""
        self.lines.add(level.upper(), "run", str(text))

    def report(self, report: Report) -> None:
        """Pass on news of this attempt that a runner has made."""
        if isinstance(report, NodeRun) and report.error is not None:
            report = msgspec.structs.replace(report, error=self.veil(report.error))
        self._emit(report)

    def veil(self, text: str) -> str:
        """Hide this process's secrets, and those of the job's own input."""
        if self._secrets is None:
            self._secrets = secrets_of(self._job)
        return mask_text(text, self._secrets)

    @property
    def lines(self) -> LineKeeper:
        """Where everything that the body writes goes."""
        keeper = self._keeper
        if keeper is None:
            with _making:
                keeper = self._keeper = self._keeper or LineKeeper(
                    self.job_id, self.attempt, self._emit, max_bytes=self._log_max_bytes, veil=self.veil
                )
        return keeper

    def close(self) -> None:
        """Pass on what is still held back; called once by whoever ran the body."""
        if self._told != self._progress and self._told >= 0:
            self._told = self._progress
            self._emit(Progress(job_id=self.job_id, attempt=self.attempt, progress=self._progress))
        if self._keeper is not None:
            self._keeper.close()


current_run: ContextVar[Run | None] = ContextVar("penstock_run", default=None)
"""The run whose body this code belongs to."""
