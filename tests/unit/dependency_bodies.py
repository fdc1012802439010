"""Tasks with dependencies that run in the worker and in child processes; each tells what it got and where it was."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Annotated, Any

from penstock import (
    AdmissionBlocked,
    CurrentJob,
    CurrentQueue,
    CurrentRun,
    Depends,
    Perpetual,
    Retry,
    Run,
    Shared,
    TaskArgument,
    Timeout,
    task,
)


def note(file: str, text: str) -> None:
    with Path(file).open("a") as notes:
        notes.write(f"{text}\n")


@asynccontextmanager
async def async_resource(file: str = TaskArgument()):
    await asyncio.sleep(0)
    note(file, "async opened")
    yield asyncio.get_running_loop()
    note(file, "async closed")


@contextmanager
def sync_resource(file: str = TaskArgument()):
    thread = threading.get_ident()
    note(file, "sync opened")
    yield thread
    assert threading.get_ident() == thread
    note(file, "sync closed")


@asynccontextmanager
async def pool():
    yield [os.getpid(), id(asyncio.get_running_loop())]


@task
def sync_body(
    file: str,
    run: Run,
    found: Any = Depends(async_resource),
    thread: int = Depends(sync_resource),
    shared: list[int] = Shared(pool),
) -> dict[str, Any]:
    note(file, "body")
    return {"same thread": threading.get_ident() == thread, "pid": os.getpid(), "run": run.attempt, "shared": shared}


@task
async def async_body(
    file: str,
    found: Annotated[asyncio.AbstractEventLoop, Depends(async_resource)],
    run: Run = CurrentRun(),
    thread: int = Depends(sync_resource),
    shared: list[int] = Shared(pool),
) -> dict[str, Any]:
    note(file, "body")
    same = asyncio.get_running_loop() is found and threading.get_ident() != thread
    return {"same thread": same, "pid": os.getpid(), "run": run.attempt, "shared": shared}


@task
def enqueues_another(queue: Any = CurrentQueue(), job: Any = CurrentJob()) -> list[str]:
    return [queue.enqueue("plain_one", tags=[job.id]).id, job.id]


@task
def plain_one() -> None:
    """Nothing."""


@task
def takes_longer(allowed: str = "", timeout: Timeout = Timeout("1s")) -> float:
    timeout.extend("20s")
    left_s = timeout.remaining().total_seconds()
    time.sleep(1.2)
    return left_s


@task
async def takes_longer_async(timeout: Timeout = Timeout("300ms")) -> None:
    timeout.extend("20s")
    await asyncio.sleep(0.5)


@task
async def takes_too_long(timeout: Timeout = Timeout("200ms")) -> None:
    await asyncio.sleep(30)


@task
def says_when(n: int = 4, perpetual: Perpetual = Perpetual("1h")) -> None:
    perpetual.perpetuate(n + 1)
    perpetual.after("2h")


def refuses() -> None:
    raise AdmissionBlocked("not from here", reschedule=False)


@task
def is_refused(_: None = Depends(refuses)) -> None: ...


@task
def comes_back(retry: Retry = Retry(2, "1h")) -> int:
    if retry.attempt == 1:
        retry.after("10ms")
    return retry.attempt
