"""Ledgers: where the truth about jobs is kept. `open_ledger` picks one by its URL."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.exceptions import ConfigError, did_you_mean
from penstock.servers import disk
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES

if TYPE_CHECKING:
    from penstock.core.base import Ledger

SCHEMES = ("memory", "sqlite", "postgres", "postgresql", *REDIS_SCHEMES)


def open_ledger(
    url: str,
    *,
    durability: str = "normal",
    unsafe_network_fs: bool = False,
    namespace: str = "penstock",
    clock: Callable[[], float] | None = None,
) -> Ledger:
    """Open a ledger; its driver is imported here and not before.

    Args:
        url: ``memory://`` (each call its own), ``sqlite:///relative.db``, ``sqlite:////absolute.db``,
            ``postgres://user:password@host/database`` with what libpq takes and ``schema=`` in the query, or
            ``redis://host:6379/0`` (also with TLS, a socket, sentinels, a cluster: see `servers.redis_url`) with
            ``namespace=`` in the query.
        durability: for SQLite: ``normal`` survives the death of any process; ``full`` also a power cut, at a price.
            A server has settings of its own for that.
        unsafe_network_fs: Open a SQLite file on a network file system all the same.
        namespace: keeps projects on one server apart, unless the URL does: the schema, or what all keys begin with.
        clock: Where the ledger takes its time from, in seconds since 1970; tests bring their own. Default: the
            server's clock, this machine's for memory and SQLite.

    Raises:
        ConfigError: not a ledger's URL, its driver is not installed, or jobs would not be safe there.
        LedgerUnavailableError: the file cannot be opened or made, the server does not answer.
        LedgerError: what is there is no ledger that this version can read.
    """
    opened = _opened(url, durability, unsafe_network_fs=unsafe_network_fs, namespace=namespace, clock=clock)
    if faults := os.environ.get("PENSTOCK_FAIL"):
        from penstock.ledger.faults import with_faults

        return with_faults(opened, faults)
    return opened


def unmade(url: str) -> Path | None:
    """Return the file of a ledger that nobody has made yet, and that could be; else None."""
    scheme, _, rest = url.partition("://")
    path = Path(rest.removeprefix("/"))
    if scheme != "sqlite" or not rest.startswith("/") or not path.name or path.name.startswith(":"):
        return None
    return None if path.exists() or disk.cannot_make(path) is not None else path


def _opened(
    url: str, durability: str, *, unsafe_network_fs: bool, namespace: str, clock: Callable[[], float] | None
) -> Ledger:
    scheme, separator, rest = url.partition("://")
    if not separator:
        raise ConfigError(f"ledger {url!r} is not a URL; write sqlite:///{url.lstrip('/') or 'ledger.db'}")
    if durability not in ("normal", "full"):
        raise ConfigError(f"durability {durability!r} is neither 'normal' nor 'full'")
    if scheme == "memory":
        from penstock.ledger.memory import MemoryLedger

        if rest:
            raise ConfigError(f"ledger {url!r}: a ledger in memory has no name; write memory://")
        return MemoryLedger(clock=clock or time.time)
    if scheme == "sqlite":
        from penstock.ledger.sqlite import SqliteLedger

        path = rest.removeprefix("/")
        if not rest.startswith("/") or not path or path.startswith(":"):
            raise ConfigError(
                f"ledger {url!r} names no file; write sqlite:///relative.db or sqlite:////absolute.db, "
                "or memory:// for none"
            )
        return SqliteLedger(path, durability=durability, unsafe_network_fs=unsafe_network_fs, clock=clock or time.time)
    if scheme in ("postgres", "postgresql"):
        with _installed("psycopg", "postgres"):
            from penstock.ledger.postgres import PostgresLedger
        return PostgresLedger(url, namespace=namespace, clock=clock)
    if scheme in REDIS_SCHEMES:
        with _installed("redis", "redis"):
            from penstock.ledger.redis import RedisLedger
        return RedisLedger(url, namespace=namespace, clock=clock)
    # Only the scheme is told: the rest of a URL may hold a password.
    raise ConfigError(
        f"no ledger for {scheme + '://'!r}; known: {', '.join(s + '://' for s in SCHEMES)}."
        f"{did_you_mean(scheme, SCHEMES)}"
    )


@contextlib.contextmanager
def _installed(driver: str, extra: str) -> Generator[None]:
    try:
        yield
    except ImportError as error:
        if (error.name or "").partition(".")[0] != driver:
            raise
        raise ConfigError(f'this ledger needs {driver}. Run: pip install "penstock[{extra}]"') from error
