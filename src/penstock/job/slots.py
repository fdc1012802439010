"""How many jobs may run at once that name the same key: as an option of a job, in its row, and who has a slot now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.core.exceptions import InvalidJobError

if TYPE_CHECKING:
    from penstock.job.models import Job

FIELD = "penstock.slots"
"""The entry of a job's metadata."""
KEY_MAX = 150
_decoder = msgspec.json.Decoder(dict[str, int])


def parse_slots(value: Any) -> dict[str, int]:
    """Check ``{"pipeline": 1, "db:warehouse": 3}``. Raises ValueError."""
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a mapping of keys to numbers, such as {{'db:warehouse': 3}}")  # noqa: TRY004
    for key, most in cast("Mapping[Any, Any]", value).items():
        if not isinstance(key, str) or not 0 < len(key) <= KEY_MAX or not key.isprintable():
            raise ValueError(f"{key!r} is not a key: 1 to {KEY_MAX} printable characters")
        if not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= 100_000:
            raise ValueError(f"{key}: {most!r} is not a number of jobs from 1 to 100,000")
    return dict(cast("Mapping[str, int]", value))


def slots_entry(slots: Mapping[str, int]) -> dict[str, str]:
    """Return the entry of the metadata; empty without any."""
    return {FIELD: msgspec.json.encode(slots).decode()} if slots else {}


def slots_of(job: Job) -> dict[str, int]:
    """Return what a job asked for, in the order in which all jobs take it. Raises `InvalidJobError`."""
    text = job.metadata.get(FIELD)
    if text is None:
        return {}
    try:
        return dict(sorted(_decoder.decode(text).items()))
    except msgspec.DecodeError as error:
        raise InvalidJobError(f"the concurrency keys of job {job.id} cannot be read: {error}") from None
