"""``dramatiq+redis://host:port/db`` and ``dramatiq+amqp://user:password@host:port/vhost``: Dramatiq and its brokers."""

from __future__ import annotations

from importlib.util import find_spec

from penstock.backends.dramatiq.queue import DramatiqBackend
from penstock.core.hookspecs import hookimpl

if find_spec("dramatiq") is None:
    # Its brokers are imported when a transport is chosen; that there is no Dramatiq at all is told at once.
    raise ModuleNotFoundError("No module named 'dramatiq'", name="dramatiq")


@hookimpl
def backend_class() -> type[DramatiqBackend]:
    """Offer the backend to the registry."""
    return DramatiqBackend
