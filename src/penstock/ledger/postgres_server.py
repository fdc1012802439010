"""The server of a Postgres ledger: its URL, its connections, its errors in our words."""

from __future__ import annotations

import os
import random
import re
import threading
import time
import weakref
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, quote, urlencode

import psycopg
from psycopg import conninfo
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from penstock.core.base import Finding
from penstock.core.exceptions import ConfigError, InvalidJobError, LedgerError, LedgerUnavailableError
from penstock.core.secrets import mask_url
from penstock.ledger import postgres_schema, rows
from penstock.ledger.postgres_silence import Silence, SilentError
from penstock.servers import postgres_look

T = TypeVar("T")
Connection = psycopg.Connection[tuple[Any, ...]]

_SCHEMA = re.compile(r"[A-Za-z0-9_.-]{1,63}", re.ASCII)
_TRIES = 4
_POOL = 10
_WAIT_S, _LOOK_S = 5.0, 0.5
_SILENT_S = 20.0
"""A heartbeat that gets no answer is to be sent anew while its lease of 60 s still runs."""
_DEFAULTS = {
    "connect_timeout": "5",
    "fallback_application_name": "penstock",
    "keepalives_idle": "30",
    "tcp_user_timeout": "10000",  # milliseconds: a server that vanished is noticed
}
_UNAVAILABLE = (
    psycopg.OperationalError,
    psycopg.InterfaceError,
    psycopg.errors.ReadOnlySqlTransaction,  # a standby, or a master that has become one
)
_ABORTED = (psycopg.errors.DeadlockDetected, psycopg.errors.SerializationFailure)


