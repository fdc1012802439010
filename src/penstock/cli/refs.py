"""Finds the job that REF names: an id, the beginning of one, or a name, which stands for its latest job.

A name is that of a task or a pipeline, else that of a schedule.
"""

from __future__ import annotations

from penstock.client import JobQueue
from penstock.core.exceptions import InvalidJobError, JobNotFoundError, ScheduleNotFoundError, did_you_mean
from penstock.handle import JobHandle

_GLOB = frozenset("*?")


def find(queue: JobQueue, ref: str) -> JobHandle:
    """Return the job of a REF.

    Raises:
        JobNotFoundError: neither an id nor a name fits.
        InvalidJobError: several ids begin so.
    """
    try:
        return queue.job(ref)
    except (JobNotFoundError, InvalidJobError) as error:
        named = [] if not ref or _GLOB & set(ref) else queue.jobs(name=ref, limit=1)
        if named:
            return named[0]
        if isinstance(error, JobNotFoundError):
            if (last := _last_of_schedule(queue, ref)) is not None:
                return last
            told = f"no job {ref!r} in this ledger: no id begins so, and no job has that name"
            near = did_you_mean(ref, names_of_jobs(queue))
            error.args = (f"{told}.{near}" if near else told,)
        raise


def names_of_jobs(queue: JobQueue) -> set[str]:
    """Return the names that the jobs of the ledger have."""
    return {tally.name for tally in queue.ledger.tally()}


def runnable(queue: JobQueue) -> set[str]:
    """Return the names of the tasks and pipelines that workers have which live."""
    return {name for worker in queue.workers() for name in (*worker.tasks, *worker.pipelines)}


def _last_of_schedule(queue: JobQueue, name: str) -> JobHandle | None:
    try:
        last = queue.schedules.get(name).last_job
        return None if last is None else queue.job(last)
    except (ScheduleNotFoundError, JobNotFoundError):
        return None
