"""``huey+sqlite:///path``: Huey on a SQLite file, the embedded default that needs no server.

``huey+redis://host:port/db``: Huey's priority queue on Redis.
"""

from __future__ import annotations

from penstock.backends.huey.queue import HueyBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[HueyBackend]:
    """Offer the backend to the registry."""
    return HueyBackend
