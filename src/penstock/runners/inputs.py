"""Inputs as the graph declares them: JSON brings dates and Decimals as texts, the nodes' types say what they were."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from penstock.core.exceptions import did_you_mean
from penstock.core.typed import prepared
from penstock.runners.pipeline import InvalidPipelineError


def restored(inputs: Mapping[str, Any], declared: Mapping[str, Any]) -> dict[str, Any]:
    """Return the inputs with each value turned into its declared type, where msgspec knows that type.

    Raises:
        InvalidPipelineError: a value does not fit its type; names the input.
    """
    return {
        name: _restored(name, value, declared[name]) if name in declared else value for name, value in inputs.items()
    }


def _restored(name: str, value: Any, type_: Any) -> Any:
    if type_ is Path and isinstance(value, str):
        return Path(value)
    if not _knows(type_):
        return value
    try:
        return msgspec.convert(value, prepared(type_), strict=False)
    except msgspec.ValidationError as error:
        shown = repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}..."
        raise InvalidPipelineError(
            f"input {name!r} is {shown}, but the pipeline declares it as {_name(type_)}: {error}"
        ) from None


def _knows(type_: Any) -> bool:
    """Whether msgspec builds this type from plain data, all the way down."""
    try:
        info = msgspec.inspect.type_info(type_)
    except Exception:  # noqa: BLE001 - an annotation may be any object, or a name that cannot be resolved
        return False
    return _plain(info, 0)


def _plain(info: Any, depth: int) -> bool:
    if isinstance(info, msgspec.inspect.CustomType) or depth > 8:
        return False
    parts: list[Any] = [getattr(info, name, None) for name in ("item_type", "key_type", "value_type")]
    for attribute in ("types", "item_types"):
        parts.extend(cast("tuple[Any, ...]", getattr(info, attribute, None) or ()))
    return all(part is None or _plain(part, depth + 1) for part in parts)


def _name(type_: Any) -> str:
    return getattr(type_, "__name__", None) or str(type_)


def check_graph(
    driver: Any, final_vars: Iterable[str], inputs: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    """Refuse what no attempt can compute: an unknown variable, a missing or unfit input, a cycle.

    Raises:
        InvalidPipelineError: with Hamilton's own text where it has one.
    """
    wanted = list(final_vars)
    known: Mapping[str, Any] = driver.graph.nodes
    for name in wanted:
        if name not in known:
            raise InvalidPipelineError(f"the pipeline has no variable {name!r}.{did_you_mean(name, known)}")
    for name in overrides:
        if name not in known:
            raise InvalidPipelineError(f"override of an unknown variable {name!r}.{did_you_mean(name, known)}")
    _check_cycles(known, wanted, overrides)
    try:
        driver.validate_execution(wanted, overrides=dict(overrides), inputs=dict(inputs))
    except (ValueError, TypeError) as error:
        raise InvalidPipelineError(str(error)) from None


def _check_cycles(nodes: Mapping[str, Any], wanted: list[str], overrides: Mapping[str, Any]) -> None:
    # Hamilton looks for cycles only where networkx is installed, and a cycle hangs its dynamic executor.
    from graphlib import CycleError, TopologicalSorter

    sorter: TopologicalSorter[str] = TopologicalSorter()
    seen: set[str] = set()
    ahead = list(wanted)
    while ahead:
        name = ahead.pop()
        if name in seen:
            continue
        seen.add(name)
        before = [] if name in overrides else [dependency.name for dependency in nodes[name].dependencies]
        sorter.add(name, *before)
        ahead.extend(before)
    try:
        sorter.prepare()
    except CycleError as error:
        cycle = " -> ".join(reversed(error.args[1]))
        raise InvalidPipelineError(f"the pipeline has a cycle: {cycle}") from None


def unveiled(config: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return adapter settings with each ``env:NAME`` replaced by that variable of the worker's environment.

    Raises:
        InvalidPipelineError: the variable is not set.
    """

    def walk(value: Any, path: str) -> Any:
        if isinstance(value, str) and value.startswith("env:"):
            name = value.removeprefix("env:")
            if name not in os.environ:
                raise InvalidPipelineError(f"{path} names the environment variable {name}, which the worker lacks")
            return os.environ[name]
        if isinstance(value, dict):
            pairs = cast("dict[str, Any]", value)
            return {key: walk(item, f"{path}.{key}") for key, item in pairs.items()}
        return value

    return {key: walk(value, f"{where}.{key}") for key, value in config.items()}
