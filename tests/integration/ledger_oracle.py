"""An independent model of the ledger: plain dicts, the protocol's table written out by hand.

It reads neither `TRANSITIONS` nor any ledger: T1 to T12 stand here a second time, on purpose, so that a guard that
gets lost in the table or in a statement shows as a difference. `Pair` drives a ledger beside it.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest

from penstock.core.base import Ledger
from penstock.core.exceptions import JobNotFoundError
from penstock.job.lifecycle import Event, State, Transition
from penstock.job.models import Intent, Job, JobQuery, Progress
from penstock.ledger import open_ledger
from penstock.ledger.memory import MemoryLedger
from penstock.ledger.sqlite import SqliteLedger
from penstock.testing import services

GRACE_S = 30.0
START = 1_700_000_000.0
Row = dict[str, Any]


class Clock:
    """Moves in quarters of a second: sums of them are exact, so two ways to add them agree to the last bit."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


def open_kind(kind: str, folder: Any, clock: Clock) -> Ledger:
    """Open a ledger of a kind. The file forgets what a power cut would lose: it is gone after the test anyway."""
    if kind == "memory":
        return MemoryLedger(clock=clock)
    if kind != "sqlite":
        return open_ledger(services.url(kind), namespace=f"t{uuid.uuid4().hex[:12]}", clock=clock)
    ledger = SqliteLedger(f"{folder}/ledger.db", clock=clock)
    ledger._file._writer.execute("PRAGMA synchronous = OFF")
    return ledger


