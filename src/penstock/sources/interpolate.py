"""``${VAR:-default}`` in YAML values, as FlowerPower reads them (flowerpower/utils/yaml_env.py, 0.37)."""

from __future__ import annotations

import json
import os
import re
from typing import Any, cast

_TOKEN = re.compile(r"\$\$|\$\{([A-Za-z_][A-Za-z0-9_]*)(?:(:?[-?])([^}]*))?\}|\$([A-Za-z_][A-Za-z0-9_]*)", re.ASCII)
_NUMBER = re.compile(r"-?\d+(\.\d+)?", re.ASCII)


def interpolated(data: Any) -> Any:
    """Fill in every string of nested lists and mappings; what then reads as JSON becomes that value.

    Raises:
        ValueError: a ``${VAR:?message}`` whose variable is not set.
    """
    if isinstance(data, dict):
        return {key: interpolated(value) for key, value in cast("dict[Any, Any]", data).items()}
    if isinstance(data, list):
        return [interpolated(value) for value in cast("list[Any]", data)]
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
