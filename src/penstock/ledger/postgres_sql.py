"""The statements of the Postgres ledger: the shared ones in its words, and its own.

Parameters are ``:name`` here, as in `sql`; `Statements` writes them as psycopg reads them, with their types.
"""

# ruff: noqa: S608 - statements are put together from our own constants; values travel as parameters

from __future__ import annotations

import re

from penstock.job.lifecycle import Event, State
from penstock.ledger import rows, sql
from penstock.ledger.postgres_schema import qualified

DIALECT = sql.Dialect(
    like="name LIKE :name",
    pattern=lambda name: re.sub(r"([\\%_])", r"\\\1", name).replace("*", "%").replace("?", "_"),
    tagged="tags::jsonb @> to_jsonb(:tag)",
    among_ids="id = ANY(:ids)",
    ids_of=list,
    described="metadata::jsonb @> :entries::jsonb",
)

_LAST = repr(rows.LAST_INSTANT)
# What the shared statements take as values is worked out here: all instants are the server's. The time of the
# statement, not of the transaction, which may be long; and not clock_timestamp(), which changes under the statement
# and so finds no index.
_WORKED_OUT = {
    "due_at": f"least(:now + :delay_s, {_LAST})",
    "lease_until": f"least(:now + :lease_s, {_LAST})",
}
SERVER_TIME = "extract(epoch FROM statement_timestamp())::float8"
_TYPES = {
    "now": "float8", "lease_s": "float8", "delay_s": "float8", "older_than_s": "float8", "grace_s": "float8",
    "max_grace_s": "float8", "trusted_s": "float8",
    "kept_s": "float8", "within_s": "float8", "since": "float8", "at": "float8", "started_at": "float8",
    "elapsed_s": "float8", "progress": "float8", "attempt": "int", "publishes": "int", "nodes_done": "int",
    "nodes_total": "int",
    "limit": "bigint", "after": "bigint", "result": "bytea", "raw": "bytea", "pushed": "bool", "queues": "text[]",
    "begun": "bool", "ids": "text[]", "body": "bytea", "seen": "bigint", "due": "float8",
}  # fmt: skip
_PARAMETER = re.compile(r"(?<!:):([a-z_]+)")

_ARRAYS = {
    "id": "text", "kind": "text", "name": "text", "spec": "bytea", "queue": "text", "priority": "int",
    "isolation": "text", "timeout_s": "float8", "max_attempts": "int", "max_crashes": "int", "backoff": "text",
    "key": "text", "tick_key": "text", "parent_id": "text", "tags": "text", "metadata": "text",
    "unique_key": "text", "held": "text",
}  # fmt: skip
_COLUMNS = ", ".join(_ARRAYS)
INSERT = f"""
WITH given AS (
    SELECT given.*, :now AS now FROM unnest({", ".join(f"%({n})s::{t}[]" for n, t in _ARRAYS.items())},
        %(at)s::float8[], %(delay_s)s::float8[], %(expires_at)s::float8[], %(expires_s)s::float8[])
        WITH ORDINALITY AS given ({_COLUMNS}, at, delay_s, expires_at, expires_s, no)
), timed AS (
    SELECT given.*, coalesce(at, least(now + delay_s, {_LAST})) AS due FROM given
), pushed AS (
    SELECT timed.*, :pushed AND due <= now AND held IS NULL AS sent FROM timed
)
INSERT INTO jobs ({_COLUMNS}, state, created_at, scheduled_at, published_at, publishes, publish_due_at, expires_at)
SELECT {_COLUMNS}, 'queued', now, greatest(due, now), CASE WHEN sent THEN now END, CASE WHEN sent THEN 1 ELSE 0 END,
    CASE WHEN sent THEN least(now + :grace_s, {_LAST}) ELSE greatest(due, now) END,
    CASE WHEN expires_s IS NULL THEN expires_at ELSE least(greatest(due, now) + expires_s, {_LAST}) END
FROM pushed WHERE EXISTS (SELECT 1 FROM ledger WHERE identity = :identity) ORDER BY no
ON CONFLICT DO NOTHING RETURNING id, created_at"""

HOLDER = (
    f"SELECT {sql.JOB} FROM ("
    + " UNION ALL ".join(
        f"SELECT {number} AS turn, {sql.JOB} FROM jobs WHERE {term}"
        for number, term in enumerate(
            ("id = :id", "tick_key = :tick_key", "key = :key AND state IN ('queued', 'running')")
        )
    )
    + ") AS held ORDER BY turn LIMIT 1"
)
GET = f"SELECT {sql.JOB} FROM jobs WHERE id = :id"
PUBLISHABLE = (
    f"SELECT {sql.JOB} FROM jobs WHERE {sql.QUEUED} AND held IS NULL AND publish_due_at <= :now "
    "ORDER BY publish_due_at LIMIT :limit"
)
EXPIRED = f"SELECT {sql.JOB} FROM jobs WHERE {sql.RUNNING} AND lease_until < :now ORDER BY lease_until LIMIT :limit"
EXPIRABLE = (
    f"SELECT {sql.JOB} FROM jobs WHERE {sql.QUEUED} AND expires_at IS NOT NULL AND expires_at < :now "
    "ORDER BY expires_at LIMIT :limit"
)
CANCEL_REQUESTS = (
    "SELECT id, attempt FROM jobs WHERE owner = :owner AND state = 'running' AND cancel_requested_at IS NOT NULL "
    "ORDER BY id"
)
# What is being claimed at this moment is left alone.
POSTPONE = sql.postpone("queue = ANY(:queues)", least="least", greatest="greatest", lock=" FOR UPDATE SKIP LOCKED")
_AMONG = "(cardinality(:queues) = 0 OR queue = ANY(:queues))"
_DUE = sql.once("scheduled_at <= :now")
BACKLOG = (
    f"SELECT (SELECT count(*) FROM jobs WHERE {sql.QUEUED} AND held IS NULL AND {_DUE} AND {_AMONG}), "
    f"(SELECT count(*) FROM jobs WHERE {sql.RUNNING} AND {_AMONG})"
)
LOCK_KEY = "SELECT pg_advisory_xact_lock(hashtext(:identity), hashtext('key ' || :key))"
LOCK_QUEUE = "SELECT pg_advisory_xact_lock(hashtext(:identity), hashtext(:queue))"
ANY_THERE = "SELECT 1 FROM jobs WHERE id = ANY(:ids) LIMIT 1"
QUEUED_UP_TO = f"SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {sql.QUEUED} AND queue = :queue LIMIT :limit) AS found"
# What another purge is deleting at this moment is left to it.
PURGE = f"""
WITH old AS (
    SELECT seq FROM jobs WHERE state = :state AND {{guard}} ORDER BY finished_at LIMIT :limit FOR UPDATE SKIP LOCKED
), gone AS (
    DELETE FROM jobs USING old WHERE jobs.seq = old.seq RETURNING jobs.seq, id
), {", ".join(f"{t}_gone AS (DELETE FROM {t} USING gone WHERE job = gone.seq)" for t in ("history", "logs", "nodes"))}
SELECT id FROM gone"""

