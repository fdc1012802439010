"""Keeps the leases of this process's running attempts, and tells their bodies when to stop.

One daemon thread, never the loop or thread of a body: a body that blocks must not lose its lease.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.body import Interrupt
from penstock.core.config import Config, seconds
from penstock.core.exceptions import LedgerError
from penstock.job import lifecycle

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.job.models import Job, Report

logger = logging.getLogger("penstock.heart")

_LONGEST_WAIT_S = 0.5


class Owned:
    """One attempt that this process owns. Instants are of the monotonic clock."""

    __slots__ = ("deadline", "flushing", "interrupt", "job", "renewed", "reports", "sent")

    def __init__(self, job: Job, sent: float) -> None:
        self.job = job
        self.interrupt = Interrupt()
        self.renewed = sent
        """When the claim or the last beat that was granted had been sent: the lease is counted from there."""
        self.sent = sent
        self.deadline: float | None = None
        """When the heart throws the switch for a timeout; None where somebody else watches the time."""
        self.reports: list[Report] = []
        self.flushing = threading.Lock()


class Heart:
    """Beats for every attempt in `owned`, watches deadlines and cancel requests, flushes reports."""

    def __init__(self, ledger: Ledger, owner: str, config: Config) -> None:
        self.owned: dict[str, Owned] = {}
        """By job id. Added and removed by `execution`; a dict operation is atomic, so without a lock."""
        self.lost = 0
        self._ledger = ledger
        self._owner = owner
        self._ttl_s = seconds(config.lease.ttl)
        self._beat_s = seconds(config.lease.heartbeat)
        self._margin_s = min(seconds(config.lease.fence_margin), self._ttl_s / 2)
        self._poll_s = seconds(config.lease.cancel_poll)
        self._stops_on_loss = config.lease.on_lost == "stop"
        self._wake = threading.Event()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def start(self) -> None:
        """Start the thread, once."""
        if self._thread is not None:
            return
        with self._lock:
            if self._thread is None and not self._closed:
                self._thread = threading.Thread(target=self._live, name="penstock-heart", daemon=True)
                self._thread.start()

    def watch(self, owned: Owned, deadline: float) -> None:
        """Throw the attempt's switch with cause ``timeout`` when the monotonic clock shows ``deadline``."""
        owned.deadline = deadline
        if deadline - time.monotonic() < _LONGEST_WAIT_S:
            self._wake.set()

    def close(self) -> None:
        """Stop beating; what is owned still will be rescued by others when its lease is over."""
        with self._lock:
            self._closed = True
            thread, self._thread = self._thread, None
        self._wake.set()
        if thread is not None and thread is not threading.current_thread():
            thread.join(5)

    def flush(self, owned: Owned) -> None:
        """Write what an attempt has reported; what cannot be written is tried again at the next flush."""
        if not owned.reports:
            return
        with owned.flushing:
            # The list itself stays: bodies hold its `append`, and add at its end meanwhile.
            reports = owned.reports[:]
            del owned.reports[: len(reports)]
            try:
                self._ledger.report(reports)
            except LedgerError as error:
                owned.reports[:0] = reports
                logger.warning("the reports of job %s wait: %s", owned.job.id, error)

    def _live(self) -> None:
        polled = 0.0
        while not self._closed:
            self._wake.wait(self._pause_s())
            self._wake.clear()
            if not self.owned:
                continue
            now = time.monotonic()
            attempts = list(self.owned.values())
            for owned in attempts:
                if owned.deadline is not None and owned.deadline <= now:
                    owned.interrupt.set("timeout")
                self.flush(owned)
            self._safely(self._beat, attempts)
            if now - polled >= self._poll_s:
                polled = now
                self._safely(self._ask_cancels, attempts)
            self._fence(attempts)

    def _pause_s(self) -> float:
        now = time.monotonic()
        deadlines = [
            o.deadline - now for o in list(self.owned.values()) if o.deadline is not None and not o.interrupt.cause
        ]
        return max(0.005, min([_LONGEST_WAIT_S, self._poll_s, self._beat_s / 2, *deadlines]))

    def _safely(self, verb: Callable[[list[Owned]], None], attempts: list[Owned]) -> None:
        try:
            verb(attempts)
        except LedgerError as error:
            logger.warning("the ledger did not answer: %s", error)

    def _beat(self, attempts: list[Owned]) -> None:
        now = time.monotonic()
        due = [owned for owned in attempts if now - owned.sent >= self._beat_s]
        if not due:
            return
        for owned in due:
            owned.sent = now
        beats = [lifecycle.beat(o.job.id, attempt=o.job.attempt, lease_s=self._ttl_s) for o in due]
        for owned, applied in zip(due, self._ledger.apply_many(beats), strict=True):
            if applied is not None:
                owned.renewed = now
                if applied.cancel_requested:
                    owned.interrupt.set("cancelled")
            elif self.owned.get(owned.job.id) is owned:
                # Not ours any more: the sweeper took it, or it settled between the copy and the beat.
                self.lost += 1
                owned.interrupt.set("lost")

    def _ask_cancels(self, attempts: list[Owned]) -> None:
        asked = set(self._ledger.cancel_requests(self._owner))
        for owned in attempts:
            if (owned.job.id, owned.job.attempt) in asked:
                owned.interrupt.set("cancelled")

    def _fence(self, attempts: list[Owned]) -> None:
        """Stop the bodies whose lease is about to end unrenewed, before anybody else can start them."""
        if not self._stops_on_loss:
            return
        now = time.monotonic()
        for owned in attempts:
            if now - owned.renewed > self._ttl_s - self._margin_s:
                self.lost += 1
                owned.interrupt.set("lost")
