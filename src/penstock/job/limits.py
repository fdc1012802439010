"""What the process of one body may take: as an option of a job, and in its row."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.durations import format_duration, parse_duration_s
from penstock.core.exceptions import InvalidJobError

if TYPE_CHECKING:
    from penstock.job.models import Job

FIELD = "penstock.limits"
"""The entry of a job's metadata, so that each ledger keeps them and a worker that does not know them runs the job."""
OPTIONS = ("max_memory", "max_cpu", "max_open_files")
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(i?)b?", re.ASCII | re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
_NONE = ("none", "never")


class Limits(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The limits of one job; None: none. Each process that the body starts has them anew."""

    memory_bytes: int | None = None
    """Address space: what the process has reserved, its program and libraries included."""
    cpu_s: int | None = None
    open_files: int | None = None

    def __str__(self) -> str:
        told = {
            "max_memory": None if self.memory_bytes is None else format_size(self.memory_bytes),
            "max_cpu": None if self.cpu_s is None else format_duration(self.cpu_s),
            "max_open_files": self.open_files,
        }
        return ", ".join(f"{name} {value}" for name, value in told.items() if value is not None)


_decoder = msgspec.json.Decoder(Limits)


def limits_of(job: Job) -> Limits | None:
    """Return the limits of a job, None where it has none. Raises `InvalidJobError`."""
    text = job.metadata.get(FIELD)
    if text is None:
        return None
    try:
        return _decoder.decode(text)
    except msgspec.DecodeError as error:
        raise InvalidJobError(f"the limits of job {job.id} cannot be read: {error}") from None


def limits_entry(limits: Mapping[str, int | None]) -> dict[str, str]:
    """Return the entry of the metadata for limits by the names of `Limits`, of which 0 is none; empty without any."""
    set_ = {name: value for name, value in limits.items() if value}
    return {FIELD: msgspec.json.encode(Limits(**set_)).decode()} if set_ else {}


def changed(text: str | None, **limits: int | None) -> dict[str, str]:
    """Return the entry with some limits changed: 0 takes one off, None leaves it. ``text`` is the entry as it is."""
    before: dict[str, int | None] = {} if text is None else msgspec.to_builtins(_decoder.decode(text))
    return limits_entry({**before, **{name: value for name, value in limits.items() if value is not None}})


# -- as people write them -------------------------------------------------------------------------------------------


def parse_memory_bytes(value: Any) -> int:
    """Read ``"512MB"``, ``"1.5 GiB"`` or a number of bytes; 0 is no limit. Raises ValueError."""
    if value is False or value in _NONE:
        return 0
    size: float = math.nan
    if isinstance(value, str) and (found := _SIZE.fullmatch(value.strip())):
        number, unit, binary = found.groups()
        size = float(number) * (1024 if binary else 1000) ** _POWERS[unit.lower()]
    elif isinstance(value, int | float) and not isinstance(value, bool):
        size = value
    if not size >= 1_000_000 or math.isinf(size):
        raise ValueError(f"{value!r} is not an amount of memory from 1 MB; write '512MB' or '2GiB', or 'none'")
    return int(size)


def parse_cpu_s(value: Any) -> int:
    """Read a duration, in whole seconds; 0 is no limit. Raises ValueError."""
    if value is False or value in _NONE:
        return 0
    seconds = parse_duration_s(value)
    if seconds < 1:
        raise ValueError(f"{value!r} is less than the shortest CPU time, which is 1 s; write 'none' for no limit")
    return math.ceil(seconds)


def parse_open_files(value: Any) -> int:
    """Read a number of descriptors; 0 is no limit. Raises ValueError."""
    if value is False or value in _NONE:
        return 0
    if not isinstance(value, int) or isinstance(value, bool) or not 16 <= value <= 1_048_576:
        raise ValueError(f"{value!r} is not a number of open files from 16 to 1,048,576; write 'none' for no limit")
    return value


def format_size(size_bytes: int) -> str:
    """Write an amount of memory for people: ``'512 MB'``."""
    size = float(size_bytes)
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"
