"""Between sync and async: the only room that knows there are two colours (`execution` has its pair beside it).

The core is synchronous. An async caller's verb runs in a thread of `in_thread`; an async engine's verb runs on one
portal loop per process, which is made anew after a fork.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ParamSpec, TypeVar

from penstock.body import Cause, Interrupt
from penstock.core.base import AsyncBackend, Backend, WorkOrder
from penstock.core.capabilities import Capabilities
from penstock.job.models import Message

P = ParamSpec("P")
T = TypeVar("T")

_THREADS = 40  # measured: with 8, two thousand concurrent 1 ms calls reach half the rate


class _Portal:
    """A loop in a daemon thread of this process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self._serve, name="penstock-portal", daemon=True)
        self.thread.start()

    def _serve(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result()


_lock = threading.Lock()
_portal: _Portal | None = None
_pool: ThreadPoolExecutor | None = None


def _forget_after_fork() -> None:
    # A forked child has the objects but not their threads: a loop nobody runs would hang its first caller.
    global _lock, _portal, _pool
    _lock, _portal, _pool = threading.Lock(), None, None


os.register_at_fork(after_in_child=_forget_after_fork)


def portal() -> _Portal:
    """Return this process's portal loop, starting it on first use."""
    global _portal  # noqa: PLW0603 - see _forget_after_fork
    with _lock:
        if _portal is None:
            _portal = _Portal()
        return _portal


async def in_thread(fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a blocking verb without blocking the caller's loop."""
    global _pool  # noqa: PLW0603 - see _forget_after_fork
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(_THREADS, thread_name_prefix="penstock-async")
        pool = _pool
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: fn(*args, **kwargs))


def run_awaitable(awaitable: Awaitable[T], interrupt: Interrupt) -> T:
    """Run an async body to its end in this thread, on a loop of its own.

    Raises:
        asyncio.CancelledError: the interrupt was thrown, and the body let itself be cancelled.
    """

    async def body() -> T:
        task = asyncio.ensure_future(awaitable)
        loop = asyncio.get_running_loop()

        def stop(_cause: Cause) -> None:
            loop.call_soon_threadsafe(task.cancel)

        interrupt.on_set(stop)
        return await task

    return asyncio.run(body())


class Bridged(Backend):
    """An async backend behind the synchronous contract."""

    def __init__(self, backend: AsyncBackend) -> None:
        super().__init__(backend.context)
        self.backend = backend

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """Not asked: the gateway reads the capabilities of the backend itself."""
        raise NotImplementedError

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`."""
        portal().call(self.backend.publish(messages))

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        return portal().call(self.backend.withdraw(message_ids))

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        return portal().call(self.backend.depth(queue))

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`."""
        portal().call(self.backend.work(order))

    def stop(self) -> None:
        """See `Backend.stop`."""
        portal().call(self.backend.stop())

    def close(self) -> None:
        """See `Backend.close`."""
        portal().call(self.backend.close())


def synchronous(backend: Backend | AsyncBackend) -> Backend:
    """Return a backend of either colour behind the synchronous contract."""
    return Bridged(backend) if isinstance(backend, AsyncBackend) else backend
