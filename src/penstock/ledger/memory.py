"""The ledger in this process's memory: for tests and trials; it is gone with the process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from penstock.core.base import Applied, Ledger, Patience
from penstock.core.exceptions import JobNotFoundError, LedgerError, QueueFullError
from penstock.core.records import Records
from penstock.job.lifecycle import TRANSITIONS, Event, Guard, State, Transition, shown_state
from penstock.job.models import (
    HistoryEntry,
    Intent,
    Job,
    JobQuery,
    LogLine,
    NodeRun,
    Outcome,
    Progress,
    Report,
    Submission,
    WorkerInfo,
)
from penstock.ledger import matching, rows
from penstock.ledger.memory_records import MemoryRecords

_Changes = dict[str, Any]


class _Given(NamedTuple):
    """What guards compare a row with."""

    now: datetime
    attempt: int | None = None
    publishes: int | None = None
    older_than_s: float = 0.0


GUARD_HOLDS: Mapping[Guard, Callable[[Job, _Given], bool]] = {
    Guard.DUE: lambda job, given: job.scheduled_at <= given.now,
    Guard.ADMITTED: lambda job, given: job.held is None,
    Guard.FENCE: lambda job, given: job.attempt == given.attempt,
    Guard.LEASE_OVER: lambda job, given: job.lease_until is not None and job.lease_until < given.now,
    Guard.CANCEL_ASKED: lambda job, given: job.cancel_requested_at is not None,
    Guard.SEEN: lambda job, given: job.publishes == given.publishes,
    Guard.OLD: lambda job, given: (
        job.finished_at is not None and job.finished_at < given.now - timedelta(seconds=given.older_than_s)
    ),
}


class _Store:
    """The rows, and what finds them."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.by_state: dict[State, dict[str, None]] = {state: {} for state in State}
        self.by_key: dict[str, str] = {}
        self.by_tick: dict[str, str] = {}
        self.history: dict[str, list[HistoryEntry]] = {}
        self.logs: dict[str, list[LogLine]] = {}
        self.nodes: dict[str, dict[int, dict[str, NodeRun]]] = {}
        self.workers: dict[str, WorkerInfo] = {}

    def put(self, job: Job) -> None:
        before = self.jobs.get(job.id)
        if before is None:
            if job.key is not None:
                self.by_key[job.key] = job.id
            if job.tick_key is not None:
                self.by_tick[job.tick_key] = job.id
        else:
            self.by_state[before.state].pop(job.id, None)
        self.by_state[job.state][job.id] = None
        self.jobs[job.id] = job

    def delete(self, job: Job) -> None:
        for held_by, key in ((self.by_key, job.key), (self.by_tick, job.tick_key)):
            if key is not None and held_by.get(key) == job.id:
                del held_by[key]
        del self.by_state[job.state][job.id], self.jobs[job.id]
        for belongings in (self.history, self.logs, self.nodes):
            belongings.pop(job.id, None)

    def live_with_key(self, key: str) -> str | None:
        holder = self.by_key.get(key)
        return None if holder is None or self.jobs[holder].state.final else holder

    def of(self, state: State) -> list[Job]:
        return [self.jobs[job_id] for job_id in self.by_state[state]]


UNIQUE: dict[str, Callable[[_Store, Intent], str | None]] = {
    "id": lambda store, intent: intent.id if intent.id in store.jobs else None,
    "tick_key": lambda store, intent: None if intent.tick_key is None else store.by_tick.get(intent.tick_key),
    "key": lambda store, intent: None if intent.key is None else store.live_with_key(intent.key),
}
"""The guards of T1: each names the job that stands in an intent's way."""


