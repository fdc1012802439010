"""TaskIQ on RabbitMQ: a durable classic queue with priorities for each of ours.

A message comes when there is room for it, never before: what waited at a busy worker would wait while others are idle.
From one queue they are pushed, as many as are free to run. Over several queues, which RabbitMQ knows no order of, they
are pulled, for 2.5 times the CPU a job: of what is pushed, the lower queue's would have to be put back for the other's.
A message is acknowledged when its job has ended. A job that runs longer than RabbitMQ's consumer_timeout (30 minutes)
costs its worker the channel, and the message comes again: the ledger refuses it, the worker opens another. Classic
queues, because quorum queues know no ten priorities.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

from penstock.backends.taskiq.broker import OneTaskBroker, Taken, native
from penstock.backends.taskiq.config import TaskiqSettings
from penstock.job.models import Message

_WAIT_S = 5.0


class AmqpBroker(OneTaskBroker):
    """One connection and channel, made anew when they are gone."""

    outages = (AMQPError, ChannelInvalidStateError, TimeoutError, OSError)

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__(url, namespace, settings)
        self._connection: Any = None
        self._channel: Any = None
        self._declared: dict[str, Any] = {}
        self._connecting = asyncio.Lock()
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._tag: str | None = None
        self._window = 0
        self._held = 0

    async def connect(self) -> None:
        """See `OneTaskBroker.connect`."""
        async with self._connecting:
            if self._channel is not None and not self._channel.is_closed:
                return
            await self.disconnect()
            # aiormq 7.2 gives a silent connection up after three times the heartbeat and a second.
            heartbeat_s = max(1, int(self.settings.answer_timeout_s / 3 - 1))
            self._connection = Connection(make_url(self.url, heartbeat=heartbeat_s))
            try:
                await self._connection.connect(timeout=self.settings.connect_timeout_s)
            except BaseException:
                # One that never connected would be closed by its destructor, on whatever loop that runs.
                await self.disconnect()
                raise
            self._channel = await self._connection.channel()
            arrived: asyncio.Queue[Any] = asyncio.Queue()
            self._arrived = arrived

            def closed(*_: Any) -> None:
                arrived.put_nowait(None)

            self._channel.close_callbacks.add(closed)

    async def _queue(self, queue: str) -> Any:
        name = f"penstock.{self.namespace}.{queue}"
        if name not in self._declared:
            self._declared[name] = await self._channel.declare_queue(
                name, durable=True, arguments={"x-max-priority": 9, "x-queue-type": "classic"}
            )
        return self._declared[name]

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `OneTaskBroker.publish`: each is confirmed by RabbitMQ, all are on their way at once."""
        await self.connect()
        for queue in {each.queue for each in messages}:
            await self._queue(queue)
        exchange = self._channel.default_exchange
        try:
            async with asyncio.timeout(self.settings.answer_timeout_s):
                await asyncio.gather(*(self._publish(exchange, each) for each in messages))
        except TimeoutError:
            await self.disconnect()  # it looks connected until aiormq has missed its heartbeats
            raise
        except Exception:
            self._declared.clear()  # somebody may have deleted a queue
            raise
        except asyncio.CancelledError as error:
            # So ends, with aiormq 7.2, what waits on a connection that it has given up.
            if (task := asyncio.current_task()) is not None and task.cancelling():
                raise
            raise ChannelInvalidStateError("the connection was lost") from error

    async def _publish(self, exchange: Any, each: Message) -> None:
        message = aio_pika.Message(
            native(each),
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
            priority=each.priority,
            message_id=each.id,
            type=each.name,
            content_type="application/json",
            headers={"task_id": each.id, "task_name": each.name},
        )
        await exchange.publish(message, routing_key=f"penstock.{self.namespace}.{each.queue}")

    async def depth(self, queue: str) -> int:
        """See `OneTaskBroker.depth`."""
        await self.connect()
        declared = await (await self._queue(queue)).declare(timeout=self.settings.answer_timeout_s)
        return declared.message_count or 0

    async def take(self, room: int) -> Sequence[Taken]:
        """See `OneTaskBroker.take`."""
        if self._channel is None or self._channel.is_closed:
            raise ChannelInvalidStateError("RabbitMQ has closed the channel")
        queues = [await self._queue(queue) for queue in self.queues]
        if len(queues) == 1:
            await self._open_window(queues[0], room)
            found = await self._arrival(room)
        else:
            found = await self._pull(queues, room) or await self._first(queues)
        self._held += len(found)
        return [Taken(message.body, (self._channel, message)) for message in found]

    async def _open_window(self, queue: Any, room: int) -> None:
        """Have messages pushed: as many as there is room for, and those that run and RabbitMQ has not forgotten."""
        window = room + self._held
        if self._tag is None or window > self._window:
            await self.rest()
            await self._channel.set_qos(prefetch_count=window)
            self._window, self._tag = window, await queue.consume(self._arrived.put)

    async def _arrival(self, most: int) -> list[Any]:
        found: list[Any] = []
        if self._arrived.empty():
            with contextlib.suppress(TimeoutError):
                found.append(await asyncio.wait_for(self._arrived.get(), _WAIT_S))
        while not self._arrived.empty() and len(found) < most:
            found.append(self._arrived.get_nowait())
        return [message for message in found if message is not None]

    async def _pull(self, queues: Sequence[Any], most: int) -> list[Any]:
        found: list[Any] = []
        for queue in queues:
            while len(found) < most and (
                message := await queue.get(fail=False, timeout=self.settings.answer_timeout_s)
            ):
                found.append(message)
        return found

    async def _first(self, queues: Sequence[Any]) -> list[Any]:
        """Have messages pushed until there is one; of several that come at once, the first queue's is kept."""
        await self._channel.set_qos(prefetch_count=1)
        tags = [(queue, await queue.consume(self._arrived.put)) for queue in queues]
        arrived = await self._arrival(1)
        for queue, tag in tags:
            await queue.cancel(tag)
        arrived += [message for message in self._unread() if message is not None]
        names = [queue.name for queue in queues]
        arrived.sort(key=lambda message: names.index(message.routing_key))
        for message in arrived[1:]:
            await message.nack(requeue=True)
        return arrived[:1]

    def _unread(self) -> list[Any]:
        return [self._arrived.get_nowait() for _ in range(self._arrived.qsize())]

    async def wake(self) -> None:
        """See `OneTaskBroker.wake`."""
        self._arrived.put_nowait(None)

    async def ended(self, taken: Taken) -> None:
        """See `OneTaskBroker.ended`."""
        channel, message = taken.origin
        if channel is self._channel:
            self._held -= 1
            await message.ack()

    async def give_back(self, taken: Taken) -> None:
        """See `OneTaskBroker.give_back`: RabbitMQ puts it where it was."""
        self._held -= 1
        await taken.origin[1].nack(requeue=True)

    async def rest(self) -> None:
        """See `OneTaskBroker.rest`: what was pushed and not begun waits again."""
        tag, self._tag = self._tag, None
        if tag is not None:
            await (await self._queue(self.queues[0])).cancel(tag)
            for message in self._unread():
                if message is not None:
                    await message.nack(requeue=True)

    async def disconnect(self) -> None:
        """See `OneTaskBroker.disconnect`."""
        connection, self._connection, self._channel = self._connection, None, None
        self._tag, self._held = None, 0
        self._declared.clear()
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(*self.outages):
                async with asyncio.timeout(self.settings.connect_timeout_s):
                    await connection.close()
