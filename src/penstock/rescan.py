"""Looks for changed files of tasks and of projects' schedules again and again, for as long as a worker works."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from penstock.core.config import seconds
from penstock.core.exceptions import ConfigError, LedgerError
from penstock.declared import plan_of
from penstock.project_schedules import ProjectFiles

if TYPE_CHECKING:
    from penstock.client import JobQueue

logger = logging.getLogger("penstock.scan")


class Rescan:
    """Scans again every ``scan_interval``: by `turn` from a main thread, or by `start` in a thread of its own.

    The main thread is to be preferred: there alone a file can be stopped that never ends loading.
    """

    def __init__(self, queue: JobQueue, *, declare: bool) -> None:
        self._queue = queue
        self._declare = declare
        self._projects = ProjectFiles(queue) if declare else None
        self._every_s = seconds(queue.config.scheduler.scan_interval)
        self._next = time.monotonic() + self._every_s
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def turn(self) -> None:
        """Scan, if it is time to. Never raises."""
        if self._every_s and time.monotonic() >= self._next:
            self.scan()

    def scan(self) -> None:
        """Scan now, if there is anything to. Never raises."""
        try:
            if self._projects is not None:
                self._projects.follow(plan_of)
            if self._queue.config.tasks:
                self._queue.discovery.scan(declare=self._declare)
        except LedgerError as error:
            logger.warning("the ledger did not take what was found in the folders: %s", error)
        except Exception:
            logger.exception("a scan failed, the next one follows")
        self._next = time.monotonic() + self._every_s

    def pipelines(self) -> tuple[str, ...]:
        """Name the pipelines that can be run here; none where the projects cannot be read, which is logged."""
        try:
            return tuple(sorted(self._queue.pipelines()))
        except ConfigError as error:
            logger.warning("the pipelines that this worker has are not known: %s", error)
            return ()

    def start(self) -> None:
        """Scan in the background until `stop`."""
        if self._thread is None and self._every_s and (self._queue.config.tasks or self._projects is not None):
            self._stop.clear()
            self._thread = threading.Thread(target=self._loop, name="penstock-scan", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a scan that is under way is waited for a moment only: a file may never end loading."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(1.0)

    def _loop(self) -> None:
        while not self._stop.wait(max(0.01, self._next - time.monotonic())):
            self.turn()
