"""The records of a Postgres ledger."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from psycopg.rows import tuple_row

from penstock.core.records import Change, Record, Records
from penstock.ledger import records_sql, rows
from penstock.ledger.postgres_server import Connection, PostgresServer

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.ledger.postgres_sql import Statements


class PostgresRecords(Records):
    """See `Records`. Times are the server's, or of ``clock`` in tests."""

    def __init__(self, server: PostgresServer, statements: Statements, clock: Callable[[], float] | None) -> None:
        self._server = server
        self._sql = statements
        self._clock = clock

    def _values(self, **values: Any) -> dict[str, Any]:
        return values if self._clock is None else {**values, "now": self._clock()}

    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        text, given = self._sql(statement), self._values(**values)
        return self._server.call(
            lambda connection, _again: connection.cursor(row_factory=tuple_row).execute(text, given).fetchall()
        )

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

    def write(self, changes: Sequence[Change]) -> list[int]:
        """See `Records.write`; one round trip."""
        # In one order for all: two that wait for each other's rows would never end.
        order = sorted(range(len(changes)), key=lambda number: (changes[number].kind, changes[number].name))
        steps = [rows.record_step(changes[number]) for number in order]

        def work(connection: Connection, _again: bool) -> list[Any]:
            with connection.pipeline(), connection.transaction():
                cursors = [
                    connection.cursor(row_factory=tuple_row).execute(self._sql(statement), self._values(**values))
                    for statement, values in steps
                ]
            return [cursor.fetchone() for cursor in cursors]

        if not changes:
            return []
        found = dict(zip(order, self._server.call(work), strict=True))
        return [found[number][0] if found[number] else 0 for number in range(len(changes))]
