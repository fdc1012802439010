"""What a transition does to a row that is a Struct: the guards and the effects, as ``sql.py`` has them in SQL."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import msgspec

from penstock.job.lifecycle import TRANSITIONS, Event, Guard, State, Transition
from penstock.job.models import HistoryEntry, Job, NodeRun, Progress
from penstock.ledger import rows

Changes = dict[str, Any]


class Given(NamedTuple):
    """What guards compare a row with."""

    now: datetime
    attempt: int | None = None
    publishes: int | None = None
    older_than_s: float = 0.0
    held: str | None = None


def _is_stale(job: Job, given: Given) -> bool:
    return job.expires_at is not None and job.expires_at < given.now


GUARD_HOLDS: Mapping[Guard, Callable[[Job, Given], bool]] = {
    Guard.DUE: lambda job, given: job.scheduled_at <= given.now,
    Guard.ADMITTED: lambda job, given: job.held is None,
    Guard.FENCE: lambda job, given: job.attempt == given.attempt,
    Guard.LEASE_OVER: lambda job, given: job.lease_until is not None and job.lease_until < given.now,
    Guard.CANCEL_ASKED: lambda job, given: job.cancel_requested_at is not None,
    Guard.SEEN: lambda job, given: job.publishes == given.publishes,
    Guard.OLD: lambda job, given: (
        job.finished_at is not None and job.finished_at < given.now - timedelta(seconds=given.older_than_s)
    ),
    Guard.HELD: lambda job, given: job.held == given.held,
    Guard.FRESH: lambda job, given: not _is_stale(job, given),
    Guard.STALE: _is_stale,
}


def may_start(event: Event, job: Job, given: Given) -> bool:
    """Whether an event may happen to a row: its start states and its guards."""
    rule = TRANSITIONS[event]
    return job.state in rule.start and all(GUARD_HOLDS[guard](job, given) for guard in rule.guards)


def changes_of(job: Job, transition: Transition, to: State, seconds: float) -> Changes:
    """Say what a transition does to its row: ``ledger/sql.py`` holds the same in SQL."""
    event, now = transition.event, rows.instant(seconds)
    due_at = rows.instant(rows.later(seconds, transition.delay_s))
    changes: Changes = {"state": to}
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
    elif event is Event.HOLD:
        changes["held"] = transition.held
    elif event is Event.ADMIT:
        changes |= {"held": None, "published_at": None, "publish_due_at": max(now, job.scheduled_at)}
    elif event is Event.WAKE:
        changes |= {"scheduled_at": now, "publish_due_at": now, "published_at": None, "note": None}
    elif event is Event.EXPIRE:
        changes |= {"error": error, "reason": reason}
    if to is State.QUEUED and event not in rows.STAYING:
        changes |= {"scheduled_at": due_at, "publish_due_at": due_at, "published_at": None}
        if transition.begun:
            changes["expires_at"] = None
        if event is Event.RELEASE:
            changes |= {"note": transition.note, "held": transition.held}
    if to.final:
        changes["finished_at"] = now
    if to is State.CANCELLED:
        changes["reason"] = None
    return changes


def entry_of(before: Job, after: Job, transition: Transition, now: datetime) -> HistoryEntry:
    """Write down a step that was made."""
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


def note_node(nodes: dict[str, NodeRun], news: NodeRun) -> None:
    """Keep the newest news of a node, and when it began."""
    name = rows.storable(news.name)
    known = nodes.get(name)
    started_at = news.started_at or (known.started_at if known is not None else None)
    error = None if news.error is None else rows.storable(news.error)
    nodes[name] = msgspec.structs.replace(news, name=name, started_at=started_at, error=error)


def progress_of(news: Progress) -> Changes:
    """Say what news of progress changes in its row; what they leave out stays."""
    changes = {
        "progress": news.progress,
        "message": None if news.message is None else rows.storable(news.message),
        "nodes_done": news.nodes_done,
        "nodes_total": news.nodes_total,
    }
    return {name: value for name, value in changes.items() if value is not None}
