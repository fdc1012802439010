"""What may travel in a job: plain data, not too large, not too deep. Checked before anything is written."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from types import ModuleType
from typing import Any, cast
from uuid import UUID

import msgspec

from penstock.core import secret
from penstock.core.config import LimitsConfig
from penstock.core.exceptions import PayloadError
from penstock.job.models import Ref

MAX_BYTES = 256 * 1024
MAX_DEPTH = 64
"""The defaults of ``limits.payload_max_bytes`` and ``limits.payload_max_depth``, and the most that these allow."""
_MAX_INT = 2**63
_SCALARS = (bool, bytes, bytearray, date, datetime, time, timedelta, Decimal, UUID, PurePath, type(None))
_TABLES = {"pandas", "polars", "pyarrow", "numpy", "xarray", "dask", "narwhals", "duckdb"}
_QUOTED = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_BRACKET = re.compile(rb"[\[\]{}]")
_encoder = msgspec.json.Encoder(enc_hook=lambda value: _with_secrets(value))


def encode_spec(spec: msgspec.Struct, limits: LimitsConfig = LimitsConfig()) -> bytes:  # noqa: B008 - frozen
    """Return the JSON of a job's spec.

    Raises:
        PayloadError: a value is not plain data, or it is over one of the limits; names the path to it.
    """
    refuse_in_script()
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if value is not msgspec.UNSET:
            plain_data_or_raise(_without_secrets(value) if getattr(spec, "TAKES_SECRETS", False) else value, name)
    try:
        encoded = _encoder.encode(spec)
    except RecursionError:
        raise PayloadError(f"the input is nested over {MAX_DEPTH} levels deep; flatten it, or pass a path") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise PayloadError(f"the input cannot be written as JSON: {error}") from None
    if (problem := over_limits(encoded, limits)) is not None:
        raise PayloadError(problem)
    return encoded


def over_limits(spec: bytes, limits: LimitsConfig) -> str | None:
    """Say which limit an encoded input is over, looking at no more of it than needed; None: at none.

    A worker asks this of what it claims: whoever wrote the row need not have asked.
    """
    max_bytes, max_depth = limits.payload_max_bytes, limits.payload_max_depth
    if len(spec) > max_bytes:
        return (
            f"the input takes {len(spec):,} bytes, the limit is {max_bytes:,} (limits.payload_max_bytes): store it "
            "first with queue.store(...) and pass the Ref, or pass a path"
        )
    enough = max_depth + 1  # the spec around the arguments does not count
    if len(spec) > 2 * enough and spec.count(b"[") + spec.count(b"{") > enough and _depth_of(spec, enough) > enough:
        return (
            f"the input is nested over {max_depth} levels deep (limits.payload_max_depth); flatten it, or pass a path"
        )
    return None


def _depth_of(text: bytes, enough: int) -> int:
    depth = deepest = 0
    for bracket in _BRACKET.finditer(_QUOTED.sub(b"", text)):
        depth += 1 if bracket[0] in b"[{" else -1
        deepest = max(deepest, depth)
        if deepest > enough:
            break
    return deepest


def plain_data_or_raise(value: Any, path: str, depth: int = 1) -> None:
    """Raise `PayloadError`, naming the path, if a value is not plain data.

    Plain are None, bool, int (64 bit), finite float, str, bytes, date and time values, Decimal, UUID, Enum, Path,
    `Ref`, and lists, tuples, sets, str-keyed mappings, dataclasses, msgspec Structs and pydantic models of these.
    """
    kind = cast("type[Any]", type(value))
    if kind is str:
        _check_text(value, path)
    elif kind is int:
        if not -_MAX_INT <= value < _MAX_INT:
            raise PayloadError(f"{path} is an int of over 64 bits; pass it as a str")
    elif kind is float:
        if not math.isfinite(value):
            raise PayloadError(f"{path} is {value}, which JSON cannot hold; pass None or a str")
    elif kind in (list, tuple, set, frozenset):
        _check_depth(path, depth)
        for index, item in enumerate(value):
            plain_data_or_raise(item, f"{path}[{index}]", depth + 1)
    elif kind is dict or isinstance(value, Mapping):
        _check_mapping(cast("Mapping[Any, Any]", value), path, depth)
    elif kind in _SCALARS or kind is Ref:
        return
    else:
        _check_rare(value, path, depth)


def plain_or_raise(value: Any) -> Any:
    """Turn what msgspec does not encode by itself into what it does (an ``enc_hook``). Raises TypeError."""
    if isinstance(value, PurePath):
        return str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat()  # subclasses, such as pandas.Timestamp
    for builtin in (str, int, float, Mapping, list, tuple):
        if isinstance(value, builtin):  # a subclass, which msgspec refuses
            return dict(cast("Mapping[Any, Any]", value)) if builtin is Mapping else _builtin(builtin, value)
    dump = getattr(value, "model_dump", None)
    if callable(dump) and not isinstance(value, type):
        return dump(mode="json")
    if type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        return cast("Any", value).item()
    raise TypeError(f"{_a(describe(value))} is not plain data")


def _with_secrets(value: Any) -> Any:
    return secret.stored(value) if isinstance(value, secret.Secret) else plain_or_raise(value)


def _without_secrets(value: Any) -> Any:
    """Return the arguments of a call without those that are secrets: they have been checked."""
    if isinstance(value, Mapping):
        given = cast("Mapping[str, Any]", value)
        return {name: item for name, item in given.items() if not isinstance(item, secret.Secret)}
    return [None if isinstance(item, secret.Secret) else item for item in value]


def describe(value: Any) -> str:
    """Name a value's type for people: ``pandas DataFrame``, ``function load_orders``, ``class Order``."""
    if isinstance(value, ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, type):
        return f"class {value.__name__}"
    name = type(value).__name__
    if callable(value) and name in ("function", "method", "builtin_function_or_method", "Task", "BoundTask"):
        return f"function {getattr(cast('Any', value), '__name__', '')}".rstrip()
    root = type(value).__module__.partition(".")[0]
    return name if root in ("builtins", "__main__") else f"{root} {name}"


