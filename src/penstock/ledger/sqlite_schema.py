"""The tables of the SQLite ledger, and how an older file becomes a newer one."""

from __future__ import annotations

import sqlite3

from penstock.core.exceptions import LedgerError
from penstock.ledger import versions

APPLICATION_ID = 0x70656E73  # "pens", in the file's header: tells a ledger from anybody's database

UNIQUE: dict[str, str] = {
    "id": "CREATE UNIQUE INDEX jobs_id ON jobs (id)",
    "tick_key": "CREATE UNIQUE INDEX jobs_tick ON jobs (tick_key) WHERE tick_key IS NOT NULL",
    "key": "CREATE UNIQUE INDEX jobs_live_key ON jobs (key) WHERE key IS NOT NULL AND state IN ('queued', 'running')",
}
"""The guards of T1: what a new job may not share with one that is there."""

_JOBS = """
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY,
    id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL,
    queue TEXT NOT NULL, priority INTEGER NOT NULL, isolation TEXT NOT NULL,
    timeout_s REAL, max_attempts INTEGER NOT NULL, max_crashes INTEGER NOT NULL, backoff TEXT,
    key TEXT, tick_key TEXT, parent_id TEXT, tags TEXT, metadata TEXT,
    state TEXT NOT NULL, created_at REAL NOT NULL, scheduled_at REAL NOT NULL, reason TEXT,
    attempt INTEGER NOT NULL DEFAULT 0, errors INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
    owner TEXT, lease_until REAL, cancel_requested_at REAL, held TEXT, note TEXT,
    published_at REAL, publishes INTEGER NOT NULL DEFAULT 0, publish_due_at REAL,
    started_at REAL, finished_at REAL, progress REAL, message TEXT, nodes_done INTEGER, nodes_total INTEGER,
    event TEXT, event_no INTEGER NOT NULL DEFAULT 0, event_at REAL, event_reason TEXT, event_told_error INTEGER,
    -- last, because they may be long: what stands before them is read without them
    spec BLOB NOT NULL, error TEXT, result BLOB
)"""

# A transition is one statement because the table itself writes its history.
_TOLD = """
CREATE TRIGGER jobs_told AFTER UPDATE OF event ON jobs BEGIN
    INSERT INTO history (job, no, at, event, from_state, to_state, attempt, worker, reason, error)
    VALUES (
        NEW.seq, NEW.event_no, NEW.event_at, NEW.event, OLD.state, NEW.state, NEW.attempt,
        CASE WHEN OLD.state = 'running' OR NEW.state = 'running' THEN NEW.owner END,
        NEW.event_reason, CASE WHEN NEW.event_told_error THEN NEW.error END
    );
END"""


# Each index that a claim or a success touches costs it a page of the log: what waits and what runs share one, which
# sweeps and counts never leave; the newest successes are found by id, as most jobs succeed.
_INDEXES = (
    """
CREATE INDEX jobs_live ON jobs (
    state, publish_due_at, queue, scheduled_at, attempt, held, note, lease_until, cancel_requested_at, finished_at
) WHERE finished_at IS NULL""",
    """
CREATE INDEX jobs_cancelling ON jobs (owner) WHERE state = 'running' AND cancel_requested_at IS NOT NULL""",
    "CREATE INDEX jobs_finished ON jobs (state, finished_at) WHERE finished_at IS NOT NULL",
    "CREATE INDEX jobs_failed ON jobs (id) WHERE state = 'failed'",
    "CREATE INDEX jobs_cancelled ON jobs (id) WHERE state = 'cancelled'",
    "CREATE INDEX jobs_name ON jobs (name, id)",
    "CREATE INDEX jobs_key ON jobs (key, id) WHERE key IS NOT NULL",
    "CREATE INDEX jobs_parent ON jobs (parent_id, id) WHERE parent_id IS NOT NULL",
)

