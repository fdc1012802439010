"""What may be wrong with the server that carries TaskIQ's messages."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from penstock.core.base import Finding
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES


async def look(url: str, namespace: str, queues: Sequence[str]) -> Sequence[Finding]:
    """Look at the server of this URL; its driver is imported here. Raises nothing."""
    scheme = url.partition("://")[0]
    if scheme in REDIS_SCHEMES:
        from penstock.servers import redis_look

        return await asyncio.to_thread(redis_look.look, url, "taskiq", "redis", holds="messages", namespace=namespace)
    if scheme.startswith("amqp"):
        from penstock.backends.taskiq import amqp_look

        return await amqp_look.look(url, [f"penstock.{namespace}.{queue}" for queue in queues])
    from penstock.backends.taskiq import nats_look

    return await nats_look.look(url, f"penstock-{nats_look.token(namespace)}")
