"""T2: how the jobs of messages become attempts that this process owns, up to a limit where there is one.

A claim may be carried out and its answer lost. Whoever asked then asks again, for as long as its lease would last: a
row that runs for this very process, and that no other claim of it has had, is that attempt. It is taken by a heartbeat,
whose guard is the attempt's number, so that nobody gets what has been rescued meanwhile.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from penstock import bridge
from penstock.core.base import Applied
from penstock.core.exceptions import JobNotFoundError, LedgerError, LedgerUnavailableError
from penstock.heart import Heart, Owned
from penstock.job import lifecycle
from penstock.job.lifecycle import State

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.job.lifecycle import Transition
    from penstock.job.models import Message
    from penstock.writer import Writer

logger = logging.getLogger("penstock.claims")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5


class Claims:
    """Claims jobs for one process. Safe from any thread."""

    def __init__(
        self,
        ledger: Ledger,
        writer: Writer,
        heart: Heart,
        *,
        owner: str,
        lease_s: float,
        count: Callable[[str, int], None],
    ) -> None:
        self._ledger = ledger
        self._limit: int | None = None
        self._left: list[str] = []
        self._writer = writer
        self._heart = heart
        self._owner = owner
        self._lease_s = lease_s
        self._count = count
        self._lock = threading.Lock()
        self._taken = 0
        """Claimed, or being claimed."""
        self._claimed = 0
        self._ahead: defaultdict[str, deque[Owned | None]] = defaultdict(deque)
        self._asking: set[str] = set()
        """Jobs that a claim is on its way for: another one would not know which of the two was granted."""
        self._over: set[tuple[str, int]] = set()
        """Attempts whose end could not be recorded: their rows run for this process, and nothing does."""
        self._stopped = threading.Event()

    def begin(self, limit: int | None) -> None:
        """Count from here, and claim at most so many jobs."""
        with self._lock:
            self._limit, self._taken, self._claimed, self._left = limit, 0, 0, []
        self._stopped.clear()

    def stop(self) -> None:
        """Let nobody wait any longer for a ledger that does not answer."""
        self._stopped.set()

    def gave_up(self, owned: Owned) -> None:
        """Remember an attempt whose end could not be recorded."""
        self._over.add(owned.key)

    @property
    def claimed(self) -> int:
        """How many claims were granted since `begin`."""
        return self._claimed

    @property
    def spent(self) -> bool:
        """Whether the limit is reached, by claims that were granted."""
        return self._limit is not None and self._claimed >= self._limit

    def left(self) -> list[str]:
        """Hand over, once, the jobs whose messages came when the limit was reached: they are to be published again."""
        with self._lock:
            left, self._left = self._left, []
            return left

    def ahead(self, messages: Sequence[Message]) -> None:
        """Claim the jobs of messages that threads are waiting to run, in one transaction."""
        # What is over the limit is left when its thread asks for it: noted here too, it would be published twice.
        wanted = [job_id for message in messages for job_id in message.job_ids if self._may_take(job_id, leave=False)]
        for job_id, owned in zip(wanted, self._claim(wanted), strict=True):
            self._ahead[job_id].append(owned)

    def take(self, job_id: str) -> Owned | None:
        """Claim one job, or return what was claimed ahead; None: it is not to be had, and its message is done with.

        Waits for a ledger that does not answer, for as long as its answer could still be an attempt of ours.
        """
        ahead = self._ahead.get(job_id)
        if ahead:
            owned = ahead.popleft()
            if not ahead:
                self._ahead.pop(job_id, None)
            return owned
        return self._claim([job_id])[0] if self._may_take(job_id) else None

    async def atake(self, job_id: str) -> Owned | None:
        """`take`, on an engine's loop."""
        if not self._may_take(job_id):
            return None
        if not self._may_ask(job_id):
            self._not_taken("refused", 1)
            return None
        claim = lifecycle.claim(job_id, owner=self._owner, lease_s=self._lease_s)
        sent, repeats = time.monotonic(), self._ledger.repeats
        try:
            answer = await bridge.answer(partial(self._writer.post, claim))
            if answer is None and self._ledger.repeats != repeats:
                answer = await bridge.in_thread(self._mine_after_all, job_id)
            return self._own(answer, sent)
        except LedgerUnavailableError as error:
            (owned,) = await bridge.in_thread(self._ask_again, [claim], sent, error)
            return owned
        except LedgerError as error:
            self._unclaimed(1, error)
            return None
        finally:
            self._asking.discard(job_id)

    def _claim(self, job_ids: Sequence[str]) -> list[Owned | None]:
        asked = [job_id for job_id in job_ids if self._may_ask(job_id)]
        try:
            owned = dict(zip(asked, self._ask(asked), strict=True))
        finally:
            self._asking.difference_update(asked)
        self._not_taken("refused", len(job_ids) - len(asked))
        return [owned.pop(job_id, None) for job_id in job_ids]

    def _ask(self, job_ids: Sequence[str]) -> list[Owned | None]:
        sent, repeats = time.monotonic(), self._ledger.repeats
        claims = [lifecycle.claim(job_id, owner=self._owner, lease_s=self._lease_s) for job_id in job_ids]
        try:
            answers = self._writer.apply_all(claims)
            if self._ledger.repeats != repeats:
                answers = self._with_mine(claims, answers)
        except LedgerUnavailableError as error:
            return self._ask_again(claims, sent, error)
        except LedgerError as error:
            self._unclaimed(len(claims), error)
            return [None] * len(claims)
        return [self._own(answer, sent) for answer in answers]

    # -- asked again --------------------------------------------------------------------------------------------

    def _may_ask(self, job_id: str) -> bool:
        """Whether no other claim of this process is on its way for the job; if so, it is now."""
        with self._lock:
            if job_id in self._asking:
                return False
            self._asking.add(job_id)
            return True

    def _ask_again(
        self, claims: Sequence[Transition], first_sent: float, error: LedgerUnavailableError
    ) -> list[Owned | None]:
        logger.warning("could not claim %d jobs, asking again: %s", len(claims), error)
        pause_s = _FIRST_PAUSE_S
        while time.monotonic() - first_sent < self._lease_s and not self._stopped.wait(pause_s):
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            sent = time.monotonic()
            try:
                answers = self._with_mine(claims, self._writer.apply_all(claims))
            except LedgerError as again:
                logger.info("could not claim %d jobs: %s", len(claims), again)
            else:
                return [self._own(answer, sent) for answer in answers]
        self._unclaimed(len(claims), error)
        return [None] * len(claims)

    def _with_mine(self, claims: Sequence[Transition], answers: Sequence[Applied | None]) -> list[Applied | None]:
        pairs = zip(claims, answers, strict=True)
        return [answer or self._mine_after_all(claim.job_id) for claim, answer in pairs]

    def _mine_after_all(self, job_id: str) -> Applied | None:
        """Of a refused claim: the attempt, if the refusal only came because an earlier try of it had been granted."""
        try:
            row = self._ledger.get(job_id)
        except JobNotFoundError:
            return None
        key = (row.id, row.attempt)
        if row.state is not State.RUNNING or row.owner != self._owner or key in self._heart.owned or key in self._over:
            return None
        beat = lifecycle.beat(row.id, attempt=row.attempt, lease_s=self._lease_s)
        applied = self._writer.apply(beat)
        return None if applied is None else Applied(applied.state, applied.cancel_requested, row)

    def _unclaimed(self, number: int, error: LedgerError) -> None:
        # The messages are gone then; the rows are not, and the sweep publishes them again.
        logger.warning("could not claim %d jobs: %s", number, error)
        self._not_taken("unclaimed", number)

    def _own(self, answer: Applied | None, sent: float) -> Owned | None:
        if answer is None or answer.job is None:
            self._not_taken("refused", 1)
            return None
        self._count("claimed", 1)
        with self._lock:
            self._claimed += 1
        owned = Owned(answer.job, sent)
        self._heart.owned[owned.key] = owned
        self._heart.start()
        return owned

    def _not_taken(self, name: str, number: int) -> None:
        if not number:
            return
        self._count(name, number)
        with self._lock:
            self._taken -= number

    def _may_take(self, job_id: str, *, leave: bool = True) -> bool:
        with self._lock:
            if self._limit is not None and self._taken >= self._limit:
                if leave:
                    self._left.append(job_id)
                return False
            self._taken += 1
            return True
