"""The tables of the Postgres ledger, and how an older schema becomes a newer one.

Instants are seconds since 1970, as in the SQLite ledger, so that both are read and written by the same statements;
``to_timestamp(created_at)`` shows one to people.
"""

from __future__ import annotations

import re
import uuid
from typing import TYPE_CHECKING, Any

from penstock.core.exceptions import ConfigError, LedgerError
from penstock.ledger import versions

if TYPE_CHECKING:
    import psycopg

OLDEST = 120000  # PostgreSQL 12
_MIGRATING = 0x70656E73  # "pens": the advisory lock of whoever makes the tables

UNIQUE: dict[str, str] = {
    "id": "CREATE UNIQUE INDEX jobs_id ON jobs (id)",
    "tick_key": "CREATE UNIQUE INDEX jobs_tick ON jobs (tick_key) WHERE tick_key IS NOT NULL",
    "key": "CREATE UNIQUE INDEX jobs_live_key ON jobs (key) WHERE key IS NOT NULL AND state IN ('queued', 'running')",
}
"""The guards of T1: what a new job may not share with one that is there."""

# COLLATE "C": ids sort by their bytes, whatever the database's language. A fifth of each page stays free, so that a
# heartbeat finds room beside the row it replaces and touches no index.
_JOBS = """
CREATE TABLE jobs (
    seq BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    id TEXT COLLATE "C" NOT NULL, kind TEXT NOT NULL, name TEXT COLLATE "C" NOT NULL,
    queue TEXT NOT NULL, priority INTEGER NOT NULL, isolation TEXT NOT NULL,
    timeout_s FLOAT8, max_attempts INTEGER NOT NULL, max_crashes INTEGER NOT NULL, backoff TEXT,
    key TEXT COLLATE "C", tick_key TEXT COLLATE "C", parent_id TEXT COLLATE "C", tags TEXT, metadata TEXT,
    state TEXT COLLATE "C" NOT NULL, created_at FLOAT8 NOT NULL, scheduled_at FLOAT8 NOT NULL, reason TEXT,
    attempt INTEGER NOT NULL DEFAULT 0, errors INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
    owner TEXT, lease_until FLOAT8, cancel_requested_at FLOAT8, held TEXT, note TEXT,
    published_at FLOAT8, publishes INTEGER NOT NULL DEFAULT 0, publish_due_at FLOAT8,
    started_at FLOAT8, finished_at FLOAT8, progress FLOAT8, message TEXT, nodes_done INTEGER, nodes_total INTEGER,
    event TEXT, event_no INTEGER NOT NULL DEFAULT 0, event_at FLOAT8, event_reason TEXT, event_told_error BOOLEAN,
    spec BYTEA NOT NULL, error TEXT, result BYTEA
) WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01)"""

# No index over leases: few jobs run at a time, and one would make each heartbeat write to all indexes.
_INDEXES = (
    "CREATE INDEX jobs_due ON jobs (publish_due_at) WHERE state = 'queued'",
    "CREATE INDEX jobs_running ON jobs (owner) WHERE state = 'running'",
    "CREATE INDEX jobs_finished ON jobs (state, finished_at) WHERE finished_at IS NOT NULL",
    "CREATE INDEX jobs_failed ON jobs (id) WHERE state = 'failed'",
    "CREATE INDEX jobs_cancelled ON jobs (id) WHERE state = 'cancelled'",
    "CREATE INDEX jobs_name ON jobs (name, id)",
    "CREATE INDEX jobs_key ON jobs (key, id) WHERE key IS NOT NULL",
    "CREATE INDEX jobs_parent ON jobs (parent_id, id) WHERE parent_id IS NOT NULL",
)

# No foreign keys: each would lock and look up the job's row again at every entry; a purge deletes all by itself.
_HISTORY = """
CREATE TABLE history (
    job BIGINT NOT NULL, no INTEGER NOT NULL, at FLOAT8 NOT NULL, event TEXT NOT NULL, from_state TEXT NOT NULL,
    to_state TEXT NOT NULL, attempt INTEGER NOT NULL, worker TEXT, reason TEXT, error TEXT,
    PRIMARY KEY (job, no)
)"""

# A transition is one statement because the table itself writes its history.
_TELL = """
CREATE FUNCTION told() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO history (job, no, at, event, from_state, to_state, attempt, worker, reason, error)
    VALUES (
        NEW.seq, NEW.event_no, NEW.event_at, NEW.event, OLD.state, NEW.state, NEW.attempt,
        CASE WHEN OLD.state = 'running' OR NEW.state = 'running' THEN NEW.owner END,
        NEW.event_reason, CASE WHEN NEW.event_told_error THEN NEW.error END
    );
    RETURN NULL;
END $$"""
_TOLD = "CREATE TRIGGER jobs_told AFTER UPDATE OF event ON jobs FOR EACH ROW EXECUTE FUNCTION told()"

# Text of a body may hold NUL, which Postgres takes in BYTEA only: then `raw` has the line, and `text` shows it.
_LOGS = """
CREATE TABLE logs (
    job BIGINT NOT NULL, seq BIGINT GENERATED ALWAYS AS IDENTITY, attempt INTEGER NOT NULL,
    at FLOAT8 NOT NULL, level TEXT NOT NULL, source TEXT NOT NULL, text TEXT NOT NULL, raw BYTEA, node TEXT,
    PRIMARY KEY (job, seq)
)"""

