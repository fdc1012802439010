"""What may be wrong with a RabbitMQ that carries messages, as far as a client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import AMQPError, ChannelNotFoundEntity, ChannelPreconditionFailed

from penstock.core.base import Finding
from penstock.servers.findings import PATIENCE_S, full, not_durable, unreachable, well

_ALARM_S = 0.5


async def look(url: str, queues: Sequence[str]) -> list[Finding]:
    """Look at the server over a connection of its own, and at these native queues. Raises nothing."""
    connection: Any = Connection(make_url(url))
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            await connection.connect(timeout=PATIENCE_S)
            properties = connection.transport.connection.server_properties
            server = f"{properties.get('product', '')} {properties.get('version', '')}"
            found = [well(server, "taskiq", "aio-pika")]
            if alarm := await _alarm(connection):
                return found + alarm  # nothing more is read from this connection
            for queue in queues:
                found += await _queue(connection, queue)
            return found
    except (AMQPError, TimeoutError, OSError, ValueError) as error:
        told = error if str(error) else Exception(f"no answer within {PATIENCE_S:g} s")
        return [unreachable(told, "is RabbitMQ up, and is the URL right?")]
    finally:
        with contextlib.suppress(AMQPError, TimeoutError, OSError):
            async with asyncio.timeout(1.0):
                await connection.close()
        if not connection.is_closed:  # RabbitMQ reads nothing of a connection that it has blocked: this only notes it
            await connection.close()


async def _alarm(connection: Any) -> list[Finding]:
    """Publish to nobody: a server whose memory or disk is full tells that to those who publish."""
    channel = await connection.channel(publisher_confirms=False)
    await channel.default_exchange.publish(
        aio_pika.Message(b""), routing_key=f"penstock.doctor.{uuid.uuid4().hex}", mandatory=False
    )
    await asyncio.sleep(_ALARM_S)
    try:
        async with asyncio.timeout(0.05):
            await connection.transport.connection.ready()  # returns at once unless the server has told so
    except TimeoutError:
        return [full("its memory or its disk is full")]
    return []


async def _queue(connection: Any, queue: str) -> list[Finding]:
    try:
        await (await connection.channel()).declare_queue(queue, passive=True)
        # Of all that differs, durability is told first.
        await (await connection.channel()).declare_queue(queue, durable=True)
    except ChannelNotFoundEntity:
        return []
    except ChannelPreconditionFailed as error:
        if "'durable'" in str(error):
            return [not_durable(queue)]
    return []