class PostgresServer:
    """A pool of connections to one database, each statement of which commits by itself. Safe from any thread.

    Work whose connection breaks is done again on a new one: the guards make the second time harmless. After a fork
    the child opens a pool of its own.

    Raises:
        ConfigError: the URL or the schema's name is wrong, the server is too old.
        LedgerUnavailableError: it does not answer, or does not let us in.
        LedgerError: the schema holds something else.
    """

    def __init__(self, url: str, *, namespace: str) -> None:
        self.url = mask_url(url)
        address, self.schema = _parts(url, namespace)
        if not _SCHEMA.fullmatch(self.schema):
            raise ConfigError(f"ledger {self.url}: {self.schema!r} is no schema's name: 1 to 63 of A-Z a-z 0-9 _ . -")
        try:
            given = conninfo.conninfo_to_dict(address)
        except psycopg.ProgrammingError as error:
            raise ConfigError(
                f"ledger {self.url}: {str(error).strip()}; write postgres://user:password@host:5432/database"
            ) from error
        self._conninfo = conninfo.make_conninfo(address, **{k: v for k, v in _DEFAULTS.items() if k not in given})
        self._closed = False
        self.repeats = 0
        self._forget()
        with self._told(), psycopg.connect(self._conninfo, autocommit=True) as connection:
            self.identity = postgres_schema.prepare(connection, self.schema, f"ledger {self.url}")
        _servers.add(self)

    def call(self, work: Callable[[Connection, bool], T]) -> T:
        """Let ``work(connection, again)`` execute statements; ``again``: an earlier try may have committed unheard.

        A transaction that the server gave up for another one's sake is tried again too.
        """
        with self._told():
            for number in range(_TRIES):
                pool = self._open_pool()
                try:
                    connection = self._connect(pool)
                except PoolClosed:  # by another thread, which has found it silent
                    continue
                try:
                    with self._silence.watched(connection):
                        return work(connection, number > 0)
                except _UNAVAILABLE as error:
                    again = connection.broken or connection.closed or isinstance(error, _ABORTED)
                    silent = isinstance(error, SilentError)
                    if not again or number == _TRIES - 1:
                        raise
                finally:
                    pool.putconn(connection)
                self.repeats += 1
                # What broke one connection has mostly broken the others; a silent one would not even say so.
                self._renew(pool) if silent else pool.check()
                time.sleep(0.02 * 2**number * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
            raise LedgerUnavailableError(f"ledger {self.url}: its connections fall silent one after the other")

    def join(self, theirs: object, work: Callable[[Connection], T]) -> T:
        """Let ``work`` execute statements in the transaction of somebody else's connection.

        Raises:
            UnsupportedError: it is no connection of psycopg 3. Nothing was written.
            InvalidJobError: it commits each statement by itself and no transaction is open.
        """
        if not isinstance(theirs, psycopg.Connection):
            raise rows.cannot_join(
                self.url, f" A Postgres ledger joins a psycopg.Connection, not a {type(theirs).__module__}."
                f"{type(theirs).__name__}."
            )  # fmt: skip
        if theirs.autocommit and theirs.info.transaction_status == TransactionStatus.IDLE:
            raise InvalidJobError(
                "the connection commits each statement by itself; use `with connection.transaction():` around the "
                "enqueue and your own statements"
            )
        with self._told():
            return work(cast("Connection", theirs))

    def _connect(self, pool: ConnectionPool[Connection]) -> Connection:
        until = time.monotonic() + _WAIT_S
        while True:
            try:
                return pool.getconn(timeout=_LOOK_S)
            except PoolTimeout:
                # The pool does not say why, and waits on although the server is away; a connection of one's own does.
                psycopg.connect(self._conninfo, autocommit=True).close()
                if time.monotonic() > until:
                    raise

    def _open_pool(self) -> ConnectionPool[Connection]:
        if self._closed:
            raise LedgerError(f"ledger {self.url} is closed")
        with self._lock:
            if self._pool is None:
                self._pool = ConnectionPool(
                    self._conninfo,
                    kwargs={"autocommit": True},
                    min_size=1,
                    max_size=_POOL,
                    timeout=_WAIT_S,
                    # Nobody waits for a later try: the next call asks again, and at once.
                    reconnect_timeout=1,
                    open=True,
                    name="penstock",
                )
            return self._pool

    def _renew(self, pool: ConnectionPool[Connection]) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.close(timeout=0)

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except _UNAVAILABLE as error:
            raise LedgerUnavailableError(f"ledger {self.url}: {_text(error)}; is Postgres up and reachable?") from error
        except psycopg.errors.UndefinedTable as error:
            raise LedgerError(f"ledger {self.url}: its tables are not there: {_text(error)}") from error
        except psycopg.Error as error:
            raise LedgerError(f"ledger {self.url}: {_text(error)}") from error

    def check_version(self) -> None:
        """See `Ledger.check_version`."""
        told = f"ledger {self.url}"
        self.call(lambda connection, _again: postgres_schema.check(connection, self.schema, told))

    def inspect(self) -> list[Finding]:
        """See `Ledger.inspect`."""
        return postgres_look.look(self._conninfo, "psycopg")

    def close(self) -> None:
        """Close the pool; a connection that is at work closes when it is done."""
        self._closed = True
        self._silence.close()
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.close()

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._silence = Silence(_SILENT_S)
        self._pool: ConnectionPool[Connection] | None = None

    def after_fork(self) -> None:
        """Start anew in a forked child, and keep the parent's pool from ever being closed here."""
        if self._pool is not None:
            _inherited.append(self._pool)
        self._forget()


def _text(error: Exception) -> str:
    return mask_url(" ".join(str(error).split()))


def _parts(url: str, schema: str) -> tuple[str, str]:
    """Take our own query value ``schema`` out of a URL; the others are libpq's."""
    address, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        if name == "schema":
            schema = value
    theirs = urlencode([pair for pair in pairs if pair[0] != "schema"], quote_via=quote)  # libpq reads no '+'
    return f"{address}?{theirs}" if theirs else address, schema


_inherited: list[ConnectionPool[Connection]] = []
_servers: weakref.WeakSet[PostgresServer] = weakref.WeakSet()


def _after_fork() -> None:
    for server in list(_servers):
        with suppress(Exception):
            server.after_fork()


os.register_at_fork(after_in_child=_after_fork)
