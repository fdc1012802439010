"""Ends connections to Postgres on which a statement waits for ever.

``tcp_user_timeout`` notices a host that acknowledges nothing. Behind a proxy or a pooler whose server is gone all is
acknowledged, no answer comes, and libpq has no limit for that.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Generator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]


class SilentError(psycopg.OperationalError):
    """No answer came. Whether the server has done what it was asked to is not known."""


class Silence:
    """Watches the statements of one pool. Safe from any thread; of no use after a fork."""

    def __init__(self, after_s: float) -> None:
        self.after_s = after_s
        self._lock = threading.Lock()
        self._at_work: dict[int, tuple[Connection, float]] = {}
        self._ended: set[int] = set()
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    @contextmanager
    def watched(self, connection: Connection) -> Generator[None]:
        """End the connection if what is done meanwhile takes too long. Raises `SilentError` if it did."""
        me = id(connection)
        with self._lock:
            self._at_work[me] = (connection, time.monotonic())
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="penstock-silence", daemon=True)
                self._thread.start()
        try:
            yield
        except psycopg.Error as error:
            if me in self._ended:
                raise SilentError(f"no answer within {self.after_s:g} s") from error
            raise
        finally:
            with self._lock:
                del self._at_work[me]
                self._ended.discard(me)

    def close(self) -> None:
        """Watch no longer."""
        self._stop.set()

    def _watch(self) -> None:
        while not self._stop.wait(self.after_s / 4):
            since = time.monotonic() - self.after_s
            with self._lock:
                for me, (connection, began) in self._at_work.items():
                    if began < since and me not in self._ended:
                        self._ended.add(me)
                        _shut(connection)


def _shut(connection: Connection) -> None:
    """End the conversation under a thread that waits in it: closing it would take what the thread still uses."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RDWR)
