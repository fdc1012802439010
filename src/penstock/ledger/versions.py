"""Which versions of penstock may work on one ledger at the same time.

A ledger says the version of its schema and the oldest one whose code still works on it. Code that knows schema N brings
an older ledger up to N; it works on a newer one that still takes N, and refuses every other. So a fleet is upgraded
one worker at a time: a release that adds (columns with a default, tables, indexes) leaves `OLDEST` alone, and the
release before goes on beside it. One that takes away or changes a meaning raises `OLDEST`: all workers end first. One
that was forgotten finds out while it runs (`Ledger.check_version`), drains and ends.
"""

from __future__ import annotations

from typing import NamedTuple

from penstock.core.exceptions import NewerLedgerError

OLDEST = 1
"""The oldest schema whose code works on what this release leaves behind."""
_SHIFT = 16
_LAST = 999
"""More releases of the schema than there will be: a larger number is damage, or somebody else's."""


class Version(NamedTuple):
    """What a ledger says of itself."""

    schema: int
    oldest: int


def packed(schema: int) -> int:
    """Write a version as the one number that each store has room for; the plain schema where no older code fits."""
    return schema if schema == OLDEST else schema | OLDEST << _SHIFT


def read(number: int) -> Version:
    """Read what `packed` wrote, in whichever release."""
    schema = number & (1 << _SHIFT) - 1
    return Version(schema, number >> _SHIFT or schema)


def refuse_newer(number: int, *, known: int, told: str) -> int:
    """Return the schema of a ledger that this code, which knows one up to ``known``, may work on.

    Raises:
        NewerLedgerError: it is a newer one that leaves this code out, or says a number that no release writes.
    """
    found = read(number)
    if not found.oldest <= found.schema <= _LAST:
        raise NewerLedgerError(
            f"{told} says schema {number}, which no penstock up to this one writes (this one knows {known}); upgrade "
            "penstock here, or use another ledger"
        )
    if found.schema > known and found.oldest > known:
        raise NewerLedgerError(
            f"{told} was written by a newer penstock (schema {found.schema}, this one knows {known}); upgrade "
            "penstock here, or use another ledger"
        )
    return found.schema
