"""The ledger in a PostgreSQL database: for any number of hosts, and for jobs that commit together with your data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any, cast

import msgspec

from penstock.core.base import Applied, Finding, Ledger, Patience
from penstock.core.exceptions import JobNotFoundError
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
    Report,
    Submission,
    WorkerInfo,
)
from penstock.ledger import postgres_sql, rows, sql, sql_overview
from penstock.ledger.postgres_insert import Submit, shown
from penstock.ledger.postgres_records import PostgresRecords
from penstock.ledger.postgres_server import Connection, PostgresServer

_PURGE_BATCH = 500
_WORKER_KEPT_S = 7 * 86_400.0


class PostgresLedger(Ledger):
    """See `Ledger`. A transition is one statement; times are the server's, or of ``clock`` in tests.

    ``durability`` is the server's ``synchronous_commit``; heartbeats, log lines and progress do not wait for the disk.
    """

    def __init__(self, url: str, *, namespace: str = "penstock", clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._server = PostgresServer(url, namespace=namespace)
        self._sql = postgres_sql.Statements(self._server.schema, told_time=clock is not None)
        self._records = PostgresRecords(self._server, self._sql, clock)
        self._submit = Submit(
            self._server, self._sql, values=self._values, step=lambda t: (self._step(t, False), self._given(t))
        )

    def _values(self, **values: Any) -> dict[str, Any]:
        return values if self._clock is None else {**values, "now": self._clock()}

    @property
    def repeats(self) -> int:
        """See `Ledger.repeats`."""
        return self._server.repeats

    @property
    def records(self) -> Records:
        """See `Ledger.records`."""
        return self._records

    def now(self) -> datetime:
        """See `Ledger.now`."""
        ((now,),) = self._rows("SELECT :now")
        return rows.instant(now)

    def check_version(self) -> None:
        """See `Ledger.check_version`."""
        self._server.check_version()

    # -- T1 to T12 ------------------------------------------------------------------------------------------------

    def insert(
        self,
        intents: Sequence[Intent],
        *,
        grace_s: float,
        connection: object | None = None,
        max_queued: Mapping[str, int] | None = None,
    ) -> list[Submission]:
        """See `Ledger.insert`; a ``connection`` is a `psycopg.Connection` to the database of this ledger.

        Until its transaction ends, whoever enqueues the same key waits for it, and so does whoever enqueues into a
        queue with a limit.
        """
        return self._submit(intents, grace_s=grace_s, theirs=connection, max_queued=max_queued)

    def apply(self, transition: Transition) -> Applied | None:
        """See `Ledger.apply`."""
        lazily = transition.event is Event.BEAT
        statement, values = self._step(transition, lazily), self._given(transition)
        found = self._server.call(lambda connection, _again: connection.execute(statement, values).fetchone())
        return _applied(transition, found)

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        """See `Ledger.apply_many`; one round trip."""
        if len(transitions) <= 1:
            return [self.apply(transition) for transition in transitions]
        lazily = all(transition.event is Event.BEAT for transition in transitions)
        # In the order of the ids: two batches that wait for each other's rows would never end.
        order = sorted(range(len(transitions)), key=lambda number: transitions[number].job_id)
        steps = [(self._step(transitions[n], lazily), self._given(transitions[n])) for n in order]

        def work(connection: Connection, _again: bool) -> list[Any]:
            with connection.pipeline(), connection.transaction():
                cursors = [connection.execute(statement, values) for statement, values in steps]
            return [cursor.fetchone() for cursor in cursors]

        found = dict(zip(order, self._server.call(work), strict=True))
        return [_applied(transition, found[number]) for number, transition in enumerate(transitions)]

    def _step(self, transition: Transition, lazily: bool) -> bytes:
        return self._sql.transition(transition.event, transition.to, transition.to_if_cancelled, lazily=lazily)

    def _given(self, t: Transition) -> dict[str, Any]:
        return self._values(
            id=t.job_id,
            attempt=t.attempt,
            publishes=t.publishes,
            owner=t.owner,
            lease_s=t.lease_s,
            delay_s=t.delay_s,
            reason=None if t.reason is None else str(t.reason),
            error=rows.error_text(t.error),
            result=t.result,
            note=shown(t.note),
            held=shown(t.held),
            begun=t.begun,
        )

    def purge(self, state: State, *, older_than_s: float, limit: int) -> list[str]:
        """See `Ledger.purge`."""
        if state not in TRANSITIONS[Event.PURGE].start:
            return []
        statement = self._sql(postgres_sql.PURGE.format(guard=sql.may_start(Event.PURGE)))
        gone: list[str] = []
        while len(gone) < limit:
            wanted = min(_PURGE_BATCH, limit - len(gone))
            values = self._values(state=state.value, older_than_s=older_than_s, limit=wanted)
            batch = self._server.call(lambda c, _again, values=values: c.execute(statement, values).fetchall())
            gone.extend(job_id for (job_id,) in batch)
            if len(batch) < wanted:
                break
        return gone

    # -- reading --------------------------------------------------------------------------------------------------

    def _rows(self, statement: str, **values: Any) -> list[tuple[Any, ...]]:
        written, given = self._sql(statement), self._values(**values)
        return self._server.call(lambda connection, _again: connection.execute(written, given).fetchall())

    def _jobs(self, statement: str, **values: Any) -> list[Job]:
        return [rows.job_of(row) for row in self._rows(statement, **values)]

    def get(self, job_id: str) -> Job:
        """See `Ledger.get`."""
        for job in self._jobs(postgres_sql.GET, id=job_id):
            return job
        raise JobNotFoundError(job_id)

    def find(self, query: JobQuery) -> list[Job]:
        """See `Ledger.find`."""
        statement, values = sql.find(query, postgres_sql.DIALECT)
        return self._jobs(statement, **values)

    def counts(self) -> dict[str, int]:
        """See `Ledger.counts`."""
        return sql.counts_of(self._rows(sql.COUNTS))

    def tally(self, *, live: bool = False) -> list[Tally]:
        """See `Overview.tally`."""
        statement = sql_overview.TALLY_LIVE if live else sql_overview.TALLY
        return sql_overview.tallies_of(self._rows(statement))

    def upcoming(self, limit: int) -> list[Job]:
        """See `Overview.upcoming`."""
        return self._jobs(sql_overview.UPCOMING, limit=limit)

    def backlog(self, queues: Sequence[str] = ()) -> tuple[int, int]:
        """See `Ledger.backlog`."""
        ((due, running),) = self._rows(postgres_sql.BACKLOG, queues=list(queues))
        return due, running

    def publishable(self, limit: int) -> list[Job]:
        """See `Ledger.publishable`."""
        return self._jobs(postgres_sql.PUBLISHABLE, limit=limit)

    def postpone(self, queues: Sequence[str], patience: Patience, limit: int) -> int:
        """See `Ledger.postpone`."""
        statement = self._sql(postgres_sql.POSTPONE)
        values = self._values(queues=list(queues), limit=limit, **msgspec.structs.asdict(patience))
        return self._server.call(lambda connection, _again: connection.execute(statement, values).rowcount)

    def expired(self, limit: int) -> list[Job]:
        """See `Ledger.expired`."""
        return self._jobs(postgres_sql.EXPIRED, limit=limit)

    def expirable(self, limit: int) -> list[Job]:
        """See `Ledger.expirable`."""
        return self._jobs(postgres_sql.EXPIRABLE, limit=limit)

    def cancel_requests(self, owner: str) -> list[tuple[str, int]]:
        """See `Ledger.cancel_requests`."""
        return [(job_id, attempt) for job_id, attempt in self._rows(postgres_sql.CANCEL_REQUESTS, owner=owner)]

    # -- what belongs to a job ------------------------------------------------------------------------------------

    def report(self, reports: Sequence[Report]) -> None:
        """See `Ledger.report`."""
        if not reports:
            return
        # Rows are locked in the order of their ids, as in `apply_many`; the sort leaves a job's lines in order.
        steps = [_news(self._sql, report) for report in sorted(reports, key=lambda report: report.job_id)]

        def work(connection: Connection, _again: bool) -> None:
            with connection.pipeline(), connection.transaction():
                connection.execute(f"SELECT {postgres_sql.LAZILY}".encode())
                for statement, values in steps:
                    connection.execute(statement, values)

        self._server.call(work)

    def history(self, job_id: str) -> list[HistoryEntry]:
        """See `Ledger.history`."""
        try:
            first = rows.enqueued(self.get(job_id))
        except JobNotFoundError:
            return []
        return [first, *(rows.entry_of(job_id, row) for row in self._rows(postgres_sql.HISTORY, id=job_id))]

    def logs(
        self, job_id: str, *, attempt: int | None = None, after_seq: int = 0, limit: int = 10_000
    ) -> list[LogLine]:
        """See `Ledger.logs`."""
        found = self._rows(postgres_sql.LOGS, id=job_id, attempt=attempt, after=after_seq, limit=limit)
        texts = [(of, at, level, source, text if raw is None else raw.decode(), node, seq)
                 for of, at, level, source, text, raw, node, seq in found]  # fmt: skip
        return [rows.line_of(job_id, row) for row in texts]

    def nodes(self, job_id: str, *, attempt: int | None = None) -> list[NodeRun]:
        """See `Ledger.nodes`."""
        return [rows.node_of(job_id, row) for row in self._rows(postgres_sql.NODES, id=job_id, attempt=attempt)]

    # -- workers --------------------------------------------------------------------------------------------------

    def tell_worker(self, worker: WorkerInfo) -> None:
        """See `Ledger.tell_worker`."""
        info = msgspec.json.encode(worker).decode()
        self._write(postgres_sql.TELL_WORKER, id=worker.id, info=info, kept_s=_WORKER_KEPT_S)

    def forget_worker(self, worker: str) -> None:
        """See `Ledger.forget_worker`."""
        self._write(postgres_sql.FORGET_WORKER, id=worker)

    def _write(self, statement: str, **values: Any) -> None:
        written, given = self._sql(statement), self._values(**values)
        self._server.call(lambda connection, _again: connection.execute(written, given))

    def workers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """See `Ledger.workers`."""
        found = self._rows(postgres_sql.WORKERS, within_s=seen_within_s)
        return [worker for info, at in found for worker in rows.worker_of(info, at)]

    def inspect(self) -> Sequence[Finding]:
        """See `Ledger.inspect`."""
        return self._server.inspect()

    def close(self) -> None:
        """See `Ledger.close`."""
        self._server.close()


def _applied(transition: Transition, found: Any) -> Applied | None:
    if found is None:
        return None
    if transition.event in rows.ANSWERED_WHOLE:
        job = rows.job_of(found)
        return Applied(job.state, job.cancel_requested_at is not None, job)
    state, cancel_requested = islice(cast("tuple[Any, ...]", found), 2)
    return Applied(State(state), cancel_requested)


def _news(written: postgres_sql.Statements, report: Report) -> tuple[bytes, dict[str, Any]]:
    about: dict[str, Any] = {"id": report.job_id, "attempt": report.attempt}
    if isinstance(report, LogLine):
        text = rows.storable(report.text)
        return written(postgres_sql.LOG), about | {
            "at": report.at.timestamp(), "level": report.level, "source": shown(report.source), "text": shown(text),
            "raw": text.encode() if "\0" in text else None, "node": shown(report.node),
        }  # fmt: skip
    if isinstance(report, NodeRun):
        return written(postgres_sql.NODE), about | {
            "name": shown(report.name), "state": report.state, "elapsed_s": report.elapsed_s,
            "started_at": None if report.started_at is None else report.started_at.timestamp(),
            "error": shown(report.error),
        }  # fmt: skip
    return written(postgres_sql.PROGRESS), about | {
        "progress": report.progress, "message": shown(report.message), "nodes_done": report.nodes_done,
        "nodes_total": report.nodes_total,
    }  # fmt: skip
