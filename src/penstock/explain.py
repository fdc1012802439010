"""Collects what `job.explanation` makes sense of: asks ledger, engine and audit about one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import audit, snapshot
from penstock.core.config import seconds
from penstock.core.durations import format_duration
from penstock.core.secrets import mask_url
from penstock.job import explanation
from penstock.job.explanation import AHEAD_MAX, Explanation, Facts
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Job, JobQuery

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.audit import Entry
    from penstock.rooms import Rooms

_RETRIES, _ENTRIES = 20, 5


def explain(rooms: Rooms, job: Job) -> Explanation:
    """Say why a job is where it is. Raises `LedgerError`; an engine that does not answer is a finding."""
    return explanation.explain(collect(rooms, job))


def collect(rooms: Rooms, job: Job) -> Facts:
    """Ask about everything that may hold this job back, or has ended it."""
    ledger, config = rooms.ledger, rooms.config
    now = ledger.now()
    waits = job.state is State.QUEUED
    depth, trouble, ahead = None, "", 0
    if waits and not rooms.gateway.in_process and job.scheduled_at <= now:
        wrong = [f.told for f in rooms.gateway.inspect([job.queue]) if f.level == "error"]
        trouble = "; ".join(wrong)
        depth = None if wrong else snapshot.depths_of(rooms, [job.queue]).get(job.queue)
        older = JobQuery(states=("queued",), queue=job.queue, before=job.id, limit=AHEAD_MAX)
        ahead = len(ledger.find(older))
    problem = rooms.signer.problem(job) if waits else None
    retries = ledger.find(JobQuery(parent_id=job.id, limit=_RETRIES)) if job.state.final else []
    return Facts(
        now=now,
        job=job,
        engine=mask_url(config.backend),
        in_process=rooms.gateway.in_process,
        attempts=tuple(ledger.attempts(job.id)),
        workers=tuple(ledger.workers()),
        depth=depth,
        engine_trouble=trouble,
        ahead=ahead,
        signature="" if problem is None else problem.told,
        decided=tuple(
            decision.told
            for decision in snapshot.decisions(rooms)
            if waits and decision.subject in (f"queue {job.queue}", f"task {job.name}")
        ),
        asked=tuple(_line(entry, now) for entry in audit.entries(rooms, subject=job.id, limit=_ENTRIES)),
        retries=tuple((one.id, shown_state(one, now)) for one in retries),
        grace_s=seconds(config.sweep.publish_grace),
        lease_s=seconds(config.lease.ttl),
    )


def _line(entry: Entry, now: datetime) -> str:
    ago = format_duration(max(0.0, (now - entry.at).total_seconds()))
    why = f" ({entry.why})" if entry.why else ""
    return f"{entry.verb} by {entry.actor} {ago} ago{why}"
