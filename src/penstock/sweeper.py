"""Looks the ledger over, so that nothing waits for ever.

What is due is published, what nobody claimed is published again, what lost its owner is rescued, what is old is purged.
Any number of sweepers may run: the guards make the extra ones harmless.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock import audit
from penstock.core.base import Patience
from penstock.core.config import Config, seconds
from penstock.core.exceptions import (
    BackendError,
    JobNotFoundError,
    LedgerError,
    NewerLedgerError,
    ResultError,
    UnsupportedError,
)
from penstock.gateway import message_for, why_no_message
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import ErrorInfo, Job, Message
from penstock.version_look import VersionLook

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.gateway import Gateway
    from penstock.results import ResultStore

logger = logging.getLogger("penstock.sweeper")

_PURGE_EVERY_S = 600.0
_PURGE_BATCH = 500
_EXPIRE_EVERY_S = 1.0
_POSTPONE_BATCH = 1000
_TRUSTED = 6
"""Times the longest grace: whoever has waited so long may be sent again, although the engine may hold its message."""
_RESENT = 100
"""So many of these in the longest grace, of each queue, and the oldest first: in a backlog of hours all are that old,
and what is lost among them is the oldest once the queue has moved on."""
_FOR_EVER_S = 1e12
_WARM_UP = 1 / 2
_LONGEST_GAP = 1 / 4
_PROBE_EVERY = 1 / 20
_PROBE = "probe"
"""Parts of a lease: how long the ledger must have been well before anybody is rescued, how long it may be away without
that a live owner could lose a lease by it, and how often it is asked. And the id of no job."""


class WarmUp:
    """Whether a lease that is over tells of a dead owner, and not of a ledger that nobody could reach.

    After an outage all leases look over at once, although their owners live. They beat again within a second of its
    end; who rescues must give them that time, also where it did not see the outage: it has just been started, or was
    frozen itself. So leases count from when the ledger has taken writes for half a lease without a gap: reads alone do
    not tell, as SQLite answers them while another program holds the write lock. A dead owner costs this wait nothing
    where a sweeper was there when it died, or came soon after: its lease lasts longer than that.
    """

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._well_since: float | None = None
        self._answered: float | None = None

    def due(self, now: float) -> bool:
        """Whether it is time to ask the ledger again."""
        return self._answered is None or now - self._answered >= self._lease_s * _PROBE_EVERY

    def answered(self, now: float) -> None:
        """Note that the ledger has taken a write."""
        if self._answered is None or now - self._answered > self._lease_s * _LONGEST_GAP:
            self._well_since = now
        self._answered = now

    def over(self, now: float) -> bool:
        """Whether leases count."""
        if self._well_since is None or self._answered is None:
            return False
        return (
            now - self._answered <= self._lease_s * _LONGEST_GAP and now - self._well_since >= self._lease_s * _WARM_UP
        )


class Sweeper:
    """The four looks, each a method that can be called alone, and a thread that calls them in turn."""

    def __init__(
        self,
        ledger: Ledger,
        gateway: Gateway,
        config: Config,
        *,
        results: Callable[[], ResultStore],
        also: Sequence[Callable[[], object]] = (),
        gave_up: Callable[[Job], object] = lambda _job: None,
    ) -> None:
        """Look at nothing yet.

        ``also`` are further looks of the thread, made as often as the one for dead owners; ``gave_up`` hears of each
        job that it fails because its workers die.
        """
        self._also = also
        self._gave_up = gave_up
        self.counts: Counter[str] = Counter()
        self._ledger = ledger
        self._gateway = gateway
        self._results = results
        self._batch = config.sweep.batch
        self._interval_s = seconds(config.sweep.interval)
        self._due_interval_s = seconds(config.sweep.due_interval)
        self._grace_s = seconds(config.sweep.publish_grace)
        self._max_grace_s = max(self._grace_s, seconds(config.sweep.max_publish_grace))
        self._patience = Patience(
            grace_s=self._grace_s, max_grace_s=self._max_grace_s, trusted_s=_TRUSTED * self._max_grace_s
        )
        self._lease_s = seconds(config.lease.ttl)
        self._keep_s = {
            State.SUCCEEDED: seconds(config.history.keep_succeeded),
            State.FAILED: seconds(config.history.keep_failed),
            State.CANCELLED: seconds(config.history.keep_failed),
        }
        self._missing: dict[str, tuple[float, float]] = {}
        """By queue: when messages were counted, and how many are still to be published again."""
        self._resent: dict[str, tuple[float, int]] = {}
        """By queue: since when it is counted, and how many of the oldest may still be sent again."""
        self._warm_up = WarmUp(self._lease_s)
        self._version = VersionLook(ledger, self._interval_s)
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None

    def publish_due(self) -> int:
        """T8 for every job whose time has come, first publishes and repeated ones; return how many were pushed."""
        pushed = 0
        looked: set[str] = set()
        seen: list[str] = []
        while jobs := self._ledger.publishable(self._batch):
            waiting = [job for job in jobs if job.waited_s is not None and not self._is_lost(job, looked)]
            if [job.id for job in waiting] == seen:
                waiting = []  # a ledger that cannot let them wait: nobody may be in the way of the others
            seen = [job.id for job in waiting]
            if wanted := [job for job in jobs if job.id not in seen]:
                pushed += self.push(wanted)
            self._postpone(sorted({job.queue for job in waiting}))
            if len(jobs) < self._batch or self._stop.is_set():
                break
        return pushed

    def _is_lost(self, job: Job, looked: set[str]) -> bool:
        """Whether to send a job again that was published before: its message is missing, or may be, after so long."""
        if self._is_missing(job, looked):
            return True
        if job.waited_s is None or job.waited_s < self._patience.trusted_s:
            return False
        if (left := self._may_resend(job.queue)) > 0:
            self._resent[job.queue] = (self._resent[job.queue][0], left - 1)
        return left > 0

    def _may_resend(self, queue: str) -> int:
        """Count how many jobs of a queue may still be sent although the engine may hold their messages."""
        now = _clock()
        if queue not in self._resent or now - self._resent[queue][0] >= self._max_grace_s:
            self._resent[queue] = (now, _RESENT)
        return self._resent[queue][1]

    def _is_missing(self, job: Job, looked: set[str]) -> bool:
        """Whether the message of a job that was published before is likely to be lost.

        An engine that holds as many messages of a queue as jobs wait there has lost none: in a backlog, nothing is
        published a second time. Where it holds fewer, as many are missing, and more likely those of the longest due;
        but what workers have taken and not yet claimed looks so too, and so it is counted once in an interval. Where
        it holds none, all are missing.
        """
        queue, now = job.queue, _clock()
        if queue not in looked:
            looked.add(queue)
            try:
                depth = self._gateway.depth(queue)
            except (BackendError, UnsupportedError):
                depth = 0
            if depth == 0:
                self._missing[queue] = (now, math.inf)
            elif queue not in self._missing or now - self._missing[queue][0] >= self._interval_s:
                self._missing[queue] = (now, self._ledger.backlog([queue])[0] - depth)
            elif math.isinf(self._missing[queue][1]):
                self._missing[queue] = (now, 0)
        counted_at, missing = self._missing[queue]
        self._missing[queue] = (counted_at, missing - 1)
        return missing > 0

    def _postpone(self, queues: Sequence[str]) -> None:
        """Let what the engine still holds wait on."""
        patience = self._patience
        if not all(self._may_resend(queue) for queue in queues):
            patience = msgspec.structs.replace(patience, trusted_s=_FOR_EVER_S)
        while queues:
            postponed = self._ledger.postpone(queues, patience, _POSTPONE_BATCH)
            self.counts["postponed"] += postponed
            if postponed < _POSTPONE_BATCH or self._stop.is_set():
                break

    def push(self, jobs: Sequence[Job]) -> int:
        """Publish these jobs, each if nobody else has since it was read; a push that fails is tried again later."""
        transitions = [lifecycle.publish(job, grace_s=self._grace_s, max_grace_s=self._max_grace_s) for job in jobs]
        applied = self._ledger.apply_many(transitions)
        elected = [answer.job for answer in applied if answer is not None and answer.job is not None]
        if not elected:
            return 0
        self.counts["published_again"] += sum(job.publishes > 1 and job.attempt == 0 for job in elected)
        try:
            messages = self._messages(elected)
            self._gateway.publish(messages)
        except BackendError as error:
            self.counts["push_failed"] += len(elected)
            logger.warning("could not publish %d jobs, they wait for the next sweep: %s", len(elected), error)
            return 0
        return len(messages)

    def _messages(self, jobs: Sequence[Job]) -> list[Message]:
        """Make the messages of jobs; one that an engine could choke on is to keep it from no other."""
        made: list[Message] = []
        for job, message in zip(jobs, map(message_for, jobs), strict=True):
            if (why := why_no_message(message)) is None:
                made.append(message)
            else:
                self.counts["damaged"] += 1
                logger.warning("job %s is not published, its row is damaged: %s", job.id, why)
        return made

    def wake(self, job_ids: Sequence[str]) -> None:
        """T15: publish jobs that need not wait any longer. A failure is no harm: they are due in time anyhow."""
        try:
            answers = self._ledger.apply_many([lifecycle.wake(job_id) for job_id in job_ids])
            woken = [job_id for job_id, answer in zip(job_ids, answers, strict=True) if answer is not None]
            if not self._gateway.in_process:  # who publishes there runs them, in the middle of what it does
                self.push([self._ledger.get(job_id) for job_id in woken])
        except (LedgerError, JobNotFoundError) as error:
            logger.info("could not wake %d jobs: %s", len(job_ids), error)

    def rescue(self) -> int:
        """T7 for every running job whose lease is over; return how many were taken from their dead owners.

        The thread waits for the `WarmUp` before it calls this.
        """
        jobs = self._ledger.expired(self._batch)
        rescues = [
            lifecycle.rescue(
                job, error=ErrorInfo("WorkerLost", f"the lease of {job.owner} ended without a sign of life")
            )
            for job in jobs
        ]
        rescued = 0
        for job, rescue, applied in zip(
            jobs, rescues, self._ledger.apply_many(rescues) if rescues else (), strict=True
        ):
            rescued += applied is not None
            if applied is not None and rescue.to.final:
                self._gave_up(job)
        if rescued:
            self.counts["rescued"] += rescued
            logger.warning("rescued %d jobs whose worker is gone", rescued)
        return rescued

    def expire(self) -> int:
        """T16 for every job that has not begun by the time it was to begin by; return how many have failed so."""
        late = self._ledger.expirable(self._batch)
        ends = [
            lifecycle.expire(
                job.id, error=ErrorInfo("Expired", f"it was to begin by {job.expires_at:%Y-%m-%d %H:%M:%S} UTC")
            )
            for job in late
        ]
        expired = sum(applied is not None for applied in self._ledger.apply_many(ends)) if ends else 0
        if expired:
            self.counts["expired"] += expired
            logger.warning("%d jobs had not begun in time and have failed", expired)
        return expired

    def purge(self) -> int:
        """T12: delete what is older than the retention, results included; return how many jobs went."""
        purged = 0
        for state, keep_s in self._keep_s.items():
            while ids := self._ledger.purge(state, older_than_s=keep_s, limit=_PURGE_BATCH):
                purged += len(ids)
                for job_id in ids:
                    try:
                        self._results().delete(job_id)
                    except ResultError as error:  # the results of the others are to go all the same
                        logger.warning("the results of job %s, which was purged, stay: %s", job_id, error)
                if len(ids) < _PURGE_BATCH or self._stop.is_set():
                    break
        self.counts["purged"] += purged
        audit.purge(self._ledger.records)
        return purged

    # -- the thread ---------------------------------------------------------------------------------------------

    def start(
        self,
        *,
        each_time: Callable[[], None] = lambda: None,
        refused: Callable[[NewerLedgerError], None] = lambda error: None,
    ) -> None:
        """Sweep in a thread until `close`, and call ``each_time`` after each look.

        The thread ends, after it has called ``refused``, once a newer penstock leaves this one out of the ledger.
        """
        if self._thread is None:
            self._stop.clear()
            self._thread = threading.Thread(
                target=self._sweep, args=(each_time, refused), name="penstock-sweeper", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Let the thread end after what it does now: a worker that drains publishes nothing new."""
        self._stop.set()

    def close(self) -> None:
        """Stop the thread and wait for it."""
        self._stop.set()
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(5)

    def _sweep(self, each_time: Callable[[], None], refused: Callable[[NewerLedgerError], None]) -> None:
        next_rescue = next_expiry = 0.0
        next_purge = _clock() + _PURGE_EVERY_S * random.uniform(0.01, 0.1)  # noqa: S311 - spreads load
        while not self._stop.is_set():
            try:
                self._version.turn()
                self._ask()
                self.publish_due()
                each_time()
                now = _clock()
                if now >= next_expiry:
                    self.expire()
                    next_expiry = now + _EXPIRE_EVERY_S
                if now >= next_rescue and self._warm_up.over(now):
                    self.rescue()
                    for look in self._also:
                        look()
                    next_rescue = now + self._interval_s * random.uniform(0.8, 1.2)  # noqa: S311 - spreads load
                if now >= next_purge:
                    self.purge()
                    next_purge = now + _PURGE_EVERY_S
            except NewerLedgerError as error:
                logger.error("%s; this worker takes nothing new", error)
                refused(error)
                return
            except LedgerError as error:
                logger.warning("the ledger did not answer the sweep: %s", error)
            except Exception:
                logger.exception("the sweep failed; it goes on")
            self._stop.wait(self._due_interval_s)

    def _ask(self) -> None:
        if self._warm_up.due(_clock()):
            # A write that changes nothing, but cannot be made where a heartbeat could not either.
            self._ledger.apply(lifecycle.beat(_PROBE, attempt=0, lease_s=0.0))
            self._warm_up.answered(_clock())


def _clock() -> float:
    """Return seconds that also pass while the machine sleeps, as leases do."""
    return time.clock_gettime(_BOOTTIME) if _BOOTTIME is not None else time.monotonic()


_BOOTTIME: int | None = getattr(time, "CLOCK_BOOTTIME", None)  # Linux
