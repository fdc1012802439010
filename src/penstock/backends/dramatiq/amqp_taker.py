"""How messages come from RabbitMQ: pushed from one queue at a time, for as many as threads are free."""

# Dramatiq's and pika's hints are partial: what comes out of them is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pika
from dramatiq.broker import MessageProxy
from dramatiq.common import xq_name
from pika.exceptions import AMQPError

from penstock.backends.dramatiq.worker import Delivery, Taker

if TYPE_CHECKING:
    from penstock.backends.dramatiq.amqp_broker import OrderedBroker
    from penstock.core.base import WorkOrder


class AmqpTaker(Taker):
    """Has one queue pushed over a connection of its own, at most as many messages as there are free threads.

    RabbitMQ counts for a consumer what it has not acknowledged; what was pushed before it subscribed, it does not
    know of. So each subscription is for the threads that are free by then, and is made anew when more have become free.
    """

    def __init__(self, broker: OrderedBroker, order: WorkOrder) -> None:
        super().__init__(broker.context, [broker.native(queue) for queue in order.queues], order)
        self.broker = broker
        self.beat_s = min(broker.heartbeat_s / 2, self.settings.ack_after_s / 2)
        self._threads = order.concurrency
        self._busy = 0
        """Messages that have come and not ended, over whichever connection."""
        self._connection: Any = None
        self._begin(None)

    def _begin(self, channel: Any) -> None:
        self._channel = channel
        self._pushed: deque[MessageProxy] = deque()
        self._held: dict[int, float] = {}
        """Unacknowledged delivery tags of this channel, the oldest first, and when each came."""
        self._done: list[int] = []
        """Those that have ended, and are still to be acknowledged."""
        self._subscription: str | None = None
        self._from = 0
        """The queue that is pushed from, by its place in the order."""
        self._room = 0
        """How many messages the subscription is for."""
        self._since_tag = self._last_tag = 0
        self._subscribed_at = 0.0
        self._rung = True

    def take(self, count: int) -> list[MessageProxy]:
        """See `Taker.take`: a message ends the waiting, and so does a publish to any of several queues."""
        with self._connected():
            self._settle()
            if not self._pushed:
                self._connection.process_data_events(0)
            self._choose()
            if not self._pushed:
                self._connection.process_data_events(self.settings.poll_s)
                return []  # more threads may ask by now than when the waiting began
            return [self._pushed.popleft() for _ in range(min(count, len(self._pushed)))]

    def beat(self) -> None:
        """See `Taker.beat`: answers RabbitMQ's heartbeats, unless somebody is about to."""
        self.asking.alone(self._beat)

    def _beat(self) -> None:
        with self._connected():
            self._connection.process_data_events(0)
            self._settle()

    def rest(self) -> None:
        """See `Taker.rest`."""
        while not self.asking.alone(self._put_back):
            time.sleep(0.02)

    def _put_back(self) -> None:
        with contextlib.suppress(AMQPError, OSError), self._connected():
            self._unsubscribe()
            while self._pushed:
                channel, tag = self._pushed.popleft().args[1].tag
                channel.basic_reject(tag, requeue=True)
                self._held.pop(tag, None)
                self._busy -= 1
            self._settle()

    def close(self) -> None:
        """See `Taker.close`; RabbitMQ puts back what is unacknowledged."""
        with contextlib.suppress(AMQPError, OSError):
            if self._connection is not None:
                self._settle()
                self._connection.close()

    @contextmanager
    def _connected(self) -> Generator[None]:
        try:
            if self._connection is None:
                self._connect()
            yield
        except (AMQPError, OSError):
            lost, self._connection = self._connection, None
            with contextlib.suppress(AMQPError, OSError):
                if lost is not None:
                    lost.close()
            self._busy -= len(self._pushed)
            self._begin(None)
            raise

    def _connect(self) -> None:
        self._connection = self.broker.connect()
        channel = self._connection.channel()
        self._begin(channel)
        for queue in self.queues:
            self.broker.declare_in(channel, queue)
        if len(self.queues) > 1:
            channel.exchange_declare(self.broker.wake_exchange, "fanout", auto_delete=False)
            bell = channel.queue_declare("", exclusive=True, auto_delete=True, arguments={"x-max-length": 1})
            channel.queue_bind(bell.method.queue, self.broker.wake_exchange)
            channel.basic_consume(bell.method.queue, self._ring, auto_ack=True)

    def _ring(self, *_delivery: Any) -> None:
        self._rung = True

    def _choose(self) -> None:
        """Be subscribed to the best queue that has a message, for every free thread."""
        late = time.monotonic() - self._subscribed_at > self.settings.poll_s
        best = self._from
        if len(self.queues) > 1 and (self._rung or late or not self._pushed):
            self._rung = False
            better = self.queues[: self._from] if self._pushed else self.queues
            best = next((n for n, queue in enumerate(better) if self._waiting(queue)), self._from)
            # What was on its way from the better queue has come by now: it counts as waiting no more.
            self._connection.process_data_events(0)
            best = min(best, self._from) if self._pushed else best
        free = self._threads - self._busy
        cramped = late and free > self._room - sum(tag > self._since_tag for tag in self._held)
        if free and (best != self._from or self._subscription is None or cramped):
            self._unsubscribe()
            self._channel.basic_qos(prefetch_count=free)
            self._from, self._room, self._since_tag = best, free, self._last_tag
            self._subscribed_at = time.monotonic()
            queue = self.queues[best]
            self._subscription = self._channel.basic_consume(queue, partial(self._push, queue))

    def _waiting(self, queue: str) -> int:
        return self._channel.queue_declare(queue, passive=True).method.message_count

    def _unsubscribe(self) -> None:
        subscription, self._subscription = self._subscription, None
        if subscription is not None:
            self._channel.basic_cancel(subscription)  # puts back what has come meanwhile

    def _push(self, queue: str, channel: Any, method: Any, _properties: Any, data: bytes) -> None:
        tag = self._last_tag = method.delivery_tag
        self._busy += 1
        self._held[tag] = time.monotonic()
        message = self.decoded(data, Delivery(queue, (channel, tag), {}))
        if message is not None:
            self._pushed.append(message)

    def _settle(self) -> None:
        while self.ended:
            delivery = self.ended.popleft()
            self._busy -= 1
            if delivery.dead is not None:
                self._bury(delivery.queue, delivery.dead)
            channel, tag = delivery.tag
            if channel is self._channel and self._held.pop(tag, None) is not None:
                self._done.append(tag)
        # All up to the oldest that still runs go by one word; the others wait for that as long as there is work.
        oldest = next(iter(self._held), self._last_tag + 1)
        together = max((tag for tag in self._done if tag < oldest), default=None)
        if together is not None:
            self._channel.basic_ack(together, multiple=True)
        self._done = [tag for tag in self._done if tag > oldest]
        while self._done and not self._pushed:
            self._channel.basic_ack(self._done.pop())
        self._let_go_of_long_ones()

    def _let_go_of_long_ones(self) -> None:
        before = time.monotonic() - self.settings.ack_after_s
        for tag in [tag for tag, came_at in self._held.items() if came_at < before]:
            self._unsubscribe()  # or the acknowledged would make room for messages that no thread is free for
            self._held.pop(tag)
            self._channel.basic_ack(tag)

    def _bury(self, queue: str, data: bytes) -> None:
        # A rejected message would stay for Dramatiq's seven days, and one acknowledged long ago would not go there.
        kept = pika.BasicProperties(
            delivery_mode=pika.DeliveryMode.Persistent.value, expiration=str(self.settings.failure_ttl_s * 1000)
        )
        self._channel.basic_publish("", xq_name(queue), data, kept)