# A report about a job that is gone finds no row to belong to.
LOG = (
    "INSERT INTO logs (job, attempt, at, level, source, text, raw, node) "
    "SELECT seq, :attempt, :at, :level, :source, :text, :raw, :node FROM jobs WHERE id = :id"
)
NODE = """
INSERT INTO nodes (job, attempt, name, no, state, started_at, elapsed_s, error)
SELECT seq, :attempt, :name, (SELECT count(*) FROM nodes WHERE job = seq AND attempt = :attempt),
    :state, :started_at, :elapsed_s, :error FROM jobs WHERE id = :id
ON CONFLICT (job, attempt, name) DO UPDATE SET state = excluded.state, elapsed_s = excluded.elapsed_s,
    error = excluded.error, started_at = coalesce(excluded.started_at, nodes.started_at)"""
PROGRESS = (
    "UPDATE jobs SET progress = coalesce(:progress, progress), message = coalesce(:message, message), "
    "nodes_done = coalesce(:nodes_done, nodes_done), nodes_total = coalesce(:nodes_total, nodes_total) "
    "WHERE id = :id AND attempt = :attempt"
)
HISTORY = (
    "SELECT at, history.event, from_state, to_state, history.attempt, worker, history.reason, history.error "
    "FROM jobs JOIN history ON job = seq WHERE id = :id ORDER BY no"
)
LOGS = (
    "SELECT logs.attempt, at, level, source, text, raw, node, logs.seq FROM jobs JOIN logs ON job = jobs.seq "
    "WHERE id = :id AND logs.seq > :after AND (:attempt IS NULL OR logs.attempt = :attempt) "
    "ORDER BY logs.seq LIMIT :limit"
)
NODES = (
    "SELECT nodes.attempt, nodes.name, nodes.state, nodes.started_at, elapsed_s, nodes.error "
    "FROM jobs JOIN nodes ON job = seq WHERE id = :id AND nodes.attempt = coalesce(:attempt, "
    "(SELECT max(attempt) FROM nodes WHERE job = seq)) ORDER BY nodes.started_at NULLS LAST, no"
)
TELL_WORKER = (
    "WITH silent AS (DELETE FROM workers WHERE seen_at < :now - :kept_s AND id <> :id) "
    "INSERT INTO workers (id, seen_at, info) VALUES (:id, :now, :info) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, info = excluded.info"
)
FORGET_WORKER = "DELETE FROM workers WHERE id = :id"
WORKERS = "SELECT info, seen_at FROM workers WHERE seen_at >= :now - :within_s ORDER BY id"
# Losing the newest heartbeats, lines and news with the machine is harmless, and waiting for its disk is not.
LAZILY = "set_config('synchronous_commit', 'off', true)"


class Statements:
    """Writes statements for one schema; ``told_time``: the parameter ``now`` is given, as tests do."""

    def __init__(self, schema: str, *, told_time: bool) -> None:
        self._schema = schema
        self._now = ":now" if told_time else SERVER_TIME
        self._known: dict[str, bytes] = {}
        self._transitions: dict[tuple[Event, State, State | None, bool], bytes] = {}

    def __call__(self, statement: str) -> bytes:
        """Write a statement as psycopg reads it."""
        known = self._known.get(statement)
        if known is None:
            known = self._known[statement] = self._write(statement)
        return known

    def transition(self, event: Event, to: State, to_if_cancelled: State | None, *, lazily: bool) -> bytes:
        """Write the one statement of a transition; ``lazily``: its commit need not wait for the disk."""
        key = (event, to, to_if_cancelled, lazily)
        known = self._transitions.get(key)
        if known is None:
            statement = sql.transition(event, to, to_if_cancelled)
            known = self._write(f"{statement}, {LAZILY}" if lazily else statement)
            self._transitions[key] = known
        return known

    def _write(self, statement: str) -> bytes:
        for name, value in _WORKED_OUT.items():
            statement = statement.replace(f":{name}", value)
        if self._now != ":now":
            statement = re.sub(r":now\b", self._now, statement)
        typed = _PARAMETER.sub(lambda found: f"%({found[1]})s::{_TYPES.get(found[1], 'text')}", statement)
        return qualified(typed, self._schema).encode()
