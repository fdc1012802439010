"""The file of a SQLite ledger: where it may lie, its connections, its errors in our words."""

from __future__ import annotations

import ctypes
import os
import random
import sqlite3
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TypeVar

from penstock.core.base import Finding
from penstock.core.exceptions import ConfigError, InvalidJobError, LedgerError, LedgerUnavailableError
from penstock.ledger import rows, sqlite_schema
from penstock.servers import disk

T = TypeVar("T")

_IDLE_READERS = 4
_BUSY_TRIES = 3
_LOOK_S = 3.0
"""For how long the doctor waits for the write lock."""
_UNAVAILABLE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_AUTH,
    }
)


def _refuse_network_fs(path: Path) -> None:
    kind = disk.network_file_system(path, disk.mounts())
    if kind is not None:
        raise ConfigError(
            f"ledger {path} lies on a {kind} file system, where SQLite's write-ahead log can corrupt it; put it on "
            "a local disk, or set unsafe_network_fs = true if only one host ever opens it"
        )


@contextmanager
def _told(path: Path) -> Generator[None]:
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the low byte is the primary code
        if code in _UNAVAILABLE:
            hint = "is the disk full, is the file writable, does another program hold it?"
            raise LedgerUnavailableError(f"ledger {path}: {error}; {hint}") from error
        if code in (sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT):
            raise LedgerError(
                f"ledger {path} is damaged or not a SQLite file ({error}); move it away, or bring back a copy"
            ) from error
        raise LedgerError(f"ledger {path}: {error}") from error


