"""Keeps the process of a body within its job's limits, and tells of them when it came to them.

The soft limits of a warm child are set before a body and put back after it: nothing is carried to the next job. They
are a belt and not a cell: a body that wants to can lift them. A program gets hard ones.
"""

from __future__ import annotations

import errno
import math
import signal
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from penstock.core.exceptions import InvalidJobError
from penstock.job.limits import Limits, format_size
from penstock.job.models import ErrorInfo

try:
    import resource
except ImportError:  # not a POSIX system
    resource = None

_STATM = Path("/proc/self/statm")
CPU_EXCEEDED = "CpuLimitExceeded"


class LimitNotPossibleError(InvalidJobError):
    """This machine cannot keep a limit, or the process is over it before the body begins: no further try can help."""


@contextmanager
def confined(limits: Limits | None) -> Generator[None]:
    """Hold this process within limits for a while.

    Raises:
        LimitNotPossibleError: see there; nothing is changed then.
    """
    if limits is None or resource is None:
        refuse(limits)
        yield
        return
    refuse(limits, taken_bytes=_taken_bytes())
    before: list[tuple[int, tuple[int, int]]] = []
    try:
        for kind, value in _wanted(limits, cpu_used_s=time.process_time()):
            soft, hard = resource.getrlimit(kind)
            _set(kind, _lower(value, hard), hard, limits)
            before.append((kind, (soft, hard)))
        yield
    finally:
        for kind, (soft, _) in before:
            hard = resource.getrlimit(kind)[1]  # a body may have lowered it
            resource.setrlimit(kind, (_lower(soft, hard), hard))


def confiner(limits: Limits | None) -> Callable[[], None] | None:
    """Return what a new process calls before its program begins, to be within limits for good.

    Raises:
        LimitNotPossibleError: see there.
    """
    refuse(limits)
    if limits is None or resource is None:
        return None
    wanted = list(_wanted(limits))
    set_, get = resource.setrlimit, resource.getrlimit

    def confine() -> None:
        for kind, value in wanted:
            lowered = _lower(value, get(kind)[1])
            set_(kind, (lowered, lowered))

    return confine


def refuse(limits: Limits | None, *, taken_bytes: int = 0) -> None:
    """Raise `LimitNotPossibleError` for what cannot be kept here."""
    if limits is None:
        return
    if resource is None:
        raise LimitNotPossibleError(f"this system has no limits for processes; the job asks for: {limits}")
    if limits.memory_bytes is None:
        return
    if sys.platform == "darwin":
        raise LimitNotPossibleError(f"macOS does not limit the memory of a process; the job asks for: {limits}")
    if limits.memory_bytes <= taken_bytes:
        raise LimitNotPossibleError(
            f"max_memory {format_size(limits.memory_bytes)} is less than the {format_size(taken_bytes)} that its "
            "process has reserved before the body begins; ask for more"
        )


def _wanted(limits: Limits, *, cpu_used_s: float = 0.0) -> Iterator[tuple[int, int]]:
    assert resource is not None  # noqa: S101 - for the type checker: asked by whoever calls
    if limits.memory_bytes is not None:
        yield resource.RLIMIT_AS, limits.memory_bytes
    if limits.cpu_s is not None:
        # The kernel counts from the start of the process, and a warm child has had jobs before.
        yield resource.RLIMIT_CPU, math.ceil(cpu_used_s + limits.cpu_s)
    if limits.open_files is not None:
        yield resource.RLIMIT_NOFILE, limits.open_files


def _set(kind: int, soft: int, hard: int, limits: Limits) -> None:
    assert resource is not None  # noqa: S101 - as above
    try:
        resource.setrlimit(kind, (soft, hard))
    except (OSError, ValueError) as error:
        raise LimitNotPossibleError(f"this machine refuses the limits of the job ({limits}): {error}") from None


def _lower(one: int, other: int) -> int:
    assert resource is not None  # noqa: S101 - as above
    infinite = resource.RLIM_INFINITY
    return other if one == infinite else one if other == infinite else min(one, other)


def _taken_bytes() -> int:
    if resource is None or not _STATM.exists():
        return 0
    return int(_STATM.read_text().split()[0]) * resource.getpagesize()


# -- what a user is told --------------------------------------------------------------------------------------------


def explained(info: ErrorInfo, error: BaseException, limits: Limits | None) -> ErrorInfo:
    """Name the limit in what is kept of an error that came of it."""
    if limits is None:
        return info
    name = _hit(error, limits)
    if name is None:
        return info
    return msgspec.structs.replace(info, message=f"{info.message or info.type} (the job's limit is {name})")


def _hit(error: BaseException | None, limits: Limits) -> str | None:
    seen = 0
    while error is not None and seen < 10:
        number = error.errno if isinstance(error, OSError) else None
        if limits.open_files is not None and number == errno.EMFILE:
            return str(Limits(open_files=limits.open_files))
        out = isinstance(error, MemoryError) or number == errno.ENOMEM or "can't start new thread" in str(error)
        if limits.memory_bytes is not None and out:
            return str(Limits(memory_bytes=limits.memory_bytes))
        error, seen = error.__cause__ or error.__context__, seen + 1
    return None


def death_told(limits: Limits | None, status: int) -> tuple[ErrorInfo | None, str]:
    """Say what limits have to do with the death of a process: the whole error, or what to add to it."""
    if limits is None:
        return None, ""
    if limits.cpu_s is not None and status == -signal.SIGXCPU:
        told = f"it used more CPU time than its limit, which is {Limits(cpu_s=limits.cpu_s)}"
        return ErrorInfo(CPU_EXCEEDED, told, bases=("Exception", "BaseException")), ""
    return None, f" (its limits: {limits})"
