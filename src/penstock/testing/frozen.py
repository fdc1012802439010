"""A scheduler whose clock stands still until a test moves it: a year of nights in a second."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from penstock.core.durations import Duration, parse_duration_s
from penstock.core.running import Scheduler
from penstock.declared import declare
from penstock.handle import call_off
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import Job, JobQuery
from penstock.job.rules import parse_instant
from penstock.job.schedules import FIRE_AT, SCHEDULE
from penstock.scheduler import LedgerScheduler

if TYPE_CHECKING:
    from penstock.client import JobQueue

_LEASE_S = 60.0
_AT_ONCE = 1000


class VirtualClock:
    """The time of a ledger, in seconds since 1970, as a test sets it."""

    def __init__(self, now: datetime) -> None:
        self.seconds = now.timestamp()

    def __call__(self) -> float:
        """Return the time."""
        return self.seconds


class FrozenRun(msgspec.Struct, frozen=True):
    """A job that came to its end while the clock was moved."""

    job: str
    """The name of the task or pipeline."""
    schedule: str | None
    fire_at: datetime | None
    """The fire time that made it, aware UTC; None for a job that no schedule made."""
    state: str
    id: str


class FrozenScheduler(Scheduler):
    """See `Scheduler`; its fire times come when `advance` passes them. Jobs run within `advance`, one after another."""

    def __init__(self, queue: JobQueue, clock: VirtualClock) -> None:
        """``queue`` runs jobs in its own process (``inline://``), on a ledger that goes by ``clock``."""
        self.queue = queue
        self._clock = clock
        self._seen: set[str] = set()
        # It inserts and does not publish: whether a body is run is decided in `advance`.
        self._scheduler = LedgerScheduler(
            queue.ledger,
            queue.config,
            submit=lambda intents: queue.ledger.insert([queue.signer.signed(i) for i in intents], grace_s=0.0),
            cancel=lambda job_id: call_off(queue.job(job_id)),
            value_of=lambda job: queue.results.decode(job.result),
            problem=queue.signer.schedule_problem,
        )

    def at(self, when: str | datetime, *, tz: str | None = None) -> FrozenScheduler:
        """Set the clock, and declare what the project's configuration schedules as if it were deployed then.

        A time without a zone is of ``tz``, else of the project's timezone. Raises ValueError.
        """
        self._clock.seconds = parse_instant(when, tz or self.queue.config.timezone).timestamp()
        declare(self.queue)
        return self

    def advance(self, duration: Duration, *, run: bool = True) -> list[FrozenRun]:
        """Let so much time pass, and return what has ended by then, in the order of its ends.

        Each fire time and each delayed job comes at its own instant. ``run=False``: bodies are not run, every job
        succeeds at once. Raises ValueError for what is no duration.
        """
        until = self._clock.seconds + parse_duration_s(duration)
        while True:
            self._at_this_moment(run=run)
            upcoming = [at for at in (self._timestamp(self.next_at()), self._next_job()) if at is not None]
            following = min(upcoming, default=until)
            if following > until:
                break
            if following <= self._clock.seconds:
                following = self._clock.seconds + 0.001  # what looks again at once must not stop the clock
            self._clock.seconds = min(following, until)
            if self._clock.seconds >= until:
                self._at_this_moment(run=run)
                break
        self._clock.seconds = until
        return self._ended()

    def tick(self) -> int:
        """See `Scheduler.tick`."""
        return self._scheduler.tick()

    def next_at(self) -> datetime | None:
        """See `Scheduler.next_at`."""
        return self._scheduler.next_at()

    def _at_this_moment(self, *, run: bool) -> None:
        while self.tick() + (self._run_due() if run else self._pretend()):
            pass

    def _run_due(self) -> int:
        return self.queue.sweeper.publish_due()

    def _pretend(self) -> int:
        ledger, done = self.queue.ledger, 0
        for job in ledger.find(JobQuery(states=("queued",), limit=_AT_ONCE)):
            claimed = ledger.apply(lifecycle.claim(job.id, owner="frozen", lease_s=_LEASE_S))
            if claimed is not None and claimed.job is not None:
                ledger.apply(lifecycle.succeed(job.id, attempt=claimed.job.attempt))
                done += 1
        return done

    def _next_job(self) -> float | None:
        waiting = self.queue.ledger.find(JobQuery(states=("scheduled", "retrying"), limit=_AT_ONCE))
        return min((job.scheduled_at.timestamp() for job in waiting), default=None)

    @staticmethod
    def _timestamp(at: datetime | None) -> float | None:
        return None if at is None else at.timestamp()

    def _ended(self) -> list[FrozenRun]:
        found: list[Job] = []
        before: str | None = None
        while page := self.queue.ledger.find(JobQuery(limit=_AT_ONCE, before=before)):
            found += [job for job in page if job.state.final and job.id not in self._seen]
            before = page[-1].id
        self._seen |= {job.id for job in found}
        found.sort(key=lambda job: (job.finished_at, job.id))
        return [_run(job) for job in found]


def _run(job: Job) -> FrozenRun:
    fire_at = job.metadata.get(FIRE_AT)
    return FrozenRun(
        job=job.name,
        schedule=job.metadata.get(SCHEDULE),
        fire_at=None if fire_at is None else datetime.fromisoformat(fire_at),
        state=State(job.state).value,
        id=job.id,
    )
