from __future__ import annotations

import datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pytest

from penstock.core.exceptions import PayloadError
from penstock.payload import MAX_BYTES, MAX_DEPTH, encode_spec


class Spec(msgspec.Struct):
    inputs: dict[Any, Any]
    optional: int | msgspec.UnsetType = msgspec.UNSET


class Color(Enum):
    RED = "red"


def encode(value: Any) -> Any:
    return msgspec.json.decode(encode_spec(Spec({"orders": value})))["inputs"]["orders"]


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ([1, "a", None, 2.5, True], [1, "a", None, 2.5, True]),
        ((1, 2), [1, 2]),
        (datetime.date(2026, 1, 2), "2026-01-02"),
        (Decimal("1.10"), "1.10"),
        (Color.RED, "red"),
        (Path("/data"), "/data"),
        (np.int64(3), 3),
        (pd.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
    ],
)
def test_plain_data_is_taken(value: Any, plain: Any) -> None:
    assert encode(value) == plain


@pytest.mark.parametrize("table", [pd.DataFrame(), pd.Series([1]), pl.DataFrame(), pl.LazyFrame(), np.arange(3)])
def test_a_table_is_refused_and_told_to_be_stored_first(table: Any) -> None:
    with pytest.raises(PayloadError, match=r"inputs\.orders is a .*store it first with queue\.store"):
        encode(table)


@pytest.mark.parametrize("value", [lambda: 1, print, datetime, Decimal, object(), iter([])])
def test_what_is_no_data_is_refused_by_its_path(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"inputs\.orders\[1\] is "):
        encode([0, value])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 2**63, "\udc80", {1: 2}, {"\udc80": 1}])
def test_what_json_cannot_hold_is_refused_by_its_path(value: Any) -> None:
    with pytest.raises(PayloadError, match=r"inputs\.orders"):
        encode(value)


def test_the_deepest_allowed_nesting_is_taken() -> None:
    encode(nested(MAX_DEPTH - 1))


@pytest.mark.parametrize("depth", [MAX_DEPTH, 100_000])
def test_deeper_nesting_is_refused(depth: int) -> None:
    with pytest.raises(PayloadError, match="nested over 64"):
        encode(nested(depth))


def test_data_that_holds_itself_is_refused() -> None:
    value: list[Any] = []
    value.append(value)
    with pytest.raises(PayloadError, match="nested over 64"):
        encode(value)


def test_too_large_an_input_is_refused_with_both_sizes() -> None:
    with pytest.raises(PayloadError, match=f"{MAX_BYTES:,}"):
        encode("x" * MAX_BYTES)
