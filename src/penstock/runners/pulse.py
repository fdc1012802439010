"""A worker's signs of life to its child: a body must not outlive the lease of a worker that has been frozen.

A worker that runs stops its bodies itself. One that is stopped by a signal, or by a debugger, cannot, and its child
runs on while another worker is given the job. So the child ends itself, with all that it has started, when it has heard
nothing for as long as a lease is kept. (A body that holds the interpreter's lock ends when it lets go of it.)
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from contextlib import suppress

_PULSES = 4
"""Signs of life within the time after which their absence counts."""


class Pulse:
    """The worker's side, for one job: `due` tells when the next sign is due, on the monotonic clock."""

    def __init__(self, fd: int, silence_s: float | None) -> None:
        self._fd = fd
        self._every_s = None if silence_s is None else silence_s / _PULSES
        self.due = float("inf") if silence_s is None else 0.0

    def beat(self, now: float) -> None:
        """Give a sign, if it is time."""
        if self._every_s is not None and now >= self.due:
            self.due = now + self._every_s
            with suppress(BlockingIOError, BrokenPipeError):  # nobody reads: it is dead, or frozen itself
                os.write(self._fd, b".")


class Ear:
    """The child's side: while `expect` holds, silence ends the process group."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self._silence_s: float | None = None
        self._thread: threading.Thread | None = None

    def expect(self, silence_s: float | None) -> None:
        """Listen from the next sign on; None: silence means nothing any more."""
        self._silence_s = silence_s
        if silence_s is not None and self._thread is None:
            self._thread = threading.Thread(target=self._listen, name="penstock-ear", daemon=True)
            self._thread.start()

    def _listen(self) -> None:
        poll = select.poll()
        poll.register(self.fd, select.POLLIN)
        heard = time.monotonic()
        while True:
            silence_s = self._silence_s
            if poll.poll(None if silence_s is None else max(0.0, heard + silence_s - time.monotonic()) * 1000):
                if not os.read(self.fd, 4096):
                    return  # the worker is gone, and the kernel has told us another way
                heard = time.monotonic()
            elif self._silence_s is not None and silence_s is not None:
                os.killpg(0, signal.SIGKILL)
