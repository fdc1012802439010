"""Waiting on jobs from beside them: by reading the ledger, never by running anything."""

from __future__ import annotations

from collections.abc import Iterable

from penstock.client import JobQueue
from penstock.handle import JobHandle
from penstock.job.lifecycle import State
from penstock.job.models import Job
from penstock.testing.harness import wait_until


def final(queue: JobQueue, job: JobHandle, timeout_s: float = 20.0) -> Job:
    """Wait until the job is final and return its row.

    Not `JobHandle.wait`: where messages run in the waiting process, that one would run the body in this process.
    """
    wait_until(lambda: queue.ledger.get(job.id).state.final, timeout_s, f"{job} is final")
    return queue.ledger.get(job.id)


def all_final(queue: JobQueue, jobs: Iterable[JobHandle], timeout_s: float = 30.0) -> list[Job]:
    """`final`, for many."""
    return [final(queue, job, timeout_s) for job in jobs]


def running(queue: JobQueue, job: JobHandle, timeout_s: float = 20.0) -> Job:
    """Wait until the job runs and return its row."""
    wait_until(lambda: queue.ledger.get(job.id).state is State.RUNNING, timeout_s, f"{job} runs")
    return queue.ledger.get(job.id)
