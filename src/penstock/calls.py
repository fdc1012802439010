"""From what a user names to the call that is submitted: a task, its name, or a call; its arguments and options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from penstock.arguments import arguments_of
from penstock.core.exceptions import InvalidJobError
from penstock.options import NAMES as OPTION_NAMES
from penstock.options import JobOptions, intent
from penstock.payload import encode_spec
from penstock.sources.decorators import TASKS, BoundTask, Call, Task

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.core.config import Config
    from penstock.job.models import Intent, Isolation


def call_of(
    queue: JobQueue, task: Any, args: tuple[Any, ...], kwargs: dict[str, Any], connection: object | None = None
) -> Call:
    """Return the call that `JobQueue.enqueue` means. Raises `InvalidJobError`."""
    if isinstance(task, Call):
        if args:
            raise InvalidJobError(f"{task!r} has its arguments already; only job options can be added")
        return Call(task.kind, task.name, task.spec, task.options.merged(JobOptions.parse(kwargs)))
    if isinstance(task, BoundTask):
        bound = cast("BoundTask[..., Any]", task)
        _only_one_meant(bound.task, connection)
        return bound.call(*args, **kwargs)
    if isinstance(task, str):
        queue.load_tasks()
        task = TASKS.find(task)
    if not isinstance(task, Task):
        raise InvalidJobError(
            f"{task!r} is not a task; decorate the function with @penstock.task, or name its module or folder "
            "in `tasks`"
        )
    found = cast("Task[..., Any]", task)
    _only_one_meant(found, connection)
    options = {name: kwargs.pop(name) for name in OPTION_NAMES if name in kwargs}
    if both := sorted(set(options) & set(found.signature.parameters)):
        raise InvalidJobError(
            f"{both[0]!r} is a parameter of task {found.name} and a job option; write "
            f"{found.name}.options({both[0]}=...).enqueue(...) for the option, {found.name}.enqueue(...) for "
            "the parameter"
        )
    return found.options(**options).call(*args, **kwargs)


def scheduled(
    queue: JobQueue, what: Any, args: tuple[Any, ...], inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> Call:
    """Return the call that `JobQueue.schedule` means. Raises `InvalidJobError`."""
    if isinstance(what, Call):
        if args or inputs:
            raise InvalidJobError(f"{what!r} has its arguments already; only options can be added")
        return call_of(queue, what, (), dict(options))
    if isinstance(what, str):
        return named(queue, what, args, inputs, options)
    if isinstance(what, BoundTask):
        bound = cast("BoundTask[..., Any]", what)
        return call_of(queue, bound.call(*args, **inputs), (), dict(options))
    if isinstance(what, Task):
        found = cast("Task[..., Any]", what)
        return found.options(**options).call(*args, **inputs)
    return call_of(queue, what, args, dict(options))


def named(
    queue: JobQueue, name: str, args: tuple[Any, ...], inputs: Mapping[str, Any], options: Mapping[str, Any]
) -> Call:
    """Return the call of a task or a pipeline by its name: ``task:NAME`` and ``pipeline:NAME`` say which is meant.

    Raises:
        InvalidJobError: there is neither, or both; or the input does not fit.
    """
    kind, colon, bare = name.partition(":")
    if colon and kind in ("task", "pipeline"):
        name = bare
    else:
        kind = ""
    queue.load_tasks()
    task = None if kind == "pipeline" else TASKS.get(name)
    is_pipeline = kind == "pipeline" or (kind != "task" and name in queue.pipelines())
    if task is not None and is_pipeline:
        raise InvalidJobError(f"{name!r} is a task and a pipeline; write 'task:{name}' or 'pipeline:{name}'")
    if task is not None:
        return task.options(**options).call(*args, **inputs)
    if is_pipeline:
        if args:
            raise InvalidJobError(f"pipeline {name} takes its inputs by name: inputs={{...}}")
        return queue.pipeline(name, inputs=dict(inputs), **options) if inputs else queue.pipeline(name, **options)
    return call_of(queue, name, args, dict(options))  # tells what there is


def intent_of(config: Config, call: Call, parent_id: str | None = None) -> Intent:
    """Return what is submitted for a call: its options, with the project's defaults. Raises `InvalidJobError`."""
    spec = encode_spec(call.spec, config.limits)
    return intent(
        config, call.options, kind=call.kind, name=call.name, spec=spec, isolation=_isolation(call),
        arguments=lambda: arguments_of(call.kind, call.name, spec), parent_id=parent_id,
    )  # fmt: skip


def _isolation(call: Call) -> Isolation:
    """Where a body runs unless somebody says: only a child process makes a timeout real for blocking code."""
    if call.kind != "task":
        return "process"
    task = TASKS.get(call.name)
    hard = task is not None and not task.is_async and call.options.timeout_s is not None
    apart = task is not None and task.importable and (hard or call.options.limited)
    return "process" if apart else "inline"


def _only_one_meant(task: Task[..., Any], connection: object | None) -> None:
    if connection is not None and "connection" in task.signature.parameters:
        raise InvalidJobError(
            f"'connection' is a parameter of task {task.name} and the transaction to join; write "
            f"queue.enqueue({task.name}.call(connection=...)), and for the transaction connection=... after the call"
        )
