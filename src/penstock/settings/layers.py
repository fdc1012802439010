"""One source of settings, flattened: a value and a place for each dotted key."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import msgspec

from penstock.core.exceptions import ConfigError
from penstock.settings.keys import FREE, known, meant, meant_table, tables

Place = Callable[[tuple[str, ...]], str]
"""Tells where a key of a source stands, as in ``penstock.toml:7``."""


class Entry(msgspec.Struct, frozen=True):
    """A setting as one source gives it. ``text``: it came as text and may be read as a number or a list."""

    path: tuple[str, ...]
    value: Any
    origin: str
    text: bool = False


Layer = dict[str, Entry]


def flatten(values: Mapping[str, Any], place: Place, *, text: bool = False, prefix: str = "") -> Layer:
    """Turn nested settings into dotted keys.

    Raises:
        ConfigError: an unknown key or a table in the wrong place; tells the place and what was likely meant.
    """
    layer: Layer = {}
    for path, value in _leaves(values, (), place, prefix):
        layer[".".join(path)] = Entry(path, value, place(path), text)
    return layer


def _leaves(
    values: Mapping[str, Any], above: tuple[str, ...], place: Place, prefix: str
) -> list[tuple[tuple[str, ...], Any]]:
    found: list[tuple[tuple[str, ...], Any]] = []
    for name, value in values.items():
        path = (*above, str(name))
        key = ".".join(path)
        if path[0] in FREE:
            if len(path) == 3:
                found.append((path, value))
            else:
                table = _table(value, path, place, prefix)
                found += _leaves(table, path, place, prefix) or ([(path, {})] if len(path) == 2 else [])
        elif key in known():
            found.append((path, value))
        elif len(path) == 1 and key in tables():
            found += _leaves(_table(value, path, place, prefix), path, place, prefix)
        else:
            raise ConfigError(f"{place(path)}: {_unknown(path, value, prefix)}")
    return found


def _table(value: Any, path: tuple[str, ...], place: Place, prefix: str) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return cast("Mapping[str, Any]", value)
    label = f"[{prefix}{'.'.join(path)}]"
    raise ConfigError(f"{place(path)}: {path[-1]!r} is a table; write {label} and its keys below it, not one value")


def _unknown(path: tuple[str, ...], value: Any, prefix: str) -> str:
    *above, word = path
    where = f" in [{prefix}{'.'.join(above)}]" if above or prefix else ""
    said = (
        f"unknown table [{prefix}{word}]"
        if isinstance(value, Mapping) and not above
        else (f"unknown key {word!r}{where}")
    )
    guess = meant_table(word) if isinstance(value, Mapping) and not above else meant(path)
    if guess is None:
        beside = [key.removeprefix(f"{above[0]}.") for key in known() if above and key.startswith(f"{above[0]}.")]
        choice = beside or [key for key in known() if "." not in key] + [f"[{name}]" for name in (*tables(), *FREE)]
        return f"{said}; there are: {', '.join(choice)}"
    table, _, leaf = guess.rpartition(".")
    if guess in (*tables(), *FREE):
        return f"{said}; did you mean [{prefix}{guess}]?"
    elsewhere = f" in [{prefix}{table}]" if table and [table] != above else ""
    if not table and above:
        elsewhere = " at the top of the file"
    return f"{said}; did you mean {leaf!r}{elsewhere}?"
