"""Calls a task's function with its dependencies: entered before the body, left after it, whatever becomes of it."""

from __future__ import annotations

import inspect
import time
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from uncalled_for import FailedDependency, resolved_dependencies

from penstock.dependencies.around import plain_name
from penstock.dependencies.base import CompletionHandler, FailureHandler, Immediate, Runtime, TaskOutcome
from penstock.dependencies.declared import declared_by
from penstock.dependencies.loops import LeavingError, awaitable_body, in_body_thread
from penstock.job import lifecycle
from penstock.job.lifecycle import Event
from penstock.runners.errors import ended_by

if TYPE_CHECKING:
    from penstock.dependencies.declared import Declared
    from penstock.run import Run

T = TypeVar("T")


def call(
    fn: Callable[..., Any],
    given: dict[str, Any],
    run: Run,
    *,
    is_async: bool,
    declares: Callable[..., Any] | None = None,
) -> Any:
    """Call ``fn`` with the arguments ``given`` by name and what it depends on, within what the worker puts around it.

    ``declares`` is what has the dependencies, where that is not ``fn``. Returns the value, of an async function an
    awaitable of it. Raises what the body raises, and what a dependency does; the latter says which parameter it was
    for, and `ConfigError` where worker and function declare what there may be one of.
    """
    around = run.around
    wanted = declares or fn
    if around:
        wanted = around.joined(wanted)
    declared = declared_by(wanted)
    if declared.immediate:
        found = {name: needed.enter(run) for name, needed in declared.supplied.items() if isinstance(needed, Immediate)}
        bound = _bound(fn, {**given, **found})
        return fn(*bound.args, **bound.kwargs)

    async def scope(caller: Any) -> Any:
        for needed in around.admissions if around else ():
            await in_body_thread(needed.admit, run.job, None)
        async with resolved_dependencies(wanted, {**_beyond(fn, given, declared), **given}) as resolved:
            for value in resolved.values():
                if isinstance(value, FailedDependency):
                    value.error.add_note(f"raised by {plain_name(value.parameter)}")
                    raise value.error
            bound = _bound(fn, {**given, **resolved})
            body = awaitable_body(fn, caller, is_async=is_async)
            return await _handled(lambda: body(*bound.args, **bound.kwargs), declared, resolved, run)

    return run.home.loops.arun(scope) if is_async else run.home.loops.run(scope)


def _beyond(fn: Callable[..., Any], given: dict[str, Any], declared: Declared) -> dict[str, Any]:
    """Return what was passed beyond the parameters, to ``**more``, by name: nothing that takes a dependency's place."""
    beyond = (given.get(p.name, {}) for p in inspect.signature(fn).parameters.values() if p.kind is p.VAR_KEYWORD)
    return {name: value for more in beyond for name, value in more.items() if name not in declared.supplied}


def _bound(fn: Callable[..., Any], arguments: dict[str, Any]) -> inspect.BoundArguments:
    signature = inspect.signature(fn)
    ordered = {name: arguments[name] for name in signature.parameters if name in arguments}
    return inspect.BoundArguments(signature, ordered)  # type: ignore[arg-type]


async def _handled(body: Callable[[], Awaitable[Any]], declared: Declared, resolved: dict[str, Any], run: Run) -> Any:
    runtimes = _all(declared, resolved, Runtime)
    failures = _all(declared, resolved, FailureHandler)
    completions = _all(declared, resolved, CompletionHandler)
    if not (runtimes or failures or completions):
        return await body()
    began = time.monotonic()

    def outcome(result: Any = None, error: BaseException | None = None) -> TaskOutcome:
        took = timedelta(seconds=time.monotonic() - began)
        return TaskOutcome(duration=took, result=result, exception=error, final=_is_final(run, error))

    try:
        value = await (runtimes[0].run(body) if runtimes else body())
    except Exception as error:
        if isinstance(error, LeavingError):
            raise
        told = outcome(error=error)
        if not failures or await failures[0].handle_failure(told) is not True:
            for handler in completions if told.final else ():
                await handler.on_complete(told)
            raise
        value = None
    for handler in completions:
        await handler.on_complete(outcome(value))
    return value


def _all(declared: Declared, resolved: dict[str, Any], kind: type[T]) -> list[T]:
    """What was declared of a kind, as it was resolved, if what it supplies is of that kind still."""
    found: list[T] = []
    for name, needed in declared.supplied.items():
        if isinstance(needed, kind):
            value = resolved.get(name)
            found.append(value if isinstance(value, kind) else needed)
    return found


def _is_final(run: Run, error: BaseException | None) -> bool:
    if error is None:
        return True
    ended = ended_by(error)
    if ended.how != "raised" or ended.error is None:
        return False
    told = lifecycle.fail(run.job, error=ended.error, retryable=ended.retryable, wait_s=ended.wait_s)
    return told.event is Event.FAIL
