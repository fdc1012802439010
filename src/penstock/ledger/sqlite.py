"""The ledger in a SQLite file: for any number of processes on one host."""

# ruff: noqa: S608 - statements are put together from our own constants; values travel as parameters

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.core.base import Applied, Finding, Ledger, Patience
from penstock.core.exceptions import InvalidJobError, JobNotFoundError
from penstock.core.overview import Tally
from penstock.core.records import Records
from penstock.job.lifecycle import TRANSITIONS, Event, State, Transition
from penstock.job.models import (
    HistoryEntry,
    Intent,
    Job,
    JobQuery,
    LogLine,
    NodeRun,
    Progress,
    Report,
    Submission,
    WorkerInfo,
)
from penstock.ledger import conflicts, rows, sql, sql_overview, sqlite_insert
from penstock.ledger.sqlite_file import SqliteFile
from penstock.ledger.sqlite_records import SqliteRecords

_GET = f"SELECT {sql.JOB} FROM jobs WHERE id = ?"
_PUBLISHABLE = (
    f"SELECT {sql.JOB} FROM jobs WHERE {sql.QUEUED} AND held IS NULL AND publish_due_at <= ? "
    "ORDER BY publish_due_at LIMIT ?"
)
_EXPIRED = f"SELECT {sql.JOB} FROM jobs WHERE {sql.RUNNING} AND lease_until < ? ORDER BY lease_until LIMIT ?"
_EXPIRABLE = (
    f"SELECT {sql.JOB} FROM jobs WHERE {sql.QUEUED} AND expires_at IS NOT NULL AND expires_at < ? "
    "ORDER BY expires_at LIMIT ?"
)
_CANCEL_REQUESTS = (
    "SELECT id, attempt FROM jobs WHERE owner = ? AND state = 'running' AND cancel_requested_at IS NOT NULL ORDER BY id"
)
_BACKLOG = (
    f"SELECT (SELECT count(*) FROM jobs WHERE {sql.QUEUED} AND held IS NULL AND scheduled_at <= :now{{among}}), "
    f"(SELECT count(*) FROM jobs WHERE {sql.RUNNING}{{among}})"
)
_AMONG = " AND queue IN (SELECT value FROM json_each(:queues))"
_POSTPONE = sql.postpone("queue IN (SELECT value FROM json_each(:queues))")
# A report about a job that is gone finds no row to belong to.
_LOG = (
    "INSERT INTO logs (job, attempt, at, level, source, text, node) SELECT seq, ?, ?, ?, ?, ?, ? FROM jobs WHERE id = ?"
)
_NODE = """
INSERT INTO nodes (job, attempt, name, no, state, started_at, elapsed_s, error)
SELECT seq, :attempt, :name, (SELECT count(*) FROM nodes WHERE job = seq AND attempt = :attempt),
    :state, :started_at, :elapsed_s, :error FROM jobs WHERE id = :id
ON CONFLICT (job, attempt, name) DO UPDATE SET state = excluded.state, elapsed_s = excluded.elapsed_s,
    error = excluded.error, started_at = coalesce(excluded.started_at, started_at)"""
_PROGRESS = (
    "UPDATE jobs SET progress = coalesce(?, progress), message = coalesce(?, message), "
    "nodes_done = coalesce(?, nodes_done), nodes_total = coalesce(?, nodes_total) WHERE id = ? AND attempt = ?"
)
_HISTORY = (
    "SELECT at, history.event, from_state, to_state, history.attempt, worker, history.reason, history.error "
    "FROM jobs JOIN history ON job = seq WHERE id = ? ORDER BY no"
)
_LOGS = (
    "SELECT logs.attempt, at, level, source, text, node, logs.seq FROM jobs JOIN logs ON job = jobs.seq "
    "WHERE id = :id AND logs.seq > :after{of_attempt} ORDER BY logs.seq LIMIT :limit"
)
_NODES = (
    "SELECT nodes.attempt, nodes.name, nodes.state, nodes.started_at, elapsed_s, nodes.error "
    "FROM jobs JOIN nodes ON job = seq WHERE id = :id AND nodes.attempt = coalesce(:attempt, "
    "(SELECT max(attempt) FROM nodes WHERE job = seq)) ORDER BY nodes.started_at IS NULL, nodes.started_at, no"
)
_TELL = (
    "INSERT INTO workers (id, seen_at, info) VALUES (?, ?, ?) "
    "ON CONFLICT (id) DO UPDATE SET seen_at = excluded.seen_at, info = excluded.info"
)
_PURGE_BATCH = 500  # jobs a transaction, so that nobody waits long for the write lock
_WORKER_KEPT_S = 7 * 86_400.0


