"""The records of a Postgres ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from psycopg.rows import tuple_row

from penstock.core.records import Change
from penstock.ledger import rows
from penstock.ledger.postgres_server import Connection, PostgresServer
from penstock.ledger.sql_records import SqlRecords

if TYPE_CHECKING:
    from collections.abc import Callable

    from penstock.ledger.postgres_sql import Statements


class PostgresRecords(SqlRecords):
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
