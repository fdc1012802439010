"""``arq+redis://``: ARQ, asyncio workers that poll Redis."""

from __future__ import annotations

from penstock.backends.arq.queue import ArqBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[ArqBackend]:
    """Offer the backend to the registry."""
    return ArqBackend
