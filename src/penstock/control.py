"""What people decide while jobs run, and what they ask: each verb is a line, the work is done in the room it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from penstock.bridge import in_thread
from penstock.rooms import Rooms

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.dead_letters import Requeued
    from penstock.handle import JobHandle
    from penstock.job.models import WorkerInfo


class Controls(Rooms):
    """The part of `JobQueue` that steers what is there already. Every blocking verb has an a-twin."""

    # -- dead letters -------------------------------------------------------------------------------------------

    def dead_letters(self, *, limit: int | None = 50, **filters: Any) -> list[JobHandle]:
        """List the jobs that failed for good and were not requeued, newest first.

        Filters: ``task`` (a name, which may hold ``*``, or the task), ``queue``, ``tag``, ``key``, ``kind``, ``reason``
        (``error``, ``timeout``, ``crash_loop``, ...), ``since`` (a time, or a span such as ``"24h"``), ``before`` (an
        id).
        """
        from penstock import dead_letters
        from penstock.handle import JobHandle

        queue = cast("JobQueue", self)
        return [JobHandle(queue, job) for job in dead_letters.listed(queue, limit=limit, **filters)]

    def requeue(self, job_id: str, inputs: Mapping[str, Any] | None = None, **options: Any) -> JobHandle:
        """Submit a final job again, as a new one that has its id as ``parent_id``; it is no dead letter any more.

        ``inputs`` are put in place of those of the same name, and checked as at enqueue; ``options`` are job options.
        While what it became is not final it is answered with that job, whose ``outcome`` is ``kept`` then; so with a
        live job of the same key.

        Raises:
            JobNotFoundError: there is no such job.
            TransitionRefusedError: the job is not final yet.
            InvalidJobError: an input or option is wrong, or nobody with a key has signed the job; nothing was written.
        """
        from penstock import dead_letters

        return dead_letters.requeue(cast("JobQueue", self), job_id, inputs, options)

    def requeue_all(
        self,
        *,
        dry_run: bool = False,
        limit: int | None = None,
        options: Mapping[str, Any] | None = None,
        **filters: Any,
    ) -> Requeued:
        """Requeue every dead letter that fits the filters of `dead_letters`, the oldest first, in transactions of 200.

        ``limit``: at most so many, the newest. ``dry_run=True`` only tells which. ``options`` are job options for all.

        Raises:
            InvalidJobError: a filter or an option is wrong; nothing was written.
            QueueFullError: see `enqueue`; those before are requeued, and no dead letters any more.
        """
        from penstock import dead_letters

        return dead_letters.requeue_all(
            cast("JobQueue", self), dry_run=dry_run, limit=limit, options=options, **filters
        )

    # -- workers ------------------------------------------------------------------------------------------------

    def workers_for(self, task: Any, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """List the workers seen lately that can run a task or pipeline, by its name or an alias of it."""
        name = getattr(task, "name", task)
        found = self.ledger.workers(seen_within_s=seen_within_s)
        return [worker for worker in found if name in worker.tasks or name in worker.pipelines]

    # The a-twins: each is its verb in a thread.

    async def aworkers_for(self, task: Any, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """`workers_for`, awaited."""
        return await in_thread(self.workers_for, task, seen_within_s=seen_within_s)

    async def adead_letters(self, *, limit: int | None = 50, **filters: Any) -> list[JobHandle]:
        """`dead_letters`, awaited."""
        return await in_thread(self.dead_letters, limit=limit, **filters)

    async def arequeue(self, job_id: str, inputs: Mapping[str, Any] | None = None, **options: Any) -> JobHandle:
        """`requeue`, awaited."""
        return await in_thread(self.requeue, job_id, inputs, **options)

    async def arequeue_all(
        self,
        *,
        dry_run: bool = False,
        limit: int | None = None,
        options: Mapping[str, Any] | None = None,
        **filters: Any,
    ) -> Requeued:
        """`requeue_all`, awaited."""
        return await in_thread(self.requeue_all, dry_run=dry_run, limit=limit, options=options, **filters)

    def replace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """Enqueue a job in the place of the one that has its ``key``, or is alike by ``unique``.

        That one is cancelled, or asked to stop while it runs; the handle's ``outcome`` is ``replaced``, or ``created``
        where there was none. Without a key there is nothing to replace: `InvalidJobError`. See `JobQueue.enqueue`.
        """
        return cast("JobQueue", self).enqueue(task, *args, on_conflict="replace", **kwargs)

    async def areplace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """`replace`, awaited."""
        return await in_thread(self.replace, task, *args, **kwargs)
