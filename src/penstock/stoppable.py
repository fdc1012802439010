"""How an interrupt reaches Python code that runs in a thread of the worker."""

from __future__ import annotations

import ctypes
import threading
from typing import TYPE_CHECKING

from penstock.run import JobInterrupted

if TYPE_CHECKING:
    from penstock.body import Cause, Interrupt


class Stoppable:
    """Lets an interrupt reach the Python code of this thread, as `JobInterrupted`, between two of its bytecodes.

    Code that blocks in C is reached when it returns; only `isolation="process"` ends it before.
    """

    def __init__(self, interrupt: Interrupt) -> None:
        self._interrupt = interrupt
        self._thread_id = threading.get_ident()
        self._lock = threading.Lock()
        self._inside = False

    def __enter__(self) -> None:
        self._inside = True
        self._interrupt.on_set(self._raise)

    def _raise(self, _cause: Cause) -> None:
        with self._lock:
            if self._inside:
                ctypes.pythonapi.PyThreadState_SetAsyncExc(
                    ctypes.c_ulong(self._thread_id), ctypes.py_object(JobInterrupted)
                )

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self._inside = False
            if self._interrupt.cause is not None:
                # Take back what was thrown too late to be seen: it must not hit what this thread does next.
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(self._thread_id), None)
