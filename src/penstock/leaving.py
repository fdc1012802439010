"""Sees to it that a worker's process ends in time after a signal, whatever its main thread waits for."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import socket
import threading
import time
from collections.abc import Callable

logger = logging.getLogger("penstock.worker")

FORCED_S = 0.75
"""How long a process may take to leave after a second signal, before what is done at the last moment."""
ENDING_S = 3.0
"""How much longer than its drain a process may take to sign off, and to close what it had opened."""
_LAST_S = 0.2
_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Leaving:
    """A thread that hears signals beside the main thread, and ends the process where that does not do it in time.

    Python's own handlers run in the main thread between two of its bytecodes: a driver that waits for its server there
    (SQLite for a lock that another program holds) heeds no signal. At the last moment what runs is handed back by this
    thread; where the ledger does not take it, leases end by themselves.
    """

    def __init__(self, *, drain_s: float, code: int, before: Callable[[], object]) -> None:
        """Listen from now on, in the main thread; in another, to nothing: signals are not its affair.

        Args:
            drain_s: how long a drain may take, after which `ENDING_S` are left.
            code: the exit code of a process that has to be ended.
            before: called at the last moment, which is short.
        """
        self._drain_s = drain_s
        self._code = code
        self._before = before
        self._until = float("inf")
        self._heard = 0
        self._ours, self._bell = socket.socketpair()
        self._bell.setblocking(False)
        self._listens = threading.current_thread() is threading.main_thread()
        if self._listens:
            self._previous = signal.set_wakeup_fd(self._bell.fileno(), warn_on_full_buffer=False)
            os.register_at_fork(after_in_child=self._forked)
            threading.Thread(target=self._listen, name="penstock-leaving", daemon=True).start()

    def has_worked(self, code: int) -> None:
        """Note that all jobs are settled or handed back: after a signal, `ENDING_S` are left to end with this code."""
        if self._heard:
            self._code, self._until = code, min(self._until, time.monotonic() + ENDING_S)
            self._ring()

    def close(self) -> None:
        """Listen no longer. After a signal the process is still seen to its end."""
        if self._listens:
            self._listens = False
            signal.set_wakeup_fd(self._previous)
        if not self._heard:
            self._bell.close()

    def _forked(self) -> None:
        if self._listens:  # what a body forks must not ring here when it is ended
            self._listens = False
            signal.set_wakeup_fd(-1)

    def _ring(self) -> None:
        with contextlib.suppress(OSError):
            self._bell.send(b"\0")

    def _listen(self) -> None:
        while True:
            left_s = self._until - time.monotonic()
            if left_s <= 0:
                self._end()
            if not select.select([self._ours], [], [], min(left_s, 3600.0))[0]:
                continue
            rung = self._ours.recv(64)
            if not rung:
                self._ours.close()
                return
            for _ in filter(_SIGNALS.__contains__, rung):
                self._heard += 1
                wait_s = {1: self._drain_s + ENDING_S, 2: FORCED_S}.get(self._heard)
                if wait_s is not None:
                    self._until = min(self._until, time.monotonic() + wait_s)

    def _end(self) -> None:
        logger.warning("this process does not come to its end by itself; it leaves")
        last = threading.Thread(target=self._before, daemon=True)
        last.start()
        last.join(_LAST_S)
        os._exit(self._code)
