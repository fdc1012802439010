"""Looks at a folder again and again in a thread: every so often, and at once when the file system tells of a change.

Looking is what can be relied upon: events are missed on network disks, by full queues of the kernel, and between a
folder that was removed and the one that takes its place.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger("penstock.jobs_dir")

_QUIET_MS = 100
"""A change is acted on when no other has followed for so long: who saves a file often writes several times."""
_LONGEST_MS = 500


class Watcher:
    """One folder, one thread."""

    def __init__(self, folder: Path, look: Callable[[], float | None], *, interval_s: float, events: bool) -> None:
        """Set a watcher up.

        Args:
            folder: may be missing; it may come and go.
            look: called again and again; raises nothing. It may return after how many seconds it wants to be called
                again, if that is sooner.
            interval_s: how often, events or not.
            events: also at once, if ``watchfiles`` is installed.
        """
        self._folder = folder
        self._look = look
        self._interval_s = interval_s
        self._events = events
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Look in the background until `stop`."""
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(target=self._loop, name="penstock-jobs-dir", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        """End the thread; a look that is under way is finished."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join()

    def _loop(self) -> None:
        while not self._stop.is_set():
            if self._events:
                self._follow()
            self._stop.wait(self._looked())

    def _looked(self) -> float:
        soon_s = self._look()
        return self._interval_s if soon_s is None else min(soon_s, self._interval_s)

    def _follow(self) -> None:
        """Look at each event, and every interval without one, while the folder is the same."""
        folder = _identity(self._folder)
        if folder is None:
            return
        try:
            from watchfiles import watch

            logging.getLogger("watchfiles").setLevel(logging.WARNING)  # it tells of each change
        except ImportError:
            logger.info("watchfiles is not installed: %s is looked at every %g s", self._folder, self._interval_s)
            self._events = False
            return
        try:
            for _ in watch(
                self._folder,
                watch_filter=None,
                debounce=_LONGEST_MS,
                step=_QUIET_MS,
                stop_event=self._stop,
                rust_timeout=max(1, int(self._interval_s * 1000)),
                yield_on_timeout=True,
                recursive=False,
                raise_interrupt=False,
            ):
                while not self._stop.is_set() and (soon_s := self._looked()) < self._interval_s:
                    self._stop.wait(soon_s)
                if self._stop.is_set() or _identity(self._folder) != folder:
                    return
        except (OSError, RuntimeError) as error:  # the kernel allows no more watches, say
            logger.warning("no events of %s: %s; it is looked at every %g s", self._folder, error, self._interval_s)
            self._events = False


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(folder)  # noqa: PTH116 - as plain as it gets, once a second
    except OSError:
        return None
    return status.st_dev, status.st_ino
