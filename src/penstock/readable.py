"""Records that somebody has written past penstock, or a disk has spoilt: told once in the log, and in nobody's way."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:
    from penstock.core.records import Record

logger = logging.getLogger("penstock.records")

T = TypeVar("T")

UNREADABLE = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
"""What the reading of a record raises that no release of penstock has written."""
_TOLD_MAX = 1000
_told: dict[tuple[str, str], int] = {}
"""The version of each record that was told."""


def read(record: Record | None, decoder: msgspec.json.Decoder[T]) -> T | None:
    """Return what a record holds; None where there is none, or one that cannot be read."""
    if record is None:
        return None
    try:
        return decoder.decode(record.body)
    except UNREADABLE as error:
        place = (record.kind, record.name)
        if _told.get(place) != record.version and len(_told) < _TOLD_MAX:
            _told[place] = record.version
            logger.error("the record %s %r is left out, it is damaged in the ledger: %s", *place, error)
        return None


def readable(records: Iterable[Record], decoder: msgspec.json.Decoder[T]) -> list[tuple[Record, T]]:
    """Return the records that can be read, each with what it holds."""
    return [(record, value) for record in records if (value := read(record, decoder)) is not None]


def unreadable(records: Iterable[Record], decoder: msgspec.json.Decoder[T]) -> list[str]:
    """Name the others."""
    return [record.name for record in records if read(record, decoder) is None]
