"""The ledger in this process's memory: for tests and trials; it is gone with the process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from functools import partial

import msgspec

from penstock.core.base import Applied, Ledger, Patience
from penstock.core.exceptions import JobNotFoundError, LedgerError, QueueFullError
from penstock.core.records import Records
from penstock.job.lifecycle import TRANSITIONS, Event, State, Transition, shown_state
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
from penstock.ledger import conflicts, matching, rows
from penstock.ledger.memory_records import MemoryRecords
from penstock.ledger.memory_steps import Given, changes_of, entry_of, may_start, note_node, progress_of


class _Store:
    """The rows, and what finds them."""

    def __init__(self) -> None:
        self.jobs: dict[str, Job] = {}
        self.by_state: dict[State, dict[str, None]] = {state: {} for state in State}
        self.by_key: dict[str, str] = {}
        self.by_tick: dict[str, str] = {}
        self.by_unique: dict[str, dict[str, None]] = {}
        self.history: dict[str, list[HistoryEntry]] = {}
        self.logs: dict[str, list[LogLine]] = {}
        self.nodes: dict[str, dict[int, dict[str, NodeRun]]] = {}
        self.workers: dict[str, WorkerInfo] = {}

    def put(self, job: Job) -> None:
        before = self.jobs.get(job.id)
        if before is not None:
            self.by_state[before.state].pop(job.id, None)
        elif job.tick_key is not None:
            self.by_tick[job.tick_key] = job.id
        if job.key is not None and not job.state.final:
            self.by_key[job.key] = job.id
        if before is not None and before.unique_key is not None:
            self.by_unique[before.unique_key].pop(job.id, None)
        if job.unique_key is not None:
            self.by_unique.setdefault(job.unique_key, {})[job.id] = None
        self.by_state[job.state][job.id] = None
        self.jobs[job.id] = job

    def delete(self, job: Job) -> None:
        for held_by, key in ((self.by_key, job.key), (self.by_tick, job.tick_key)):
            if key is not None and held_by.get(key) == job.id:
                del held_by[key]
        if job.unique_key is not None:
            self.by_unique[job.unique_key].pop(job.id, None)
        del self.by_state[job.state][job.id], self.jobs[job.id]
        for belongings in (self.history, self.logs, self.nodes):
            belongings.pop(job.id, None)

    def live_with_key(self, key: str) -> str | None:
        holder = self.jobs.get(self.by_key.get(key, ""))
        return None if holder is None or holder.key != key or holder.state.final else holder.id

    def of(self, state: State) -> list[Job]:
        return [self.jobs[job_id] for job_id in self.by_state[state]]


UNIQUE: dict[str, Callable[[_Store, Intent], str | None]] = {
    "id": lambda store, intent: intent.id if intent.id in store.jobs else None,
    "tick_key": lambda store, intent: None if intent.tick_key is None else store.by_tick.get(intent.tick_key),
    "key": lambda store, intent: None if intent.key is None else store.live_with_key(intent.key),
}
"""The guards of T1: each names the job that stands in an intent's way."""


def _holder(store: _Store, intent: Intent, *, now: float) -> Job | None:
    """Find the job that stands in an intent's way by a key."""
    for job_id in sorted(store.by_unique.get(intent.unique_key or "", ()), reverse=True):
        job, period_s = store.jobs[job_id], intent.unique_period_s
        if job.state in intent.unique_states and (period_s is None or job.created_at.timestamp() > now - period_s):
            return job
    holder = None if intent.key is None else store.live_with_key(intent.key)
    return None if holder is None else store.jobs[holder]


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
            wanted = {id(intent): rows.queued(intent, now=now, grace_s=grace_s) for intent in intents}
            undo: list[Callable[[], None]] = []

            def step(transition: Transition) -> bool:
                return self._undoable(store, transition, undo)

            def give_way(job: Job) -> None:
                store.put(msgspec.structs.replace(store.jobs[job.id], key=None, unique_key=None))

            def insert(intent: Intent) -> Submission:
                return self._insert(store, intent, wanted[id(intent)], undo)

            tools = conflicts.Tools(partial(_holder, store, now=now), step, give_way, insert)
            try:
                answers = [conflicts.insert(i, tools) if i.careful else tools.insert(i) for i in intents]
                created = rows.created_in(answers, max_queued)
                for queue, limit in (max_queued or {}).items():
                    if created[queue] and sum(job.queue == queue for job in store.of(State.QUEUED)) > limit:
                        raise QueueFullError(queue, limit, created[queue])
            except Exception:
                for step_back in reversed(undo):
                    step_back()
                raise
            return answers

    def _undoable(self, store: _Store, transition: Transition, undo: list[Callable[[], None]]) -> bool:
        before = store.jobs.get(transition.job_id)
        told = list(store.history.get(transition.job_id, ()))

        def step_back() -> None:
            if before is not None:
                store.put(before)
                store.history[before.id] = told

        undo.append(step_back)
        return self.apply(transition) is not None

    @staticmethod
    def _insert(store: _Store, intent: Intent, job: Job, undo: list[Callable[[], None]]) -> Submission:
        for holder_of in UNIQUE.values():
            holder = holder_of(store, intent)
            if holder is not None:
                return Submission(store.jobs[holder], Outcome.KEPT)
        store.put(job)
        undo.append(lambda: store.delete(job))
        return Submission(job, Outcome.CREATED)

    def apply(self, transition: Transition) -> Applied | None:
        """See `Ledger.apply`."""
        with self._lock:
            store, seconds = self._store(), self._clock()
            now = rows.instant(seconds)
            job = store.jobs.get(transition.job_id)
            given = Given(now, transition.attempt, transition.publishes, held=transition.held)
            if job is None or not may_start(transition.event, job, given):
                return None
            to = transition.to
            if transition.to_if_cancelled is not None and job.cancel_requested_at is not None:
                to = transition.to_if_cancelled
            after = msgspec.structs.replace(job, **changes_of(job, transition, to, seconds))
            store.put(after)
            if transition.event not in rows.UNTOLD:
                store.history.setdefault(job.id, []).append(entry_of(job, after, transition, now))
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
            given = Given(self.now(), older_than_s=older_than_s)
            old = [job for job in store.of(state) if may_start(Event.PURGE, job, given)]
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
            due = [job for job in store.of(State.QUEUED) if job.scheduled_at <= now and job.held is None]
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

    def expirable(self, limit: int) -> list[Job]:
        """See `Ledger.expirable`."""
        with self._lock:
            given = Given(self.now())
            stale = [job for job in self._store().of(State.QUEUED) if may_start(Event.EXPIRE, job, given)]
            return stale[:limit]

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
                    note_node(nodes, report)
                elif job.attempt == report.attempt:
                    store.put(msgspec.structs.replace(job, **progress_of(report)))

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
