"""What the screen shows of one moment, asked from the client alone."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from penstock.core.secrets import mask_url
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Job
from penstock.job.scans import LastScan, ScanError
from penstock.job.schedules import SCHEDULE, Schedule

if TYPE_CHECKING:
    from penstock.client import JobQueue

_DAY = timedelta(hours=24)
_COUNTED = 1000
"""More jobs of a day than this are shown as so many and more: the screen is to cost the ledger little."""
_ROWS = 200
_TEN = 10


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the table of functions: a schedule, or what was run without one."""

    name: str
    """The schedule's; that of the task or pipeline where there is no schedule."""
    runs: str
    """The task or pipeline."""
    schedule: Schedule | None = None
    jobs: tuple[Job, ...] = ()
    """The newest ten, newest first."""
    broken: ScanError | None = None
    """Its file cannot be loaded; what runs is the version before."""

    @property
    def live(self) -> Job | None:
        """The newest job that runs."""
        return next((job for job in self.jobs if job.state is State.RUNNING), None)

    @property
    def last(self) -> Job | None:
        """The newest job that ended."""
        return next((job for job in self.jobs if job.state.final), None)


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All that the screen shows."""

    at: datetime
    backend: str
    last_scan: LastScan | None
    errors: tuple[ScanError, ...]
    held: tuple[str, ...]
    """The strikes and pauses that hold, with who made them."""
    schedules: int
    workers: int
    ill: int
    """How many workers say that they are not well."""
    waiting: int
    day: dict[str, int]
    """Jobs made within 24 h, by shown state."""
    more: bool
    """There were more of them than were counted."""
    rows: tuple[Row, ...]
    jobs: tuple[Job, ...]
    """The newest, newest first."""

    @property
    def runs(self) -> int:
        """How many of the day's jobs have begun."""
        return sum(count for state, count in self.day.items() if state not in _NOT_BEGUN)


_NOT_BEGUN = frozenset({"queued", "scheduled", "blocked"})


def take(queue: JobQueue, *, jobs: int = 50) -> Snapshot:
    """Look at everything once. Raises `LedgerError`."""
    now = queue.now()
    today = [handle.job for handle in queue.jobs(since=now - _DAY, limit=_COUNTED)]
    newest = today[:jobs] if len(today) >= jobs else [handle.job for handle in queue.jobs(limit=jobs)]
    day: dict[str, int] = {}
    for job in today:
        state = shown_state(job, now)
        day[state] = day.get(state, 0) + 1
    counts, workers = queue.counts(), queue.workers()
    schedules, errors = queue.schedules.list(), queue.discovery.errors()
    return Snapshot(
        at=now,
        backend=mask_url(queue.config.backend),
        last_scan=queue.discovery.last(),
        errors=tuple(errors),
        held=tuple(f"{rule.held}{f' (by {rule.by})' if rule.by else ''}" for rule in queue.rules()),
        schedules=len(schedules),
        workers=len(workers),
        ill=sum(bool(worker.trouble) for worker in workers),
        waiting=counts.get("queued", 0),
        day=day,
        more=len(today) == _COUNTED,
        rows=tuple(_rows(queue, schedules, newest, errors, now)),
        jobs=tuple(newest),
    )


def _rows(
    queue: JobQueue, schedules: Sequence[Schedule], newest: Sequence[Job], errors: Sequence[ScanError], now: datetime
) -> list[Row]:
    rows = [
        Row(
            name=schedule.name,
            runs=schedule.plan.template.name,
            schedule=schedule,
            jobs=tuple(_jobs_of(queue, schedule)),
            broken=next((e for e in errors if e.file == schedule.plan.where.rpartition(":")[0]), None),
        )
        for schedule in schedules[:_ROWS]
    ]
    scheduled = {row.runs for row in rows}
    others = dict.fromkeys(job.name for job in newest if job.name not in scheduled)
    rows += [
        Row(name=name, runs=name, jobs=tuple(handle.job for handle in queue.jobs(name=name, limit=_TEN)))
        for name in others
    ]
    return sorted(rows, key=lambda row: _order(row, now))


def _jobs_of(queue: JobQueue, schedule: Schedule) -> list[Job]:
    """Return the newest jobs of a schedule, leaving out those that another schedule of the same task made."""
    found = [handle.job for handle in queue.jobs(name=schedule.plan.template.name, limit=2 * _TEN)]
    return [job for job in found if job.metadata.get(SCHEDULE, schedule.name) == schedule.name][:_TEN]


def _order(row: Row, now: datetime) -> tuple[int, float, str]:
    """What runs comes first, then what runs next, then what has no time, then what is paused."""
    if row.live is not None:
        return (0, 0.0, row.name)
    if row.schedule is None:
        return (2, 0.0, row.name)
    if row.schedule.pause is not None:
        return (3, 0.0, row.name)
    at = row.schedule.next_at
    return (2, 0.0, row.name) if at is None else (1, (at - now).total_seconds(), row.name)
