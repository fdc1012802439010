"""What the owner of an attempt and the code that runs its body tell each other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from datetime import datetime
from typing import Literal

import msgspec

from penstock.job.models import ErrorInfo, Report

Cause = Literal["timeout", "cancelled", "released", "lost"]
"""Why a body is stopped from outside: its time is over, somebody cancelled it, the worker shuts down (the job is
handed back), or the lease was lost (nothing may be written)."""


class Next(msgspec.Struct, frozen=True, kw_only=True):
    """What a body whose task runs again and again has said of the next time; None: what its declaration says."""

    cancelled: bool = False
    at: datetime | None = None
    in_s: float | None = None
    every_s: float | None = None
    spec: bytes | None = None


class Ended(msgspec.Struct, frozen=True, kw_only=True):
    """How an attempt ended. ``crashed``: its process died. Causes of `Cause` as they are named there.

    ``snoozed`` and ``blocked`` go back to the queue without spending any budget: the body asked for it, or it was not
    let begin. ``dropped`` is cancelled instead of that.
    """

    how: Literal[
        "returned", "raised", "crashed", "timeout", "cancelled", "released", "lost", "snoozed", "blocked", "dropped"
    ]
    result: bytes | None = None
    """The encoded `StoredResult` of a body that returned."""
    error: ErrorInfo | None = None
    retryable: bool = True
    """False: another try cannot end otherwise (the input does not fit the pipeline, a module does not import)."""
    discarded: bool = False
    """Whether the body itself wants no other try."""
    wait_s: float | None = None
    """How long until the job is due again, where the end itself says so."""
    note: str | None = None
    """Of a job that was blocked: what it waits for, for people."""
    held: str | None = None
    """Of a job that was blocked until somebody lets it go on: why. It is not due, whatever ``wait_s`` says."""
    next: Next | None = None
    begun: bool = True
    """Of a job that is handed back: whether its body began."""


class Interrupt:
    """A one-way switch that asks a running body to stop, and says why. Safe from any thread.

    Whoever runs the body may select on `fileno()`, which turns readable when the switch is thrown, or register a
    callback with `on_set`. The first cause wins.
    """

    __slots__ = ("_callbacks", "_lock", "_pipe", "cause")

    def __init__(self) -> None:
        # One is made for every job, and hardly one is ever thrown: everything else is made when it is asked for.
        self.cause: Cause | None = None
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[Cause], None]] = []
        self._pipe: tuple[int, int] | None = None

    def set(self, cause: Cause) -> None:
        """Throw the switch. Later causes are ignored."""
        with self._lock:
            if self.cause is not None:
                return
            self.cause = cause
            if self._pipe is not None:
                os.write(self._pipe[1], b"!")
            callbacks = list(self._callbacks)
        for callback in callbacks:
            callback(cause)

    def on_set(self, callback: Callable[[Cause], None]) -> None:
        """Call ``callback(cause)`` once, from the thread that throws the switch; at once if it is thrown already."""
        with self._lock:
            if self.cause is None:
                self._callbacks.append(callback)
                return
            cause = self.cause
        callback(cause)

    def fileno(self) -> int:
        """Return a descriptor that is readable once the switch is thrown; `close` frees it."""
        with self._lock:
            if self._pipe is None:
                self._pipe = os.pipe()
                if self.cause is not None:
                    os.write(self._pipe[1], b"!")
            return self._pipe[0]

    def close(self) -> None:
        """Free the descriptor, if one was made."""
        with self._lock:
            pipe, self._pipe = self._pipe, None
        if pipe is not None:
            for fd in pipe:
                os.close(fd)


Emit = Callable[[Report], None]
"""Takes a log line, node news or progress of a running body; returns at once and never raises."""
