"""The arguments of a job by the names of its task's parameters: what rules about values look at."""

from __future__ import annotations

from inspect import Parameter
from typing import Any, cast

import msgspec

from penstock.signatures import plan_of
from penstock.sources.decorators import TASKS


def arguments_of(kind: str, name: str, spec: bytes) -> dict[str, Any]:
    """Return the arguments as plain data, however they were passed; those left out as their defaults.

    Of a pipeline its inputs and its other fields, of a command its fields. Where the task is not known here, what was
    passed by position has no name, and is left out. Empty where the input cannot be read.
    """
    try:
        given: Any = msgspec.json.decode(spec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    fields = cast("dict[str, Any]", given)
    if kind != "task":
        inputs: dict[str, Any] = fields.pop("inputs", None) or {}
        return {**fields, **inputs}
    args: list[Any] = fields.get("args") or []
    kwargs: dict[str, Any] = fields.get("kwargs") or {}
    task = TASKS.get(name)
    if task is None:
        return dict(kwargs)
    try:
        return plan_of(task.fn, task.name, task.signature).by_name(args, kwargs)
    except TypeError:  # of an older version of the function
        return dict(kwargs)


def compared_of(kind: str, name: str, spec: bytes) -> dict[str, Any]:
    """Return `arguments_of` by the names that a strike may compare: what a ``**more`` took by those it was given by."""
    found = arguments_of(kind, name, spec)
    task = TASKS.get(name) if kind == "task" else None
    for parameter in () if task is None else task.signature.parameters.values():
        taken = found.get(parameter.name)
        if parameter.kind is Parameter.VAR_POSITIONAL and isinstance(taken, tuple):
            found[parameter.name] = list(cast("tuple[Any, ...]", taken))
        elif parameter.kind is Parameter.VAR_KEYWORD and isinstance(taken, dict):
            found = {**cast("dict[str, Any]", taken), **found}
    return found
