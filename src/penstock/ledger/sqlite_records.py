"""The records of a SQLite ledger."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from penstock.core.records import Change
from penstock.ledger import rows
from penstock.ledger.sql_records import SqlRecords
from penstock.ledger.sqlite_file import SqliteFile


class SqliteRecords(SqlRecords):
    """See `Records`."""

    def __init__(self, file: SqliteFile, clock: Callable[[], float]) -> None:
        self._file = file
        self._clock = clock

    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        given = {**values, "now": self._clock()}
        return self._file.read(lambda connection: connection.execute(statement, given).fetchall())

    def write(self, changes: Sequence[Change]) -> list[int]:
        """See `Records.write`."""

        def work(connection: sqlite3.Connection) -> list[int]:
            return [self._step(connection, change) for change in changes]

        return self._file.transaction(work) if changes else []

    def _step(self, connection: sqlite3.Connection, change: Change) -> int:
        statement, values = rows.record_step(change)
        found = connection.execute(statement, {**values, "now": self._clock()}).fetchall()
        return found[0][0] if found else 0