class Oracle:
    """What the ledger must answer and hold."""

    def __init__(self) -> None:
        self.rows: dict[str, Row] = {}
        self.told: dict[str, list[tuple[Any, ...]]] = {}

    # T1: nothing on conflict of id, tick key, or the key of a job that is not over; one that may be replaced gives way
    def insert(self, intent: Intent, now: float) -> tuple[str, str]:
        replaced = False
        if intent.id not in self.rows:
            for row in sorted(self.rows.values(), key=lambda row: row["id"], reverse=True):
                age = now - row["created_at"]
                alike = intent.unique_key is not None and row["unique_key"] == intent.unique_key
                if alike and (intent.unique_period_s is not None and age >= intent.unique_period_s):
                    alike = False
                alike = alike and row["state"] in intent.unique_states
                same_key = intent.key is not None and row["key"] == intent.key and row["state"] in ("queued", "running")
                if not alike and not same_key:
                    continue
                if intent.on_conflict == "keep":
                    if alike:
                        return "kept", row["id"]
                    continue
                self._gives_way(row, now)
                replaced = True
        for row in self.rows.values():
            if row["id"] == intent.id:
                return "kept", row["id"]
        for row in self.rows.values():
            if intent.tick_key is not None and row["tick_key"] == intent.tick_key:
                return "kept", row["id"]
        for row in self.rows.values():
            if intent.key is not None and row["key"] == intent.key and row["state"] in ("queued", "running"):
                return "kept", row["id"]
        due = now + intent.delay_s if intent.at is None else intent.at.timestamp()
        later = due > now
        self.rows[intent.id] = {
            "id": intent.id, "kind": intent.kind, "name": intent.name, "spec": intent.spec, "queue": intent.queue,
            "key": intent.key, "tick_key": intent.tick_key, "max_attempts": intent.max_attempts,
            "max_crashes": intent.max_crashes, "state": "queued", "created_at": now,
            "scheduled_at": due if later else now, "published_at": None if later else now,
            "publishes": 0 if later else 1, "publish_due_at": due if later else now + GRACE_S, "reason": None,
            "unique_key": intent.unique_key,
            "expires_at": None if intent.expires_s is None else max(due, now) + intent.expires_s,
            "attempt": 0, "errors": 0, "crashes": 0, "owner": None, "lease_until": None, "cancel_requested_at": None,
            "held": intent.held, "note": None, "started_at": None, "finished_at": None, "error": None, "result": None,
            "progress": None, "message": None, "nodes_done": None, "nodes_total": None,
        }  # fmt: skip
        if intent.held is not None:
            row = self.rows[intent.id]
            row["published_at"], row["publishes"], row["publish_due_at"] = None, 0, max(due, now)
        self.told[intent.id] = [("enqueue", None, "queued", 0, now, None)]
        return "replaced" if replaced else "created", intent.id

    def _gives_way(self, row: Row, now: float) -> None:
        before = row["state"]
        row["key"] = row["unique_key"] = None
        if before == "queued":
            self._cancelled(row, now)
            self.told[row["id"]].append(("cancel", before, "cancelled", row["attempt"], now, None))
        elif before == "running":
            row["cancel_requested_at"] = row["cancel_requested_at"] or now
            self.told[row["id"]].append(("request_cancel", before, before, row["attempt"], now, row["owner"]))

    def apply(self, t: Transition, now: float) -> tuple[str, bool, Row | None] | None:
        row = self.rows.get(t.job_id)
        if row is None:
            return None
        before = row["state"]
        verb = getattr(self, t.event.value)
        if verb(row, t, now) is None:
            return None
        whole = t.event.value in ("claim", "publish")
        if t.event.value not in ("beat", "publish"):
            worker = row["owner"] if "running" in (before, row["state"]) else None
            self.told[t.job_id].append((t.event.value, before, row["state"], row["attempt"], now, worker))
        return row["state"], row["cancel_requested_at"] is not None, dict(row) if whole else None

    # T2
    def claim(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "queued" or row["scheduled_at"] > now or row["held"] is not None or self._stale(row, now):
            return None
        row["state"] = "running"
        row["attempt"] += 1
        row["owner"] = t.owner
        row["lease_until"] = now + t.lease_s
        row["started_at"] = now
        for name in ("note", "progress", "message", "nodes_done", "nodes_total"):
            row[name] = None
        return True

    # T3
    def beat(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt:
            return None
        row["lease_until"] = now + t.lease_s
        return True

    # T4: success beats a request to cancel
    def succeed(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt:
            return None
        row["state"], row["finished_at"], row["result"], row["reason"] = "succeeded", now, t.result, None
        return True

    # T5: cancel wins over another try and over failing
    def retry(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt:
            return None
        row["errors"] += 1
        row["error"], row["reason"] = t.error, t.reason
        if row["cancel_requested_at"] is not None:
            return self._cancelled(row, now)
        return self._back(row, now + t.delay_s)

    def fail(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt:
            return None
        row["errors"] += 1
        row["error"], row["reason"] = t.error, t.reason
        if row["cancel_requested_at"] is not None:
            return self._cancelled(row, now)
        row["state"], row["finished_at"] = "failed", now
        return True

    # T6: spends nothing
    def release(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt:
            return None
        if row["cancel_requested_at"] is not None:
            return self._cancelled(row, now)
        row["note"], row["held"] = t.note, t.held
        return self._back(row, now + t.delay_s, begun=t.begun)

    # T7
    def rescue(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt or not row["lease_until"] < now:
            return None
        return self._lost(row, t, now)

    def crash(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt:
            return None
        return self._lost(row, t, now)

    def _lost(self, row: Row, t: Transition, now: float) -> bool:
        row["crashes"] += 1
        if t.error is not None:
            row["error"] = t.error
        if row["cancel_requested_at"] is not None:
            return self._cancelled(row, now)
        if row["crashes"] >= row["max_crashes"]:
            row["state"], row["finished_at"], row["reason"] = "failed", now, "crash_loop"
            return True
        row["reason"] = None
        return self._back(row, now)

    # T8: one pusher for each look
    def publish(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "queued" or row["scheduled_at"] > now or row["held"] is not None:
            return None
        if row["publishes"] != t.publishes:
            return None
        row["publishes"] += 1
        row["published_at"], row["publish_due_at"] = now, now + t.delay_s
        return True

    # T9
    def cancel(self, row: Row, t: Transition, now: float) -> bool | None:
        return self._cancelled(row, now) if row["state"] == "queued" else None

    # T10: the first request counts
    def request_cancel(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running":
            return None
        if row["cancel_requested_at"] is None:
            row["cancel_requested_at"] = now
        return True

    # T11
    def stop(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "running" or row["attempt"] != t.attempt or row["cancel_requested_at"] is None:
            return None
        return self._cancelled(row, now)

    # T13
    def hold(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "queued" or row["held"] is not None:
            return None
        row["held"] = t.held
        return True

    # T14: it is published when it is due
    def admit(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "queued" or row["held"] is None or row["held"] != t.held:
            return None
        row["held"] = row["published_at"] = None
        row["publish_due_at"] = max(now, row["scheduled_at"])
        return True

    # T15
    def wake(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "queued" or row["held"] is not None:
            return None
        row["note"] = row["published_at"] = None
        row["scheduled_at"] = row["publish_due_at"] = now
        return True

    # T16
    def expire(self, row: Row, t: Transition, now: float) -> bool | None:
        if row["state"] != "queued" or not self._stale(row, now):
            return None
        row["state"], row["finished_at"], row["reason"], row["error"] = "failed", now, "expired", t.error
        return True

    def _stale(self, row: Row, now: float) -> bool:
        return row["expires_at"] is not None and row["expires_at"] < now

    # T12
    def purge(self, state: str, older_than_s: float, limit: int, now: float) -> set[str]:
        if state not in ("succeeded", "failed", "cancelled"):
            return set()
        old = [r for r in self.rows.values() if r["state"] == state and r["finished_at"] < now - older_than_s]
        old.sort(key=lambda row: row["finished_at"])
        for row in old[:limit]:
            del self.rows[row["id"]], self.told[row["id"]]
        return {row["id"] for row in old[:limit]}

    def progress(self, news: Progress) -> None:
        row = self.rows.get(news.job_id)
        if row is not None and row["attempt"] == news.attempt:
            for name in ("progress", "message", "nodes_done", "nodes_total"):
                if getattr(news, name) is not None:
                    row[name] = getattr(news, name)

    def _cancelled(self, row: Row, now: float) -> bool:
        row["state"], row["finished_at"], row["reason"] = "cancelled", now, None
        return True

    def _back(self, row: Row, due: float, begun: bool = True) -> bool:
        if begun:
            row["expires_at"] = None
        row["state"] = "queued"
        row["scheduled_at"] = row["publish_due_at"] = due
        row["published_at"] = None
        return True

    # what lists and counts must say
    def shown(self, row: Row, now: float) -> str:
        if row["state"] == "queued":
            if row["held"] or row["note"]:
                return "blocked"
            if row["scheduled_at"] > now:
                return "retrying" if row["attempt"] else "scheduled"
        if row["state"] == "running":
            if row["cancel_requested_at"] is not None:
                return "cancelling"
            if row["lease_until"] < now:
                return "overdue"
        return row["state"]


class DivergenceError(AssertionError):
    """The ledger and the model do not agree."""


def same(what: str, ledger: Any, model: Any) -> None:
    if ledger != model:
        raise DivergenceError(f"{what}: the ledger has {ledger!r}, the model {model!r}")


def as_row(job: Job, like: Row) -> Row:
    values = {name: getattr(job, name) for name in like}
    return {
        name: value.timestamp() if isinstance(value, datetime) else str(value) if isinstance(value, State) else value
        for name, value in values.items()
    }


class Pair:
    """A ledger and the model, driven side by side; every answer and every row is compared."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger, self.clock, self.model = ledger, clock, Oracle()

    def insert(self, *intents: Intent) -> None:
        wanted = [self.model.insert(intent, self.clock.now) for intent in intents]
        got = self.ledger.insert(intents, grace_s=GRACE_S)
        same("insert", [(str(s.outcome), s.job.id) for s in got], wanted)
        for submission in got:
            self._same_row(submission.job)

    def apply(self, *transitions: Transition) -> list[Job | None]:
        """Apply one alone or several together; return the rows that were answered."""
        wanted = [self.model.apply(transition, self.clock.now) for transition in transitions]
        alone = len(transitions) == 1
        answers = [self.ledger.apply(transitions[0])] if alone else self.ledger.apply_many(transitions)
        got = [
            None if a is None else (str(a.state), a.cancel_requested, None if a.job is None else as_row(a.job, w[2]))
            if w is not None and (w[2] is None) == (a.job is None)
            else a
            for a, w in zip(answers, wanted, strict=True)
        ]  # fmt: skip
        for transition, one, other in zip(transitions, got, wanted, strict=True):
            same(f"{transition.event} of {transition.job_id}", one, other)
            self.check_job(transition.job_id)
        return [None if answer is None else answer.job for answer in answers]

    def purge(self, state: State, older_than_s: float, limit: int = 1000) -> None:
        wanted = self.model.purge(state.value, older_than_s, limit, self.clock.now)
        same(f"purge of {state}", set(self.ledger.purge(state, older_than_s=older_than_s, limit=limit)), wanted)

    def report(self, news: Progress) -> None:
        self.ledger.report([news])
        self.model.progress(news)
        self.check_job(news.job_id)

    def check_job(self, job_id: str) -> None:
        try:
            job = self.ledger.get(job_id)
        except JobNotFoundError:
            same(job_id, None, self.model.rows.get(job_id))
            return
        self._same_row(job)
        told = [
            (e.event.value, e.start and e.start.value, e.to.value, e.attempt, e.at.timestamp(), e.worker)
            for e in self.ledger.history(job_id)
        ]
        same(f"history of {job_id}", told, self.model.told.get(job_id))

    def _same_row(self, job: Job) -> None:
        row = self.model.rows.get(job.id)
        same(f"row {job.id}", None if row is None else as_row(job, row), row)

    def check(self) -> None:
        """Compare everything that can be asked."""
        rows, now = list(self.model.rows.values()), self.clock.now
        newest = sorted(self.model.rows, reverse=True)
        same("jobs", [job.id for job in self.ledger.find(JobQuery(limit=1000))], newest)
        for job_id in newest:
            self.check_job(job_id)
        shown = [self.model.shown(row, now) for row in rows]
        same("counts", self.ledger.counts(), {state: shown.count(state) for state in set(shown)})
        for state in set(shown):
            wanted = sorted((r["id"] for r in rows if self.model.shown(r, now) == state), reverse=True)
            same(state, [job.id for job in self.ledger.find(JobQuery(states=(state,), limit=1000))], wanted)
        queued = [row for row in rows if row["state"] == "queued"]
        running = [row for row in rows if row["state"] == "running"]
        due = {row["id"] for row in queued if not row["held"] and row["publish_due_at"] <= now}
        same("publishable", {job.id for job in self.ledger.publishable(1000)}, due)
        stale = {row["id"] for row in queued if self.model._stale(row, now)}
        same("expirable", {job.id for job in self.ledger.expirable(1000)}, stale)
        over = {row["id"] for row in running if row["lease_until"] < now}
        same("expired", {job.id for job in self.ledger.expired(1000)}, over)
        backlog = (sum(row["scheduled_at"] <= now and row["held"] is None for row in queued), len(running))
        same("backlog", self.ledger.backlog(), backlog)
        for owner in {row["owner"] for row in rows}:
            if owner is not None:
                asked = [r for r in running if r["owner"] == owner and r["cancel_requested_at"] is not None]
                wanted = sorted((row["id"], row["attempt"]) for row in asked)
                same("cancel requests", self.ledger.cancel_requests(owner), wanted)


def after(clock: Clock, seconds: float) -> datetime:
    """Name an instant relative to the clock."""
    from datetime import UTC

    return datetime.fromtimestamp(clock.now, UTC) + timedelta(seconds=seconds)


def _served(kind: str) -> Any:
    why_not = services.available(kind)
    return pytest.param(kind, marks=[pytest.mark.skip(reason=why_not)] if why_not else [])


KINDS: Sequence[Any] = ("memory", "sqlite", _served("redis"), _served("postgres"))
EVENTS_OF_A_ROW = tuple(event for event in Event if event not in (Event.ENQUEUE, Event.PURGE))
