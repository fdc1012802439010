"""The bodies of the bars: each tells a file what happens to it, in lines that are whole however many write at once.

A line is ``event job-id attempt pid instant``, the instant on the machine's monotonic clock, which all processes share.
Events: ``start``, ``end`` (the body returned), ``stopped`` (it was stopped from outside, and saw it), ``beat`` (alive).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator

from penstock import Run, task

_SLICE_S = 0.02
"""An interrupt reaches Python code between two sleeps."""


def tell(file: str, event: str, job_id: str, attempt: int) -> None:
    line = f"{event} {job_id} {attempt} {os.getpid()} {time.monotonic()}\n".encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


def _token(run: Run) -> str:
    """What a body returns: whoever asks for the result can tell which body it is of."""
    return f"{run.attempt} {os.getpid()}"


@contextlib.contextmanager
def _told(file: str, run: Run) -> Iterator[None]:
    """Tell of a body's start, and of how it ended."""
    try:
        tell(file, "start", run.job_id, run.attempt)  # who reads it may stop the body before it gets any further
        yield
    except BaseException:
        tell(file, "stopped", run.job_id, run.attempt)
        raise
    tell(file, "end", run.job_id, run.attempt)


@task(name="chaos.work", max_crashes=1000)
def work(file: str, run: Run, seconds: float) -> str:
    """Start, take some time, end."""
    with _told(file, run):
        until = time.monotonic() + seconds
        while (left_s := until - time.monotonic()) > 0:
            time.sleep(min(_SLICE_S, left_s))
    return _token(run)


@task(name="chaos.awork", max_crashes=1000)
async def awork(file: str, run: Run, seconds: float) -> str:
    """`work`, on the engine's loop where there is one."""
    with _told(file, run):
        await asyncio.sleep(seconds)
    return _token(run)


@task(name="chaos.flaky", max_crashes=1000, max_attempts=1000, backoff="0.05s..0.05s")
def flaky(file: str, run: Run, seconds: float) -> str:
    """`work` that fails every odd time."""
    token = work.fn(file, run, seconds)
    if run.attempt % 2:
        raise RuntimeError("an odd attempt")
    return token


@task(name="chaos.beat", max_crashes=1000)
def beat(file: str, run: Run, seconds: float) -> str:
    """`work`, with a sign of life in each slice: the file shows to some hundredths when it fell silent."""
    with _told(file, run):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            time.sleep(_SLICE_S)
            tell(file, "beat", run.job_id, run.attempt)
    return _token(run)


@task(name="chaos.stubborn", max_crashes=1000)
def stubborn(file: str, run: Run, seconds: float) -> str:
    """`beat`, but deaf to every request to stop: only the end of its process ends it."""
    tell(file, "start", run.job_id, run.attempt)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            time.sleep(_SLICE_S)
            tell(file, "beat", run.job_id, run.attempt)
        except BaseException:  # it is deaf
            continue
    tell(file, "end", run.job_id, run.attempt)
    return _token(run)


@task(name="chaos.day", max_crashes=1000)
def day(file: str, run: Run, day: int) -> str:
    """A short body with an argument that a strike can name."""
    with _told(file, run):
        time.sleep(_SLICE_S)
    return _token(run)


@task(name="chaos.toxic", max_crashes=2, max_attempts=2, backoff="0.05s..0.05s", isolation="process")
def toxic(kind: str) -> None:
    """A body that ends its process, raises, or takes its time."""
    if kind == "exit":
        os._exit(42)
    if kind == "raise":
        raise RuntimeError("toxic")
    time.sleep(0.5)
