"""Run what waits, in the test's own process, one job after another."""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.bridge import in_thread
from penstock.core.exceptions import InvalidJobError
from penstock.job.lifecycle import State
from penstock.job.models import Job, JobQuery
from penstock.runners import runner_for

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.job.lifecycle import Transition

logger = logging.getLogger("penstock.testing")

_PAGE = 1000
_FINAL = frozenset({"succeeded", "failed", "cancelled"})


class Drained(msgspec.Struct, frozen=True, kw_only=True):
    """What a `drain` did. True where anything ran."""

    runs: int
    """How many attempts there were."""
    succeeded: int = 0
    failed: int = 0
    cancelled: int = 0
    left: dict[str, int] = {}
    """How many jobs are not final, by shown state: for later, to be tried again, held back, of unknown tasks."""
    failures: tuple[str, ...] = ()
    """Of each job that failed for good: its name, its id and its error, in a line."""

    def __bool__(self) -> bool:
        """Return whether anything ran."""
        return self.runs > 0

    def __str__(self) -> str:
        counts = {"succeeded": self.succeeded, "failed": self.failed, "cancelled": self.cancelled, **self.left}
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        return "\n  ".join([f"{self.runs} runs: {told}" if told else f"{self.runs} runs", *self.failures])


def drain(queue: JobQueue | None = None, *, with_scheduled: bool = False, max_runs: int = 1000) -> Drained:
    """Run everything that is due in this process, whatever the engine, and return what became of it.

    One after another: the higher priority first, then the earlier due, then the earlier made; what bodies enqueue
    meanwhile comes after them. Failed jobs raise nothing: they are counted, told in ``failures`` and logged. The
    messages that the engine holds are refused later, as any that comes twice.

    Args:
        queue: whose jobs; None: `JobQueue.default()`.
        with_scheduled: also run at once what is scheduled for later or waits for another try, the earliest first.
        max_runs: more attempts than that are a job without end.

    Raises:
        AssertionError: it did not come to an end within ``max_runs``; tells which jobs went on.
    """
    if queue is None:
        from penstock.client import JobQueue

        queue = JobQueue.default()
    names: Counter[str] = Counter()
    ended: dict[str, Transition] = {}

    def note(job: Job, transition: Transition) -> None:
        names[job.name] += 1
        ended[job.id] = transition

    here = type(queue)("inline://", ledger=queue.ledger, config=queue.config, root=queue.root)
    with here, here.captured():
        here.on_change(note)
        while jobs := _next(here, later=False) or (with_scheduled and _next(here, later=True)):
            for job in jobs:
                here.sweeper.push([here.ledger.get(job.id)])
                if names.total() > max_runs:
                    worst = ", ".join(f"{name} ({count})" for name, count in names.most_common(3))
                    raise AssertionError(f"jobs go on after {max_runs} runs, most of them: {worst}")
    final = [queue.ledger.get(job_id) for job_id in ended]
    states = Counter(job.state.value for job in final if job.state.final)
    failures = tuple(_told(job) for job in final if job.state is State.FAILED)
    left = {name: count for name, count in queue.counts().items() if name not in _FINAL}
    for told in failures:
        logger.warning("drained: %s", told)
    return Drained(
        runs=names.total(), succeeded=states["succeeded"], failed=states["failed"], cancelled=states["cancelled"],
        left=left, failures=failures,
    )  # fmt: skip


async def adrain(queue: JobQueue | None = None, **said: Any) -> Drained:
    """`drain`, awaited."""
    return await in_thread(drain, queue, **said)


def _next(queue: JobQueue, *, later: bool) -> list[Job]:
    """Return what can run now, in order; or make the first of what is for later due, and return that."""
    states = ("queued", "blocked", "scheduled", "retrying") if later else ("queued", "blocked")
    found: list[Job] = []
    before: str | None = None
    while page := queue.ledger.find(JobQuery(states=states, limit=_PAGE, before=before)):
        found += [job for job in page if job.held is None and _can_run(job)]
        before = page[-1].id
    if not later:
        now = queue.now()
        due = [job for job in found if job.scheduled_at <= now]
        return sorted(due, key=lambda job: (-job.priority, job.scheduled_at, job.id))
    first = min(found, key=lambda job: (job.scheduled_at, -job.priority, job.id), default=None)
    if first is None:
        return []
    queue.sweeper.wake([first.id])
    return [first]


def _can_run(job: Job) -> bool:
    try:
        return runner_for(job.kind).missing(job) is None
    except InvalidJobError:
        return False


def _told(job: Job) -> str:
    error = job.error
    line = "" if error is None else f"{error.type}: {error.message}".partition("\n")[0]
    return f"{job.name} {job.id} failed ({job.reason}): {line}"
