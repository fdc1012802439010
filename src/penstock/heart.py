"""Keeps the leases of this process's running attempts, and tells their bodies when to stop.

Two daemon threads, never the loop or thread of a body: a body that blocks must not lose its lease. One asks the ledger
and may wait for it for long; the other asks nobody, so that deadlines and the end of a lease are kept all the same.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING

from penstock.body import Interrupt
from penstock.core.config import Config, kept_s, seconds
from penstock.core.exceptions import LedgerError
from penstock.job import lifecycle

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.job.models import Job, Report
    from penstock.run import Run

logger = logging.getLogger("penstock.heart")

_LONGEST_WAIT_S = 0.5
_TELL_EVERY_S = 10.0


class Owned:
    """One attempt that this process owns. Instants are of the monotonic clock."""

    __slots__ = ("deadline", "flushing", "gone", "interrupt", "job", "renewed", "reports", "run", "sent")

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
        self.run: Run | None = None
        """The body's view of the attempt, where the body runs in this process."""
        self.gone = False
        """Whether the ledger has said that the attempt is no longer ours."""

    @property
    def key(self) -> tuple[str, int]:
        """The attempt: one job may be here twice, if it is not stopped when its lease is lost."""
        return self.job.id, self.job.attempt


class Heart:
    """Beats for every attempt in `owned`, watches deadlines and cancel requests, flushes reports."""

    def __init__(self, ledger: Ledger, owner: str, config: Config) -> None:
        self.owned: dict[tuple[str, int], Owned] = {}
        """By `Owned.key`. Added and removed by `execution`; a dict operation is atomic, so without a lock."""
        self.lost = 0
        self._ledger = ledger
        self._owner = owner
        self._ttl_s = seconds(config.lease.ttl)
        self._beat_s = seconds(config.lease.heartbeat)
        self._kept_s = kept_s(config.lease)
        self._poll_s = seconds(config.lease.cancel_poll)
        self._stops_on_loss = config.lease.on_lost == "stop"
        self._wake = threading.Event()
        self._alarm = threading.Event()
        self._closed = False
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()
        self._silent_since: float | None = None
        self._told_at = 0.0

    def start(self) -> None:
        """Start the threads, once."""
        if self._threads:
            return
        with self._lock:
            if not self._threads and not self._closed:
                self._threads = [
                    threading.Thread(target=self._live, name="penstock-heart", daemon=True),
                    threading.Thread(target=self._watch, name="penstock-watch", daemon=True),
                ]
                for thread in self._threads:
                    thread.start()

    def watch(self, owned: Owned, deadline: float) -> None:
        """Throw the attempt's switch with cause ``timeout`` when the monotonic clock shows ``deadline``."""
        owned.deadline = deadline
        if deadline - time.monotonic() < _LONGEST_WAIT_S:
            self._alarm.set()

    def extend(self, owned: Owned, by_s: float) -> None:
        """Let the attempt's deadline, if it has one, be so much later."""
        if owned.deadline is not None:
            self.watch(owned, owned.deadline + by_s)

    def is_over(self, owned: Owned) -> bool:
        """Whether the lease could not be kept, by this process's own clock, and bodies are to stop for that."""
        return self._stops_on_loss and time.monotonic() >= self._fence_at(owned)

    def close(self) -> None:
        """Stop beating; what is owned still will be rescued by others when its lease is over."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        self._wake.set()
        self._alarm.set()
        for thread in threads:
            if thread is not threading.current_thread():
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

    # -- what asks nobody ---------------------------------------------------------------------------------------

    def _watch(self) -> None:
        while not self._closed:
            self._alarm.wait(self._calm_s())
            self._alarm.clear()
            now = time.monotonic()
            for owned in list(self.owned.values()):
                if owned.deadline is not None and owned.deadline <= now:
                    owned.interrupt.set("timeout")
                if self._stops_on_loss and now >= self._fence_at(owned) and owned.interrupt.cause is None:
                    # Before anybody else can start the job.
                    self.lost += 1
                    logger.warning(
                        "job %s: its lease was not renewed for %.1f s; its body is stopped",
                        owned.job.id, now - owned.renewed,
                    )  # fmt: skip
                    owned.interrupt.set("lost")

    def _fence_at(self, owned: Owned) -> float:
        return owned.renewed + self._kept_s

    def _calm_s(self) -> float:
        """How long nothing has to be stopped."""
        alarms = [_LONGEST_WAIT_S]
        now = time.monotonic()
        for owned in list(self.owned.values()):
            if owned.interrupt.cause is None:
                if owned.deadline is not None:
                    alarms.append(owned.deadline - now)
                if self._stops_on_loss:
                    alarms.append(self._fence_at(owned) - now)
        return max(0.005, min(alarms))

    # -- what asks the ledger -----------------------------------------------------------------------------------

    def _live(self) -> None:
        polled = 0.0
        pause_s = max(0.005, min(_LONGEST_WAIT_S, self._poll_s, self._beat_s / 2))
        while not self._closed:
            self._wake.wait(pause_s)
            self._wake.clear()
            attempts = list(self.owned.values())
            if not attempts:
                continue
            try:
                self._beat(attempts)
                now = time.monotonic()
                if now - polled >= self._poll_s:
                    self._ask_cancels(attempts)
                    polled = now
            except LedgerError as error:
                self._note_silence(error)
            else:
                self._note_answer()
                for owned in attempts:
                    self.flush(owned)

    def _note_silence(self, error: LedgerError) -> None:
        now = time.monotonic()
        if self._silent_since is None:
            self._silent_since = now
        if now - self._told_at >= _TELL_EVERY_S:
            self._told_at = now
            logger.warning("the ledger does not answer, leases cannot be renewed: %s", error)

    def _note_answer(self) -> None:
        if self._silent_since is not None:
            logger.warning("the ledger answers again, after %.1f s", time.monotonic() - self._silent_since)
            self._silent_since, self._told_at = None, 0.0

    def _beat(self, attempts: list[Owned]) -> None:
        now = time.monotonic()
        due = [owned for owned in attempts if not owned.gone and now - owned.sent >= self._beat_s]
        if not due:
            return
        beats = [lifecycle.beat(o.job.id, attempt=o.job.attempt, lease_s=self._ttl_s) for o in due]
        # An error leaves them due: after an outage nobody may have to wait for a beat that lives.
        answers = self._ledger.apply_many(beats)
        for owned, applied in zip(due, answers, strict=True):
            owned.sent = now
            if applied is not None:
                owned.renewed = now
                if applied.cancel_requested:
                    owned.interrupt.set("cancelled")
            elif self.owned.get(owned.key) is owned:
                # Not ours any more: the sweeper took it, or it settled between the copy and the beat.
                owned.gone = True
                self.lost += 1
                if self._stops_on_loss:
                    owned.interrupt.set("lost")

    def _ask_cancels(self, attempts: list[Owned]) -> None:
        asked = set(self._ledger.cancel_requests(self._owner))
        for owned in attempts:
            if owned.key in asked:
                owned.interrupt.set("cancelled")
