"""``rq+redis://host:port/db``: RQ on Redis, in threads of one process instead of a fork for each job."""

from __future__ import annotations

from penstock.backends.rq.queue import RqBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[RqBackend]:
    """Offer the backend to the registry."""
    return RqBackend
