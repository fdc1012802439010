"""Ties a worker process to the parent that started it, so that it does not outlive it, however that one ends."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import threading
import time
from collections.abc import Callable

VARIABLE = "_PENSTOCK_TETHER"
"""The environment variable that tells a child the descriptor of its end."""
READY = b"ready"
"""The line by which a child tells that jobs are being taken; any other but the next is its health, as JSON."""
AGAIN = b"again "
"""How the line begins by which a child tells, at its end, that another is to take its place, and its number of jobs."""
_REPORT_S = 1.0
_ORPHAN_S = (0.3, 10.0)
"""How long a child that lost its parent has after the first signal to itself, and after the second."""


class Tether:
    """A child's end of what ties it to its parent: once the parent is gone, it leaves and hands its jobs back."""

    def __init__(self, fd: int) -> None:
        os.set_inheritable(fd, False)
        self._socket = socket.socket(fileno=fd)
        threading.Thread(target=self._wait, name="penstock-tether", daemon=True).start()

    @classmethod
    def of_parent(cls) -> Tether | None:
        """Return the tether that the parent left in the environment; None for a worker that stands alone."""
        fd = os.environ.pop(VARIABLE, None)
        return None if fd is None else cls(int(fd))

    def tell_ready(self) -> None:
        """Tell the parent that jobs are being taken."""
        with contextlib.suppress(OSError):
            self._socket.sendall(READY + b"\n")

    def tell_again(self, jobs: int) -> None:
        """Tell the parent that this process has had so many jobs, and that another one is to go on."""
        with contextlib.suppress(OSError):
            self._socket.sendall(AGAIN + str(jobs).encode() + b"\n")

    def report(self, health: Callable[[], bytes]) -> None:
        """Tell the parent from now on, every second, what ``health()`` returns: one line."""

        def tell() -> None:
            with contextlib.suppress(OSError):
                while True:
                    self._socket.sendall(health() + b"\n")
                    time.sleep(_REPORT_S)

        threading.Thread(target=tell, name="penstock-report", daemon=True).start()

    def _wait(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.recv(1)  # nothing is ever sent: this is the parent's end
        for number, patience_s in zip((signal.SIGTERM, signal.SIGINT), _ORPHAN_S, strict=True):
            os.kill(os.getpid(), number)
            time.sleep(patience_s)
        os._exit(128 + signal.SIGTERM)  # the main thread is stuck in something that heeds no signal
