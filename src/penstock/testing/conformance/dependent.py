"""The tasks of the suite whose parameters depend on something."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

from penstock.dependencies import CurrentJob, CurrentQueue, Depends, Shared, TaskArgument, TaskLogger
from penstock.sources.decorators import task

MODULE = __name__


@asynccontextmanager
async def opened() -> AsyncGenerator[str]:
    """Something that is opened and closed on a loop."""
    await asyncio.sleep(0)
    yield "opened"


@contextmanager
def entered(label: str = TaskArgument()) -> Generator[str]:
    """Something that is entered and left in a thread."""
    yield f"entered for {label}"


@asynccontextmanager
async def pool() -> AsyncGenerator[asyncio.AbstractEventLoop]:
    """What belongs to the loop that it was made on."""
    yield asyncio.get_running_loop()


@contextmanager
def surrounding(label: str = TaskArgument(), one: str = Depends(opened), log: Any = TaskLogger()) -> Generator[None]:
    """What a worker puts around a body."""
    log.info("before %s", label)
    yield
    log.info("after %s", one)


around = Depends(surrounding)


@task(name="conformance.depends")
def depends(
    label: str,
    one: str = Depends(opened),
    other: str = Depends(entered),
    shared: Any = Shared(pool),
    queue: Any = CurrentQueue(),
    job: Any = CurrentJob(),
) -> list[Any]:
    """Tell what there was, and whether the queue knows the job."""
    return [label, one, other, shared.is_running(), queue.job(job.id).name]


@task(name="conformance.adepends")
async def adepends(
    label: str,
    one: str = Depends(opened),
    other: str = Depends(entered),
    shared: Any = Shared(pool),
    queue: Any = CurrentQueue(),
    job: Any = CurrentJob(),
) -> list[Any]:
    """The same, and whether it runs where it was opened what it shares."""
    known = await asyncio.to_thread(lambda: queue.job(job.id).name)
    return [label, one, other, shared is asyncio.get_running_loop(), known]
