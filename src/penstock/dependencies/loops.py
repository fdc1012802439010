"""Where dependencies live: one loop for each process, and the threads in which what is sync is called.

What one job opens on a loop another may share, so all that is async here (and each async body that has dependencies)
runs on one loop: that of the engine's worker where it has one, else one in a thread of its own.
"""

from __future__ import annotations

import asyncio
import queue
import threading
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AsyncExitStack
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Protocol, TypeVar

from uncalled_for import SharedContext

from penstock.run import JobInterrupted

T = TypeVar("T")

_LOOK_S = 0.1
_CLOSE_S = 10.0


class _Caller(Protocol):
    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any: ...


_caller: ContextVar[_Caller | None] = ContextVar("penstock_dependencies_caller", default=None)


class LeavingError(Exception):
    """Carries a SystemExit or its like through a loop, which would end by it."""

    def __init__(self, error: BaseException) -> None:
        super().__init__(repr(error))
        self.error = error


async def in_body_thread(fn: Callable[..., T], *args: Any, **kwargs: Any) -> T:
    """Call what is sync where a body's sync parts are called; what it sets in its context is set here then."""
    caller = _caller.get()
    if caller is None:  # a shared thing that is closed when no body runs
        return await asyncio.to_thread(fn, *args, **kwargs)
    return await caller.call(fn, *args, **kwargs)


class Loops:
    """The loop of this process, and what is shared on it."""

    def __init__(self, loop: asyncio.AbstractEventLoop | None = None) -> None:
        """Live on this loop until `leave`, or on one of our own until `close`."""
        self._lock = threading.Lock()
        self._loop = loop
        self._own: threading.Thread | None = None
        self._values: tuple[dict[Any, Any], asyncio.Lock, AsyncExitStack] | None = None

    async def leave(self) -> None:
        """Close what is shared on the running loop, which is about to end."""
        with self._lock:
            self._loop = None
        await self._close_shared()

    def close(self) -> None:
        """Close what is shared, and end the loop if it is our own. What is asked for later is made anew."""
        with self._lock:
            loop, thread = self._loop, self._own
            if thread is None or loop is None:
                return
            self._loop = self._own = None
        future = asyncio.run_coroutine_threadsafe(self._close_shared(), loop)
        try:
            future.result(_CLOSE_S)
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join(_CLOSE_S)

    def run(self, scope: Callable[[_Caller], Coroutine[Any, Any, T]]) -> T:
        """Run ``scope`` on the loop; this thread calls what is sync in it meanwhile. Returns or raises what it does."""
        return _Pump(self._running()).run(lambda caller: self._with_shared(scope, caller))

    async def arun(self, scope: Callable[[_Caller], Coroutine[Any, Any, T]]) -> T:
        """`run` for an async body: what is sync in it is called in a thread beside the loop, one for each body."""
        beside = _Beside()
        try:
            return await _on(self._running(), lambda: self._with_shared(scope, beside))
        except LeavingError as left:
            raise left.error from None
        finally:
            beside.close()

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                loop = self._loop = asyncio.new_event_loop()
                self._own = threading.Thread(target=_serve, args=(loop,), name="penstock-dependencies", daemon=True)
                self._own.start()
            return self._loop

    async def _with_shared(self, scope: Callable[[_Caller], Coroutine[Any, Any, T]], caller: _Caller) -> T:
        # In the context of this task alone, as the library wants them.
        _caller.set(caller)
        if self._values is None:
            self._values = ({}, asyncio.Lock(), AsyncExitStack())
        resolved, lock, stack = self._values
        SharedContext.resolved.set(resolved)
        SharedContext.lock.set(lock)
        SharedContext.stack.set(stack)
        try:
            return await scope(caller)
        except (SystemExit, KeyboardInterrupt) as error:
            raise LeavingError(error) from None

    async def _close_shared(self) -> None:
        values, self._values = self._values, None
        if values is not None:
            await values[2].aclose()


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()


