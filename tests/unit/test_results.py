from __future__ import annotations

import dataclasses
import json
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from pydantic import BaseModel

from penstock.core.exceptions import ResultError
from penstock.job.models import Ref
from penstock.results import ResultStore


@dataclasses.dataclass
class Point:
    x: int


class Shape(msgspec.Struct):
    corners: list[int]


class Order(BaseModel):
    day: date


@pytest.fixture
def store(tmp_path: Path) -> ResultStore:
    return ResultStore(tmp_path / "results")


def encode(store: ResultStore, value: Any, **kwargs: Any) -> bytes:
    stored = store.encode(value, **{"job_id": "job-1", "attempt": 1, **kwargs})
    assert stored is not None
    return stored


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_none_is_stored_as_nothing(store: ResultStore) -> None:
    assert store.encode(None, job_id="job-1", attempt=1) is None
    assert store.decode(None) is None


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        ({"a": [1, 2.5, None, True]}, {"a": [1, 2.5, None, True]}),
        (b"\xff", b"\xff"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00Z"),
        (Decimal("1.10"), "1.10"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Point(1), {"x": 1}),
        (Shape([1, 2]), {"corners": [1, 2]}),
        (Order(day=date(2026, 1, 2)), {"day": "2026-01-02"}),
        (np.float64(1.5), 1.5),
        (np.int64(3), 3),
        (pd.Timestamp("2026-01-02"), "2026-01-02T00:00:00"),
        (Path("/tmp/x"), "/tmp/x"),
    ],
)
def test_small_values_come_back_as_plain_data(store: ResultStore, tmp_path: Path, value: Any, plain: Any) -> None:
    assert store.decode(encode(store, value)) == plain
    assert files(tmp_path) == set()


@pytest.mark.parametrize(
    "value",
    [
        pd.DataFrame({"a": [1, 2], "b": ["x", "y"]}, index=[5, 6]),
        pd.Series([1, 2], name="s"),
        pd.Series([1, 2]),
    ],
)
def test_pandas_values_come_back_as_they_were(store: ResultStore, value: Any) -> None:
    loaded = store.decode(encode(store, value))
    assert type(loaded) is type(value)
    assert loaded.equals(value)
    assert getattr(loaded, "name", None) == getattr(value, "name", None)


def test_polars_and_arrow_values_come_back_in_their_own_library(store: ResultStore) -> None:
    frame = pl.DataFrame({"a": [1, 2]})
    assert store.decode(encode(store, frame)).equals(frame)
    assert store.decode(encode(store, frame.lazy())).equals(frame)
    assert store.decode(encode(store, pa.table({"a": [1]}))).equals(pa.table({"a": [1]}))


def test_arrays_come_back_as_arrays(store: ResultStore) -> None:
    assert (store.decode(encode(store, np.arange(6).reshape(2, 3))) == np.arange(6).reshape(2, 3)).all()


@pytest.mark.parametrize(
    ("value", "suffix"), [("x" * 40_000, ".txt"), (b"x" * 40_000, ".bin"), (list(range(40_000)), ".msgpack")]
)
def test_values_over_the_inline_limit_go_to_the_store(
    store: ResultStore, tmp_path: Path, value: Any, suffix: str
) -> None:
    stored = encode(store, value)
    assert len(stored) < 500
    assert f"results/job-1/1/result{suffix}" in files(tmp_path)
    assert store.decode(stored) == value


def test_a_ref_tells_size_rows_and_columns_without_loading(store: ResultStore) -> None:
    told = store.describe(encode(store, pd.DataFrame({"a": [1, 2], "b": [3, 4]})))
    assert (told["type"], told["kind"], told["rows"], list(told["columns"])) == (
        "ref", "pandas.DataFrame", 2, ["a", "b"],
    )  # fmt: skip
    json.dumps(told)


def test_the_manifest_lists_what_was_stored_and_nothing_half_written_stays(store: ResultStore, tmp_path: Path) -> None:
    encode(store, {"t": pd.DataFrame({"a": [1]}), "n": 1}, parts=True)
    assert files(tmp_path / "results") == {"job-1/1/t.parquet", "job-1/1/manifest.json"}


def test_parts_are_stored_each_by_itself(store: ResultStore) -> None:
    stored = encode(store, {"table": pd.DataFrame({"a": [1]}), "count": 3, "odd": object()}, parts=True)
    told = store.describe(stored)
    assert (told["table"]["type"], told["count"], told["odd"]["type"]) == ("ref", 3, "dropped")


