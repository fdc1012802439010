"""Whether a newer penstock has meanwhile taken the ledger over: looked at now and then, by what runs for long."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.core.base import Ledger


class VersionLook:
    """Looks at the ledger's version at most every ``every_s``: what was true when it was opened may end."""

    def __init__(self, ledger: Ledger, every_s: float) -> None:
        self._ledger = ledger
        self._every_s = every_s
        self._looked_at = time.monotonic()  # it was looked at when the ledger was opened

    def turn(self) -> None:
        """Look, if it is time.

        Raises:
            NewerLedgerError: this code must not work on that ledger any more.
            LedgerError: as for any other question.
        """
        now = time.monotonic()
        if now - self._looked_at >= self._every_s:
            self._looked_at = now
            self._ledger.check_version()
