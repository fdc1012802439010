"""What a ledger can tell of all its jobs at once: a part of `Ledger`, in a room of its own."""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from penstock.job.lifecycle import State, shown_state

if TYPE_CHECKING:
    from penstock.job.models import Job, JobQuery


class Tally(msgspec.Struct, frozen=True, kw_only=True):
    """How many jobs of one queue and one name are in one shown state."""

    queue: str
    name: str
    state: str
    count: int
    first_at: datetime | None = None
    """Of those that wait, when the first is due or was; of those that run, when the first began; else None."""


class Overview(ABC):
    """Counts and heads of all jobs. A ledger whose store can do better than read each of them says how."""

    @abstractmethod
    def now(self) -> datetime:
        """See `Ledger.now`."""

    @abstractmethod
    def find(self, query: JobQuery) -> list[Job]:
        """See `Ledger.find`."""

    def tally(self, *, live: bool = False) -> list[Tally]:
        """Count all jobs by queue, name and shown state, in no order; what has no job is left out.

        ``live``: only those that are not final, which are fewer as a rule.

        A ledger that has to look page by page may count a job that moves meanwhile twice, or not at all.
        """
        from penstock.job.models import JobQuery

        now = self.now()
        counts: dict[tuple[str, str, str], tuple[int, datetime | None]] = {}
        for job in self.find(JobQuery(limit=sys.maxsize)):
            if live and job.state.final:
                continue
            key = (job.queue, job.name, shown_state(job, now))
            count, first_at = counts.get(key, (0, None))
            at = job.scheduled_at if job.state is State.QUEUED else job.started_at
            known = [one for one in (first_at, at) if one is not None]
            counts[key] = (count + 1, None if job.state.final else min(known, default=None))
        return [
            Tally(queue=queue, name=name, state=state, count=count, first_at=first_at)
            for (queue, name, state), (count, first_at) in counts.items()
        ]

    def upcoming(self, limit: int) -> list[Job]:
        """List jobs that are scheduled or wait for another try, the next one first."""
        from penstock.job.models import JobQuery

        waiting = self.find(JobQuery(states=("scheduled", "retrying"), limit=sys.maxsize))
        return sorted(waiting, key=lambda job: (job.scheduled_at, job.id))[:limit]
