"""Bodies that kill their process, each in its own way, and tell the file before."""

from __future__ import annotations

import ctypes
import os

from chaos_bodies import tell

from penstock import Run, task

_TOO_MUCH = 64 * 10**9
"""Bytes of address space: beyond any limit that the bar sets."""


@task(name="crash.exit")
def exits(file: str, run: Run, seconds: float) -> None:
    """End the process, as code does that calls exit in C."""
    tell(file, "start", run.job_id, run.attempt)
    print(f"last words of {run.attempt}", flush=True)
    os._exit(1)


@task(name="crash.segfault")
def segfaults(file: str, run: Run, seconds: float) -> None:
    """Read where nothing is."""
    tell(file, "start", run.job_id, run.attempt)
    print(f"last words of {run.attempt}", flush=True)
    ctypes.string_at(0)


@task(name="crash.memory")
def runs_out_of_memory(file: str, run: Run, seconds: float) -> None:
    """Ask for more memory than the limit allows, and not look at the answer."""
    tell(file, "start", run.job_id, run.attempt)
    print(f"last words of {run.attempt}", flush=True)
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    ctypes.memset(libc.malloc(_TOO_MUCH) or 0, 1, 1)
