"""The records of a ledger in memory."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from datetime import datetime

from penstock.core.records import Change, Record, Records
from penstock.ledger import rows


class MemoryRecords(Records):
    """See `Records`. One lock around everything."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._records: dict[tuple[str, str], Record] = {}

    def get(self, kind: str, name: str) -> Record | None:
        """See `Records.get`."""
        return self._records.get((kind, name))

    def all(self, kind: str) -> list[Record]:
        """See `Records.all`."""
        with self._lock:
            return sorted((r for r in self._records.values() if r.kind == kind), key=lambda record: record.name)

    def due(self, kind: str, limit: int) -> list[Record]:
        """See `Records.due`."""
        now = rows.instant(self._clock())
        waiting = [(r.due_at, r.name, r) for r in self.all(kind) if r.due_at is not None and r.due_at <= now]
        return [record for _, _, record in sorted(waiting)[:limit]]

    def next_due_at(self, kind: str) -> datetime | None:
        """See `Records.next_due_at`."""
        return min((r.due_at for r in self.all(kind) if r.due_at is not None), default=None)

    def write(self, changes: Sequence[Change]) -> list[int]:
        """See `Records.write`."""
        with self._lock:
            return [self._step(change) for change in changes]

    def _step(self, change: Change) -> int:
        key = (change.kind, change.name)
        there = self._records.get(key)
        if (there.version if there else 0) != change.seen:
            return 0
        if change.body is None:
            return 1 if self._records.pop(key, None) else 0
        # A new record begins where no older one of its name can have ended: nobody has seen that version before.
        version = there.version + 1 if there else int(self._clock() * 1_000_000)
        self._records[key] = Record(change.kind, change.name, version, change.body, change.due_at)
        return version
