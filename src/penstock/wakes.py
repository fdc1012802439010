"""Publishes a job the very moment it is due; the sweep, which looks once a second, is there for what is missed."""

from __future__ import annotations

import heapq
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.core.exceptions import JobNotFoundError, PenstockError
from penstock.job.lifecycle import State

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.job.models import Job
    from penstock.sweeper import Sweeper

logger = logging.getLogger("penstock.wakes")

_LATE_S = 0.003
"""The ledger's clock may be behind by what its answers take; a job is refused before it is due."""
_HELD_MAX = 20_000
_BATCH = 200


class Wakes:
    """An alarm clock of this process, with a thread that is started by the first alarm. Safe from any thread."""

    def __init__(self, ledger: Callable[[], Ledger], sweeper: Callable[[], Sweeper]) -> None:
        self._ledger = ledger
        self._sweeper = sweeper
        self._alarms: list[tuple[float, str]] = []
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False

    def at(self, job_id: str, wait_s: float) -> None:
        """Publish the job in so many seconds, by when it has been handed back. Never blocks."""
        with self._changed:
            if self._closed or len(self._alarms) >= _HELD_MAX:
                return
            heapq.heappush(self._alarms, (time.monotonic() + wait_s + _LATE_S, job_id))
            if self._thread is None:
                self._thread = threading.Thread(target=self._ring, name="penstock-wakes", daemon=True)
                self._thread.start()
            self._changed.notify()

    def close(self) -> None:
        """Forget all alarms, and end the thread."""
        with self._changed:
            self._closed = True
            self._alarms.clear()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5)

    def _ring(self) -> None:
        while True:
            with self._changed:
                while not self._closed and (not self._alarms or self._alarms[0][0] > time.monotonic()):
                    self._changed.wait(self._alarms[0][0] - time.monotonic() if self._alarms else None)
                if self._closed:
                    return
                due: list[str] = []
                while self._alarms and self._alarms[0][0] <= time.monotonic() and len(due) < _BATCH:
                    due.append(heapq.heappop(self._alarms)[1])
            try:
                self._publish(due)
            except PenstockError as error:
                logger.info("%d jobs are left to the sweep: %s", len(due), error)
            except Exception:
                logger.exception("%d jobs are left to the sweep", len(due))

    def _publish(self, due: list[str]) -> None:
        jobs: list[Job] = []
        for job_id in due:
            try:
                job = self._ledger().get(job_id)
            except JobNotFoundError:
                continue
            if job.state is State.QUEUED and job.held is None:
                jobs.append(job)
            elif job.state is State.RUNNING:
                self.at(job_id, 0.01)  # on its way back
        if jobs:
            self._sweeper().push(jobs)
