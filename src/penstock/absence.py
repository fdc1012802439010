"""A ledger that is away while somebody waits for a job: the wait goes on, and says so now and then."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.core.exceptions import LedgerUnavailableError

logger = logging.getLogger(__name__)

LOOK_S = 2.0
"""How long after a look without an answer the next one is, at the latest."""
_TOLD_EVERY_S = 30.0


class Absence:
    """What one who waits has told of it."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._told_at: float | None = None

    def tell(self, error: LedgerUnavailableError) -> None:
        """Log that the ledger is away, unless that was done lately."""
        now = time.monotonic()
        if self._told_at is None or now - self._told_at >= _TOLD_EVERY_S:
            self._told_at = now
            logger.warning("the ledger is away, %s when it is back: %s", self._what, error)

    def over(self) -> None:
        """It has answered: the next absence is told at once."""
        self._told_at = None
