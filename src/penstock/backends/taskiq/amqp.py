"""TaskIQ on RabbitMQ: a durable classic queue with priorities for each of ours.

A message comes when there is room for it, never before: what waited at a busy worker would wait while others are idle.
From one queue they are pushed, as many as are free to run; over several queues, which RabbitMQ knows no order of, they
are pulled. When a job ends, the message that is held the longest is acknowledged, whichever job's it is, and within two
minutes all are: RabbitMQ ends the channel of a worker that holds one for 30 minutes, and the ledger's lease
watches over the job anyway. Classic queues, because quorum queues know no ten priorities.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import aio_pika
from aio_pika.connection import Connection, make_url
from aio_pika.exceptions import AMQPError, ChannelInvalidStateError

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
        self._arrived: asyncio.Queue[Any] = asyncio.Queue()
        self._tag: str | None = None
        self._window = 0
        self._running = 0
        self._held: deque[Any] = deque()
        self._letting_go: asyncio.Future[None] | None = None

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

    async def take(self) -> bytes | None:
        """See `OneTaskBroker.take`."""
        queues = [await self._queue(queue) for queue in self.queues]
        if len(queues) == 1:
            await self._open_window(queues[0])
            return self._keep(await self._next())
        for queue in queues:
            message = await queue.get(fail=False, timeout=self.settings.verb_timeout_s)
            if message is not None:
                return self._keep(message)
        return self._keep(await self._first(queues))

    async def _open_window(self, queue: Any) -> None:
        """Have messages pushed: together with those that run and are acknowledged already, as many as may run."""
        window = self.concurrency - (self._running - len(self._held))
        if self._tag is not None and window <= self._window:
            return
        await self._close_window()
        await self._channel.set_qos(prefetch_count=window)
        self._window, self._tag = window, await queue.consume(self._arrived.put)

    async def _close_window(self) -> None:
        tag, self._tag = self._tag, None
        if tag is not None:
            await (await self._queue(self.queues[0])).cancel(tag)

    async def _first(self, queues: Sequence[Any]) -> Any:
        """Have messages pushed until there is one; of several that come at once, the first queue's is kept."""
        tags = [(queue, await queue.consume(self._arrived.put)) for queue in queues]
        arrived = [await self._next()]
        for queue, tag in tags:
            await queue.cancel(tag)
        while not self._arrived.empty():
            arrived.append(self._arrived.get_nowait())
        names = [queue.name for queue in queues]
        found = sorted((m for m in arrived if m is not None), key=lambda message: names.index(message.routing_key))
        for message in found[1:]:
            await message.nack(requeue=True)
        return found[0] if found else None

    async def _next(self) -> Any:
        try:
            return await asyncio.wait_for(self._arrived.get(), _WAIT_S)
        except TimeoutError:
            return None

    def _keep(self, message: Any) -> bytes | None:
        if message is None:
            return None
        self._running += 1
        self._held.append(message)
        if self._letting_go is None:
            self._letting_go = asyncio.ensure_future(self._let_go())
        return message.body

    async def ended(self) -> None:
        """See `OneTaskBroker.ended`."""
        self._running -= 1
        if self._held:
            # On a channel that has ended the message waits again: the ledger refuses it a second time.
            with contextlib.suppress(*self.outages):
                await self._held.popleft().ack()

    async def _let_go(self) -> None:
        """Acknowledge what has been held for a while; nothing new is pushed for it until there is room."""
        while self._held:
            oldest = self._held[0]
            await asyncio.sleep(self.settings.hold_s)
            if self._held and self._held[0] is oldest:
                with contextlib.suppress(*self.outages):
                    await self._close_window()
                    while self._held:
                        await self._held.popleft().ack()
                # Whoever waits for the next one waits behind a window that is closed.
                await self.wake()
        self._letting_go = None

    async def wake(self) -> None:
        """See `OneTaskBroker.wake`."""
        self._arrived.put_nowait(None)

    async def give_back(self, message: bytes) -> None:
        """See `OneTaskBroker.give_back`: RabbitMQ puts it where it was."""
        self._running -= 1
        await self._held.pop().nack(requeue=True)

    async def disconnect(self) -> None:
        """See `OneTaskBroker.disconnect`. What was pushed and not begun waits again."""
        if self._letting_go is not None:
            self._letting_go.cancel()
            self._letting_go = None
        self._held.clear()
        connection, self._connection, self._channel = self._connection, None, None
        self._tag = None
        self._declared.clear()
        if connection is not None and not connection.is_closed:
            with contextlib.suppress(*self.outages):
                await connection.close()
