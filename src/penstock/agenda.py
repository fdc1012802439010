"""`Agenda`: jobs that belong together, spread over a time instead of begun at once."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from penstock.bridge import in_thread
from penstock.core.durations import Duration, parse_duration_s
from penstock.core.exceptions import InvalidJobError
from penstock.options import JobOptions
from penstock.sources.decorators import BoundTask, Call, Task

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.handle import JobHandle


class Agenda:
    """Calls in the order in which they were added. It can be scattered more than once: each time makes new jobs.

    ``agenda.add(clean, "logs"); agenda.add(report, "monday"); agenda.scatter(queue, over="1h")``.
    """

    def __init__(self) -> None:
        self._calls: list[Call] = []

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, task: Any, /, *args: Any, **kwargs: Any) -> Agenda:
        """Add a call of a task, or a `Call`, whose arguments are checked now; return the agenda.

        Raises:
            InvalidJobError: that is no task, or the arguments do not fit it.
        """
        if isinstance(task, Call):
            if args or kwargs:
                raise InvalidJobError(f"{task!r} has its arguments already")
            self._calls.append(task)
        elif isinstance(task, Task | BoundTask):
            self._calls.append(cast("Task[..., Any]", task).call(*args, **kwargs))
        else:
            raise InvalidJobError(f"{task!r} is not a task; pass the decorated function, or task.call(...)")
        return self

    def scatter(
        self,
        queue: JobQueue,
        *,
        over: Duration,
        start: datetime | None = None,
        jitter: Duration = 0,
        rand: Callable[[], float] = random.random,
    ) -> list[JobHandle]:
        """Submit all calls in one transaction, each due in the middle of its own part of the time ``over``.

        One alone is due in the middle. ``start`` (aware; default: the ledger's now) is when the time begins, ``jitter``
        by how much each may be earlier or later, never before ``start``. A call that says itself when it is due
        (``delay``, ``at``) is refused.

        Raises:
            InvalidJobError: a time makes no sense; nothing was written. See `JobQueue.enqueue` for the rest.
        """
        over_s, jitter_s = _seconds("over", over), _seconds("jitter", jitter)
        begin = queue.now() if start is None else start
        if begin.utcoffset() is None:
            raise InvalidJobError(f"start: {begin.isoformat()} has no time zone, and none is assumed")
        part_s = over_s / max(1, len(self._calls))
        calls: list[Call] = []
        for number, call in enumerate(self._calls):
            if call.options.at is not None or call.options.delay_s is not None:
                raise InvalidJobError(f"{call!r} says itself when it is due; an agenda says it for all")
            after_s = max(0.0, (number + 0.5) * part_s + jitter_s * (2 * rand() - 1))
            due = JobOptions(at=begin + timedelta(seconds=after_s))
            calls.append(Call(call.kind, call.name, call.spec, call.options.merged(due)))
        return queue.enqueue_many(calls)

    async def ascatter(
        self, queue: JobQueue, *, over: Duration, start: datetime | None = None, jitter: Duration = 0
    ) -> list[JobHandle]:
        """`scatter`, awaited."""
        return await in_thread(self.scatter, queue, over=over, start=start, jitter=jitter)


def _seconds(name: str, value: Duration) -> float:
    try:
        seconds = parse_duration_s(value)
    except ValueError as error:
        raise InvalidJobError(f"{name}: {error}") from None
    if seconds < 0:
        raise InvalidJobError(f"{name}: {value!r} is negative")
    return seconds
