"""What a ledger keeps beside jobs: small documents, each changed only by who has seen its newest version.

Schedules are such records, and so is whatever else has to be the same for all processes and to survive them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime

import msgspec


class Record(msgspec.Struct, frozen=True):
    """A document as it stands in the ledger. ``version`` grows with each change, and never comes again.

    ``body`` is JSON.
    """

    kind: str
    name: str
    version: int
    body: bytes
    due_at: datetime | None = None
    """By when somebody has to look at it; None: nobody has to."""


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """A record as it is to be. It is refused if the record is not at version ``seen`` (0: it is not there)."""

    kind: str
    name: str
    seen: int
    body: bytes | None
    """None: the record is to be gone."""
    due_at: datetime | None = None


class Records(ABC):
    """The records of one ledger. Raises what the ledger's verbs raise."""

    @abstractmethod
    def get(self, kind: str, name: str) -> Record | None:
        """Return one record, or None."""

    @abstractmethod
    def all(self, kind: str) -> list[Record]:
        """List the records of a kind by name."""

    @abstractmethod
    def due(self, kind: str, limit: int) -> list[Record]:
        """List records whose time has come by the ledger's clock, the longest due first."""

    @abstractmethod
    def next_due_at(self, kind: str) -> datetime | None:
        """Return the first time at which a record of this kind is due, or None."""

    @abstractmethod
    def write(self, changes: Sequence[Change]) -> list[int]:
        """Write changes in one transaction, each guarded and answered by itself: with the new version, or 0 if refused.

        A record that was taken away is answered with 1. A change whose answer was lost on the way is refused when it
        is sent again: whoever must know reads the record.
        """
