"""TaskIQ on RabbitMQ: a durable classic queue with priorities for each of ours, messages pulled one by one.

Pulled, because what is pushed to a worker that is busy waits there while others are idle, and comes in no order over
several queues. A message is acknowledged when it begins, so no job outlives RabbitMQ's consumer timeout (30 min): the
ledger's lease watches over it from there. Classic queues, because quorum queues know no ten priorities.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError
from taskiq import AckableMessage

from penstock.backends.taskiq.broker import Native, OneTaskBroker
from penstock.backends.taskiq.config import TaskiqSettings

_WAIT_S = 30.0


class AmqpBroker(OneTaskBroker):
    """One connection and channel, made anew when they are gone."""

    outages = (AMQPError, ChannelInvalidStateError, TimeoutError, OSError)

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__(url, namespace, settings)
        self._connection: Any = None
        self._channel: Any = None
        self._declared: dict[str, Any] = {}
        self._connecting = asyncio.Lock()
        self._woken = asyncio.Event()
        self._taken: Any = None

    async def connect(self) -> None:
        """See `OneTaskBroker.connect`."""
        async with self._connecting:
            if self._channel is not None and not self._channel.is_closed:
                return
            await self.disconnect()
            self._connection = Connection(make_url(self.url))
            try:
                await self._connection.connect(timeout=self.settings.connect_timeout_s)
            except BaseException:
                # One that never connected would be closed by its destructor, on whatever loop that runs.
                await self.disconnect()
                raise
            self._channel = await self._connection.channel()
            await self._channel.set_qos(prefetch_count=1)

    async def _queue(self, queue: str) -> Any:
        name = f"penstock.{self.namespace}.{queue}"
        if name not in self._declared:
            self._declared[name] = await self._channel.declare_queue(
                name, durable=True, arguments={"x-max-priority": 9, "x-queue-type": "classic"}
            )
        return self._declared[name]

    async def publish(self, messages: Sequence[Native]) -> None:
        """See `OneTaskBroker.publish`: each is confirmed by RabbitMQ, all are on their way at once."""
        await self.connect()
        for queue in {each.message.queue for each in messages}:
            await self._queue(queue)
        exchange = self._channel.default_exchange
        try:
            async with asyncio.timeout(self.settings.verb_timeout_s):
                await asyncio.gather(*(self._publish(exchange, each) for each in messages))
        except Exception:
            self._declared.clear()  # somebody may have deleted a queue
            raise

    async def _publish(self, exchange: Any, each: Native) -> None:
        message = aio_pika.Message(
            each.body,
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            priority=each.message.priority,
            message_id=each.message.id,
            type=each.task_name,
            content_type="application/json",
            headers={"task_id": each.message.id, "task_name": each.task_name},
        )
        await exchange.publish(message, routing_key=f"penstock.{self.namespace}.{each.message.queue}")

    async def depth(self, queue: str) -> int:
        """See `OneTaskBroker.depth`."""
        await self.connect()
        declared = await (await self._queue(queue)).declare(timeout=self.settings.verb_timeout_s)
        return declared.message_count or 0

    async def take(self) -> AckableMessage | None:
        """See `OneTaskBroker.take`."""
        queues = [await self._queue(queue) for queue in self.queues]
        for queue in queues:
            message = await queue.get(fail=False, timeout=self.settings.verb_timeout_s)
            if message is not None:
                return self._ackable(message)
        message = await self._wait(queues)
        return None if message is None else self._ackable(message)

    async def _wait(self, queues: Sequence[Any]) -> Any:
        """Have messages pushed until there is one; of several that come at once, the first queue's is kept."""
        arrived: list[tuple[int, Any]] = []
        self._woken.clear()

        def receive(place: int) -> Any:
            async def note(message: Any) -> None:
                arrived.append((place, message))
                self._woken.set()

            return note

        tags = [(queue, await queue.consume(receive(place))) for place, queue in enumerate(queues)]
        closed = asyncio.ensure_future(self._channel.closed())
        woken = asyncio.ensure_future(self._woken.wait())
        await asyncio.wait([closed, woken], timeout=_WAIT_S, return_when=asyncio.FIRST_COMPLETED)
        woken.cancel()
        closed.cancel()
        for queue, tag in tags:
            await queue.cancel(tag)
        arrived.sort(key=lambda each: each[0])
        for _, message in arrived[1:]:
            await message.nack(requeue=True)
        return arrived[0][1] if arrived else None

    def _ackable(self, message: Any) -> AckableMessage:
        self._taken = message
        return AckableMessage(data=message.body, ack=message.ack)

    async def wake(self) -> None:
        """See `OneTaskBroker.wake`."""
        self._woken.set()

    async def give_back(self, message: AckableMessage) -> None:
        """See `OneTaskBroker.give_back`: RabbitMQ puts it where it was."""
        await self._taken.nack(requeue=True)

    async def disconnect(self) -> None:
        """See `OneTaskBroker.disconnect`."""
        connection, self._connection, self._channel = self._connection, None, None
        self._declared.clear()
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(*self.outages):
                await connection.close()
