"""What a body returned: small plain data beside the job, everything else in the result store."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

import msgspec

from penstock.codecs import Coded, NoCodecError, encode_plain, encode_value
from penstock.core.config import LimitsConfig
from penstock.core.exceptions import ResultError
from penstock.job.models import JOB_ID, Ref, new_job_id
from penstock.payload import describe
from penstock.store import Store, load_ref

RECORD_MAX_BYTES = 256 * 1024
"""What all inline parts of one result may take together."""

_INPUTS = "+inputs"  # not a job id: "+" is not allowed there

_NAME_MAX = 120


class Inline(msgspec.Struct, frozen=True, tag="inline"):
    """Plain data, small enough to lie in the ledger."""

    value: Any


class Dropped(msgspec.Struct, frozen=True, tag="dropped"):
    """A value that could not be stored; the job has succeeded all the same."""

    kind: str
    reason: str


class Parts(msgspec.Struct, frozen=True, tag="parts"):
    """Named values, each stored by the policy on its own."""

    parts: dict[str, Inline | Ref | Dropped]


StoredResult = Inline | Ref | Dropped | Parts

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[StoredResult] = msgspec.msgpack.Decoder(StoredResult)


class ResultStore:
    """Encodes and decodes results; opens the store behind ``location`` when a value needs it.

    Values come back as plain data: tuples and sets as lists, dates, Decimals and UUIDs as str, dataclasses, Structs
    and models as dicts. DataFrames and arrays come back as what they were.
    """

    def __init__(
        self, location: str | Path, *, inline_max_bytes: int = 32_768, max_bytes: int = LimitsConfig().result_max_bytes
    ) -> None:
        """Set up a store.

        Args:
            location: an fsspec URL or a folder; a relative folder is taken from the current one, now.
            inline_max_bytes: plain data up to this size stays in the ledger.
            max_bytes: a value that would take more in the store is dropped.
        """
        self._max_bytes = max_bytes
        self.inline_max_bytes = inline_max_bytes
        self._store = Store(str(location))

    def encode(
        self, value: Any, *, job_id: str, attempt: int, name: str = "result", parts: bool = False
    ) -> bytes | None:
        """Store a value and return what the ledger keeps of it; None for None.

        ``parts`` says that the value is a mapping whose values are stored each by itself; a mapping that holds a
        DataFrame or an array is treated so in any case. A value that no codec takes is recorded as `Dropped`.

        Raises:
            ResultError: the store cannot be written.
        """
        if value is None:
            return None
        writing = _Writing(self._store, job_id, attempt, self.inline_max_bytes, self._max_bytes)
        if parts and isinstance(value, Mapping):
            stored: StoredResult = writing.parts(cast("Mapping[Any, Any]", value))
        else:
            stored = writing.whole(name, value)
        writing.finish()
        return _encoder.encode(stored)

    def decode(self, stored: bytes | None) -> Any:
        """Return the value again, loading what lies in the store.

        Raises:
            ResultError: it was dropped (says why, and what to return instead), is gone, or is damaged.
        """
        if stored is None:
            return None
        match _read(stored):
            case Parts(parts):
                return {name: _value(part, f"result {name!r}") for name, part in parts.items()}
            case part:
                return _value(part, "the result")

    def describe(self, stored: bytes | None) -> Any:
        """Return the result as plain data without loading anything: a `Ref` or `Dropped` as a mapping."""
        if stored is None:
            return None
        match _read(stored):
            case Parts(parts):
                return {name: _plain(part) for name, part in parts.items()}
            case part:
                return _plain(part)

    def refs(self, stored: bytes | None) -> dict[str, Ref]:
        """Return the refs in a result: by part name, or as ``result``."""
        if stored is None:
            return {}
        found = _read(stored)
        parts = found.parts if isinstance(found, Parts) else {"result": found}
        return {name: part for name, part in parts.items() if isinstance(part, Ref)}

    def put(self, value: Any, *, name: str = "input") -> Ref:
        """Store an input (a DataFrame, an array, anything large) and return the `Ref` to pass to a job.

        Raises:
            ResultError: no codec takes the value, or the store cannot be written.
        """
        try:
            coded = encode_value(value)
        except NoCodecError as error:
            raise ResultError(f"{name} cannot be stored: it is a {describe(value)} ({error})") from error
        if len(coded.raw) > self._max_bytes:
            raise ResultError(
                f"{name} takes {len(coded.raw):,} bytes, the limit is {self._max_bytes:,} (limits.result_max_bytes)"
            )
        return self._store.write((_INPUTS, new_job_id()), _file_name(name), coded)

    def load_ref(self, ref: Ref) -> Any:
        """Load what a `Ref` names. Raises `ResultError`, which names the uri."""
        return load_ref(ref)

    def delete(self, job_id: str) -> None:
        """Delete everything that attempts of a job have stored; nothing there is no error.

        Raises:
            ResultError: the store cannot be written.
        """
        self._store.delete((_checked(job_id),))


class _Writing:
    """The writing of one result: its refs, then its manifest."""

    def __init__(self, store: Store, job_id: str, attempt: int, inline_max_bytes: int, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._store = store
        self._job_id = job_id
        self._attempt = attempt
        self._inline_max_bytes = inline_max_bytes
        self._inline_bytes = 0
        self._refs: dict[str, Ref] = {}

    def whole(self, name: str, value: Any) -> StoredResult:
        stored = self.one(name, value)
        if isinstance(stored, Dropped) and isinstance(value, dict):
            mapping = cast("dict[Any, Any]", value)
            if mapping and all(isinstance(key, str) for key in mapping):
                split = self.parts(mapping)
                if self._refs:
                    return split
        return stored

    def parts(self, value: Mapping[Any, Any]) -> Parts:
        return Parts({str(name): self.one(str(name), part) for name, part in value.items()})

    def one(self, name: str, value: Any) -> Inline | Ref | Dropped:
        if isinstance(value, Ref):
            return value
        try:
            plain, raw = encode_plain(value)
        except NoCodecError:
            pass  # no plain data; perhaps a codec takes it
        else:
            if len(raw) <= self._inline_max_bytes and self._inline_bytes + len(raw) <= RECORD_MAX_BYTES:
                self._inline_bytes += len(raw)
                return Inline(plain)
        try:
            coded = encode_value(value)
        except NoCodecError as error:
            return Dropped(kind=describe(value), reason=str(error))
        if len(coded.raw) > self._max_bytes:
            reason = f"it takes {len(coded.raw):,} bytes, the limit is {self._max_bytes:,} (limits.result_max_bytes)"
            return Dropped(kind=describe(value), reason=reason)
        folder = (_checked(self._job_id), str(int(self._attempt)))
        ref = self._refs[name] = self._store.write(folder, _file_name(name), coded)
        return ref

    def finish(self) -> None:
        # Last: a folder without a manifest is what a crash left behind.
        if self._refs:
            # Its format is no codec's, so that no result's file can have its name.
            manifest = Coded(msgspec.json.encode(self._refs), "json", "manifest")
            self._store.write((_checked(self._job_id), str(int(self._attempt))), "manifest", manifest)


def _read(stored: bytes) -> StoredResult:
    try:
        return _decoder.decode(stored)
    except msgspec.DecodeError as error:
        raise ResultError(f"the stored result is damaged: {error}") from error


def _value(part: Any, what: str) -> Any:
    match part:
        case Inline(value):
            return value
        case Ref():
            return load_ref(part)
        case _:
            raise ResultError(
                f"{what} was not stored: {part.reason} ({part.kind}); return plain data, a DataFrame, an "
                "array or bytes, or write a file and return its path"
            )


def _plain(part: Any) -> Any:
    return msgspec.to_builtins(part.value if isinstance(part, Inline) else part, str_keys=True)


def _checked(job_id: str) -> str:
    # The id becomes a folder: the pattern of ids alone would let ".." through.
    if not JOB_ID.fullmatch(job_id) or not job_id.strip("."):
        raise ResultError(f"{job_id!r} cannot be the folder of a job's results")
    return job_id


def _file_name(name: str) -> str:
    quoted = quote(name, safe="").replace(".", "%2E")
    if len(quoted) > _NAME_MAX:
        quoted = f"{quoted[:_NAME_MAX]}-{hashlib.sha256(name.encode()).hexdigest()[:12]}"
    return quoted or "result"


__all__ = ["Dropped", "Inline", "Parts", "Ref", "ResultStore", "StoredResult", "load_ref"]
