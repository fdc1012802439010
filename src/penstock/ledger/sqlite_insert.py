"""T1 on SQLite: one job after the other, within one transaction."""

# ruff: noqa: S608 - statements are put together from our own constants; values travel as parameters

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Mapping
from typing import Any

from penstock.core.exceptions import LedgerError, QueueFullError
from penstock.job.lifecycle import Transition
from penstock.job.models import Intent, Job, Outcome, Submission
from penstock.ledger import conflicts, rows, sql

_INSERT = """
INSERT INTO jobs (id, kind, name, spec, queue, priority, isolation, timeout_s, max_attempts, max_crashes, backoff,
    key, tick_key, parent_id, tags, metadata, state, created_at, scheduled_at, published_at, publishes, publish_due_at,
    unique_key, held, expires_at)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING"""
_HOLDER = (
    " UNION ALL ".join(
        f"SELECT {sql.JOB} FROM jobs WHERE {term}"
        for term in ("id = :id", "tick_key = :tick_key", "key = :key AND state IN ('queued', 'running')")
    )
    + " LIMIT 1"
)
_QUEUED_UP_TO = f"SELECT count(*) FROM (SELECT 1 FROM jobs WHERE {sql.QUEUED} AND queue = ? LIMIT ?)"


def tools(
    connection: sqlite3.Connection,
    step: Callable[[Transition], bool],
    *,
    now: float,
    grace_s: float,
    pushed: bool,
) -> conflicts.Tools:
    """Return what submits jobs one by one within the transaction that is open."""

    def ask(statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
        cursor = connection.cursor()
        cursor.row_factory = None  # the caller's own connection may have one
        return cursor.execute(statement, {"now": now, **values}).fetchall()

    def insert(intent: Intent) -> Submission:
        job = rows.queued(intent, now=now, grace_s=grace_s, pushed=pushed)
        return _insert(connection.cursor(), job)

    return conflicts.relational(ask, step, insert)


def _insert(cursor: sqlite3.Cursor, job: Job) -> Submission:
    cursor.row_factory = None
    values = (
        job.id,
        job.kind,
        job.name,
        job.spec,
        job.queue,
        job.priority,
        job.isolation,
        job.timeout_s,
        job.max_attempts,
        job.max_crashes,
        rows.backoff_text(job.backoff),
        job.key,
        job.tick_key,
        job.parent_id,
        rows.json_text(job.tags),
        rows.json_text(job.metadata),
        "queued",
        job.created_at.timestamp(),
        job.scheduled_at.timestamp(),
        job.published_at and job.published_at.timestamp(),
        job.publishes,
        job.publish_due_at and job.publish_due_at.timestamp(),
        job.unique_key,
        job.held,
        job.expires_at and job.expires_at.timestamp(),
    )
    if cursor.execute(_INSERT, values).rowcount == 1:
        return Submission(job, Outcome.CREATED)
    holder = cursor.execute(_HOLDER, {"id": job.id, "tick_key": job.tick_key, "key": job.key}).fetchone()
    if holder is None:
        raise LedgerError(f"job {job.id} was refused, and no job that stands in its way is there")
    return Submission(rows.job_of(holder), Outcome.KEPT)


def check_room(connection: sqlite3.Connection, created: Mapping[str, int], max_queued: Mapping[str, int]) -> None:
    """Count after the insert, which holds the write lock: what is counted now is what there will be."""
    for queue, number in created.items():
        limit = max_queued[queue]
        cursor = connection.cursor()
        cursor.row_factory = None  # the caller's own connection may have one
        (queued,) = cursor.execute(_QUEUED_UP_TO, (queue, limit + 1)).fetchone()
        if queued > limit:
            raise QueueFullError(queue, limit, number)
