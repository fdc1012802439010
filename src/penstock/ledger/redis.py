"""The ledger in a Redis server: for any number of processes on any number of hosts.

No acknowledged job is lost while the server and its disk live; with ``appendfsync everysec`` a power cut there may
lose the last second.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.core.base import Applied, Finding, Ledger, Patience
from penstock.core.exceptions import DuplicateJobError, InvalidJobError, JobNotFoundError, QueueFullError
from penstock.core.overview import Tally
from penstock.core.records import Records
from penstock.job.lifecycle import SHOWN_STATES, TRANSITIONS, Event, State, Transition
from penstock.job.models import (
    HistoryEntry,
    Intent,
    Job,
    JobQuery,
    LogLine,
    NodeRun,
    Outcome,
    Report,
    Submission,
    WorkerInfo,
)
from penstock.ledger import redis_find, redis_lua, redis_overview, redis_reads, redis_rows, rows
from penstock.ledger.redis_records import RedisRecords
from penstock.ledger.redis_server import Call, RedisServer

_INSERT_BATCH = 500  # intents a script, and bytes: nobody else is served while it runs
_INSERT_BYTES = 4 * 1024 * 1024
_REPORT_BATCH = 500
_PURGE_BATCH = 200
_LOG_PAGE = 1000
_WORKER_KEPT_S = 7 * 86_400.0
_pack = msgspec.msgpack.encode


class RedisLedger(Ledger):
    """See `Ledger`. Every transition is one Lua script; times are the server's, or of ``clock`` in tests."""

    def __init__(self, url: str, *, namespace: str = "penstock", clock: Callable[[], float] | None = None) -> None:
        self._clock = clock
        self._server = RedisServer(url, namespace=namespace)
        self._prefix = self._server.prefix
        self._scripts: dict[tuple[Event, State, State | None], redis_lua.Script] = {}
        self._insert = redis_lua.insert()
        self._purge = redis_lua.purge()
        self._records = RedisRecords(self._server, clock)

    def _time(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    def _row(self, job_id: str) -> str:
        return f"{self._prefix}job:{job_id}"

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
        if self._clock is not None:
            return rows.instant(self._clock())
        seconds, micros = self._server.call(lambda client, _again: client.time())
        return rows.instant(seconds + micros / 1e6)

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
        """See `Ledger.insert`; with a limit, all are one script, while which nobody else is served."""
        if connection is not None:
            raise rows.cannot_join("redis://")
        if not intents:
            return []
        try:
            packed = [_pack(redis_rows.packed_insert(intent)) for intent in intents]
        except UnicodeError as error:
            raise InvalidJobError(f"text that is not valid Unicode cannot be stored: {error}") from error
        time = self._time()
        whole = bool(max_queued) or any(intent.on_conflict == "raise" for intent in intents)  # all or none
        batches = [packed] if whole else _batches(packed)
        limits = _pack(dict(max_queued)) if max_queued else b""
        calls: list[Call] = [(self._insert, (), (time, repr(grace_s), "1", _array(batch), limits)) for batch in batches]
        tried_before = False

        def work(client: Any, again: bool) -> list[Any]:
            nonlocal tried_before
            tried_before = again
            return self._server.run_on(client, calls, together=True)

        answers: list[Submission] = []
        for now, *told in self._server.call(work):
            if now == b"full":
                queue = told[0].decode()
                raise QueueFullError(queue, (max_queued or {})[queue], told[1])
            if now == b"taken":
                raise DuplicateJobError(told[1].decode(), told[2].decode(), told[3].decode())
            for answer in told:
                intent = intents[len(answers)]
                if isinstance(answer, int):
                    job = rows.queued(intent, now=float(now), grace_s=grace_s)
                    answers.append(Submission(job, Outcome.CREATED if answer == 1 else Outcome.REPLACED))
                    continue
                job = redis_rows.job_of(answer)
                # A try before may have been carried out although its answer was lost: then the job is the caller's.
                mine = tried_before and job.id == intent.id
                answers.append(Submission(job, Outcome.CREATED if mine else Outcome.KEPT))
        return answers

    def apply(self, transition: Transition) -> Applied | None:
        """See `Ledger.apply`."""
        (answer,) = self._server.run_all([self._call(transition)])
        return _applied(transition, answer)

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        """See `Ledger.apply_many`; one round trip."""
        if not transitions:
            return []
        answers = self._server.run_all([self._call(transition) for transition in transitions])
        return [_applied(*pair) for pair in zip(transitions, answers, strict=True)]

    def _call(self, t: Transition) -> Call:
        key = (t.event, t.to, t.to_if_cancelled)
        script = self._scripts.get(key)
        if script is None:
            script = self._scripts[key] = redis_lua.transition(*key)
        arguments = (
            self._time(),
            t.job_id,
            "" if t.attempt is None else t.attempt,
            "" if t.publishes is None else t.publishes,
            "" if t.lease_s is None else repr(t.lease_s),
            repr(t.delay_s),
            _given(t.owner),
            _given(t.reason),
            _given(rows.error_text(t.error)),
            _given(t.result),
            _given(t.note),
            _given(t.held),
            "1" if t.begun else "0",
        )
        return script, (self._row(t.job_id),), arguments

    def purge(self, state: State, *, older_than_s: float, limit: int) -> list[str]:
        """See `Ledger.purge`."""
        if state not in TRANSITIONS[Event.PURGE].start:
            return []
        gone: list[str] = []
        while len(gone) < limit:
            wanted = min(_PURGE_BATCH, limit - len(gone))
            batch = self._server.run(self._purge, self._time(), state.value, repr(older_than_s), wanted)
            gone.extend(job_id.decode() for job_id in batch)
            if len(batch) < wanted:
                break
        return gone

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """See `Ledger.get`."""
        flat = self._server.call(lambda client, _again: client.execute_command("EVAL", _ROW, 1, self._row(job_id)))
        if not flat:
            raise JobNotFoundError(job_id)
        return redis_rows.job_of(flat)

    def find(self, query: JobQuery) -> list[Job]:
        """See `Ledger.find`."""
        rows.check_shown(query.states)
        return redis_find.find(self._server, query, self.now())

    def counts(self) -> dict[str, int]:
        """See `Ledger.counts`."""
        numbers = self._server.run(redis_reads.COUNTS, self._time())
        return {state: number for state, number in zip(SHOWN_STATES, numbers, strict=True) if number}

    def tally(self, *, live: bool = False) -> list[Tally]:
        """See `Overview.tally`."""
        return redis_overview.tally(self._server, self._time(), live=live)

    def upcoming(self, limit: int) -> list[Job]:
        """See `Overview.upcoming`."""
        return redis_overview.upcoming(self._server, self._time(), limit)

    def backlog(self, queues: Sequence[str] = ()) -> tuple[int, int]:
        """See `Ledger.backlog`."""
        due, running = self._server.run(redis_reads.BACKLOG, self._time(), _pack(list(dict.fromkeys(queues))))
        return due, running

    def publishable(self, limit: int) -> list[Job]:
        """See `Ledger.publishable`."""
        return [redis_rows.job_of(flat) for flat in self._server.run(redis_reads.PUBLISHABLE, self._time(), limit)]

    def postpone(self, queues: Sequence[str], patience: Patience, limit: int) -> int:
        """See `Ledger.postpone`."""
        given = (repr(patience.grace_s), repr(patience.max_grace_s), repr(patience.trusted_s))
        return self._server.run(redis_reads.POSTPONE, self._time(), _pack(list(queues)), limit, *given)

    def expired(self, limit: int) -> list[Job]:
        """See `Ledger.expired`."""
        return [redis_rows.job_of(flat) for flat in self._server.run(redis_reads.EXPIRED, self._time(), limit)]

    def expirable(self, limit: int) -> list[Job]:
        """See `Ledger.expirable`."""
        return [redis_rows.job_of(flat) for flat in self._server.run(redis_reads.EXPIRABLE, self._time(), limit)]

    def cancel_requests(self, owner: str) -> list[tuple[str, int]]:
        """See `Ledger.cancel_requests`."""
        found = self._server.run(redis_reads.CANCEL_REQUESTS, self._time(), owner)
        return sorted((job_id.decode(), int(attempt)) for job_id, attempt in found)

    # -- what belongs to a job ------------------------------------------------------------------------------------

    def report(self, reports: Sequence[Report]) -> None:
        """See `Ledger.report`."""
        packed = [redis_rows.packed_report(report) for report in reports]
        starts = range(0, len(packed), _REPORT_BATCH)
        calls: list[Call] = [
            (redis_reads.REPORT, (), (self._time(), _pack(packed[start : start + _REPORT_BATCH]))) for start in starts
        ]
        if calls:
            self._server.run_all(calls, together=True)

    def history(self, job_id: str) -> list[HistoryEntry]:
        """See `Ledger.history`."""
        try:
            told = [rows.enqueued(self.get(job_id))]
        except JobNotFoundError:
            return []
        packed = self._server.call(lambda client, _again: client.lrange(f"{self._row(job_id)}:history", 0, -1))
        return told + [redis_rows.entry_of(job_id, entry) for entry in packed]

    def logs(
        self, job_id: str, *, attempt: int | None = None, after_seq: int = 0, limit: int = 10_000
    ) -> list[LogLine]:
        """See `Ledger.logs`."""
        found: list[LogLine] = []
        key, size = f"{self._row(job_id)}:logs", max(1, min(limit, _LOG_PAGE))
        while len(found) < limit:
            page = self._server.call(
                lambda client, _again, first=f"{after_seq + 1}-0": client.xrange(key, min=first, count=size)
            )
            lines = [redis_rows.line_of(job_id, _seq(name), fields[b"line"]) for name, fields in page]
            found += [line for line in lines if attempt is None or line.attempt == attempt]
            if len(page) < size:
                break
            after_seq = lines[-1].seq
        return found[:limit]

    def nodes(self, job_id: str, *, attempt: int | None = None) -> list[NodeRun]:
        """See `Ledger.nodes`."""
        packed = self._server.call(lambda client, _again: client.hgetall(f"{self._row(job_id)}:nodes"))
        told = [redis_rows.node_of(job_id, *pair) for pair in packed.items()]
        wanted = max((node.attempt for _, node in told), default=0) if attempt is None else attempt
        of_it = [pair for pair in told if pair[1].attempt == wanted]
        of_it.sort(key=lambda pair: (pair[1].started_at is None, pair[1].started_at, pair[0]))
        return [node for _, node in of_it]

    # -- workers --------------------------------------------------------------------------------------------------

    def tell_worker(self, worker: WorkerInfo) -> None:
        """See `Ledger.tell_worker`."""
        info = msgspec.json.encode(worker)
        self._server.run(redis_reads.TELL_WORKER, self._time(), worker.id, info, _WORKER_KEPT_S)

    def forget_worker(self, worker: str) -> None:
        """See `Ledger.forget_worker`."""

        def work(client: Any, _again: bool) -> None:
            with client.pipeline(transaction=True) as pipe:
                pipe.hdel(f"{self._prefix}workers", worker)
                pipe.zrem(f"{self._prefix}workers:seen", worker)
                pipe.execute()

        self._server.call(work)

    def workers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """See `Ledger.workers`."""
        told = self._server.run(redis_reads.WORKERS, self._time(), repr(seen_within_s))
        seen = (worker for info, at in told for worker in rows.worker_of(info, float(at)))
        return sorted(seen, key=lambda worker: worker.id)

    def inspect(self) -> Sequence[Finding]:
        """See `Ledger.inspect`."""
        return self._server.inspect()

    def close(self) -> None:
        """See `Ledger.close`."""
        self._server.close()


_ROW = "return redis.call('HGETALL', KEYS[1])"  # as names and values in turn, whatever protocol the client speaks


def _given(value: str | bytes | None) -> str | bytes:
    if value is None:
        return ""
    return b"=" + value if isinstance(value, bytes) else f"={value}"


def _applied(transition: Transition, answer: Any) -> Applied | None:
    if answer is None:
        return None
    if transition.event in rows.ANSWERED_WHOLE:
        job = redis_rows.job_of(answer)
        return Applied(job.state, job.cancel_requested_at is not None, job)
    state, cancel_requested = answer
    return Applied(State(state.decode()), cancel_requested == b"1")


def _array(packed: Sequence[bytes]) -> bytes:
    """Join msgpack values to one array of them."""
    return b"\xdd" + len(packed).to_bytes(4, "big") + b"".join(packed)


def _batches(packed: Iterable[bytes]) -> list[list[bytes]]:
    batches: list[list[bytes]] = [[]]
    size_bytes = 0
    for one in packed:
        if len(batches[-1]) >= _INSERT_BATCH or (batches[-1] and size_bytes + len(one) > _INSERT_BYTES):
            batches.append([])
            size_bytes = 0
        batches[-1].append(one)
        size_bytes += len(one)
    return batches


def _seq(name: bytes) -> int:
    return int(name.partition(b"-")[0])