_NODES = """
CREATE TABLE nodes (
    job BIGINT NOT NULL, attempt INTEGER NOT NULL, name TEXT NOT NULL, no INTEGER NOT NULL, state TEXT NOT NULL,
    started_at FLOAT8, elapsed_s FLOAT8, error TEXT,
    PRIMARY KEY (job, attempt, name)
)"""

# One row: `identity` tells this ledger from another one under the same name in another database.
_LEDGER = """
CREATE TABLE ledger (
    version INTEGER NOT NULL, identity TEXT NOT NULL, one BOOLEAN PRIMARY KEY DEFAULT true CHECK (one)
)"""

_WORKERS = 'CREATE TABLE workers (id TEXT COLLATE "C" PRIMARY KEY, seen_at FLOAT8 NOT NULL, info TEXT NOT NULL)'


def _version_1() -> tuple[str, ...]:
    return (_JOBS, *UNIQUE.values(), *_INDEXES, _HISTORY, _TELL, _TOLD, _LOGS, _NODES, _WORKERS)


_RECORDS = """
CREATE TABLE records (
    kind TEXT COLLATE "C" NOT NULL, name TEXT COLLATE "C" NOT NULL, version BIGINT NOT NULL, due_at FLOAT8,
    body BYTEA NOT NULL, PRIMARY KEY (kind, name)
)"""


def _version_2() -> tuple[str, ...]:
    return (_RECORDS, "CREATE INDEX records_due ON records (kind, due_at) WHERE due_at IS NOT NULL")


def _version_3() -> tuple[str, ...]:
    return (
        'ALTER TABLE jobs ADD COLUMN unique_key TEXT COLLATE "C"',
        "ALTER TABLE jobs ADD COLUMN expires_at FLOAT8",
        "CREATE INDEX jobs_unique ON jobs (unique_key, id) WHERE unique_key IS NOT NULL",
        "CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL AND finished_at IS NULL",
    )


MIGRATIONS = (_version_1, _version_2, _version_3)
"""Each makes the next version out of the one before; those that have been released never change."""

_TABLES = re.compile(
    r"\b(FROM|UPDATE|INTO|JOIN|TABLE|ON|FUNCTION) (jobs|history|logs|nodes|workers|records|ledger|told)\b"
)


def qualified(statement: str, schema: str) -> str:
    """Name the schema of each table: the search path of a session, or of the caller's connection, is not ours."""
    return _TABLES.sub(rf'\1 "{schema}".\2', statement)


def prepare(connection: psycopg.Connection[tuple[Any, ...]], schema: str, told: str) -> str:
    """Bring the schema up to date, once, however many processes open it; return the identity of this ledger.

    Raises:
        ConfigError: the server is too old.
        LedgerError: the schema holds somebody else's tables, or those of a newer penstock.
    """
    if connection.info.server_version < OLDEST:
        raise ConfigError(f"{told}: PostgreSQL {connection.info.server_version // 10000} is too old; 12 is needed")
    found = _look(connection, schema, told)
    if found is None or found[0] < len(MIGRATIONS):
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATING,))
            _migrate(connection, schema, _look(connection, schema, told))
        found = _look(connection, schema, told)
    if found is None:
        raise LedgerError(f"{told}: the tables of schema {schema!r} were made and are gone")
    return found[1]


def _look(connection: psycopg.Connection[tuple[Any, ...]], schema: str, told: str) -> tuple[int, str] | None:
    """Return the version and the identity, None where there is no ledger yet."""
    tables = connection.execute(
        "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE nspname = %s AND relkind IN ('r', 'v', 'm', 'p') AND relname IN ('ledger', 'jobs')",
        (schema,),
    ).fetchall()
    if not tables:
        return None
    if ("ledger",) not in tables:
        raise LedgerError(
            f"{told}: schema {schema!r} has a table named jobs that is not penstock's; give the ledger a schema of "
            "its own (?schema=... in the setting `ledger`)"
        )
    return check(connection, schema, told)


def check(connection: psycopg.Connection[tuple[Any, ...]], schema: str, told: str) -> tuple[int, str]:
    """Return the version and the identity of the ledger that is there.

    Raises:
        NewerLedgerError: a newer penstock has it, which leaves this one out.
    """
    row = connection.execute(qualified("SELECT version, identity FROM ledger", schema).encode()).fetchone()
    version, identity = row or (0, "")
    return versions.refuse_newer(version, known=len(MIGRATIONS), told=told), identity


def _migrate(connection: psycopg.Connection[tuple[Any, ...]], schema: str, found: tuple[int, str] | None) -> None:
    if found is None:
        known = connection.execute("SELECT 1 FROM pg_namespace WHERE nspname = %s", (schema,)).fetchone()
        if known is None:  # IF NOT EXISTS asks for the right to make one even where there is one
            connection.execute(f'CREATE SCHEMA "{schema}"'.encode())
        connection.execute(qualified(_LEDGER, schema).encode())
        statement = qualified("INSERT INTO ledger (version, identity) VALUES (0, %s)", schema)
        connection.execute(statement.encode(), (uuid.uuid4().hex,))
    for number in range((found[0] if found else 0) + 1, len(MIGRATIONS) + 1):
        for statement in MIGRATIONS[number - 1]():
            connection.execute(qualified(statement, schema).encode())
        connection.execute(qualified("UPDATE ledger SET version = %s", schema).encode(), (versions.packed(number),))