def refuse_in_script() -> None:
    """Raise if this is a child process that is only loading a script to find its tasks.

    Raises:
        PayloadError: the script submits or works at its top level, which would happen again in each child.
    """
    from penstock import runners

    if runners.loading_script is not None:
        raise PayloadError(
            f"{runners.loading_script} submits jobs when it is imported; put that under "
            "`if __name__ == '__main__':`, because child processes import the script to find its tasks"
        )


def _a(noun: str) -> str:
    return f"an {noun}" if noun[0].lower() in "aeio" else f"a {noun}"


def _builtin(builtin: type[Any], value: Any) -> Any:
    # float(), int() and str() of an Enum or numpy scalar give the plain value; str() would call an overridden __str__.
    return str.__str__(value) if builtin is str else builtin(value)


def _check_text(value: str, path: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise PayloadError(f"{path} is a str with lone surrogates, which is not Unicode text; pass bytes") from None


def _check_depth(path: str, depth: int) -> None:
    if depth > MAX_DEPTH:
        shown = path if len(path) < 80 else f"{path[:60]}..."
        raise PayloadError(f"{shown} is nested over {MAX_DEPTH} levels deep; flatten it, or pass a path")


def _check_mapping(value: Mapping[Any, Any], path: str, depth: int) -> None:
    _check_depth(path, depth)
    for key, item in value.items():
        if not isinstance(key, str):
            raise PayloadError(f"{path} has the key {key!r}; keys must be str, because JSON has no others")
        _check_text(key, path)
        plain_data_or_raise(item, f"{path}.{key}", depth + 1)


def _check_rare(value: Any, path: str, depth: int) -> None:
    if isinstance(value, Enum):
        plain_data_or_raise(value.value, path, depth)
    elif isinstance(value, secret.Secret):
        raise PayloadError(
            f"{path} is a Secret, which only a task's parameter takes that is annotated Secret; elsewhere pass the "
            "name of the secret, and read it in the body"
        )
    elif isinstance(value, type | ModuleType):
        raise PayloadError(f"{path} is the {describe(value)}, not plain data; pass its name as a str")
    elif isinstance(value, msgspec.Struct):
        _check_depth(path, depth)
        for name in value.__struct_fields__:
            if (item := getattr(value, name)) is not msgspec.UNSET:
                plain_data_or_raise(item, f"{path}.{name}", depth + 1)
    elif dataclasses.is_dataclass(value):
        _check_depth(path, depth)
        for field in dataclasses.fields(value):
            plain_data_or_raise(getattr(value, field.name), f"{path}.{field.name}", depth + 1)
    elif type(value).__module__.partition(".")[0] in _TABLES and getattr(value, "shape", None) != ():
        if not isinstance(value, datetime):
            raise PayloadError(
                f"{path} is {_a(describe(value))}: store it first with queue.store(...) and pass the Ref, "
                "or pass a path"
            )
    else:
        try:
            plain = plain_or_raise(value)
        except TypeError:
            hint = "pass the name of a task" if callable(value) else "pass plain data, or a path to it"
            raise PayloadError(f"{path} is {_a(describe(value))}, not plain data; {hint}") from None
        plain_data_or_raise(plain, path, depth)
