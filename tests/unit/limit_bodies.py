"""Tasks that the tests of limits run."""

from __future__ import annotations

import ctypes
import os
import resource
import subprocess
import sys
from pathlib import Path

from penstock import task

MB = 1_000_000


@task
def limits_now() -> list[int]:
    kinds = (resource.RLIMIT_AS, resource.RLIMIT_CPU, resource.RLIMIT_NOFILE)
    return [os.getpid(), *(resource.getrlimit(kind)[0] for kind in kinds)]


@task
def takes_memory(megabytes: int) -> int:
    return len(bytearray(megabytes * MB))


@task
async def takes_memory_async(megabytes: int) -> int:
    return len(bytearray(megabytes * MB))


@task
def takes_memory_in_c(megabytes: int) -> None:
    """As code that does not look at what malloc answers: it dies."""
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes = [ctypes.c_size_t]
    print("about to take it", flush=True)
    ctypes.memset(libc.malloc(megabytes * MB) or 0, 1, 1)


@task
def burns_cpu() -> None:
    while True:
        sum(range(10_000_000))


@task
def opens_files(number: int) -> int:
    kept = [Path("/dev/null").open() for _ in range(number)]  # noqa: SIM115
    try:
        return len(kept)
    finally:
        for file in kept:
            file.close()


@task
def starts_a_program() -> str:
    code = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
