"""What the records of all SQL ledgers have in common: how they are read."""

from __future__ import annotations

from abc import abstractmethod
from datetime import datetime
from typing import Any

from penstock.core.records import Record, Records
from penstock.ledger import records_sql, rows


class SqlRecords(Records):
    """See `Records`; a ledger brings its way to ask, which knows the time, and its way to write."""

    @abstractmethod
    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        """Ask; the parameter ``now`` is added."""

    def get(self, kind: str, name: str) -> Record | None:
        """See `Records.get`."""
        found = self._rows(records_sql.GET, kind=kind, name=name)
        return rows.record_of(found[0]) if found else None

    def all(self, kind: str) -> list[Record]:
        """See `Records.all`."""
        return [rows.record_of(row) for row in self._rows(records_sql.ALL, kind=kind)]

    def due(self, kind: str, limit: int) -> list[Record]:
        """See `Records.due`."""
        return [rows.record_of(row) for row in self._rows(records_sql.DUE, kind=kind, limit=limit)]

    def next_due_at(self, kind: str) -> datetime | None:
        """See `Records.next_due_at`."""
        ((at,),) = self._rows(records_sql.NEXT, kind=kind)
        return None if at is None else rows.instant(at)
