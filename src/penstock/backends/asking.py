"""How the threads of a worker come by messages: one of them goes to the broker for all that wait.

A trip is for as many threads as wait by then: none of them is woken in between, and no message is taken that no thread
is free to run.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

logger = logging.getLogger("penstock.backends")

M = TypeVar("M")
_REST_S = 1.0
"""How long to let a broker rest that failed."""


class _Waiting(Generic[M]):
    __slots__ = ("bell", "found")

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.found: M | None = None

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self.bell.release()


class Asking(Generic[M]):
    """What the threads of one `Backend.work` ask for messages.

    ``fetch(count)`` takes at most ``count`` messages, the best first, and waits a short while if there is none. It is
    called by one thread at a time, not after `stop`, and again after a rest when it raises. ``claim_ahead`` is called
    with what it returned, if that is more than one; ``on_contact`` each time that it has returned.
    """

    def __init__(
        self,
        fetch: Callable[[int], Sequence[M]],
        claim_ahead: Callable[[Sequence[M]], None],
        on_contact: Callable[[], None],
    ) -> None:
        self.stopping = threading.Event()
        self._fetch = fetch
        self._claim_ahead = claim_ahead
        self._on_contact = on_contact
        self._waiting: deque[_Waiting[M]] = deque()
        self._lock = threading.Lock()

    def get(self) -> M | None:
        """Wait for a message; None after `stop`."""
        waiting: _Waiting[M] = _Waiting()
        self._waiting.append(waiting)
        while waiting.found is None and not self.stopping.is_set():
            if not self.alone(self._go):
                waiting.bell.acquire()
        if waiting.found is None:
            with self._lock:  # whoever is on the way may bring it one
                if waiting.found is None:
                    self._waiting.remove(waiting)
        return waiting.found

    def alone(self, errand: Callable[[], None]) -> bool:
        """Call ``errand`` while nobody fetches; return False, without having waited, if somebody does."""
        if not self._lock.acquire(blocking=False):
            return False
        try:
            errand()
        finally:
            self._lock.release()
            # After the release: who came before it waits for its bell, who comes now finds the lock free.
            with contextlib.suppress(IndexError):
                self._waiting[0].ring()
        return True

    def stop(self) -> None:
        """Let nobody have a message any more, but what has been taken already."""
        self.stopping.set()
        for waiting in list(self._waiting):
            waiting.ring()

    def _go(self) -> None:
        messages: Sequence[M] = ()
        try:
            messages = self._fetch(len(self._waiting))
            self._on_contact()
            if len(messages) > 1:
                self._claim_ahead(messages)
        except Exception as error:  # noqa: BLE001 - an outage must not end the thread
            logger.warning("could not take messages, trying again: %s: %s", type(error).__name__, error)
            self.stopping.wait(_REST_S)
        for message in messages:
            waiting = self._waiting.popleft()
            waiting.found = message
            waiting.ring()