async def _on(loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Await a coroutine on a loop. A cancel goes through to it, and returns when it has ended."""
    if loop is asyncio.get_running_loop():
        return await make()
    begun = _Begun(loop, make)
    waiting = asyncio.wrap_future(begun.ended)
    while True:
        try:
            return await asyncio.shield(waiting)
        except asyncio.CancelledError:
            if waiting.done():
                raise
            begun.cancel()


class _Begun:
    """A coroutine as a task on another thread's loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self.ended: Future[Any] = Future()
        self._loop = loop
        self._task: asyncio.Task[Any] | None = None
        self._cancelled = False
        # The context of the caller goes with it: the run, what its thread has set.
        loop.call_soon_threadsafe(self._begin, make)

    def cancel(self) -> None:
        self._loop.call_soon_threadsafe(self._cancel)

    def _begin(self, make: Callable[[], Coroutine[Any, Any, Any]]) -> None:
        self._task = self._loop.create_task(make())
        self._task.add_done_callback(self._tell)
        if self._cancelled:
            self._task.cancel()

    def _cancel(self) -> None:
        self._cancelled = True
        if self._task is not None:
            self._task.cancel()

    def _tell(self, task: asyncio.Task[Any]) -> None:
        if task.cancelled():
            self.ended.set_exception(asyncio.CancelledError())
        elif (error := task.exception()) is not None:
            self.ended.set_exception(error)
        else:
            self.ended.set_result(task.result())


class _Asked:
    """One call that a scope waits for."""

    __slots__ = ("answer", "call", "context")

    def __init__(self, call: Callable[[], Any], answer: asyncio.Future[Any]) -> None:
        self.call = call
        self.answer = answer
        self.context = copy_context()


class _Pump:
    """The thread of a sync body: it calls what the scope on the loop asks it to, the body among it."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._context = copy_context()
        """One for all calls: what one has set there another may reset."""
        self._asked: queue.SimpleQueue[_Asked | None] = queue.SimpleQueue()

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Have it called by the thread."""
        asked = _Asked(partial(fn, *args, **kwargs), self._loop.create_future())
        self._asked.put(asked)
        try:
            return await asked.answer
        finally:
            _adopt(self._context)

    def run(self, make: Callable[[_Caller], Coroutine[Any, Any, T]]) -> T:
        """See `Loops.run`."""
        begun = _Begun(self._loop, lambda: make(self))
        begun.ended.add_done_callback(lambda _ended: self._asked.put(None))
        late: JobInterrupted | None = None
        while True:
            try:
                # Not in one go: an interrupt reaches a thread only between two of its bytecodes.
                asked = self._next()
                if asked is None:
                    break
                self._answer(asked)
            except JobInterrupted as error:  # between two calls: there is no body to raise it in
                late = error
                begun.cancel()
        try:
            value = begun.ended.result()
        except LeavingError as left:
            raise left.error from None
        except asyncio.CancelledError:
            if late is None:
                raise
        else:
            if late is None:
                return value
        raise late

    def _next(self) -> _Asked | None:
        while True:
            try:
                return self._asked.get(timeout=_LOOK_S)
            except queue.Empty:
                continue

    def _answer(self, asked: _Asked) -> None:
        try:
            value = _call_in(self._context, asked.context, asked.call)
        except BaseException as error:  # noqa: BLE001 - a body may raise anything; it goes through the scope
            self._loop.call_soon_threadsafe(_fail, asked.answer, error)
        else:
            self._loop.call_soon_threadsafe(_settle, asked.answer, value)


class _Beside:
    """One thread beside the loop, made when it is needed: what enters a context manager there leaves it there."""

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._context = copy_context()
        """As in `_Pump`."""

    async def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call it there."""
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="penstock-dependency")
        called = partial(_call_in, self._context, copy_context(), partial(_carried, fn, *args, **kwargs))
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._pool, called)
        finally:
            _adopt(self._context)

    def close(self) -> None:
        """Let the thread end after what it does now."""
        if self._pool is not None:
            self._pool.shutdown(wait=False)


def _carried(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    try:
        return fn(*args, **kwargs)
    except (SystemExit, KeyboardInterrupt) as error:
        raise LeavingError(error) from None
    except StopIteration as error:
        raise RuntimeError("a dependency or a body raised StopIteration") from error


def _fail(answer: asyncio.Future[Any], error: BaseException) -> None:
    if answer.done():
        return
    if isinstance(error, SystemExit | KeyboardInterrupt):
        error = LeavingError(error)
    elif isinstance(error, StopIteration):  # a future refuses it
        told = RuntimeError("a dependency or a body raised StopIteration")
        told.__cause__ = error
        error = told
    answer.set_exception(error)


def _settle(answer: asyncio.Future[Any], value: Any) -> None:
    if not answer.done():
        answer.set_result(value)


def _call_in(context: Context, asking: Context, fn: Callable[[], T]) -> T:
    """Call in ``context``, with what is set where it is asked for. Not on the loop: an earlier call may still run."""
    for variable, value in asking.items():
        if variable not in context or context[variable] is not value:
            context.run(variable.set, value)
    return context.run(fn)


def _adopt(context: Context) -> None:
    """Set here what was set there."""
    for variable, value in context.items():
        try:
            if variable.get() is value:
                continue
        except LookupError:
            pass  # it was not set here at all
        variable.set(value)


def awaitable_body(fn: Callable[..., Any], caller: _Caller, *, is_async: bool) -> Callable[..., Awaitable[Any]]:
    """Return the body as something to await, of whichever colour it is."""
    return fn if is_async else partial(caller.call, fn)
