"""How much memory a process holds."""

from __future__ import annotations

import os
import resource
import sys
from pathlib import Path


def memory_bytes(pid: int | None = None) -> int:
    """Return how much memory a process (None: this one) holds now; 0 for one that is gone.

    Where the system does not tell (no ``/proc``), the most that this process has held, and of others nothing.
    """
    try:
        return int(Path(f"/proc/{pid or 'self'}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        if pid is not None:
            return 0
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