class SqliteLedger(Ledger):
    """See `Ledger`. WAL; every write is one autocommit statement or one BEGIN IMMEDIATE transaction."""

    def __init__(
        self,
        path: str,
        *,
        durability: str = "normal",
        unsafe_network_fs: bool = False,
        clock: Callable[[], float] = time.time,
        busy_timeout_s: float = 30.0,
    ) -> None:
        self._clock = clock
        self._file = SqliteFile(
            path, durability=durability, unsafe_network_fs=unsafe_network_fs, busy_timeout_s=busy_timeout_s
        )
        self._sql: dict[tuple[Event, State, State | None], str] = {}
        self._records = SqliteRecords(self._file, clock)

    @property
    def records(self) -> Records:
        """See `Ledger.records`."""
        return self._records

    def now(self) -> datetime:
        """See `Ledger.now`."""
        return rows.instant(self._clock())

    def check_version(self) -> None:
        """See `Ledger.check_version`."""
        self._file.check_version()

    # -- T1 to T12 ------------------------------------------------------------------------------------------------

    def insert(
        self,
        intents: Sequence[Intent],
        *,
        grace_s: float,
        connection: object | None = None,
        max_queued: Mapping[str, int] | None = None,
    ) -> list[Submission]:
        """See `Ledger.insert`; a ``connection`` is a `sqlite3.Connection` to the very file of this ledger."""
        pushed = connection is None

        def work(connection: sqlite3.Connection) -> list[Submission]:
            now = self._clock()
            tools = sqlite_insert.tools(
                connection, lambda transition: bool(self._step(connection, transition)),
                now=now, grace_s=grace_s, pushed=pushed,
            )  # fmt: skip
            answers = [conflicts.insert(i, tools) if i.careful else tools.insert(i) for i in intents]
            if max_queued:
                sqlite_insert.check_room(connection, rows.created_in(answers, max_queued), max_queued)
            return answers

        def all_or_none(connection: sqlite3.Connection) -> list[Submission]:
            connection.execute("SAVEPOINT penstock")
            try:
                return work(connection)
            except BaseException:
                connection.execute("ROLLBACK TO penstock")
                raise
            finally:
                connection.execute("RELEASE penstock")

        try:
            if connection is None:
                return self._file.transaction(work)
            careful = max_queued or any(intent.careful for intent in intents)
            return self._file.join(connection, all_or_none if careful else work)
        except UnicodeEncodeError as error:
            raise InvalidJobError(f"text that is not valid Unicode cannot be stored: {error}") from error

    def apply(self, transition: Transition) -> Applied | None:
        """See `Ledger.apply`."""
        found = self._file.write(lambda connection: self._step(connection, transition))
        return self._answer(transition, found)

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        """See `Ledger.apply_many`."""
        found = self._file.transaction(
            lambda connection: [self._step(connection, transition) for transition in transitions]
        )
        return [self._answer(*pair) for pair in zip(transitions, found, strict=True)]

    def _step(self, connection: sqlite3.Connection, transition: Transition) -> list[tuple[Any, ...]]:
        key = (transition.event, transition.to, transition.to_if_cancelled)
        statement = self._sql.get(key)
        if statement is None:
            statement = self._sql[key] = sql.transition(*key)
        now, lease_s = self._clock(), transition.lease_s
        # All rows are fetched: an UPDATE with RETURNING commits at its end, not at its first row.
        return connection.execute(
            statement,
            {
                "id": transition.job_id,
                "now": now,
                "attempt": transition.attempt,
                "publishes": transition.publishes,
                "owner": transition.owner,
                "lease_until": None if lease_s is None else rows.later(now, lease_s),
                "due_at": rows.later(now, transition.delay_s),
                "reason": transition.reason,
                "error": rows.error_text(transition.error),
                "result": transition.result,
                "note": transition.note,
                "held": transition.held,
                "begun": transition.begun,
            },
        ).fetchall()

    @staticmethod
    def _answer(transition: Transition, found: list[tuple[Any, ...]]) -> Applied | None:
        if not found:
            return None
        if transition.event in rows.ANSWERED_WHOLE:
            job = rows.job_of(found[0])
            return Applied(job.state, job.cancel_requested_at is not None, job)
        state, cancel_requested = found[0]
        return Applied(State(state), bool(cancel_requested))

    def purge(self, state: State, *, older_than_s: float, limit: int) -> list[str]:
        """See `Ledger.purge`."""
        if state not in TRANSITIONS[Event.PURGE].start:
            return []
        statement = (
            "DELETE FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE state = :state "
            f"AND {sql.may_start(Event.PURGE)} ORDER BY finished_at LIMIT :limit) RETURNING id"
        )
        gone: list[str] = []
        while len(gone) < limit:
            wanted = min(_PURGE_BATCH, limit - len(gone))
            values = {"state": state.value, "now": self._clock(), "older_than_s": older_than_s, "limit": wanted}
            batch = self._file.write(lambda c, values=values: c.execute(statement, values).fetchall())
            gone.extend(job_id for (job_id,) in batch)
            if len(batch) < wanted:
                break
        return gone

    # -- reading --------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, values: Any = ()) -> list[tuple[Any, ...]]:
        return self._file.read(lambda connection: connection.execute(statement, values).fetchall())

    def _jobs(self, statement: str, values: Any) -> list[Job]:
        return [rows.job_of(row) for row in self._rows(statement, values)]

    def get(self, job_id: str) -> Job:
        """See `Ledger.get`."""
        for job in self._jobs(_GET, (job_id,)):
            return job
        raise JobNotFoundError(job_id)

    def find(self, query: JobQuery) -> list[Job]:
        """See `Ledger.find`."""
        statement, values = sql.find(query)
        return self._jobs(statement, {**values, "now": self._clock()})

    def counts(self) -> dict[str, int]:
        """See `Ledger.counts`."""
        return sql.counts_of(self._rows(sql.COUNTS, {"now": self._clock()}))

    def tally(self, *, live: bool = False) -> list[Tally]:
        """See `Overview.tally`."""
        statement = sql_overview.TALLY_LIVE if live else sql_overview.TALLY
        return sql_overview.tallies_of(self._rows(statement, {"now": self._clock()}))

    def upcoming(self, limit: int) -> list[Job]:
        """See `Overview.upcoming`."""
        return self._jobs(sql_overview.UPCOMING, {"now": self._clock(), "limit": limit})

    def backlog(self, queues: Sequence[str] = ()) -> tuple[int, int]:
        """See `Ledger.backlog`."""
        statement = _BACKLOG.format(among=_AMONG if queues else "")
        values = {"now": self._clock(), "queues": rows.json_text(list(queues))}
        ((due, running),) = self._rows(statement, values)
        return due, running

    def publishable(self, limit: int) -> list[Job]:
        """See `Ledger.publishable`."""
        return self._jobs(_PUBLISHABLE, (self._clock(), limit))

    def postpone(self, queues: Sequence[str], patience: Patience, limit: int) -> int:
        """See `Ledger.postpone`."""
        values = msgspec.structs.asdict(patience) | {"queues": rows.json_text(list(queues)), "limit": limit}
        return self._file.write(lambda c: c.execute(_POSTPONE, {"now": self._clock(), **values}).rowcount)

    def expired(self, limit: int) -> list[Job]:
        """See `Ledger.expired`."""
        return self._jobs(_EXPIRED, (self._clock(), limit))

    def expirable(self, limit: int) -> list[Job]:
        """See `Ledger.expirable`."""
        return self._jobs(_EXPIRABLE, (self._clock(), limit))

    def cancel_requests(self, owner: str) -> list[tuple[str, int]]:
        """See `Ledger.cancel_requests`."""
        return [(job_id, attempt) for job_id, attempt in self._rows(_CANCEL_REQUESTS, (owner,))]

    # -- what belongs to a job ------------------------------------------------------------------------------------

    def report(self, reports: Sequence[Report]) -> None:
        """See `Ledger.report`."""
        logs = [
            (
                r.attempt,
                r.at.timestamp(),
                r.level,
                rows.storable(r.source),
                rows.storable(r.text),
                None if r.node is None else rows.storable(r.node),
                r.job_id,
            )
            for r in reports
            if isinstance(r, LogLine)
        ]
        nodes = [
            {
                "id": r.job_id,
                "attempt": r.attempt,
                "name": rows.storable(r.name),
                "state": r.state,
                "started_at": None if r.started_at is None else r.started_at.timestamp(),
                "elapsed_s": r.elapsed_s,
                "error": None if r.error is None else rows.storable(r.error),
            }
            for r in reports
            if isinstance(r, NodeRun)
        ]
        progress = [
            (
                r.progress,
                None if r.message is None else rows.storable(r.message),
                r.nodes_done,
                r.nodes_total,
                r.job_id,
                r.attempt,
            )
            for r in reports
            if isinstance(r, Progress)
        ]

        def work(connection: sqlite3.Connection) -> None:
            connection.executemany(_LOG, logs)
            connection.executemany(_NODE, nodes)
            connection.executemany(_PROGRESS, progress)

        if reports:
            self._file.transaction(work)

    def history(self, job_id: str) -> list[HistoryEntry]:
        """See `Ledger.history`."""
        try:
            first = rows.enqueued(self.get(job_id))
        except JobNotFoundError:
            return []
        return [first, *(rows.entry_of(job_id, row) for row in self._rows(_HISTORY, (job_id,)))]

    def logs(
        self, job_id: str, *, attempt: int | None = None, after_seq: int = 0, limit: int = 10_000
    ) -> list[LogLine]:
        """See `Ledger.logs`."""
        statement = _LOGS.format(of_attempt="" if attempt is None else " AND logs.attempt = :attempt")
        values = {"id": job_id, "attempt": attempt, "after": after_seq, "limit": limit}
        return [rows.line_of(job_id, row) for row in self._rows(statement, values)]

    def nodes(self, job_id: str, *, attempt: int | None = None) -> list[NodeRun]:
        """See `Ledger.nodes`."""
        return [rows.node_of(job_id, row) for row in self._rows(_NODES, {"id": job_id, "attempt": attempt})]

    # -- workers --------------------------------------------------------------------------------------------------

    def tell_worker(self, worker: WorkerInfo) -> None:
        """See `Ledger.tell_worker`."""
        now = self._clock()
        info = msgspec.json.encode(msgspec.structs.replace(worker, seen_at=rows.instant(now))).decode()

        def work(connection: sqlite3.Connection) -> None:
            connection.execute(_TELL, (worker.id, now, info))
            # Killed workers never strike themselves off.
            connection.execute("DELETE FROM workers WHERE seen_at < ?", (now - _WORKER_KEPT_S,))

        self._file.transaction(work)

    def forget_worker(self, worker: str) -> None:
        """See `Ledger.forget_worker`."""
        self._file.write(lambda connection: connection.execute("DELETE FROM workers WHERE id = ?", (worker,)))

    def workers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """See `Ledger.workers`."""
        statement = "SELECT info FROM workers WHERE seen_at >= ? ORDER BY id"
        found = self._rows(statement, (self._clock() - seen_within_s,))
        return [worker for (info,) in found for worker in rows.worker_of(info)]

    def inspect(self) -> Sequence[Finding]:
        """See `Ledger.inspect`."""
        return self._file.inspect()

    def close(self) -> None:
        """See `Ledger.close`."""
        self._file.close()
