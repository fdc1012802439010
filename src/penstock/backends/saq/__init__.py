"""``saq+redis://`` and ``saq+postgres://``: SAQ, asyncio workers on Redis or on Postgres."""

from __future__ import annotations

from penstock.backends.saq.queue import SaqBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[SaqBackend]:
    """Offer the backend to the registry."""
    return SaqBackend
