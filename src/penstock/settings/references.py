"""Values that stand elsewhere: ``env:NAME``, ``${NAME}`` within a text, ``file:/run/secrets/name``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from penstock.core.exceptions import ConfigError

_WHOLE_ENV = re.compile(r"env:(?P<name>[A-Za-z_][A-Za-z0-9_]*)")
_WITHIN = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}")
_WHOLE_FILE = re.compile(r"file:(?!//)(?P<path>.+)")
"""``file:///data`` is no reference but the URL of a folder."""
_LARGEST_BYTES = 64 * 1024


class Expanded(msgspec.Struct, frozen=True):
    """A value with its references followed, and the texts that they led to."""

    value: Any
    secrets: frozenset[str] = frozenset()


def is_reference(text: str) -> bool:
    """Whether a text only says where its value stands."""
    return bool(_WITHIN.search(text) or _WHOLE_ENV.fullmatch(text) or _WHOLE_FILE.fullmatch(text))


def expand(value: Any, *, env: Mapping[str, str], root: Path, told: str) -> Expanded:
    """Follow the references in a value, also inside its lists and tables.

    Raises:
        ConfigError: the variable is not set, or the file cannot be read; begins with ``told``.
    """
    if isinstance(value, str):
        return _expand_text(value, env, root, told)
    if isinstance(value, Mapping):
        pairs = cast("Mapping[str, Any]", value).items()
        inner = {name: expand(one, env=env, root=root, told=told) for name, one in pairs}
        return Expanded({name: one.value for name, one in inner.items()}, _all(inner.values()))
    if isinstance(value, list | tuple):
        each = [expand(one, env=env, root=root, told=told) for one in cast("list[Any]", value)]
        return Expanded([one.value for one in each], _all(each))
    return Expanded(value)


def _expand_text(text: str, env: Mapping[str, str], root: Path, told: str) -> Expanded:
    if whole := _WHOLE_ENV.fullmatch(text):
        value = _variable(whole["name"], env, told)
        return Expanded(value, frozenset({value}))
    if whole := _WHOLE_FILE.fullmatch(text):
        value = _file(root / Path(whole["path"]).expanduser(), told)
        return Expanded(value, frozenset({value}))
    names = [found["name"] for found in _WITHIN.finditer(text)]
    if not names:
        return Expanded(text)
    values = {name: _variable(name, env, told) for name in names}
    return Expanded(_WITHIN.sub(lambda found: values[found["name"]], text), frozenset(values.values()))


def _variable(name: str, env: Mapping[str, str], told: str) -> str:
    value = env.get(name, "")
    if not value:
        state = "is empty" if name in env else "is not set"
        raise ConfigError(f"{told} refers to the environment variable {name}, which {state}")
    return value


def _file(path: Path, told: str) -> str:
    try:
        with path.open(encoding="utf-8") as file:
            value = file.read(_LARGEST_BYTES + 1).strip()
    except UnicodeDecodeError:
        raise ConfigError(f"{told} refers to the file {path}, which is not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"{told} refers to the file {path}, which cannot be read: {error.strerror}") from error
    if not 0 < len(value) <= _LARGEST_BYTES:
        raise ConfigError(f"{told} refers to the file {path}, which is {'too large' if value else 'empty'}")
    return value


def _all(each: Any) -> frozenset[str]:
    return frozenset[str]().union(*(one.secrets for one in each))
