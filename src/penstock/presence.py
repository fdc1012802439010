"""What a worker tells the ledger of itself: that it lives, what it runs, what it can run."""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Sequence
from datetime import timedelta
from typing import TYPE_CHECKING

from penstock import __version__
from penstock.core.exceptions import LedgerError
from penstock.core.secrets import mask_url
from penstock.job.models import WorkerInfo
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.rooms import Rooms
    from penstock.vitals import Vitals

logger = logging.getLogger("penstock.worker")

_TELL_EVERY_S = 10.0
_SIGN_OFF_S = 2.0


class Presence:
    """Tells the ledger of a worker, and hears of the others.

    In threads of its own: a ledger may not answer for long, and the thread that runs a worker has signals to heed.
    """

    def __init__(self, rooms: Rooms, vitals: Vitals, *, queues: tuple[str, ...], concurrency: int) -> None:
        """Tell nothing yet."""
        self._rooms = rooms
        self._vitals = vitals
        self._queues = queues
        self._concurrency = concurrency
        self._told_at = 0.0
        self._tell_every_s = min(_TELL_EVERY_S, vitals.patience_s)
        self._over = False
        self._telling = threading.Lock()

    def begin(self, pipelines: Sequence[str]) -> None:
        """Note when the worker has begun, by the ledger's clock, and which pipelines it knows."""
        self._started_at = self._rooms.ledger.now()
        self._pipelines = tuple(pipelines)
        self._over = False

    def info(self) -> WorkerInfo:
        """Describe the worker as the ledger lists it."""
        ledger_now = self._rooms.ledger.now()
        claimed_s = self._vitals.claimed_s()
        return WorkerInfo(
            id=self._rooms.owner,
            host=os.uname().nodename,
            pid=os.getpid(),
            backend=mask_url(self._rooms.config.backend),
            queues=self._queues,
            concurrency=self._concurrency,
            started_at=self._started_at,
            seen_at=ledger_now,
            version=__version__,
            running=len(self._rooms.execution.running),
            tasks=TASKS.names(),
            pipelines=self._pipelines,
            claimed_at=None if claimed_s is None else ledger_now - timedelta(seconds=claimed_s),
            trouble=self._vitals.health().trouble,
        )

    def tell_in_time(self) -> None:
        """Tell the ledger again, if it is time to; waits for nothing."""
        self._vitals.note()
        now = time.monotonic()
        if now - self._told_at >= self._tell_every_s:
            self._told_at = now
            threading.Thread(target=self.tell, name="penstock-presence", daemon=True).start()

    def tell(self, *, wait: bool = False) -> None:
        """Tell the ledger, unless that is being done; ``wait``: do so after it then, and come back when it is told."""
        if self._over or not self._telling.acquire(blocking=wait):
            return
        try:
            self._told_at = time.monotonic()
            self._vitals.ledger_written(taken=False)
            self._rooms.ledger.tell_worker(self.info())
            self._vitals.ledger_written(taken=True)
            others = (
                (*worker.tasks, *worker.pipelines)
                for worker in self._rooms.ledger.workers()
                if worker.id != self._rooms.owner
            )
            self._rooms.execution.settlement.elsewhere.tasks = frozenset(name for tasks in others for name in tasks)
        except LedgerError as error:
            self._vitals.ledger_failed(error)
            logger.warning("the ledger did not take this worker's sign of life: %s", error)
        else:
            self._vitals.ledger_answered()
        finally:
            self._telling.release()

    def sign_off(self) -> None:
        """Have the ledger forget the worker; one that does not answer soon forgets it by itself, in time."""
        self._over = True
        signing = threading.Thread(target=self._sign_off, name="penstock-presence", daemon=True)
        signing.start()
        signing.join(_SIGN_OFF_S)

    def _sign_off(self) -> None:
        try:
            with self._telling:  # what is being told now must not come after it
                self._rooms.ledger.forget_worker(self._rooms.owner)
        except LedgerError as error:
            logger.warning("this worker could not sign off: %s", error)
