"""The tasks that the suite runs. Each writes its starts and ends to the record; see `record`."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from penstock.run import Run
from penstock.sources.decorators import task
from penstock.testing.conformance.record import write

MODULE = __name__
_LONGEST_HOLD_S = 30.0


class Oddity(Exception):  # noqa: N818 - a user's class need not end in Error
    """An exception of the user's own."""


class SilentError(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        """Raise, as careless classes do."""
        raise RuntimeError("no text")


@task(name="conformance.note")
def note(file: str, run: Run, label: str = "") -> str:
    """Start and end."""
    write(file, "start", label, run.job_id, run.attempt)
    write(file, "end", label, run.job_id, run.attempt)
    return label


@task(name="conformance.anote")
async def anote(file: str, run: Run, label: str = "") -> str:
    """Start, give way to others, end."""
    write(file, "start", label, run.job_id, run.attempt)
    await asyncio.sleep(0.01)
    write(file, "end", label, run.job_id, run.attempt)
    return label


@task(name="conformance.hold")
def hold(file: str, gate: str, run: Run, label: str = "") -> str:
    """Start, wait for the gate to open, end."""
    write(file, "start", label, run.job_id, run.attempt)
    until = time.monotonic() + _LONGEST_HOLD_S
    while not Path(gate).exists() and time.monotonic() < until:
        time.sleep(0.01)
    write(file, "end", label, run.job_id, run.attempt)
    return label


@task(name="conformance.ahold")
async def ahold(file: str, gate: str, run: Run, label: str = "") -> str:
    """`hold`, asynchronously."""
    write(file, "start", label, run.job_id, run.attempt)
    until = time.monotonic() + _LONGEST_HOLD_S
    while not Path(gate).exists() and time.monotonic() < until:  # noqa: ASYNC240 - a stat, within a test
        await asyncio.sleep(0.01)
    write(file, "end", label, run.job_id, run.attempt)
    return label


@task(name="conformance.nap")
def nap(file: str, run: Run, seconds: float, label: str = "") -> None:
    """Start, block in one C call, end."""
    write(file, "start", label, run.job_id, run.attempt)
    time.sleep(seconds)
    write(file, "end", label, run.job_id, run.attempt)


@task(name="conformance.flaky")
def flaky(file: str, run: Run, failures: int, label: str = "") -> int:
    """Fail in the first ``failures`` attempts, then return the attempt's number."""
    write(file, "start", label, run.job_id, run.attempt)
    if run.attempt <= failures:
        raise Oddity(f"attempt {run.attempt} fails")
    write(file, "end", label, run.job_id, run.attempt)
    return run.attempt


@task(name="conformance.give")
def give(value: Any) -> Any:
    """Return what came in."""
    return value


@task(name="conformance.give_text")
def give_text(size: int) -> str:
    """Return a text of that size."""
    return "x" * size


@task(name="conformance.give_callable")
def give_callable() -> Any:
    """Return what cannot be kept."""
    return give_text


@task(name="conformance.fail")
def fail(file: str, run: Run, how: str) -> None:
    """Raise in one of several ways."""
    write(file, "start", how, run.job_id, run.attempt)
    if how == "own":
        raise Oddity("odd")
    if how == "silent":
        raise SilentError
    if how == "exit":
        raise SystemExit(3)
    if how == "keyboard":
        raise KeyboardInterrupt
    if how == "chained":
        try:
            _ = {}["missing"]  # type: ignore[var-annotated]
        except KeyError as error:
            raise Oddity("after a KeyError") from error


@task(name="conformance.afail")
async def afail(file: str, run: Run, how: str) -> None:
    """`fail`, asynchronously."""
    await asyncio.sleep(0)
    fail(file, run, how)


@task(name="conformance.die")
def die(file: str, run: Run, deaths: int, label: str = "") -> int:
    """Kill the process that runs this in the first ``deaths`` attempts."""
    write(file, "start", label, run.job_id, run.attempt)
    if run.attempt <= deaths:
        os.kill(os.getpid(), signal.SIGKILL)
    return run.attempt


@task(name="conformance.talk")
def talk(run: Run, text: str) -> None:
    """Print, log and report progress."""
    print(text)
    run.log(text)
    run.progress = 0.5
