"""``taskiq+redis://``, ``taskiq+amqp://`` and ``taskiq+nats://``: TaskIQ, asyncio workers on three brokers."""

from __future__ import annotations

from penstock.backends.taskiq.queue import TaskiqBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[TaskiqBackend]:
    """Offer the backend to the registry."""
    return TaskiqBackend
