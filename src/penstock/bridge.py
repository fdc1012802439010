"""Between sync and async: the only room that knows there are two colours (`execution` has its pair beside it).

The core is synchronous. An async caller's verb runs in a thread of `in_thread`; an async engine's verb runs on one
portal loop per process, which is made anew after a fork; its worker has a loop of its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextvars import copy_context
from functools import partial
from typing import Any, Generic, NoReturn, ParamSpec, TypeVar
from weakref import WeakKeyDictionary

from penstock.body import Cause, Interrupt
from penstock.core.base import AsyncBackend, Backend, Finding, WorkOrder
from penstock.core.capabilities import Capabilities
from penstock.job.models import Message

P = ParamSpec("P")
T = TypeVar("T")
Loop = asyncio.AbstractEventLoop

logger = logging.getLogger("penstock.bridge")

_THREADS = 40  # measured: with 8, two thousand concurrent 1 ms calls reach half the rate
_BODIES_MAX = 10_000  # no limit: that of a worker is its concurrency, and a thread is made only where none is idle

_TURN_S = 0.5
_LOOK_S = 0.1


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
_bodies: ThreadPoolExecutor | None = None


def _forget_after_fork() -> None:
    # A forked child has the objects but not their threads: a loop nobody runs would hang its first caller.
    global _lock, _portal, _pool, _bodies
    _lock, _portal, _pool, _bodies = threading.Lock(), None, None, None


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


async def in_body_thread(fn: Callable[[], T]) -> T:
    """`in_thread` for a body: it may take hours, and nobody else's blocking verb is to wait for that."""
    global _bodies  # noqa: PLW0603 - see _forget_after_fork
    with _lock:
        if _bodies is None:
            _bodies = ThreadPoolExecutor(_BODIES_MAX, thread_name_prefix="penstock-body")
        pool = _bodies
    return await asyncio.get_running_loop().run_in_executor(pool, fn)


class Stream(Generic[T]):
    """What comes bit by bit, for ``for`` and for ``async for``: one iterator of both colours.

    ``look`` may block; it returns what has come, and after how many seconds to look again (None: that was all). No
    thread is held between two looks. What it raises ends no stream: who goes on goes on where it was.
    """

    def __init__(self, look: Callable[[], tuple[Sequence[T], float | None]]) -> None:
        self._look = look
        self._ready: deque[T] = deque()
        self._pause_s: float | None = 0.0

    def __iter__(self) -> Stream[T]:
        return self

    def __next__(self) -> T:
        while not self._ready:
            if self._pause_s is None:
                raise StopIteration
            if self._pause_s:
                time.sleep(self._pause_s)
            self._take(self._look())
        return self._ready.popleft()

    def __aiter__(self) -> Stream[T]:
        return self

    async def __anext__(self) -> T:
        while not self._ready:
            if self._pause_s is None:
                raise StopAsyncIteration
            if self._pause_s:
                await asyncio.sleep(self._pause_s)
            self._take(await in_thread(self._look))
        return self._ready.popleft()

    def _take(self, found: tuple[Sequence[T], float | None]) -> None:
        more, self._pause_s = found
        self._ready.extend(more)


class _Inbox:
    """What other threads have for the futures of one loop: however many answers come together, it is woken once."""

    def __init__(self) -> None:
        self._answers: deque[tuple[asyncio.Future[Any], Any, Exception | None]] = deque()
        self._rung = False

    def put(self, future: asyncio.Future[T], value: T, error: Exception | None) -> None:
        self._answers.append((future, value, error))
        if not self._rung:
            self._rung = True
            # A loop that is closed has nobody left who waits.
            with contextlib.suppress(RuntimeError):
                future.get_loop().call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        # Before the look: what is appended from now on rings again.
        self._rung = False
        while self._answers:
            future, value, error = self._answers.popleft()
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)


_inboxes: WeakKeyDictionary[asyncio.AbstractEventLoop, _Inbox] = WeakKeyDictionary()


async def answer(ask: Callable[[Callable[[T, Exception | None], None]], None]) -> T:
    """Call ``ask(done)``, and wait until any thread calls ``done(value, error)``. Raises that error."""
    loop = asyncio.get_running_loop()
    inbox = _inboxes.get(loop)
    if inbox is None:
        inbox = _inboxes[loop] = _Inbox()
    future: asyncio.Future[T] = loop.create_future()
    ask(partial(inbox.put, future))
    return await future


def run_awaitable(awaitable: Awaitable[T], interrupt: Interrupt) -> T:
    """Run an async body to its end, on a loop of its own: in this thread, or beside it where one runs here already.

    That one stands still until the body has ended: who calls a blocking verb within a loop asked for it.

    Raises:
        asyncio.CancelledError: the interrupt was thrown, and the body let itself be cancelled.
    """

    async def body() -> T:
        task = asyncio.ensure_future(awaitable)
        loop = asyncio.get_running_loop()

        def stop(_cause: Cause) -> None:
            # The thread that interrupts is the heart's: a body that has just ended must not stop it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(task.cancel)

        interrupt.on_set(stop)
        return await task

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return asyncio.run(body())
    with ThreadPoolExecutor(1, thread_name_prefix="penstock-body") as beside:
        return beside.submit(copy_context().run, asyncio.run, body()).result()


class LoopEndedError(Exception):
    """The loop that a body ran on ended under it: one of the tasks that bodies had made there had left it."""


