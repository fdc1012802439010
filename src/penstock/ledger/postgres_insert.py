"""T1 on Postgres: one statement for a thousand jobs, or one job after the other where they have rules of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from psycopg.rows import tuple_row

from penstock.core.exceptions import DuplicateJobError, InvalidJobError, LedgerError, QueueFullError
from penstock.job.lifecycle import Transition
from penstock.job.models import Intent, Outcome, Submission
from penstock.ledger import conflicts, postgres_sql, rows
from penstock.ledger.postgres_server import Connection, PostgresServer

_INSERT_BATCH = 1000
_HOLDER_LOOKS = 5


class Submit:
    """Inserts jobs into one ledger."""

    def __init__(
        self,
        server: PostgresServer,
        statements: postgres_sql.Statements,
        *,
        values: Callable[..., dict[str, Any]],
        step: Callable[[Transition], tuple[bytes, dict[str, Any]]],
    ) -> None:
        self._server = server
        self._sql = statements
        self._values = values
        self._step = step

    def __call__(
        self,
        intents: Sequence[Intent],
        *,
        grace_s: float,
        theirs: object | None = None,
        max_queued: Mapping[str, int] | None = None,
    ) -> list[Submission]:
        """See `PostgresLedger.insert`."""
        if not intents:
            return []
        for intent in intents:
            _check_text(intent)
        batches = _batches(intents)

        any_careful = any(intent.careful for intent in intents)

        def work(connection: Connection, again: bool, pushed: bool = True) -> list[Submission]:
            if any_careful:
                return careful(connection, again, pushed)
            return [
                submission
                for batch in batches
                for submission in self._insert(connection, batch, grace_s=grace_s, pushed=pushed, again=again)
            ]

        def careful(connection: Connection, again: bool, pushed: bool) -> list[Submission]:
            # Nobody else enqueues these keys until this has committed: in one order, so that two never wait crosswise.
            for key in sorted({key for i in intents if i.careful for key in (i.key, i.unique_key) if key is not None}):
                lock = {"identity": self._server.identity, "key": key}
                connection.execute(self._sql(postgres_sql.LOCK_KEY), lock)
            tools = self._tools(connection, grace_s=grace_s, pushed=pushed, again=again)
            return [conflicts.insert(i, tools) if i.careful else tools.insert(i) for i in intents]

        def limited(connection: Connection, again: bool, pushed: bool = True) -> list[Submission]:
            # One after the other, until each has committed: else two that do not see each other would both fit.
            limits = max_queued or {}
            for queue in sorted(limits):
                lock = {"identity": self._server.identity, "queue": queue}
                connection.execute(self._sql(postgres_sql.LOCK_QUEUE), lock)
            if again:
                ids = {"ids": [intent.id for intent in intents]}
                if connection.execute(self._sql(postgres_sql.ANY_THERE), ids).fetchone() is not None:
                    return work(connection, again, pushed)  # the try before was committed, all of it: it did fit
            answers = work(connection, again, pushed)
            for queue, number in rows.created_in(answers, limits).items():
                statement = self._sql(postgres_sql.QUEUED_UP_TO)
                cursor = connection.cursor(row_factory=tuple_row)
                counted = cursor.execute(statement, {"queue": queue, "limit": limits[queue] + 1}).fetchone()
                if counted is not None and counted[0] > limits[queue]:
                    raise QueueFullError(queue, limits[queue], number)
            return answers

        def whole(connection: Connection, again: bool) -> list[Submission]:
            if len(batches) == 1 and not max_queued and not any_careful:
                return work(connection, again)  # one statement writes
            with connection.transaction():
                return limited(connection, again) if max_queued else work(connection, again)

        def joined(theirs: Connection) -> list[Submission]:
            if not max_queued and not any_careful:
                return work(theirs, False, pushed=False)
            # A savepoint: what does not fit is taken back, the caller's own statements stay.
            theirs.execute("SAVEPOINT penstock")
            try:
                answers = limited(theirs, False, pushed=False)
            except (QueueFullError, DuplicateJobError):
                theirs.execute("ROLLBACK TO SAVEPOINT penstock")
                raise
            theirs.execute("RELEASE SAVEPOINT penstock")
            return answers

        try:
            if theirs is not None:
                return self._server.join(theirs, joined)
            return self._server.call(whole)
        except UnicodeEncodeError as error:
            raise InvalidJobError(f"text that is not valid Unicode cannot be stored: {error}") from error

    def _insert(
        self, connection: Connection, intents: Sequence[Intent], *, grace_s: float, pushed: bool, again: bool
    ) -> list[Submission]:
        cursor = connection.cursor(row_factory=tuple_row)
        values = self._values(grace_s=grace_s, pushed=pushed, identity=self._server.identity, **_columns(intents))
        inserted = dict(cursor.execute(self._sql(postgres_sql.INSERT), values).fetchall())
        answers: list[Submission] = []
        for intent in intents:
            created_at = inserted.get(intent.id)
            if created_at is not None:
                job = rows.queued(intent, now=created_at, grace_s=grace_s, pushed=pushed)
                answers.append(Submission(job, Outcome.CREATED))
                continue
            held_by = cursor.execute(
                self._sql(postgres_sql.HOLDER), {"id": intent.id, "tick_key": intent.tick_key, "key": intent.key}
            ).fetchone()
            if held_by is not None:
                job = rows.job_of(held_by)
                # A try before may have been committed although its answer was lost: then the job is the caller's.
                mine = again and job.id == intent.id
                answers.append(Submission(job, Outcome.CREATED if mine else Outcome.KEPT))
                continue
            answers.append(self._insert_after_all(connection, intent, grace_s=grace_s, pushed=pushed))
        return answers

    def _tools(self, connection: Connection, *, grace_s: float, pushed: bool, again: bool) -> conflicts.Tools:
        def ask(statement: str, values: dict[str, Any]) -> list[tuple[Any, ...]]:
            cursor = connection.cursor(row_factory=tuple_row)
            cursor.execute(self._sql(statement), self._values(**values))
            return cursor.fetchall() if cursor.description is not None else []

        def step(transition: Transition) -> bool:
            cursor = connection.cursor(row_factory=tuple_row)
            return cursor.execute(*self._step(transition)).fetchone() is not None

        def insert(intent: Intent) -> Submission:
            return self._insert(connection, [intent], grace_s=grace_s, pushed=pushed, again=again)[0]

        return conflicts.relational(ask, step, insert)

    def _insert_after_all(self, connection: Connection, intent: Intent, *, grace_s: float, pushed: bool) -> Submission:
        """Insert what was refused for a job that has ended or was purged since; or say that this is not the ledger."""
        cursor = connection.cursor(row_factory=tuple_row)
        statement = self._sql("SELECT 1 FROM ledger WHERE identity = :identity")
        if cursor.execute(statement, {"identity": self._server.identity}).fetchone() is None:
            raise rows.cannot_join(self._server.url, " That connection is to another database than the ledger's.")
        for _ in range(_HOLDER_LOOKS):
            values = self._values(grace_s=grace_s, pushed=pushed, identity=self._server.identity, **_columns([intent]))
            for _, created_at in cursor.execute(self._sql(postgres_sql.INSERT), values).fetchall():
                job = rows.queued(intent, now=created_at, grace_s=grace_s, pushed=pushed)
                return Submission(job, Outcome.CREATED)
            held_by = cursor.execute(
                self._sql(postgres_sql.HOLDER), {"id": intent.id, "tick_key": intent.tick_key, "key": intent.key}
            ).fetchone()
            if held_by is not None:
                return Submission(rows.job_of(held_by), Outcome.KEPT)
        raise LedgerError(f"job {intent.id} was refused, and no job that stands in its way is there")


def shown(text: str | None) -> str | None:
    r"""Write a NUL, which Postgres does not take, as ``\x00``."""
    return None if text is None else rows.storable(text).replace("\0", "\\x00")


def _check_text(intent: Intent) -> None:
    for text in (
        intent.key,
        intent.unique_key,
        intent.tick_key,
        intent.parent_id,
        intent.name,
        intent.queue,
        *intent.tags,
    ):
        if text is not None and "\0" in text:
            raise InvalidJobError(f"{text!r} holds a NUL, which Postgres cannot store")


def _batches(intents: Sequence[Intent]) -> list[list[Intent]]:
    """Part them so that no batch has an id twice: a batch is answered by id."""
    batches: list[list[Intent]] = [[]]
    ids = set[str]()
    for intent in intents:
        if len(batches[-1]) >= _INSERT_BATCH or intent.id in ids:
            batches.append([])
            ids.clear()
        batches[-1].append(intent)
        ids.add(intent.id)
    return batches


def _columns(intents: Sequence[Intent]) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: [getattr(intent, name) for intent in intents]
        for name in rows.ASKED
        if name not in ("backoff", "tags", "metadata")
    }
    columns["backoff"] = [rows.backoff_text(intent.backoff) for intent in intents]
    columns["tags"] = [rows.json_text(intent.tags) for intent in intents]
    columns["metadata"] = [rows.json_text(intent.metadata) for intent in intents]
    columns["at"] = [None if intent.at is None else intent.at.timestamp() for intent in intents]
    columns["delay_s"] = [float(intent.delay_s) for intent in intents]
    columns["held"] = [shown(intent.held) for intent in intents]
    columns["expires_at"] = [None if i.expires_at is None else i.expires_at.timestamp() for i in intents]
    columns["expires_s"] = [intent.expires_s for intent in intents]
    return columns
