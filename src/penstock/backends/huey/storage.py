"""Huey's SQLite storage, made to carry several queues, bulk and withdrawal.

Read at Huey 3.5.4: `SqliteStorage` offers ``synchronous`` FULL or OFF only (213 and 12,954 enqueues/s; NORMAL, set
here, 26,791/s and safe with WAL), takes two statements and an exclusive transaction to dequeue one message, one
transaction per enqueued row, and cannot find a message by its id.
"""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from pathlib import Path

from huey.storage import SqliteStorage

from penstock.core.exceptions import BackendError, BackendUnavailableError
from penstock.servers import disk

_BUSY_TIMEOUT_S = 30


class QueueStorage(SqliteStorage):
    """One file for all queues of all namespaces; workers take from `queues`, in that order."""

    def __init__(self, name: str, filename: str) -> None:
        self.queues: tuple[str, ...] = ()
        self._take_sql = self._any_sql = ""
        self._take_values: tuple[str, ...] = ()
        self._pid = os.getpid()
        super().__init__(name, filename=filename, timeout=_BUSY_TIMEOUT_S, create_tables=False)

    @property
    def conn(self) -> sqlite3.Connection:
        """This process's connection: a connection that came through a fork must not be used."""
        if self._pid != os.getpid():
            self._conn, self._pid = None, os.getpid()
        return super().conn

    def _create_connection(self) -> sqlite3.Connection:
        """Make Huey's tables, and give its messages an id column of their own."""
        Path(self.filename).parent.mkdir(parents=True, exist_ok=True)
        connection: sqlite3.Connection = super()._create_connection()
        connection.execute("pragma synchronous=normal")
        try:
            with connection:
                for statement in (self.begin_sql, *self.ddl):
                    connection.execute(statement)
                if "message_id" not in {row[1] for row in connection.execute("pragma table_info(task)")}:
                    connection.execute("alter table task add column message_id text")
                connection.execute("create index if not exists task_message_id on task (message_id)")
        except sqlite3.Error:
            connection.close()
            raise
        return connection

    def listen(self, queues: Sequence[str]) -> None:
        """Take from these queues, in this order of preference."""
        marks = ",".join("?" * len(queues))
        rank = f"case queue {' '.join(f'when ? then {n}' for n in range(len(queues)))} end, " if len(queues) > 1 else ""
        best = f"select id from task where queue in ({marks}) order by {rank}priority desc, id limit ?"  # noqa: S608
        self._take_sql = f"delete from task where id in ({best}) returning queue, priority, id, data"  # noqa: S608
        self._any_sql = f"select 1 from task where queue in ({marks}) limit 1"  # noqa: S608 - marks only
        self._take_values = (*queues, *queues) if len(queues) > 1 else tuple(queues)
        self.queues = tuple(queues)

    def put_messages(self, rows: Iterable[tuple[str, bytes, int, str]]) -> None:
        """Store (queue, data, priority, message id) rows in one transaction."""
        with self.db(commit=True) as cursor:
            cursor.executemany("insert into task (queue, data, priority, message_id) values (?, ?, ?, ?)", rows)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Delete waiting messages; return how many there were."""
        with self.db(commit=True) as cursor:
            cursor.executemany("delete from task where message_id = ?", [(one,) for one in message_ids])
            return cursor.rowcount

    def waiting(self, queue: str) -> int:
        """Count the messages of one queue. Makes no file: there are none where there is none."""
        file = Path(self.filename)
        if not file.exists() and disk.cannot_make(file) is None:
            return 0
        with self.db() as cursor:
            return cursor.execute("select count(*) from task where queue = ?", (queue,)).fetchone()[0]

    def take(self, count: int) -> list[bytes]:
        """Take the best messages, at most ``count``, the best first."""
        with self.db() as cursor:
            # A look without the write lock first: idle threads must not keep the writers out.
            if cursor.execute(self._any_sql, self.queues).fetchone() is None:
                return []
            rows: list[tuple[str, float, int, bytes]] = cursor.execute(
                self._take_sql, (*self._take_values, count)
            ).fetchall()
        # SQLite returns deleted rows in the order of the table.
        best = sorted((self.queues.index(queue), -priority, number, data) for queue, priority, number, data in rows)
        return [row[3] for row in best]


@contextmanager
def told(path: str) -> Generator[None]:
    """Say in our words what is wrong with the file."""
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise BackendUnavailableError(f"huey cannot use its queue file {path}: {error}") from error
    except sqlite3.Error as error:
        raise BackendError(f"huey's queue file {path} is damaged or foreign: {error}") from error