class SqliteFile:
    """One write connection behind a lock, a few read connections beside it (WAL: they never wait for a writer).

    The lock hands the file from thread to thread; with a connection for each thread they would meet in SQLite's busy
    handler, which sleeps: at ten threads the rate is about the same, the longest wait 0.1 s against 0.4 to 1.4 s.
    Between processes the busy handler has to serve.
    Opens at once, and anew after a fork: a connection never crosses one.

    Raises:
        ConfigError: the file lies on a network file system, or this SQLite is too old.
        LedgerUnavailableError: the file cannot be opened, made or written.
        LedgerError: it is no ledger of ours.
    """

    def __init__(self, path: str, *, durability: str, unsafe_network_fs: bool, busy_timeout_s: float = 30.0) -> None:
        if sqlite3.sqlite_version_info < (3, 35):  # RETURNING
            raise ConfigError(f"SQLite {sqlite3.sqlite_version} is too old for a ledger; 3.35 is needed")
        self.path = Path(os.path.realpath(path))  # fixed now: the working directory may change
        if not unsafe_network_fs:
            _refuse_network_fs(self.path)
        self._synchronous = "FULL" if durability == "full" else "NORMAL"
        self._busy_timeout_s = busy_timeout_s
        self._closed = False
        self._forget()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise LedgerUnavailableError(
                f"ledger {self.path}: its folder cannot be made ({error.strerror}); make it, or choose another path"
            ) from error
        if self.path.is_dir():
            raise LedgerUnavailableError(f"ledger {self.path} is a folder; name a file in it, such as ledger.db")
        with _told(self.path):
            self._writer = self._open_writer()
        _files.add(self)

    def inspect(self) -> list[Finding]:
        """See `Ledger.inspect`."""
        told = f"SQLite {sqlite3.sqlite_version}, synchronous {self._synchronous}"
        return [Finding(name="server", level="ok", told=told), *self._look_at_writes(), *disk.look(self.path)]

    def _look_at_writes(self) -> list[Finding]:
        """Take the write lock for a moment: a file that only answers reads takes no jobs."""
        try:
            with closing(sqlite3.connect(self.path, timeout=_LOOK_S, isolation_level=None)) as connection:
                connection.execute("BEGIN IMMEDIATE")
                connection.execute("ROLLBACK")
        except sqlite3.OperationalError as error:
            hint = "is the file writable, does another program hold it?"
            return [Finding(name="writes", level="error", told=f"it takes none: {error}", hint=hint)]
        return []

    def check_version(self) -> None:
        """See `Ledger.check_version`."""
        self.read(lambda connection: sqlite_schema.check(connection, str(self.path)))

    def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let ``work`` execute a single statement, which is a transaction by itself."""
        with self._lock, _told(self.path):
            return self._patiently(work)

    def transaction(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let ``work`` execute statements, all or none of which are written.

        Takes SQLite's write lock first: a transaction that reads and then wants to write may be refused at once,
        whatever the busy timeout.
        """

        def whole(connection: sqlite3.Connection) -> T:
            connection.execute("BEGIN IMMEDIATE")
            try:
                answer = work(connection)
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
            return answer

        with self._lock, _told(self.path):
            return self._patiently(whole)

    def join(self, theirs: object, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let ``work`` execute statements in the transaction of somebody else's connection to this very file.

        Raises:
            UnsupportedError: it is no SQLite connection, or its own file is another one. Nothing was written.
            InvalidJobError: it commits each statement by itself and no transaction is open.
        """
        if not isinstance(theirs, sqlite3.Connection):
            raise rows.cannot_join(
                str(self.path), f" A SQLite ledger joins a sqlite3.Connection, not a {type(theirs).__name__}."
            )
        with _told(self.path):
            # Attached files do not count: with a write-ahead log, SQLite commits each of them by itself.
            cursor = theirs.cursor()
            cursor.row_factory = None  # theirs may make anything of a row
            (mine,) = cursor.execute("SELECT file FROM pragma_database_list WHERE name = 'main'").fetchone()
            if os.path.realpath(os.fsdecode(mine)) != str(self.path):
                raise rows.cannot_join(str(self.path), f" That connection is to {mine or 'memory'}: another database.")
            implicit = getattr(theirs, "autocommit", -1)  # Python 3.12; -1: isolation_level decides, as before
            if not theirs.in_transaction and (implicit is True or (implicit == -1 and theirs.isolation_level is None)):
                raise InvalidJobError("the connection commits each statement by itself; execute BEGIN first")
            return work(theirs)

    def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Let ``work`` read, beside any writer."""
        if self._closed:
            raise LedgerError(f"ledger {self.path} is closed")
        with _told(self.path):
            try:
                connection = self._readers.pop()
            except IndexError:
                connection = self._connect()
                connection.execute("PRAGMA query_only = ON")
            try:
                return work(connection)
            finally:
                if self._closed or len(self._readers) >= _IDLE_READERS:
                    self._let_go(connection)
                else:
                    self._readers.append(connection)

    def close(self) -> None:
        """Close every connection that is not at work; those close when their work is done."""
        with self._lock:
            self._closed = True
            if self._writer is not None:
                self._let_go(self._writer)
                self._writer = None
            while self._readers:
                self._let_go(self._readers.pop())

    def _patiently(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._closed:
            raise LedgerError(f"ledger {self.path} is closed")
        if self._writer is None:
            self._writer = self._open_writer()
        return self._while_busy(work, self._writer)

    def _while_busy(self, work: Callable[[sqlite3.Connection], T], connection: sqlite3.Connection) -> T:
        # Some steps (recovery, the change to WAL) do not ask the busy handler; what did has waited long enough.
        until = time.monotonic() + self._busy_timeout_s
        for left in reversed(range(_BUSY_TRIES)):
            try:
                return work(connection)
            except sqlite3.OperationalError as error:
                busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
                if not busy or not left or time.monotonic() >= until:
                    raise
            time.sleep(random.uniform(0.01, 0.1))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path,
            timeout=self._busy_timeout_s,
            isolation_level=None,
            check_same_thread=False,
            cached_statements=256,
        )
        self._open.append(connection)
        return connection

    def _open_writer(self) -> sqlite3.Connection:
        connection = self._connect()
        try:
            # Look before the first write: somebody else's file stays as it is.
            sqlite_schema.check(connection, str(self.path))
            self._while_busy(self._prepare, connection)
        except BaseException:
            self._let_go(connection)
            raise
        return connection

    def _prepare(self, connection: sqlite3.Connection) -> None:
        (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
        if mode != "wal":
            raise LedgerUnavailableError(
                f"ledger {self.path}: SQLite cannot use a write-ahead log there (mode {mode}); use a local disk"
            )
        connection.execute(f"PRAGMA synchronous = {self._synchronous}")
        connection.execute("PRAGMA foreign_keys = ON")
        sqlite_schema.migrate(connection, str(self.path))

    def _let_go(self, connection: sqlite3.Connection) -> None:
        self._open.remove(connection)
        connection.close()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._open: list[sqlite3.Connection] = []
        self._readers: list[sqlite3.Connection] = []
        self._writer: sqlite3.Connection | None = None

    def after_fork(self) -> None:
        """Start anew in a forked child, and keep what the parent had open from ever being closed here.

        Closing an inherited connection can break the parent's locks (sqlite.org/howtocorrupt.html, 2.6), and a
        connection closes when its last reference goes; so the child holds one for good.
        """
        for connection in self._open:
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(connection))
        self._forget()


_files: weakref.WeakSet[SqliteFile] = weakref.WeakSet()


def _after_fork() -> None:
    for file in list(_files):
        file.after_fork()


os.register_at_fork(after_in_child=_after_fork)
