"""``${VAR:-default}`` in YAML values, as FlowerPower reads them (flowerpower/utils/yaml_env.py, 0.37)."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Iterator
from typing import Any, cast

VALUES_MAX = 100_000
_TOKEN = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?])([^}]*))?\}|\$([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


def interpolated(data: Any) -> Any:
    """Fill in every string of nested lists and mappings; what then reads as JSON becomes that value.

    Raises:
        ValueError: a ``${VAR:?message}`` whose variable is not set, or more than `VALUES_MAX` values.
    """
    return _filled_in(data, itertools.count(1))


def _filled_in(data: Any, values: Iterator[int]) -> Any:
    if next(values) > VALUES_MAX:
        # Nine lines of YAML aliases (a list of nine times the list before) are a thousand million values.
        raise ValueError(f"more than {VALUES_MAX:,} values, those that aliases repeat included")
    if isinstance(data, dict):
        return {key: _filled_in(value, values) for key, value in cast("dict[Any, Any]", data).items()}
    if isinstance(data, list):
        return [_filled_in(value, values) for value in cast("list[Any]", data)]
    if not isinstance(data, str) or "$" not in data:
        return data
    return _as_json(_TOKEN.sub(_filled, data))


def _filled(match: re.Match[str]) -> str:
    name, operator, word, bare = match.groups()
    if match.group() == "$$":
        return "$"
    value = os.environ.get(name or bare)
    absent = value is None or (value == "" and bool(operator) and operator.startswith(":"))
    if not absent or operator is None:
        return value or ""
    if operator.endswith("?"):
        raise ValueError(word or f"the environment variable {name} is required")
    return word or ""


def _as_json(text: str) -> Any:
    stripped = text.strip()
    if stripped[:1] in ("[", "{") or stripped in ("true", "false", "null") or _NUMBER.fullmatch(stripped):
        try:
            return json.loads(stripped)
        except ValueError:
            return text
    return text
