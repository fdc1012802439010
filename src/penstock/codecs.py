"""Values to bytes and back, by type: never pickle, and no library is imported that the value did not bring along."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import msgspec

from penstock.job.models import Ref
from penstock.payload import plain_or_raise


class NoCodecError(Exception):
    """No codec takes the value; the message says why, in a few words."""


class Coded(msgspec.Struct, frozen=True):
    """A value as bytes, and what a `Ref` tells about it."""

    raw: bytes
    format: str
    kind: str
    rows: int | None = None
    columns: tuple[str, ...] = ()


def encode_plain(value: Any) -> tuple[Any, bytes]:
    """Return a value as plain data and as msgpack. Raises `NoCodecError` where it holds anything else."""
    try:
        plain = msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=plain_or_raise)
        return plain, msgspec.msgpack.encode(plain)
    except (TypeError, ValueError, OverflowError) as error:
        raise NoCodecError(str(error)) from error
    except RecursionError:
        raise NoCodecError("it is nested too deep, or holds itself") from None


def encode_value(value: Any) -> Coded:
    """Return a value by the codec of its type. Raises `NoCodecError`."""
    for cls in type(value).__mro__:
        codec = _ENCODERS.get(f"{cls.__module__.partition('.')[0]}.{cls.__name__}")
        if codec is not None:
            try:
                return codec(value)
            except ImportError as error:
                raise NoCodecError(f"storing it needs {error.name or 'a package'}: {error}") from error
            except Exception as error:
                raise NoCodecError(f"{type(error).__name__}: {error}") from error
    _, raw = encode_plain(value)
    return Coded(raw, "msgpack", type(value).__name__)


def decode_bytes(raw: bytes, ref: Ref) -> Any:
    """Return the value again. Raises whatever the codec raises; KeyError for an unknown format."""
    return _DECODERS[ref.format](raw, ref)


def _pandas(frame: Any) -> Coded:
    buffer = io.BytesIO()
    frame.to_parquet(buffer, compression="zstd")
    return Coded(buffer.getvalue(), "parquet", "pandas.DataFrame", len(frame), tuple(map(str, frame.columns)))


def _pandas_series(series: Any) -> Coded:
    coded = _pandas(series.to_frame("value" if series.name is None else series.name))
    columns = () if series.name is None else coded.columns
    return msgspec.structs.replace(coded, kind="pandas.Series", columns=columns)


def _polars(frame: Any) -> Coded:
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd")
    return Coded(buffer.getvalue(), "parquet", "polars.DataFrame", frame.height, tuple(frame.columns))


def _arrow(table: Any) -> Coded:
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    buffer = io.BytesIO()
    parquet.write_table(table, buffer, compression="zstd")  # pyright: ignore[reportUnknownMemberType]
    return Coded(buffer.getvalue(), "parquet", "pyarrow.Table", table.num_rows, tuple(table.column_names))


def _numpy(array: Any) -> Coded:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return Coded(buffer.getvalue(), "npy", "numpy.ndarray", array.shape[0] if array.shape else None)


_ENCODERS: dict[str, Callable[[Any], Coded]] = {
    "pandas.DataFrame": _pandas,
    "pandas.Series": _pandas_series,
    "polars.DataFrame": _polars,
    "polars.LazyFrame": lambda lazy: _polars(lazy.collect()),
    "polars.Series": lambda series: msgspec.structs.replace(_polars(series.to_frame()), kind="polars.Series"),
    "pyarrow.Table": _arrow,
    "numpy.ndarray": _numpy,
    "builtins.bytes": lambda raw: Coded(raw, "bin", "bytes"),
    "builtins.bytearray": lambda raw: Coded(bytes(raw), "bin", "bytes"),
    "builtins.str": lambda text: Coded(text.encode(), "txt", "str"),
}


def _read_parquet(raw: bytes, ref: Ref) -> Any:
    source = io.BytesIO(raw)
    library, _, shape = ref.kind.partition(".")
    if library == "polars":
        import polars as pl

        frame: Any = pl.read_parquet(source)
        return frame.to_series(0) if shape == "Series" else frame
    if library == "pandas":
        import pandas as pd  # pyright: ignore[reportMissingTypeStubs]

        frame = pd.read_parquet(source)  # pyright: ignore[reportUnknownMemberType]
        return frame.iloc[:, 0].rename(ref.columns[0] if ref.columns else None) if shape == "Series" else frame
    from pyarrow import parquet  # pyright: ignore[reportMissingTypeStubs]

    return parquet.read_table(source)  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType]


def _read_npy(raw: bytes, _ref: Ref) -> Any:
    import numpy as np

    return np.load(io.BytesIO(raw), allow_pickle=False)


_DECODERS: dict[str, Callable[[bytes, Ref], Any]] = {
    "parquet": _read_parquet,
    "npy": _read_npy,
    "bin": lambda raw, _ref: raw,
    "txt": lambda raw, _ref: raw.decode(),
    "msgpack": lambda raw, _ref: msgspec.msgpack.decode(raw),
}
