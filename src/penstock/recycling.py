"""When a worker process has done enough, or has grown too large, and another one is to take its place."""

from __future__ import annotations

import time

from penstock.job.limits import format_size
from penstock.runners.memory import memory_bytes

_LOOK_EVERY_S = 0.5


class Recycling:
    """Tells why a process should end in good order; at the end of a job, never before it has had one."""

    def __init__(self, *, max_memory_bytes: int | None = None, max_jobs: int | None = None) -> None:
        """``max_memory_bytes``: of this process alone; a child process that holds more is replaced by itself."""
        self._max_memory_bytes = max_memory_bytes
        self._max_jobs = max_jobs
        self._looked_at = 0.0

    def at_most(self, jobs: int | None) -> int | None:
        """Return how many jobs this process may claim, of so many; None: no limit."""
        return min((most for most in (jobs, self._max_jobs) if most is not None), default=None)

    def due(self, jobs: int) -> str:
        """Say why it is time after so many jobs, in a few words; empty while it is not."""
        if not jobs:
            return ""
        if self._max_jobs is not None and jobs >= self._max_jobs:
            return f"{jobs:,} jobs"
        now = time.monotonic()
        if self._max_memory_bytes is None or now - self._looked_at < _LOOK_EVERY_S:
            return ""
        self._looked_at = now
        size_bytes = memory_bytes()
        if size_bytes <= self._max_memory_bytes:
            return ""
        return f"{format_size(size_bytes)} of memory, over {format_size(self._max_memory_bytes)}"
