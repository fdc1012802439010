"""Whether each queue is worked off: who listens to it, when a job was last claimed, how long the others wait."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from penstock.core.base import Finding
from penstock.core.config import seconds
from penstock.core.durations import format_duration
from penstock.core.secrets import mask_url
from penstock.job.models import JobQuery, WorkerInfo

if TYPE_CHECKING:
    from penstock.client import JobQueue

_LOOKED_AT = 100
_CLAIMED = ("running", "retrying", "succeeded", "failed", "cancelled")


def look(queue: JobQueue, alive: Sequence[WorkerInfo]) -> list[Finding]:
    """Look at every configured queue, and at those that jobs wait in or that a worker listens to.

    Raises:
        LedgerError: the ledger did not answer.
    """
    engine = mask_url(queue.config.backend)
    here = [worker for worker in alive if worker.backend == engine]
    elsewhere = [worker for worker in alive if worker.backend != engine]
    waiting = queue.ledger.find(JobQuery(states=("queued",), limit=_LOOKED_AT))
    names = dict.fromkeys([
        *queue.config.worker.queues,
        *(name for worker in here for name in worker.queues),
        *(job.queue for job in waiting),
    ])  # fmt: skip
    found = [_look(queue, name, [worker for worker in here if name in worker.queues], alive) for name in names]
    if elsewhere:
        told = ", ".join(f"{worker.id} works on {worker.backend}" for worker in elsewhere)
        hint = f"messages of this project go to {engine}: give all of them one `backend`"
        found.append(Finding(name="other engine", level="warning", told=told, hint=hint))
    return found


def _look(queue: JobQueue, name: str, listeners: Sequence[WorkerInfo], alive: Sequence[WorkerInfo]) -> Finding:
    due, running = queue.ledger.backlog((name,))
    now = queue.now()
    told = [f"{due:,} due", f"{running:,} running"]
    if not listeners:
        hint = f"start a worker that does: penstock worker --queues {name}"
        if due:
            return _finding(name, "warning", ["nobody listens", *told], hint)
        # A project without any worker is not yet at work; one that leaves out a queue may have forgotten it.
        return _finding(name, "warning" if alive else "ok", ["nobody listens", *told], hint if alive else "")
    told.insert(0, f"{len(listeners)} listening")
    claimed_at = _last_claim(queue, name)
    if claimed_at is not None:
        told.append(f"last claim {_ago(now, claimed_at)}")
    if not due:
        return _finding(name, "ok", told)
    since = _due_since(queue, name, now)
    if since is not None:
        told.append(f"the first has been due for {format_duration((now - since).total_seconds())}")
    if all(worker.running >= worker.concurrency for worker in listeners):
        return _finding(name, "ok", [*told, "all are busy"])
    idle_since = max((at for at in (since, claimed_at) if at is not None), default=now)
    if now - idle_since > timedelta(seconds=seconds(queue.config.sweep.publish_grace)):
        hint = "they listen and take nothing: look at their log, and whether they know the tasks (penstock status JOB)"
        return _finding(name, "warning", told, hint)
    return _finding(name, "ok", told)


def _finding(name: str, level: str, told: Sequence[str], hint: str = "") -> Finding:
    return Finding(
        name=f"queue {name}", level="warning" if level == "warning" else "ok", told=", ".join(told), hint=hint
    )


def _last_claim(queue: JobQueue, name: str) -> datetime | None:
    """Return when one of the newest jobs that were ever claimed was."""
    jobs = queue.ledger.find(JobQuery(states=_CLAIMED, queue=name, limit=_LOOKED_AT))
    return max((job.started_at for job in jobs if job.started_at is not None), default=None)


def _due_since(queue: JobQueue, name: str, now: datetime) -> datetime | None:
    """Return since when the first of the newest waiting jobs has been due."""
    jobs = queue.ledger.find(JobQuery(states=("queued", "retrying"), queue=name, limit=_LOOKED_AT))
    return min((job.scheduled_at for job in jobs if job.scheduled_at <= now), default=None)


def _ago(now: datetime, at: datetime) -> str:
    return f"{format_duration(max(0.0, (now - at).total_seconds()))} ago"