_HISTORY = """
CREATE TABLE history (
    job INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE, no INTEGER NOT NULL,
    at REAL NOT NULL, event TEXT NOT NULL, from_state TEXT NOT NULL, to_state TEXT NOT NULL, attempt INTEGER NOT NULL,
    worker TEXT, reason TEXT, error TEXT,
    PRIMARY KEY (job, no)
) WITHOUT ROWID"""

_LOGS = """
CREATE TABLE logs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    job INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE, attempt INTEGER NOT NULL,
    at REAL NOT NULL, level TEXT NOT NULL, source TEXT NOT NULL, text TEXT NOT NULL, node TEXT
)"""

_NODES = """
CREATE TABLE nodes (
    job INTEGER NOT NULL REFERENCES jobs (seq) ON DELETE CASCADE, attempt INTEGER NOT NULL,
    name TEXT NOT NULL, no INTEGER NOT NULL, state TEXT NOT NULL, started_at REAL, elapsed_s REAL, error TEXT,
    PRIMARY KEY (job, attempt, name)
) WITHOUT ROWID"""

_WORKERS = "CREATE TABLE workers (id TEXT PRIMARY KEY, seen_at REAL NOT NULL, info TEXT NOT NULL) WITHOUT ROWID"


def _version_1() -> tuple[str, ...]:
    log_index = "CREATE INDEX logs_job ON logs (job)"
    return (_JOBS, *UNIQUE.values(), *_INDEXES, _HISTORY, _TOLD, _LOGS, log_index, _NODES, _WORKERS)


_RECORDS = """
CREATE TABLE records (
    kind TEXT NOT NULL, name TEXT NOT NULL, version INTEGER NOT NULL, due_at REAL, body BLOB NOT NULL,
    PRIMARY KEY (kind, name)
) WITHOUT ROWID"""


def _version_2() -> tuple[str, ...]:
    return (_RECORDS, "CREATE INDEX records_due ON records (kind, due_at) WHERE due_at IS NOT NULL")


def _version_3() -> tuple[str, ...]:
    return (
        "ALTER TABLE jobs ADD COLUMN unique_key TEXT",
        "ALTER TABLE jobs ADD COLUMN expires_at REAL",
        "CREATE INDEX jobs_unique ON jobs (unique_key, id) WHERE unique_key IS NOT NULL",
        "CREATE INDEX jobs_expiring ON jobs (expires_at) WHERE expires_at IS NOT NULL AND finished_at IS NULL",
    )


MIGRATIONS = (_version_1, _version_2, _version_3)
"""Each makes the next version out of the one before; those that have been released never change."""


def check(connection: sqlite3.Connection, path: str) -> int:
    """Return the schema version of the file, 0 for an empty one, having written nothing.

    Raises:
        LedgerError: somebody else's database, or one of a newer penstock.
    """
    if connection.in_transaction:
        application_id, version, tables = _header(connection)
    else:
        # One snapshot for all three: another process may be making the tables just now.
        connection.execute("BEGIN")
        try:
            application_id, version, tables = _header(connection)
        finally:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
    if application_id != APPLICATION_ID and (application_id or version or tables):
        raise LedgerError(
            f"{path} is a SQLite database, but not a penstock ledger; "
            "give the ledger a file of its own (setting `ledger`)"
        )
    return versions.refuse_newer(version, known=len(MIGRATIONS), told=f"ledger {path}")


def _header(connection: sqlite3.Connection) -> tuple[int, int, int]:
    questions = ("PRAGMA application_id", "PRAGMA user_version", "SELECT count(*) FROM sqlite_master")
    application_id, version, tables = (connection.execute(question).fetchone()[0] for question in questions)
    return application_id, version, tables


def migrate(connection: sqlite3.Connection, path: str) -> None:
    """Bring the schema up to date: all of it or nothing, and once, however many processes open the file."""
    if check(connection, path) >= len(MIGRATIONS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = check(connection, path)  # another process may have been here between the look and the lock
        for number in range(found + 1, len(MIGRATIONS) + 1):
            for statement in MIGRATIONS[number - 1]():
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {versions.packed(number)}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
