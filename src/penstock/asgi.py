"""A worker and its scheduler within a web app: a lifespan for Starlette, FastAPI and whatever else takes one.

``app = FastAPI(lifespan=lifespan(queue))`` starts them with the app and stops them with the app. In each process of the
app there is one; the ledger sees to it that every job and every fire time is worked off once.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from penstock.bridge import in_thread
from penstock.client import JobQueue

Lifespan = Callable[[Any], AbstractAsyncContextManager[Mapping[str, Any] | None]]


def lifespan(
    queue: JobQueue | None = None,
    *,
    queues: Sequence[str] | None = None,
    concurrency: int | None = None,
    scheduler: bool = True,
    grace_s: float | None = None,
    inside: Lifespan | None = None,
) -> Lifespan:
    """Return a lifespan that works a queue's jobs off while the app runs.

    The app's handlers find the queue as ``request.state.queue``.

    Args:
        queue: whose jobs; it stays the caller's to close. Default: the one that the configuration around the current
            folder names, opened and closed with the app.
        queues: names, in order of preference; default: as configured.
        concurrency: bodies at once; default: as configured.
        scheduler: also make the jobs of schedules.
        grace_s: how long the app's end waits for running jobs, in seconds, before it hands them back; default:
            ``[worker] grace``.
        inside: a lifespan of your own; it begins once the worker works and ends before it stops. What it yields is the
            app's state too.

    Raises (at the app's start):
        BackendError: the engine could not be started.
        LedgerError: the ledger could not be opened.
    """

    @asynccontextmanager
    async def working(app: Any) -> AsyncGenerator[dict[str, Any]]:
        found = queue if queue is not None else JobQueue.from_config()
        worker = found.worker(queues=queues, concurrency=concurrency, scheduler=scheduler)
        async with AsyncExitStack() as stack:
            # In threads: bodies that run on the app's loop, and its other requests, go on meanwhile.
            if queue is None:
                stack.push_async_callback(found.aclose)
            stack.push_async_callback(in_thread, worker.stop, grace_s=grace_s)
            await in_thread(worker.start)
            more = await stack.enter_async_context(inside(app)) if inside is not None else None
            yield {"queue": found, **(more or {})}

    return working


__all__ = ["Lifespan", "lifespan"]
