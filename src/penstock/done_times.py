"""Which fire times of a schedule have succeeded, also when their jobs have been purged: a backfill's memory.

Kept in the ledger's records, one for each month (UTC) of fire times, so that none grows large.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from penstock.core.records import Change

if TYPE_CHECKING:
    from penstock.core.base import Ledger

KIND = "backfill"
_TRIES = 20
_decoder = msgspec.json.Decoder(list[float])
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class DoneTimes:
    """The fire times of one schedule. What is noted is never forgotten."""

    def __init__(self, ledger: Ledger, schedule: str) -> None:
        self._ledger = ledger
        self._schedule = schedule
        self._known: set[datetime] = set()
        self._unwritten: set[datetime] = set()

    def among(self, times: Sequence[datetime]) -> set[datetime]:
        """Return those of these times that are known to have succeeded. Raises `LedgerError`."""
        for month in sorted({_month(at) for at in times}):
            record = self._ledger.records.get(KIND, self._name(month))
            if record is not None:
                self._known |= _times(record.body)
        return self._known.intersection(times)

    def note(self, times: Iterable[datetime]) -> None:
        """Remember that these succeeded, with the next `write`."""
        self._unwritten |= set(times) - self._known

    def write(self) -> None:
        """Write what was noted. Raises `LedgerError`."""
        months: defaultdict[str, set[datetime]] = defaultdict(set)
        for at in self._unwritten:
            months[_month(at)].add(at)
        for month, times in months.items():
            self._add(self._name(month), times)
        self._known |= self._unwritten
        self._unwritten = set()

    def _add(self, name: str, times: set[datetime]) -> None:
        for _ in range(_TRIES):  # several backfills may write at once
            record = self._ledger.records.get(KIND, name)
            there = _times(record.body) if record is not None else set[datetime]()
            if times <= there:
                return
            body = msgspec.json.encode([_seconds(at) for at in sorted(there | times)])
            seen = record.version if record is not None else 0
            if self._ledger.records.write([Change(kind=KIND, name=name, seen=seen, body=body)])[0]:
                return

    def _name(self, month: str) -> str:
        return f"{self._schedule}@{month}"


def _month(at: datetime) -> str:
    return f"{at.astimezone(UTC):%Y-%m}"


def _seconds(at: datetime) -> float:
    seconds = (at - _EPOCH) / timedelta(seconds=1)
    return int(seconds) if seconds.is_integer() else seconds


def _times(body: bytes) -> set[datetime]:
    return {_EPOCH + timedelta(seconds=seconds) for seconds in _decoder.decode(body)}