def test_a_mapping_that_holds_a_table_is_stored_by_parts(store: ResultStore) -> None:
    assert store.decode(encode(store, {"t": pd.DataFrame({"a": [7]}), "n": 1}))["t"].a[0] == 7


def test_all_inline_parts_together_stay_below_the_limit_of_a_record(store: ResultStore) -> None:
    stored = encode(store, {f"part{n}": "x" * 30_000 for n in range(40)}, parts=True)
    assert len(stored) < 300_000
    assert len(store.decode(stored)) == 40


@pytest.mark.parametrize("value", [object(), lambda: 1, np.array([object()]), 2**70, [pd.DataFrame()]])
def test_a_value_without_a_codec_is_dropped_and_says_what_to_return(store: ResultStore, value: Any) -> None:
    stored = encode(store, value)
    assert store.describe(stored)["type"] == "dropped"
    with pytest.raises(ResultError, match="return plain data"):
        store.decode(stored)


def test_a_value_that_holds_itself_is_dropped(store: ResultStore) -> None:
    value: list[Any] = []
    value.append(value)
    assert store.describe(encode(store, value))["type"] == "dropped"


def test_a_damaged_file_is_refused_and_named(store: ResultStore, tmp_path: Path) -> None:
    stored = encode(store, pd.DataFrame({"a": [1]}))
    path = tmp_path / "results/job-1/1/result.parquet"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(ResultError, match=r"result\.parquet is damaged"):
        store.decode(stored)


def test_a_file_that_is_gone_is_named(store: ResultStore) -> None:
    stored = encode(store, pd.DataFrame({"a": [1]}))
    store.delete("job-1")
    with pytest.raises(ResultError, match=r"result\.parquet is gone"):
        store.decode(stored)


def test_deleting_takes_all_attempts_of_one_job_only(store: ResultStore, tmp_path: Path) -> None:
    for job_id, attempt in (("job-1", 1), ("job-1", 2), ("job-2", 1)):
        encode(store, b"x" * 40_000, job_id=job_id, attempt=attempt)
    store.delete("job-1")
    assert {path.name for path in (tmp_path / "results").iterdir()} == {"job-2"}


@pytest.mark.parametrize("job_id", ["..", ".", "a/b", "", "x" * 200, "a\0b"])
def test_an_id_that_would_leave_the_store_is_refused(store: ResultStore, job_id: str) -> None:
    with pytest.raises(ResultError, match="cannot be the folder"):
        store.delete(job_id)
    with pytest.raises(ResultError, match="cannot be the folder"):
        encode(store, b"x" * 40_000, job_id=job_id)


@pytest.mark.parametrize("name", ["../../x", "a/b", "..", "manifest", "ä" * 200, ""])
def test_any_name_of_a_part_stays_inside_its_attempt(store: ResultStore, tmp_path: Path, name: str) -> None:
    stored = encode(store, {name: b"x" * 40_000}, parts=True)
    assert all(path.startswith("results/job-1/1/") for path in files(tmp_path))
    assert store.decode(stored) == {name: b"x" * 40_000}


def test_an_input_can_be_stored_first(store: ResultStore) -> None:
    ref = store.put(pd.DataFrame({"a": [1]}), name="orders")
    assert isinstance(ref, Ref)
    assert store.load_ref(ref).a[0] == 1


def test_a_returned_ref_is_passed_on(store: ResultStore) -> None:
    assert store.decode(encode(store, store.put(pd.DataFrame({"a": [9]})))).a[0] == 9


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResultError, match="cannot write"):
        encode(ResultStore(tmp_path / "file" / "results"), b"x" * 40_000)


def test_any_fsspec_url_can_be_the_store() -> None:
    store = ResultStore("memory://penstock-test")
    assert store.decode(encode(store, pd.DataFrame({"a": [5]}))).a[0] == 5
    store.delete("job-1")


def test_a_damaged_record_is_a_result_error(store: ResultStore) -> None:
    with pytest.raises(ResultError, match="damaged"):
        store.decode(b"\xc1 nonsense")


def test_a_ref_is_read_through_caches_and_no_other_file_system(store: ResultStore, tmp_path: Path) -> None:
    (tmp_path / "refs.json").write_text(json.dumps({"version": 1, "templates": {}, "refs": {"a": "text"}}))
    ref = store.put("text")
    forged = msgspec.structs.replace(ref, uri=f"reference://a::file://{tmp_path}/refs.json")
    with pytest.raises(ResultError, match="a chain of file systems"):
        store.load_ref(forged)
    assert store.load_ref(msgspec.structs.replace(ref, uri=f"simplecache::{ref.uri}")) == "text"
