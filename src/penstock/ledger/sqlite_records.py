"""The records of a SQLite ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

from penstock.core.records import Change, Record, Records
from penstock.ledger import records_sql, rows
from penstock.ledger.sqlite_file import SqliteFile


class SqliteRecords(Records):
    """See `Records`."""

    def __init__(self, file: SqliteFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock

    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        return self._file.read(lambda connection: connection.execute(statement, values).fetchall())

    def get(self, kind: str, name: str) -> Record | None:
        """See `Records.get`."""
        found = self._rows(records_sql.GET, kind=kind, name=name)
        return rows.record_of(found[0]) if found else None

    def all(self, kind: str) -> list[Record]:
        """See `Records.all`."""
        return [rows.record_of(row) for row in self._rows(records_sql.ALL, kind=kind)]

    def due(self, kind: str, limit: int) -> list[Record]:
        """See `Records.due`."""
        found = self._rows(records_sql.DUE, kind=kind, now=self._clock(), limit=limit)
        return [rows.record_of(row) for row in found]

    def next_due_at(self, kind: str) -> datetime | None:
        """See `Records.next_due_at`."""
        ((at,),) = self._rows(records_sql.NEXT, kind=kind)
        return None if at is None else rows.instant(at)

    def write(self, changes: Sequence[Change]) -> list[int]:
        """See `Records.write`."""

        def work(connection: sqlite3.Connection) -> list[int]:
            return [self._step(connection, change) for change in changes]

        return self._file.transaction(work) if changes else []

    def _step(self, connection: sqlite3.Connection, change: Change) -> int:
        statement, values = rows.record_step(change)
        found = connection.execute(statement, {**values, "now": self._clock()}).fetchall()
        return found[0][0] if found else 0
