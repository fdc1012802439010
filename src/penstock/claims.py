"""T2: how the jobs of messages become attempts that this process owns, up to a limit where there is one."""

from __future__ import annotations

import logging
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from penstock import bridge
from penstock.core.exceptions import LedgerError
from penstock.heart import Heart, Owned
from penstock.job import lifecycle

if TYPE_CHECKING:
    from penstock.core.base import Applied
    from penstock.job.models import Message
    from penstock.writer import Writer

logger = logging.getLogger("penstock.claims")


class Claims:
    """Claims jobs for one process. Safe from any thread."""

    def __init__(
        self, writer: Writer, heart: Heart, *, owner: str, lease_s: float, count: Callable[[str, int], None]
    ) -> None:
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

    def begin(self, limit: int | None) -> None:
        """Count from here, and claim at most so many jobs."""
        with self._lock:
            self._limit, self._taken, self._claimed, self._left = limit, 0, 0, []

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
        """Claim one job, or return what was claimed ahead; None: it is not to be had, and its message is done with."""
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
        sent = time.monotonic()
        claim = lifecycle.claim(job_id, owner=self._owner, lease_s=self._lease_s)
        try:
            answer = await bridge.answer(partial(self._writer.post, claim))
        except LedgerError as error:
            self._unclaimed(1, error)
            return None
        return self._own(answer, sent)

    def _claim(self, job_ids: Sequence[str]) -> list[Owned | None]:
        sent = time.monotonic()
        claims = [lifecycle.claim(job_id, owner=self._owner, lease_s=self._lease_s) for job_id in job_ids]
        try:
            answers = self._writer.apply_all(claims)
        except LedgerError as error:
            self._unclaimed(len(claims), error)
            return [None] * len(claims)
        return [self._own(answer, sent) for answer in answers]

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
        owned = self._heart.owned[answer.job.id] = Owned(answer.job, sent)
        self._heart.start()
        return owned

    def _not_taken(self, name: str, number: int) -> None:
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
