"""What people decide while jobs run, and what they ask: each verb is a line, the work is done in the room it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from penstock import audit as audit_room
from penstock import explain as explain_room
from penstock import snapshot as snapshot_room
from penstock.bridge import in_thread
from penstock.rooms import Rooms

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.audit import Entry
    from penstock.client import JobQueue
    from penstock.handle import JobHandle
    from penstock.job.explanation import Explanation
    from penstock.snapshot import QueueState, Snapshot


class Controls(Rooms):
    """The part of `JobQueue` that steers what is there already. Every blocking verb has an a-twin."""

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

    async def areplace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """`replace`, awaited."""
        return await in_thread(self.replace, task, *args, **kwargs)