async def run_here(make: Callable[[], Awaitable[T]], interrupt: Interrupt) -> T:
    """Run an async body to its end on the loop of the caller, which goes on whatever the body raises.

    Raises:
        asyncio.CancelledError: the interrupt was thrown, and the body let itself be cancelled.
        LoopEndedError: a task that some body made ended by SystemExit or KeyboardInterrupt, and so the loop (asyncio).
    """
    loop = asyncio.get_running_loop()
    task = asyncio.ensure_future(contained(make))

    def stop(_cause: Cause) -> None:
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(task.cancel)

    interrupt.on_set(stop)
    while not task.done():
        # Nobody cancels this, nor the body behind our back, but a loop that is about to end.
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.wait([task])
    if task.cancelled() and task.cancelling() and interrupt.cause is None:
        raise LoopEndedError("the worker's event loop was ended under it, by SystemExit or KeyboardInterrupt in a task")
    return task.result()()


async def contained(make: Callable[[], Awaitable[T]]) -> Callable[[], T]:
    """Await what ``make()`` returns, and return what gives its value, or raises what it raised.

    A task that ends by SystemExit or KeyboardInterrupt ends its loop too (asyncio), and everything else on it.
    """
    try:
        value = await make()
    except (SystemExit, KeyboardInterrupt) as error:
        return partial(_raise, error)
    return lambda: value


def _raise(error: BaseException) -> NoReturn:
    raise error


def running_loop() -> Loop:
    """Return the loop that the caller runs on, for `on_loop`. Raises RuntimeError where there is none."""
    return asyncio.get_running_loop()


async def on_loop(loop: Loop, make: Callable[[], Awaitable[T]]) -> T:
    """Await what ``make()`` returns on another thread's loop; a cancel goes through to it.

    Raises:
        RuntimeError: that loop is closed.
    """
    ended = await asyncio.wrap_future(_begin(loop, contained(make)))
    return ended()


def wait_on_loop(loop: Loop, make: Callable[[], Awaitable[T]]) -> T:
    """`on_loop` for a thread: wait for what ``make()`` returns; what is raised into this thread cancels it."""
    future = _begin(loop, contained(make))
    try:
        # Not in one go: an interrupt reaches a thread only between two of its bytecodes.
        while not wait([future], timeout=_LOOK_S).done:
            pass
    except BaseException:
        future.cancel()
        raise
    return future.result()()


def _begin(loop: Loop, coroutine: Coroutine[Any, Any, T]) -> Future[T]:
    try:
        return asyncio.run_coroutine_threadsafe(coroutine, loop)
    except RuntimeError:  # the loop is closed
        coroutine.close()
        raise


class Bridged(Backend):
    """An async backend behind the synchronous contract.

    Its verbs are awaited on the portal loop. `work` has a loop of its own, in the thread that calls it, and there
    another object of the backend: a body may block its loop, or call a synchronous verb on it, and publishing goes on.
    """

    def __init__(self, backend: AsyncBackend) -> None:
        super().__init__(backend.context)
        self._make = lambda: type(backend)(backend.context)
        self._backend = backend
        self._pid = os.getpid()
        self._working: set[tuple[asyncio.AbstractEventLoop, AsyncBackend]] = set()
        self._hearing: set[AsyncBackend] = set()

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """Not asked: the gateway reads the capabilities of the backend itself."""
        raise NotImplementedError

    @property
    def backend(self) -> AsyncBackend:
        """The object that lives on this process's portal loop."""
        if self._pid != os.getpid():
            # The connections of the one that came through the fork belong to the parent.
            self._backend, self._pid = self._make(), os.getpid()
        return self._backend

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`."""
        portal().call(self.backend.publish(messages))

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        return portal().call(self.backend.withdraw(message_ids))

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        return portal().call(self.backend.depth(queue))

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        return portal().call(self.backend.inspect(queues))

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`."""
        asyncio.run(self._work(order))

    async def _work(self, order: WorkOrder) -> None:
        backend = self._make()
        working = (asyncio.get_running_loop(), backend)
        self._working.add(working)
        turning = asyncio.create_task(_turn(order))
        try:
            async with order.around():
                await backend.work(order)
        finally:
            turning.cancel()
            self._working.discard(working)
            self._hearing.discard(backend)
            await backend.close()

    def stop(self) -> None:
        """See `Backend.stop`. Returns at once: a body may be blocking the loop that has to hear of it."""
        for loop, backend in tuple(self._working):
            if backend in self._hearing:  # a burst that is over says so at each look
                continue
            self._hearing.add(backend)
            telling = self._tell(backend)
            try:
                asyncio.run_coroutine_threadsafe(telling, loop)
            except RuntimeError:  # the loop is closed, so it has stopped
                telling.close()

    async def _tell(self, backend: AsyncBackend) -> None:
        try:
            await backend.stop()
        except Exception:
            logger.exception("the engine's worker could not be stopped")
            self._hearing.discard(backend)

    def close(self) -> None:
        """See `Backend.close`."""
        if self._pid == os.getpid():
            portal().call(self.backend.close())


async def _turn(order: WorkOrder) -> None:
    while True:
        order.on_turn()
        await asyncio.sleep(_TURN_S)


def synchronous(backend: Backend | AsyncBackend) -> Backend:
    """Return a backend of either colour behind the synchronous contract."""
    return Bridged(backend) if isinstance(backend, AsyncBackend) else backend
