"""``dramatiq+redis://host:port/db`` and ``dramatiq+amqp://user:password@host:port/vhost``: Dramatiq and its brokers."""

from __future__ import annotations

from penstock.backends.dramatiq.queue import DramatiqBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[DramatiqBackend]:
    """Offer the backend to the registry."""
    return DramatiqBackend
