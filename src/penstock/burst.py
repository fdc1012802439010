"""Whether a burst is over: everything that was due in its queues has been worked off, lost messages included."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from penstock.core.exceptions import PenstockError
from penstock.job.models import JobQuery

if TYPE_CHECKING:
    from penstock.client import JobQueue

_RUNNING = ("running", "cancelling", "overdue")


class Burst:
    """Looks for a worker at what is left in its queues."""

    def __init__(self, queue: JobQueue, queues: Sequence[str]) -> None:
        self._queue = queue
        self._queues = queues

    def over(self) -> bool:
        """Whether there is nothing left to do; publishes again what was lost on its way. Raises `LedgerError`."""
        ledger = self._queue.ledger
        due, running = ledger.backlog(self._queues)
        if self._queue.execution.running:
            return False
        if due == 0:
            # What the ledger has as running here and nobody runs here lost its lease, or the answer to its claim: the
            # sweep makes it due again. It may have done so since the first look.
            return running == 0 or (not self._lost_some() and ledger.backlog(self._queues)[0] == 0)
        if self._engine_is_empty():
            # Jobs are due and no message is on its way: they were lost, or published to an engine that was down.
            self._publish_lost()
        return False

    def _lost_some(self) -> bool:
        running = [
            job
            for name in self._queues
            for job in self._queue.ledger.find(JobQuery(states=_RUNNING, queue=name, limit=500))
        ]
        return any(job.owner == self._queue.owner for job in running)

    def _engine_is_empty(self) -> bool:
        try:
            return all(self._queue.gateway.depth(queue) == 0 for queue in self._queues)
        except PenstockError:
            return False

    def _publish_lost(self) -> None:
        ledger = self._queue.ledger
        for name in self._queues:
            waiting = ledger.find(JobQuery(states=("queued",), queue=name, limit=500))
            if waiting and self._engine_is_empty() and not self._queue.execution.running:
                self._queue.sweeper.push(waiting)
