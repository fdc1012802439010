"""Where child processes are started and seen off."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future

from penstock.runners.warm import WarmChild

_LEAVE_WITHIN_S = 1.0


class Nursery:
    """The one thread that starts children and sees the retired ones off. See `WarmChild.__init__` for why."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._leaving: list[tuple[float, WarmChild]] = []
        self._thread = threading.Thread(target=self._live, name="penstock-nursery", daemon=True)
        self._thread.start()

    def start(self, python: str, env: Mapping[str, str]) -> WarmChild:
        """Start a child and return it. Raises OSError."""
        started: Future[WarmChild] = Future()

        def begin() -> None:
            try:
                started.set_result(WarmChild(python, env))
            except BaseException as error:  # noqa: BLE001 - raised where it was asked for
                started.set_exception(error)

        self._asked.put(begin)
        return started.result()

    def see_off(self, children: Sequence[WarmChild]) -> None:
        """Let children end themselves; those that do not are killed soon."""

        def begin() -> None:
            for child in children:
                child.retire()
                self._leaving.append((time.monotonic() + _LEAVE_WITHIN_S, child))

        if children:
            self._asked.put(begin)

    def close(self) -> None:
        """Wait until all who leave are gone."""
        self._asked.put(None)
        self._thread.join()

    def _live(self) -> None:
        closing = False
        while not closing or self._leaving:
            try:
                asked = self._asked.get(timeout=0.02 if self._leaving else None)
            except queue.Empty:
                pass
            else:
                if asked is None:
                    closing = True
                else:
                    asked()
            for leaving in list(self._leaving):
                until, child = leaving
                if time.monotonic() > until or not child.alive:
                    child.kill()
                    self._leaving.remove(leaving)
