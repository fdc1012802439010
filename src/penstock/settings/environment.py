"""Settings from ``PENSTOCK_*`` variables and from flags."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

import msgspec

from penstock.core.exceptions import ConfigError
from penstock.core.secrets import remember, secrets_in
from penstock.settings.keys import FREE, known, meant, tables
from penstock.settings.layers import Entry, Layer, flatten
from penstock.settings.options import option_variables

PREFIX = "PENSTOCK_"
_RESERVED = re.compile(
    r"PENSTOCK_(CONFIG|PROJECT|JSON|VERBOSE|QUIET|NO_COLOR|ACTOR|REQUIRE_SERVICES|TEST_.*|FAIL|LOG(?!_LEVEL$).*)"
)
"""Read elsewhere, or by our tests."""
_OF_KUBERNETES = re.compile(r"PENSTOCK_(\w+_)?(SERVICE_(HOST|PORT)(_\w+)?|PORT(_\d+_\w+)?)")
"""Kubernetes puts such variables into every container beside a Service named ``penstock`` or ``penstock-web``."""
_FLAGS = {"backend": "--url"}


def from_environment(env: Mapping[str, str]) -> Layer:
    """Read ``PENSTOCK_LEASE__TTL=2s`` and its like; ``__`` goes a level deeper, tables and lists are JSON.

    A variable that is empty counts as not set: that is what ``${X:-}`` of a compose file leaves behind.

    Raises:
        ConfigError: an unknown or unreadable variable, by name.
    """
    layer: Layer = {}
    names = sorted(name for name in env if name.startswith(PREFIX) and env[name] != "")
    for name in sorted(names, key=lambda name: name.count("__")):  # the more exact one wins
        if not _RESERVED.fullmatch(name):
            layer |= _variable(name, env[name])
    return layer


def _variable(name: str, value: str) -> Layer:
    path = tuple(name.removeprefix(PREFIX).lower().split("__"))
    key = ".".join(path)
    origin = f"env {name}"
    if key in known():
        return {key: Entry(path, value, origin, text=True)}
    if path[0] in FREE and len(path) == 3 and all(path):
        return {key: Entry(path, _free(value), origin)}
    if key in tables() or (path[0] in FREE and len(path) < 3):
        table: Any = _json(value, name, "a table as JSON, such as '{\"name\": 1}'")
        for part in reversed(path):
            table = {part: table}
        return flatten(table, lambda _path: origin)
    if _OF_KUBERNETES.fullmatch(name) or name in option_variables():
        return {}
    near = _near(name, path)
    hint = f"; did you mean {near}?" if near else ""
    raise ConfigError(f"{origin}: there is no setting {key!r}{hint}")


def _near(name: str, path: Sequence[str]) -> str:
    """Name the variable that an unknown one most likely stands for; a setting, which holds everywhere, goes first."""
    for names in (map(variable_of, known()), option_variables()):
        if near := get_close_matches(name, list(names), n=1, cutoff=0.9):
            return near[0]
    guess = meant(path)
    return variable_of(guess) if guess else ""


def from_flags(flags: Mapping[str, Any]) -> Layer:
    """Read settings given in code or on the command line, by dotted key; None means not given."""
    layer: Layer = {}
    for name, value in flags.items():
        if value is None:
            continue
        path = tuple(name.replace("__", ".").split("."))
        origin = f"flag {_FLAGS.get(name) or '--' + path[-1].replace('_', '-')}"
        nested: Any = str(value) if isinstance(value, Path) else value
        for part in reversed(path):
            nested = {part: nested}
        layer |= flatten(nested, lambda _path, origin=origin: origin, text=True)
    return layer


def list_from_text(text: str) -> list[Any]:
    """Read a list written as text: JSON, or one element without a comma. Raises ValueError."""
    if text.lstrip().startswith("["):
        try:
            return cast("list[Any]", msgspec.json.decode(text, type=list))
        except msgspec.DecodeError as error:
            raise ValueError(f'not JSON ({error}); write a list as \'["one", "two"]\'') from None
    if "," in text:
        raise ValueError('several elements are written as JSON: \'["one", "two"]\'')
    return [text]


def variable_of(key: str) -> str:
    """Name the variable that sets a dotted key."""
    return PREFIX + key.upper().replace(".", "__")


@lru_cache(maxsize=1)
def remember_environment() -> None:
    """Hide the values of this process's variables that hold secrets by their name, and the passwords in URLs."""
    for name, value in os.environ.items():
        if not value.startswith("/"):  # SSH_AUTH_SOCK, DB_PASSWORD_FILE: where a secret is
            remember(secrets_in(value, name))


def _json(value: str, name: str, form: str) -> Any:
    try:
        return msgspec.json.decode(value, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise ConfigError(f"env {name}: {error}; write {form}") from None


def _free(value: str) -> Any:
    """Read a value whose type nobody here knows: JSON where it is JSON, else the text."""
    try:
        return msgspec.json.decode(value)
    except msgspec.DecodeError:
        return value
