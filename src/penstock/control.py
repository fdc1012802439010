"""What people decide while jobs run, and what they ask: each verb is a line, the work is done in the room it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, cast

from penstock import audit as audit_room
from penstock import explain as explain_room
from penstock import snapshot as snapshot_room
from penstock import strikes
from penstock.bridge import in_thread
from penstock.rooms import Rooms

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.audit import Entry
    from penstock.client import JobQueue
    from penstock.dead_letters import Requeued
    from penstock.handle import JobHandle
    from penstock.job.facts import Explanation
    from penstock.job.models import WorkerInfo
    from penstock.job.steering import Rule
    from penstock.snapshot import QueueState, Snapshot
    from penstock.strikes import Struck


class Controls(Rooms):
    """The part of `JobQueue` that steers what is there already. Every blocking verb has an a-twin."""

    # -- dead letters -------------------------------------------------------------------------------------------

    def dead_letters(self, *, limit: int | None = 50, **filters: Any) -> list[JobHandle]:
        """List the jobs that failed for good and were not requeued, newest first.

        Filters: ``task`` (a name, which may hold ``*``, or the task), ``queue``, ``tag``, ``metadata`` (entries that it
        must have), ``key``, ``kind``, ``reason`` (``error``, ``timeout``, ``crash_loop``, ...), ``since`` (a time, or a
        span such as ``"24h"``), ``before`` (an id).
        """
        from penstock import dead_letters
        from penstock.handle import JobHandle

        queue = cast("JobQueue", self)
        return [JobHandle(queue, job) for job in dead_letters.listed(queue, limit=limit, **filters)]

    def requeue(
        self, job_id: str, inputs: Mapping[str, Any] | None = None, *, why: str | None = None, **options: Any
    ) -> JobHandle:
        """Submit a final job again, as a new one that has its id as ``parent_id``; it is no dead letter any more.

        ``inputs`` are put in place of those of the same name, and checked as at enqueue; ``options`` are job options.
        While what it became is not final it is answered with that job, whose ``outcome`` is ``kept`` then; so with a
        live job of the same key. It stands in the audit trail, with ``why``.

        Raises:
            JobNotFoundError: there is no such job.
            TransitionRefusedError: the job is not final yet.
            InvalidJobError: an input or option is wrong, or nobody with a key has signed the job; nothing was written.
        """
        from penstock import dead_letters

        return dead_letters.requeue(cast("JobQueue", self), job_id, inputs, options, why=why)

    def requeue_all(
        self,
        *,
        dry_run: bool = False,
        limit: int | None = None,
        why: str | None = None,
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
            cast("JobQueue", self), dry_run=dry_run, limit=limit, why=why, options=options, **filters
        )

    # -- workers ------------------------------------------------------------------------------------------------

    def workers_for(self, task: Any, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """List the workers seen lately that can run a task or pipeline, by its name or an alias of it."""
        name = getattr(task, "name", task)
        found = snapshot_room.workers(self, seen_within_s=seen_within_s)
        return [worker for worker in found if name in worker.tasks or name in worker.pipelines]

    # -- asking -------------------------------------------------------------------------------------------------

    def snapshot(self, *, limit: int = 100) -> Snapshot:
        """Tell what there is now: counts by state, queue and task, what runs where, what comes next, who works.

        ``limit`` bounds how many running and future jobs are listed; the counts are of all. Raises `LedgerError`.
        """
        return snapshot_room.take(self, limit=limit)

    def queues(self) -> list[QueueState]:
        """List the queues: what waits and runs there, for how long, and who listens. Raises `LedgerError`."""
        return snapshot_room.queues(self)

    def explain(self, job: JobHandle | str) -> Explanation:
        """Say why a job is where it is, in plain words, and what to do next.

        Raises:
            JobNotFoundError, InvalidJobError: see `JobQueue.job`.
        """
        handle = cast("JobQueue", self).job(job) if isinstance(job, str) else job
        return explain_room.explain(self, handle.refresh())

    def audit(
        self,
        *,
        since: datetime | None = None,
        subject: str | None = None,
        verb: str | None = None,
        actor: str | None = None,
        limit: int = 100,
    ) -> list[Entry]:
        """List what was done by hand, newest first: who, when, what, why; see `penstock.audit.entries`."""
        return audit_room.entries(self, since=since, subject=subject, verb=verb, actor=actor, limit=limit)

    # The a-twins: each is its verb in a thread.

    async def aworkers_for(self, task: Any, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """`workers_for`, awaited."""
        return await in_thread(self.workers_for, task, seen_within_s=seen_within_s)

    async def adead_letters(self, *, limit: int | None = 50, **filters: Any) -> list[JobHandle]:
        """`dead_letters`, awaited."""
        return await in_thread(self.dead_letters, limit=limit, **filters)

    async def arequeue(
        self, job_id: str, inputs: Mapping[str, Any] | None = None, *, why: str | None = None, **options: Any
    ) -> JobHandle:
        """`requeue`, awaited."""
        return await in_thread(self.requeue, job_id, inputs, why=why, **options)

    async def arequeue_all(
        self,
        *,
        dry_run: bool = False,
        limit: int | None = None,
        why: str | None = None,
        options: Mapping[str, Any] | None = None,
        **filters: Any,
    ) -> Requeued:
        """`requeue_all`, awaited."""
        return await in_thread(self.requeue_all, dry_run=dry_run, limit=limit, why=why, options=options, **filters)

    async def asnapshot(self, *, limit: int = 100) -> Snapshot:
        """`snapshot`, awaited."""
        return await in_thread(self.snapshot, limit=limit)

    async def aqueues(self) -> list[QueueState]:
        """`queues`, awaited."""
        return await in_thread(self.queues)

    async def aexplain(self, job: JobHandle | str) -> Explanation:
        """`explain`, awaited."""
        return await in_thread(self.explain, job)

    async def aaudit(
        self,
        *,
        since: datetime | None = None,
        subject: str | None = None,
        verb: str | None = None,
        actor: str | None = None,
        limit: int = 100,
    ) -> list[Entry]:
        """`audit`, awaited."""
        return await in_thread(self.audit, since=since, subject=subject, verb=verb, actor=actor, limit=limit)

    def replace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """Enqueue a job in the place of the one that has its ``key``, or is alike by ``unique``.

        That one is cancelled, or asked to stop while it runs; the handle's ``outcome`` is ``replaced``, or ``created``
        where there was none. Without a key there is nothing to replace: `InvalidJobError`. See `JobQueue.enqueue`.
        """
        return cast("JobQueue", self).enqueue(task, *args, on_conflict="replace", **kwargs)

    def strike(
        self,
        task: Any = None,
        parameter: str | None = None,
        operator: str = "==",
        value: Any = None,
        *,
        drop: bool = False,
        why: str = "",
    ) -> Struck:
        """Let no job begin, anywhere, of a task, or where an argument compares so, or both: until `restore`.

        ``queue.strike("report")``, ``queue.strike("report", "customer", "==", "acme")``,
        ``queue.strike(parameter="day", operator="between", value=["2026-01-01", "2026-01-31"])``. Operators are
        ``== != < <= > >= between in``. Every worker obeys within a second; what runs already runs on. Jobs that meet it
        wait as ``blocked``, those enqueued later too; with ``drop=True`` they are cancelled.

        Raises:
            InvalidJobError: that is no strike; nothing was written.
        """
        return strikes.strike(self, task, parameter, operator, value, drop=drop, why=why)

    def restore(
        self, task: Any = None, parameter: str | None = None, operator: str = "==", value: Any = None, *, why: str = ""
    ) -> Struck:
        """Take a `strike` back, said as it was made: the jobs that it holds go on. Raises `RuleNotFoundError`."""
        return strikes.restore(self, task, parameter, operator, value, why=why)

    def pause(self, *, queue: str | None = None, task: Any = None, worker: str | None = None, why: str = "") -> Struck:
        """Let no job of a queue or of a task begin, or let one worker take none, until `resume`; it survives restarts.

        A worker is named by its id as `workers` tells it, or by the id's beginning up to a colon (its host). It goes on
        with what it runs. Jobs of a paused queue or task wait as ``blocked``.

        Raises:
            InvalidJobError: not exactly one of them is given.
        """
        return strikes.pause(self, queue=queue, task=task, worker=worker, why=why)

    def resume(self, *, queue: str | None = None, task: Any = None, worker: str | None = None, why: str = "") -> Struck:
        """Take a `pause` back: the jobs that it holds go on. Raises `RuleNotFoundError`."""
        return strikes.resume(self, queue=queue, task=task, worker=worker, why=why)

    def rules(self) -> list[Rule]:
        """List the strikes and pauses there are."""
        return list(self.steering.read())

    async def astrike(
        self,
        task: Any = None,
        parameter: str | None = None,
        operator: str = "==",
        value: Any = None,
        *,
        drop: bool = False,
        why: str = "",
    ) -> Struck:
        """`strike`, awaited."""
        return await in_thread(self.strike, task, parameter, operator, value, drop=drop, why=why)

    async def arestore(
        self, task: Any = None, parameter: str | None = None, operator: str = "==", value: Any = None, *, why: str = ""
    ) -> Struck:
        """`restore`, awaited."""
        return await in_thread(self.restore, task, parameter, operator, value, why=why)

    async def apause(
        self, *, queue: str | None = None, task: Any = None, worker: str | None = None, why: str = ""
    ) -> Struck:
        """`pause`, awaited."""
        return await in_thread(self.pause, queue=queue, task=task, worker=worker, why=why)

    async def aresume(
        self, *, queue: str | None = None, task: Any = None, worker: str | None = None, why: str = ""
    ) -> Struck:
        """`resume`, awaited."""
        return await in_thread(self.resume, queue=queue, task=task, worker=worker, why=why)

    async def arules(self) -> list[Rule]:
        """`rules`, awaited."""
        return await in_thread(self.rules)

    async def areplace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """`replace`, awaited."""
        return await in_thread(self.replace, task, *args, **kwargs)
