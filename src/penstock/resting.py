"""A worker that somebody has paused: its engine takes nothing until it may go on; what runs meanwhile runs on."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING

from penstock.core.exceptions import LedgerError

if TYPE_CHECKING:
    from penstock.core.base import WorkOrder
    from penstock.rooms import Rooms
    from penstock.vitals import Vitals

logger = logging.getLogger("penstock.worker")

_LOOK_S = 0.02


class Resting:
    """Starts and stops the engine's worker as the pauses in the ledger say."""

    def __init__(self, rooms: Rooms, vitals: Vitals) -> None:
        self._rooms = rooms
        self._vitals = vitals
        self._rests = threading.Event()
        self._leaving = threading.Event()
        self._at_work = False

    def work(self, order: WorkOrder) -> None:
        """`Gateway.work`, again after each rest; return when the engine's worker has ended and does not rest.

        Who begins while it is paused rests first: a pause outlives the process that it was made for.
        """
        self._leaving.clear()
        self._rests.clear()
        with contextlib.suppress(LedgerError):  # who looks again and again will see it
            self.look()
        if self._rests.is_set():
            order.on_ready()
            self._rest()
            self._woken()
        while not self._leaving.is_set():
            self._at_work = True
            try:
                self._rooms.gateway.work(order)
            finally:
                self._at_work = False
            rested = self._rests.is_set()
            self._rest()
            if not (self._woken() or rested):
                return

    def _rest(self) -> None:
        while self._rests.is_set() and not self._leaving.wait(_LOOK_S):
            pass

    def _woken(self) -> bool:
        """Whether it ended because it was to rest."""
        woken, self._slept = self._slept, False
        return woken

    _slept = False

    def look(self) -> None:
        """Obey who has paused this worker, or lets it go on; called often. Raises what the ledger raises."""
        rests = self._rooms.steering.rests(self._rooms.owner)
        if rests and not self._rests.is_set():
            logger.warning("this worker is paused: it takes nothing until it is resumed")
            self._vitals.rest()
            self._slept = True
            self._rests.set()
        elif not rests and self._rests.is_set():
            logger.warning("this worker goes on")
            self._vitals.wake()
            self._rests.clear()
        if rests and self._at_work:
            self._rooms.gateway.stop()

    def leave(self) -> None:
        """Rest no longer: the worker is to end."""
        self._leaving.set()
