"""Ledgers: where the truth about jobs is kept. `open_ledger` picks one by its URL."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from penstock.core.exceptions import ConfigError, did_you_mean

if TYPE_CHECKING:
    from penstock.core.base import Ledger

SCHEMES = ("memory", "sqlite")


def open_ledger(
    url: str,
    *,
    durability: str = "normal",
    unsafe_network_fs: bool = False,
    clock: Callable[[], float] = time.time,
) -> Ledger:
    """Open a ledger; its driver is imported here and not before.

    Args:
        url: ``memory://`` (each call its own), ``sqlite:///relative.db`` or ``sqlite:////absolute.db``.
        durability: ``normal`` survives the death of any process; ``full`` also a power cut, at a price.
        unsafe_network_fs: Open a SQLite file on a network file system all the same.
        clock: Where the ledger takes its time from, in seconds since 1970; tests bring their own.

    Raises:
        ConfigError: not a ledger's URL, or SQLite on a network file system.
        LedgerUnavailableError: the file cannot be opened or made.
        LedgerError: the file is there and is no ledger that this version can read.
    """
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"ledger {url!r} is not a URL; write sqlite:///{url.lstrip('/') or 'ledger.db'}")
    if durability not in ("normal", "full"):
        raise ConfigError(f"durability {durability!r} is neither 'normal' nor 'full'")
    if scheme == "memory":
        from penstock.ledger.memory import MemoryLedger

        if rest:
            raise ConfigError(f"ledger {url!r}: a ledger in memory has no name; write memory://")
        return MemoryLedger(clock=clock)
    if scheme == "sqlite":
        from penstock.ledger.sqlite import SqliteLedger

        path = rest.removeprefix("/")
        if not rest.startswith("/") or not path or path.startswith(":"):
            raise ConfigError(
                f"ledger {url!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db, "
                "or memory:// for none"
            )
        return SqliteLedger(path, durability=durability, unsafe_network_fs=unsafe_network_fs, clock=clock)
    # Only the scheme is told: the rest of a URL may hold a password.
    raise ConfigError(
        f"no ledger for {scheme + '://'!r}; known: {', '.join(s + '://' for s in SCHEMES)}."
        f"{did_you_mean(scheme, SCHEMES)}"
    )
