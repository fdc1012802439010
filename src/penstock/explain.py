"""Collects what `job.explanation` makes sense of: asks ledger, engine and audit about one job."""

from __future__ import annotations

from typing import TYPE_CHECKING

from penstock import audit, snapshot
from penstock.core.config import seconds
from penstock.core.durations import format_duration
from penstock.core.exceptions import InvalidJobError
from penstock.core.secrets import mask_text, mask_url
from penstock.job import explanation
from penstock.job.facts import AHEAD_MAX, Decided, Explanation, Facts, Slot
from penstock.job.lifecycle import Event, State, shown_state
from penstock.job.models import Job, JobQuery
from penstock.job.slots import slots_of
from penstock.job.steering import Pause
from penstock.slots import waits_for

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.audit import Entry
    from penstock.job.steering import Rule
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
    workers = tuple(ledger.workers())
    rules = rooms.steering.rules_for(job) if waits else ()
    problem = rooms.signer.problem(job) if waits else None
    retries = ledger.find(JobQuery(parent_id=job.id, limit=_RETRIES)) if job.state.final else []
    return Facts(
        now=now,
        job=job,
        engine=mask_url(config.backend),
        in_process=rooms.gateway.in_process,
        attempts=tuple(ledger.attempts(job.id)),
        workers=workers,
        depth=depth,
        engine_trouble=trouble,
        ahead=ahead,
        signature="" if problem is None else problem.told,
        decided=tuple(Decided(_rule(rule, now), mask_text(rule.ends)) for rule in rules),
        resting=frozenset(worker.id for worker in workers if waits and rooms.steering.rests(worker.id)),
        slots=_slots(rooms, job) if waits else (),
        called_off=_called_off(rooms, job),
        asked=tuple(_line(entry, now) for entry in audit.entries(rooms, subject=job.id, limit=_ENTRIES)),
        retries=tuple((one.id, shown_state(one, now)) for one in retries),
        grace_s=seconds(config.sweep.publish_grace),
        lease_s=seconds(config.lease.ttl),
    )


def _rule(rule: Rule, now: datetime) -> str:
    what = f"{str(rule).capitalize()} is paused" if isinstance(rule, Pause) else f"Struck: {rule}"
    by = f", by {rule.by}" if rule.by else ""
    ago = "" if rule.at is None else f" {format_duration(max(0.0, (now - rule.at).total_seconds()))} ago"
    return mask_text(f"{what}{by}{ago}{': ' + rule.why if rule.why else ''}.")


def _slots(rooms: Rooms, job: Job) -> tuple[Slot, ...]:
    try:
        wanted = slots_of(job)
    except InvalidJobError:
        return ()  # the attempt that reads them fails, and says so
    if not wanted and job.held is None:
        return ()
    held = rooms.slots.holders()
    # What a parameter of its body asks for stands nowhere but in what it waits for.
    asked = {key: of.most for key, of in held.items() if job.held == waits_for(key, of.most)}
    return tuple(
        Slot(key, most, tuple(holder.job_id for holder in held[key].holders) if key in held else ())
        for key, most in {**asked, **wanted}.items()
    )


def _called_off(rooms: Rooms, job: Job) -> str:
    if job.state is not State.CANCELLED:
        return ""
    reasons = [e.reason for e in rooms.ledger.history(job.id) if e.event in (Event.CANCEL, Event.REQUEST_CANCEL)]
    return next((reason for reason in reversed(reasons) if reason), "")


def _line(entry: Entry, now: datetime) -> str:
    ago = format_duration(max(0.0, (now - entry.at).total_seconds()))
    why = f" ({entry.why})" if entry.why else ""
    return f"{entry.verb} by {entry.actor} {ago} ago{why}"
