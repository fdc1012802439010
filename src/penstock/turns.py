"""How many jobs of one task run at once in this process; the others go back, and come when one of them has ended."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from penstock.body import Ended
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.job.models import Job

_FIRST_S, _LONGEST_S = 0.25, 5.0
_REMEMBERED = 10_000


class Turns:
    """A gate of `admission`: the concurrency of tasks, as ``@task`` and ``[worker.task_concurrency]`` say."""

    def __init__(self, configured: Mapping[str, int], wake: Callable[[Sequence[str]], None]) -> None:
        """``configured`` wins over what a task says of itself. ``wake`` makes jobs due now; it may fail silently."""
        self._configured = configured
        self._wake = wake
        self._lock = threading.Lock()
        self._inside: Counter[str] = Counter()
        self._waiting: defaultdict[str, dict[str, None]] = defaultdict(dict)
        """By task, in the order of their coming: the jobs that went back."""
        self._times: Counter[str] = Counter()

    def concerns(self, job: Job) -> bool:
        """See `Gate.concerns`."""
        return self._most(job.name)[1] is not None

    def enter(self, job: Job) -> Ended | None:
        """See `Gate.enter`."""
        name, most = self._most(job.name)
        if most is None:
            return None
        with self._lock:
            if self._inside[name] < most:
                self._inside[name] += 1
                self._waiting[name].pop(job.id, None)
                self._times.pop(job.id, None)
                return None
            if len(self._times) > _REMEMBERED:
                self._times.clear()
            self._waiting[name][job.id] = None
            self._times[job.id] += 1
            wait_s = min(_FIRST_S * 2 ** min(self._times[job.id] - 1, 10), _LONGEST_S)
        return Ended(how="blocked", wait_s=wait_s, note=f"{most} of task {name} run at once in a worker, no more")

    def leave(self, job: Job) -> None:
        """See `Gate.leave`."""
        name, _ = self._most(job.name)
        with self._lock:
            self._inside[name] -= 1
            following = next(iter(self._waiting[name]), None)
            if following is not None:
                del self._waiting[name][following]
        if following is not None:
            # Another worker may have had it: then nothing waits under that id, and nothing happens.
            self._wake([following])

    def _most(self, called: str) -> tuple[str, int | None]:
        """Return a task's own name, and how many of it may run."""
        task = TASKS.get(called)
        if task is None:
            return called, self._configured.get(called)
        names = (task.name, called, *task.aliases)
        most = next((self._configured[name] for name in names if name in self._configured), task.concurrency)
        return task.name, most
