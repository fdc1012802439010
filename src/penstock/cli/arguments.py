"""Turns words of the command line into arguments: ``name=Ada n=3 --args '{"deep": true}'``."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Sequence
from pathlib import PurePath
from typing import Any

import msgspec

from penstock.cli.failures import UsageError
from penstock.core.exceptions import did_you_mean
from penstock.core.secret import Secret
from penstock.core.secrets import MASK, is_secret_name
from penstock.run import Run
from penstock.sources.decorators import Task


def pairs(words: Sequence[str], *, expected: Sequence[str] = ()) -> dict[str, str]:
    """Split ``name=value`` words. ``expected`` are the names that there are, for the hint.

    Raises:
        UsageError: a word has no ``=``, or a name comes twice.
    """
    found: dict[str, str] = {}
    for word in words:
        name, separator, value = word.partition("=")
        if not separator or not name:
            free = [known for known in expected if known not in found]
            raise UsageError(f"argument {word!r} has no name; write {free[0] if free else 'NAME'}={word or 'VALUE'}")
        if name in found:
            raise UsageError(f"argument {name!r} is given twice")
        found[name] = value
    return found


def metadata(words: Sequence[str]) -> dict[str, str] | None:
    """Read the ``KEY=VALUE`` of ``--metadata``; None when it was not given. Raises `UsageError`."""
    for word in words:
        if not word.partition("=")[0] or "=" not in word:
            raise UsageError(f"--metadata takes KEY=VALUE, such as team=etl, not {word!r}")
    return pairs(words) or None


def limits(words: Sequence[str]) -> dict[str, int] | None:
    """Read the ``KEY=N`` of ``--limit``; None when it was not given. Raises `UsageError`."""
    found: dict[str, int] = {}
    for limit in words:
        key, _, most = limit.rpartition("=")
        if not key or not most.isdigit():
            raise UsageError(f"--limit takes KEY=N, such as db:warehouse=3, not {limit!r}")
        found[key] = int(most)
    return found or None


def json_object(text: str | None, option: str) -> dict[str, Any]:
    """Read the JSON object of an option. Raises `UsageError`, which says where the JSON is wrong."""
    value = json_value(text, option)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(f'{option} takes a JSON object such as \'{{"name": "value"}}\', not {text}')
    return typing.cast("dict[str, Any]", value)


def json_value(text: str | None, option: str) -> Any:
    """Read the JSON of an option; None when it was not given. Raises `UsageError`."""
    if text is None:
        return None
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError as error:
        raise UsageError(f"{option}: not JSON: {error}: {text}") from None


def guess(text: str) -> Any:
    """Read a word whose type nobody declared: JSON where it parses, else the text as it is."""
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def for_task(task: Task[..., Any], words: Sequence[str], args: str | None) -> tuple[list[Any], dict[str, Any]]:
    """Return the positional and named arguments of a task.

    ``--args`` holds a JSON object (by name) or array (by position); words are fitted to the declared types, so that
    ``zip=01234`` stays a text for ``zip: str`` and ``n=3`` becomes an int.
    """
    value = json_value(args, "--args")
    positional: list[Any] = []
    named: dict[str, Any] = {}
    if isinstance(value, list):
        positional = typing.cast("list[Any]", value)
    elif isinstance(value, dict):
        named = typing.cast("dict[str, Any]", value)
    elif value is not None:
        raise UsageError(f"--args takes a JSON object or array, not {args}")
    declared = _declared(task)
    given = pairs(words, expected=list(declared))
    if not any(p.kind is p.VAR_KEYWORD for p in task.signature.parameters.values()):
        for name in given:
            if name not in declared:
                known = ", ".join(declared) or "none"
                hint = did_you_mean(name, declared)
                raise UsageError(f"task {task.name} has no parameter {name!r}; it has: {known}.{hint}")
    if both := sorted(set(given) & set(named)):
        raise UsageError(f"argument {both[0]!r} is given twice: as {both[0]}=... and in --args")
    for name, text in given.items():
        named[name] = _fit(text, declared.get(name, inspect.Parameter.empty))
    return positional, named


def signature(task: Task[..., Any]) -> str:
    """Write a task's signature as a caller sees it: without the run."""
    declared = _declared(task)
    taken = [_veiled(parameter) for name, parameter in task.signature.parameters.items() if name in declared]
    return str(task.signature.replace(parameters=taken))


class _Hidden:
    def __repr__(self) -> str:
        return MASK


def _veiled(parameter: inspect.Parameter) -> inspect.Parameter:
    given = parameter.default not in (inspect.Parameter.empty, None, "")
    return parameter.replace(default=_Hidden()) if given and is_secret_name(parameter.name) else parameter


def _declared(task: Task[..., Any]) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(inspect.unwrap(task.fn))
    except Exception:  # noqa: BLE001 - annotations may name what is imported for type checkers only
        hints = {}
    found = {name: hints.get(name, parameter.annotation) for name, parameter in task.signature.parameters.items()}
    return {name: kind for name, kind in found.items() if kind is not Run and Run not in typing.get_args(kind)}


def _fit(text: str, declared: Any) -> Any:
    """Read a word as the declared type; what does not fit is left for the task's own check, which names it."""
    if declared in (inspect.Parameter.empty, Any) or isinstance(declared, str):
        return guess(text)
    if isinstance(declared, type) and issubclass(declared, PurePath | Secret):
        return text
    if Secret in typing.get_args(declared):
        return text
    try:
        # The text first: a date, a Decimal and a str are texts in JSON too.
        return msgspec.to_builtins(msgspec.convert(text, typing.cast("Any", declared), strict=False))
    except (msgspec.ValidationError, TypeError):
        return guess(text)
