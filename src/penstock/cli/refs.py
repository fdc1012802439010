"""Finds the job that REF names: an id, the beginning of one, or a name, which stands for its latest job."""

from __future__ import annotations

from penstock.client import JobQueue
from penstock.core.exceptions import InvalidJobError, JobNotFoundError
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
            error.args = (f"no job {ref!r} in this ledger: no id begins so, and no job has that name",)
        raise
