"""Run what waits, in the test's own process, one job after another."""

from __future__ import annotations

import heapq
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
    from datetime import datetime

    from penstock.client import JobQueue
    from penstock.job.lifecycle import Transition

logger = logging.getLogger("penstock.testing")

_PAGE = 1000
_STATES = ("queued", "blocked", "scheduled", "retrying")
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

    One after another: the higher priority first, then the earlier due, then the earlier made; what a body enqueues
    takes its place among them. Failed jobs raise nothing: they are counted, told in ``failures`` and logged. The
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
    runs: Counter[str] = Counter()

    def note(job: Job, _transition: Transition) -> None:
        runs[job.id] += 1

    here = type(queue)("inline://", ledger=queue.ledger, config=queue.config, root=queue.root)
    with here, here.captured():
        here.on_change(note)
        waiting = _Waiting(here, with_scheduled=with_scheduled)
        while (job := waiting.next()) is not None:
            names[job.name] += 1
            if names.total() > max_runs:
                worst = ", ".join(f"{name} ({count})" for name, count in names.most_common(3))
                raise AssertionError(f"jobs go on after {max_runs} runs, most of them: {worst}")
            here.sweeper.push([job])
            waiting.look_again(job.id)
    final = [queue.ledger.get(job_id) for job_id in runs]
    states = Counter(job.state.value for job in final if job.state.final)
    failures = tuple(_told(job) for job in final if job.state is State.FAILED)
    left = {name: count for name, count in queue.counts().items() if name not in _FINAL}
    for told in failures:
        logger.warning("drained: %s", told)
    return Drained(
        runs=runs.total(), succeeded=states["succeeded"], failed=states["failed"], cancelled=states["cancelled"],
        left=left, failures=failures,
    )  # fmt: skip


async def adrain(queue: JobQueue | None = None, **said: Any) -> Drained:
    """`drain`, awaited."""
    return await in_thread(drain, queue, **said)


class _Waiting:
    """What can run, in order: what is due, then what is for later. Read once, and kept up with what comes."""

    def __init__(self, queue: JobQueue, *, with_scheduled: bool) -> None:
        self._queue = queue
        self._with_scheduled = with_scheduled
        self._heap: list[tuple[bool, float, float, str]] = []
        self._known: set[str] = set()
        self._newest = ""
        self._read_new()

    def next(self) -> Job | None:
        """Take out the first, due by now; None when there is none."""
        self._read_new()
        if not self._heap:
            self._newest = ""  # an id of the caller's own may be older than all others
            self._read_new()
        while self._heap and (self._with_scheduled or not self._heap[0][0]):
            later, _, _, job_id = heapq.heappop(self._heap)
            self._known.discard(job_id)
            if later:
                self._queue.sweeper.wake([job_id])
            job = self._queue.ledger.get(job_id)
            if self._waits(job):
                return job
        return None

    def look_again(self, job_id: str) -> None:
        """Put a job that has had its turn back, if it is to have another one."""
        self._add(self._queue.ledger.get(job_id), self._queue.now())

    def _read_new(self) -> None:
        found: list[Job] = []
        before, size = None, 1 if self._newest else _PAGE
        while page := self._queue.ledger.find(JobQuery(states=_STATES, limit=size, before=before)):
            found += [job for job in page if job.id > self._newest]
            if page[-1].id <= self._newest:
                break
            before, size = page[-1].id, _PAGE
        now = self._queue.now()
        for job in found:
            self._add(job, now)
        self._newest = max([self._newest, *(job.id for job in found)])

    def _add(self, job: Job, now: datetime) -> None:
        if job.id in self._known or not self._waits(job):
            return
        self._known.add(job.id)
        later = job.scheduled_at > now
        due_s = job.scheduled_at.timestamp()
        first, second = (due_s, -job.priority) if later else (-job.priority, due_s)
        heapq.heappush(self._heap, (later, float(first), float(second), job.id))

    @staticmethod
    def _waits(job: Job) -> bool:
        return job.state.value == "queued" and job.held is None and _can_run(job)


def _can_run(job: Job) -> bool:
    try:
        return runner_for(job.kind).missing(job) is None
    except InvalidJobError:
        return False


def _told(job: Job) -> str:
    error = job.error
    line = "" if error is None else f"{error.type}: {error.message}".partition("\n")[0]
    return f"{job.name} {job.id} failed ({job.reason}): {line}"
