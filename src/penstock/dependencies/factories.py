"""`Depends` and `Shared`: a function, or a context manager, sync or async, that makes what a parameter gets."""

from __future__ import annotations

import functools
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    asynccontextmanager,
    contextmanager,
)
from typing import Any, TypeVar, cast, overload

import uncalled_for

from penstock.dependencies.loops import in_body_thread

R = TypeVar("R")

_opened: dict[Callable[..., Any], Callable[..., Any]] = {}


@overload
def Depends(factory: Callable[..., AbstractAsyncContextManager[R]], **bindings: Any) -> R: ...
@overload
def Depends(factory: Callable[..., AbstractContextManager[R]], **bindings: Any) -> R: ...
@overload
def Depends(factory: Callable[..., AsyncIterator[R]], **bindings: Any) -> R: ...
@overload
def Depends(factory: Callable[..., Iterator[R]], **bindings: Any) -> R: ...
@overload
def Depends(factory: Callable[..., Awaitable[R]], **bindings: Any) -> R: ...
@overload
def Depends(factory: Callable[..., R], **bindings: Any) -> R: ...
def Depends(factory: Callable[..., Any], **bindings: Any) -> Any:  # noqa: N802 - reads as a class
    """What ``factory`` makes for this attempt: a function or context manager (or generator), sync or async.

    It is called once for each attempt, however many ask for it, and may have dependencies itself; a context manager is
    left when the body has ended, in reverse order. What is sync runs in the thread of a sync body, and in a thread
    beside the loop for an async one. ``bindings`` are arguments of the factory.
    """
    return uncalled_for.Depends(_adapted(factory), **bindings)


@overload
def Shared(factory: Callable[..., AbstractAsyncContextManager[R]]) -> R: ...
@overload
def Shared(factory: Callable[..., AbstractContextManager[R]]) -> R: ...
@overload
def Shared(factory: Callable[..., AsyncIterator[R]]) -> R: ...
@overload
def Shared(factory: Callable[..., Iterator[R]]) -> R: ...
@overload
def Shared(factory: Callable[..., Awaitable[R]]) -> R: ...
@overload
def Shared(factory: Callable[..., R]) -> R: ...
def Shared(factory: Callable[..., Any]) -> Any:  # noqa: N802
    """What ``factory`` makes once for each process that runs bodies, when it is first asked for.

    A context manager is left when the worker stops (for bodies in child processes: when the child does). It must not
    ask for what belongs to one job.
    """
    return uncalled_for.Shared(_adapted(factory))


def _adapted(factory: Callable[..., Any]) -> Callable[..., Any]:
    """Return the factory as one that blocks no loop; the same for the same one, which is how it is known again."""
    inner = inspect.unwrap(factory)
    if inspect.isasyncgenfunction(factory):
        return _once(factory, asynccontextmanager(factory)) if inner is factory else factory
    if inspect.iscoroutinefunction(factory) or inspect.isasyncgenfunction(inner):
        return factory
    if inspect.isgeneratorfunction(factory) and inner is factory:
        return _once(factory, contextmanager(factory))
    return _once(factory, factory)


def _once(factory: Callable[..., Any], made: Callable[..., Any]) -> Callable[..., Any]:
    adapted = _opened.get(factory)
    if adapted is None:
        adapted = _opened[factory] = made if inspect.isasyncgenfunction(factory) else _beside_the_loop(factory, made)
    return adapted


def _beside_the_loop(factory: Callable[..., Any], made: Callable[..., Any]) -> Callable[..., Any]:
    @asynccontextmanager
    async def opened(**arguments: Any) -> AsyncGenerator[Any]:
        value = await in_body_thread(made, **arguments)
        if inspect.isawaitable(value):
            value = await value
        if isinstance(value, AbstractAsyncContextManager):
            async with cast("AbstractAsyncContextManager[Any]", value) as entered:
                yield entered
        elif isinstance(value, AbstractContextManager):
            manager = cast("AbstractContextManager[Any]", value)
            entered = await in_body_thread(manager.__enter__)
            try:
                yield entered
            except BaseException as error:
                if not await in_body_thread(manager.__exit__, type(error), error, error.__traceback__):
                    raise
            else:
                await in_body_thread(manager.__exit__, None, None, None)
        else:
            yield value

    functools.update_wrapper(opened, factory)
    try:
        signature = inspect.signature(factory)
    except ValueError:  # dict and its like, which do not tell
        signature = inspect.Signature()
    opened.__signature__ = signature  # type: ignore[attr-defined]
    return opened
