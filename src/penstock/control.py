"""What people decide while jobs run, and what they ask: each verb is a line, the work is done in the room it names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from penstock.bridge import in_thread
from penstock.rooms import Rooms

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.handle import JobHandle


class Controls(Rooms):
    """The part of `JobQueue` that steers what is there already. Every blocking verb has an a-twin."""

    def replace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """Enqueue a job in the place of the one that has its ``key``, or is alike by ``unique``.

        That one is cancelled, or asked to stop while it runs; the handle's ``outcome`` is ``replaced``, or ``created``
        where there was none. Without a key there is nothing to replace: `InvalidJobError`. See `JobQueue.enqueue`.
        """
        return cast("JobQueue", self).enqueue(task, *args, on_conflict="replace", **kwargs)

    async def areplace(self, task: Any, /, *args: Any, **kwargs: Any) -> JobHandle:
        """`replace`, awaited."""
        return await in_thread(self.replace, task, *args, **kwargs)