class MemoryLedger(Ledger):
    """See `Ledger`. One lock around everything."""

    def __init__(self, *, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.RLock()
        self._rows = _Store()
        self._seq = itertools.count(1)
        self._closed = False
        self._records = MemoryRecords(clock)

    def _store(self) -> _Store:
        if self._closed:
            raise LedgerError("ledger memory:// is closed")
        return self._rows

    @property
    def records(self) -> Records:
        """See `Ledger.records`."""
        return self._records

    def now(self) -> datetime:
        """See `Ledger.now`."""
        return rows.instant(self._clock())

    # -- T1 to T12 ------------------------------------------------------------------------------------------------

    def insert(
        self,
        intents: Sequence[Intent],
        *,
        grace_s: float,
        connection: object | None = None,
        max_queued: Mapping[str, int] | None = None,
    ) -> list[Submission]:
        """See `Ledger.insert`."""
        if connection is not None:
            raise rows.cannot_join("memory://")
        with self._lock:
            store, now = self._store(), self._clock()
            # All rows are built before the first is kept: one that cannot be built leaves none behind.
            wanted = [(intent, rows.queued(intent, now=now, grace_s=grace_s)) for intent in intents]
            answers = [self._insert(store, intent, job) for intent, job in wanted]
            created = rows.created_in(answers, max_queued)
            for queue, limit in (max_queued or {}).items():
                if created[queue] and sum(job.queue == queue for job in store.of(State.QUEUED)) > limit:
                    for answer in answers:
                        if answer.outcome is Outcome.CREATED:
                            store.delete(answer.job)
                    raise QueueFullError(queue, limit, created[queue])
            return answers

    @staticmethod
    def _insert(store: _Store, intent: Intent, job: Job) -> Submission:
        for holder_of in UNIQUE.values():
            holder = holder_of(store, intent)
            if holder is not None:
                return Submission(store.jobs[holder], Outcome.KEPT)
        store.put(job)
        return Submission(job, Outcome.CREATED)

    def apply(self, transition: Transition) -> Applied | None:
        """See `Ledger.apply`."""
        with self._lock:
            store, seconds = self._store(), self._clock()
            now = rows.instant(seconds)
            job = store.jobs.get(transition.job_id)
            given = _Given(now, transition.attempt, transition.publishes)
            if job is None or not _may_start(transition.event, job, given):
                return None
            to = transition.to
            if transition.to_if_cancelled is not None and job.cancel_requested_at is not None:
                to = transition.to_if_cancelled
            after = msgspec.structs.replace(job, **_changes(job, transition, to, seconds))
            store.put(after)
            if transition.event not in rows.UNTOLD:
                store.history.setdefault(job.id, []).append(_entry(job, after, transition, now))
            whole = transition.event in rows.ANSWERED_WHOLE
            return Applied(after.state, after.cancel_requested_at is not None, after if whole else None)

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        """See `Ledger.apply_many`."""
        with self._lock:
            return [self.apply(transition) for transition in transitions]

    def purge(self, state: State, *, older_than_s: float, limit: int) -> list[str]:
        """See `Ledger.purge`."""
        if state not in TRANSITIONS[Event.PURGE].start:
            return []
        with self._lock:
            store = self._store()
            given = _Given(self.now(), older_than_s=older_than_s)
            old = [job for job in store.of(state) if _may_start(Event.PURGE, job, given)]
            old.sort(key=lambda job: job.finished_at or given.now)
            for job in old[:limit]:
                store.delete(job)
            return [job.id for job in old[:limit]]

    # -- reading --------------------------------------------------------------------------------------------------

    def get(self, job_id: str) -> Job:
        """See `Ledger.get`."""
        with self._lock:
            try:
                return self._store().jobs[job_id]
            except KeyError:
                raise JobNotFoundError(job_id) from None

    def find(self, query: JobQuery) -> list[Job]:
        """See `Ledger.find`."""
        rows.check_shown(query.states)
        with self._lock:
            store, now = self._store(), self.now()
            ids = (
                store.jobs.keys() & query.ids
                if query.ids is not None
                else store.jobs
                if not query.states
                else [at for state in matching.stored(query.states) for at in store.by_state[state]]
            )
            found = (store.jobs[job_id] for job_id in sorted(ids, reverse=True))
            name = None if query.name is None else matching.glob(query.name)
            fitting = (job for job in found if matching.fits(job, query, name, now))
            return list(itertools.islice(fitting, query.limit))

    def counts(self) -> dict[str, int]:
        """See `Ledger.counts`."""
        with self._lock:
            now, counts = self.now(), dict[str, int]()
            for job in self._store().jobs.values():
                shown = shown_state(job, now)
                counts[shown] = counts.get(shown, 0) + 1
            return counts

    def backlog(self, queues: Sequence[str] = ()) -> tuple[int, int]:
        """See `Ledger.backlog`."""
        with self._lock:
            store, now = self._store(), self.now()
            due = [job for job in store.of(State.QUEUED) if job.scheduled_at <= now]
            due_count, running_count = (
                sum(not queues or job.queue in queues for job in jobs) for jobs in (due, store.of(State.RUNNING))
            )
            return due_count, running_count

    def publishable(self, limit: int) -> list[Job]:
        """See `Ledger.publishable`."""
        with self._lock:
            store, now = self._store(), self.now()
            due = [
                (job.publish_due_at, job)
                for job in store.of(State.QUEUED)
                if job.held is None and job.publish_due_at is not None and job.publish_due_at <= now
            ]
            return [job for _, job in sorted(due, key=lambda pair: pair[0])[:limit]]

    def postpone(self, queues: Sequence[str], patience: Patience, limit: int) -> int:
        """See `Ledger.postpone`."""
        with self._lock:
            store, seconds = self._store(), self._clock()
            postponed = 0
            for job in self.publishable(limit):
                waited_s = job.waited_s
                if job.queue in queues and waited_s is not None and waited_s < patience.trusted_s:
                    due_at = rows.instant(seconds + min(max(2 * waited_s, patience.grace_s), patience.max_grace_s))
                    store.put(msgspec.structs.replace(job, publish_due_at=due_at))
                    postponed += 1
            return postponed

    def expired(self, limit: int) -> list[Job]:
        """See `Ledger.expired`."""
        with self._lock:
            store, now = self._store(), self.now()
            over = [
                (job.lease_until, job)
                for job in store.of(State.RUNNING)
                if job.lease_until is not None and job.lease_until < now
            ]
            return [job for _, job in sorted(over, key=lambda pair: pair[0])[:limit]]

    def cancel_requests(self, owner: str) -> list[tuple[str, int]]:
        """See `Ledger.cancel_requests`."""
        with self._lock:
            return sorted(
                (job.id, job.attempt)
                for job in self._store().of(State.RUNNING)
                if job.owner == owner and job.cancel_requested_at is not None
            )

    # -- what belongs to a job ------------------------------------------------------------------------------------

    def report(self, reports: Sequence[Report]) -> None:
        """See `Ledger.report`."""
        with self._lock:
            store = self._store()
            for report in reports:
                job = store.jobs.get(report.job_id)
                if job is None:
                    continue  # purged: there is nothing that the news could belong to
                if isinstance(report, LogLine):
                    store.logs.setdefault(job.id, []).append(self._line(report))
                elif isinstance(report, NodeRun):
                    nodes = store.nodes.setdefault(job.id, {}).setdefault(report.attempt, {})
                    _note_node(nodes, report)
                elif job.attempt == report.attempt:
                    store.put(msgspec.structs.replace(job, **_progress(report)))

    def _line(self, line: LogLine) -> LogLine:
        return msgspec.structs.replace(
            line,
            text=rows.storable(line.text),
            source=rows.storable(line.source),
            node=None if line.node is None else rows.storable(line.node),
            seq=next(self._seq),
        )

    def history(self, job_id: str) -> list[HistoryEntry]:
        """See `Ledger.history`."""
        with self._lock:
            job = self._store().jobs.get(job_id)
            return [] if job is None else [rows.enqueued(job), *self._rows.history.get(job_id, [])]

    def logs(
        self, job_id: str, *, attempt: int | None = None, after_seq: int = 0, limit: int = 10_000
    ) -> list[LogLine]:
        """See `Ledger.logs`."""
        with self._lock:
            lines = self._store().logs.get(job_id, [])
            fitting = (x for x in lines if x.seq > after_seq and (attempt is None or x.attempt == attempt))
            return list(itertools.islice(fitting, limit))

    def nodes(self, job_id: str, *, attempt: int | None = None) -> list[NodeRun]:
        """See `Ledger.nodes`."""
        with self._lock:
            attempts = self._store().nodes.get(job_id, {})
            nodes = attempts.get(max(attempts, default=0) if attempt is None else attempt, {})
            # Sorting is stable: nodes that started at once stay as they were told.
            timed = [(node.started_at, node) for node in nodes.values() if node.started_at is not None]
            timed.sort(key=lambda pair: pair[0])
            return [node for _, node in timed] + [n for n in nodes.values() if n.started_at is None]

    # -- workers --------------------------------------------------------------------------------------------------

    def tell_worker(self, worker: WorkerInfo) -> None:
        """See `Ledger.tell_worker`."""
        with self._lock:
            now = self.now()
            self._store().workers[worker.id] = msgspec.structs.replace(worker, seen_at=now)

    def forget_worker(self, worker: str) -> None:
        """See `Ledger.forget_worker`."""
        with self._lock:
            self._store().workers.pop(worker, None)

    def workers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """See `Ledger.workers`."""
        with self._lock:
            since = self.now() - timedelta(seconds=seen_within_s)
            seen = [worker for worker in self._store().workers.values() if worker.seen_at >= since]
            return sorted(seen, key=lambda worker: worker.id)

    def close(self) -> None:
        """See `Ledger.close`."""
        self._closed = True


def _may_start(event: Event, job: Job, given: _Given) -> bool:
    rule = TRANSITIONS[event]
    return job.state in rule.start and all(GUARD_HOLDS[guard](job, given) for guard in rule.guards)


def _changes(job: Job, transition: Transition, to: State, seconds: float) -> _Changes:
    """Say what a transition does to its row: ``ledger/sql.py`` holds the same in SQL."""
    event, now = transition.event, rows.instant(seconds)
    due_at = rows.instant(rows.later(seconds, transition.delay_s))
    changes: _Changes = {"state": to}
    error = None if transition.error is None else rows.storable_error(transition.error)
    reason = None if transition.reason is None else str(transition.reason)
    if event in (Event.CLAIM, Event.BEAT):
        changes["lease_until"] = rows.instant(rows.later(seconds, transition.lease_s or 0.0))
    if event is Event.CLAIM:
        changes |= {
            "attempt": job.attempt + 1,
            "owner": transition.owner,
            "started_at": now,
            "note": None,
            "progress": None,
            "message": None,
            "nodes_done": None,
            "nodes_total": None,
        }
    elif event is Event.SUCCEED:
        changes |= {"result": transition.result, "reason": None}
    elif event in (Event.RETRY, Event.FAIL):
        changes |= {"errors": job.errors + 1, "error": error, "reason": reason}
    elif event in (Event.RESCUE, Event.CRASH):
        changes |= {"crashes": job.crashes + 1, "error": error or job.error, "reason": reason}
    elif event is Event.PUBLISH:
        changes |= {"published_at": now, "publishes": job.publishes + 1, "publish_due_at": due_at}
    elif event is Event.REQUEST_CANCEL:
        changes["cancel_requested_at"] = job.cancel_requested_at or now
    if to is State.QUEUED and event is not Event.PUBLISH:
        changes |= {"scheduled_at": due_at, "publish_due_at": due_at, "published_at": None}
        if event is Event.RELEASE:
            changes["note"] = transition.note
    if to.final:
        changes["finished_at"] = now
    if to is State.CANCELLED:
        changes["reason"] = None
    return changes


def _entry(before: Job, after: Job, transition: Transition, now: datetime) -> HistoryEntry:
    ran = State.RUNNING in (before.state, after.state)
    return HistoryEntry(
        job_id=after.id,
        at=now,
        event=transition.event,
        start=before.state,
        to=after.state,
        attempt=after.attempt,
        worker=after.owner if ran else None,
        reason=None if transition.reason is None else str(transition.reason),
        error=None if transition.error is None else rows.storable_error(transition.error),
    )


def _note_node(nodes: dict[str, NodeRun], news: NodeRun) -> None:
    name = rows.storable(news.name)
    known = nodes.get(name)
    started_at = news.started_at or (known.started_at if known is not None else None)
    error = None if news.error is None else rows.storable(news.error)
    nodes[name] = msgspec.structs.replace(news, name=name, started_at=started_at, error=error)


def _progress(news: Progress) -> _Changes:
    changes = {
        "progress": news.progress,
        "message": None if news.message is None else rows.storable(news.message),
        "nodes_done": news.nodes_done,
        "nodes_total": news.nodes_total,
    }
    return {name: value for name, value in changes.items() if value is not None}
