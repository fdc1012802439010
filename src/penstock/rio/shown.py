"""What the views show of jobs and their runs, read from the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.core.exceptions import JobNotFoundError
from penstock.job.schedules import SCHEDULE

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.job.models import Job
    from penstock.job.schedules import Schedule

TITLE = "title"
"""Where a schedule's template keeps what people call the job, which may hold letters that a name cannot."""


class ScheduledJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job of the app, and what it is doing now."""

    name: str
    """The name of its schedule, for `JobScheduler.run_now` and ``penstock schedules``."""
    title: str
    doing: Literal["starting", "scheduled", "queued", "running", "ended", "paused", "unscheduled"]
    """``starting``: the app has not started yet; ``ended``: a run just has, when the next one is will be seen."""
    next_run_at: datetime | None = None
    started_at: datetime | None = None
    status_message: str = ""
    """What its run says; of a paused job, why it is; of a queued one, by which strike or pause it is held back."""
    progress: float | None = None


class PastRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a job that has begun. ``finished_at`` is None while it goes on."""

    job_id: str
    name: str
    title: str
    state: Literal["running", "interrupted", "succeeded", "failed", "cancelled"]
    """``interrupted``: it will begin again, as soon as a process of the app can run it."""
    started_at: datetime
    finished_at: datetime | None = None
    status_message: str = ""
    progress: float | None = None
    error: str = ""


def scheduled_jobs(queue: JobQueue, source: str) -> list[ScheduledJob]:
    """Return the jobs of an app: those that run first, then by their next run; those without one come last."""
    schedules = [s for s in queue.schedules.list(source=source) if s.plan.source == source]
    return sorted((_scheduled(queue, schedule) for schedule in schedules), key=_order)


def _order(job: ScheduledJob) -> tuple[bool, float, str]:
    at = job.started_at or job.next_run_at
    return at is None, at.timestamp() if at is not None else 0.0, job.title


def _scheduled(queue: JobQueue, schedule: Schedule) -> ScheduledJob:
    shown = ScheduledJob(name=schedule.name, title=title_of(schedule), doing="scheduled", next_run_at=schedule.next_at)
    job = _job(queue, schedule.awaits)
    changes: dict[str, Any] = {}
    if job is not None and job.state == "running":
        changes = {
            "doing": "running",
            "started_at": job.started_at,
            "status_message": job.message or "",
            "progress": job.progress,
        }
    elif job is not None and not job.state.final:
        changes = {"doing": "queued", "next_run_at": job.scheduled_at, "status_message": job.held or ""}
    elif schedule.pause is not None:
        changes = {"doing": "paused", "status_message": schedule.pause.note, "next_run_at": None}
    elif schedule.awaits is not None:
        changes = {"doing": "ended"}
    elif schedule.over:
        changes = {"doing": "unscheduled", "next_run_at": None}
    return msgspec.structs.replace(shown, **changes)


def _job(queue: JobQueue, job_id: str | None) -> Job | None:
    try:
        return None if job_id is None else queue.job(job_id).job
    except JobNotFoundError:
        return None


def title_of(schedule: Schedule) -> str:
    """Return what people call the job of a schedule."""
    return schedule.plan.template.metadata.get(TITLE, schedule.name)


def past_runs(
    queue: JobQueue, titles: Iterable[tuple[str, str]], *, lane: str, keep_for: timedelta, keep_n: int, limit: int
) -> list[PastRun]:
    """Return the newest runs over all jobs (pairs of name and title): of each ``keep_n``, and those that are young."""
    found: list[PastRun] = []
    young = queue.now() - keep_for
    for name, title in titles:
        runs = [_past(job, title) for job in _begun(queue.jobs(name=name, queue=lane, limit=max(limit, keep_n)), name)]
        found += runs[:keep_n] + [run for run in runs[keep_n:] if run.started_at > young]
    return sorted(found, key=lambda run: run.started_at, reverse=True)[:limit]


def _begun(handles: Sequence[object], name: str) -> list[Job]:
    jobs: list[Job] = [handle.job for handle in handles]  # type: ignore[attr-defined]
    begun = [job for job in jobs if job.started_at is not None and job.metadata.get(SCHEDULE) == name]
    return sorted(begun, key=lambda job: job.started_at, reverse=True)  # type: ignore[arg-type,return-value]


def _past(job: Job, title: str) -> PastRun:
    state = "interrupted" if job.state == "queued" else str(job.state)
    error = "" if job.error is None else f"{job.error.type}({job.error.message!r})"
    return PastRun(
        job_id=job.id, name=job.metadata.get(SCHEDULE, job.name), title=title, state=state,  # type: ignore[arg-type]
        started_at=job.started_at, finished_at=job.finished_at,  # type: ignore[arg-type]
        status_message=job.message or "", progress=job.progress,
        error=error or (job.reason or "" if state == "failed" else ""),
    )  # fmt: skip
