"""Dramatiq's RabbitMQ broker, with its own queues, made to take by preference and to publish in bulk.

Dramatiq has RabbitMQ push messages of each queue to a connection of its own, so no order of preference holds and
messages wait in a busy worker: an `AmqpTaker` does it otherwise. Read at Dramatiq 2.2.1: it publishes with confirms,
310 messages/s; one transaction takes 1,000.
"""

# Dramatiq's and pika's hints are partial: what comes out of them is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import copy
import logging
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import pika
from dramatiq.brokers.rabbitmq import DEAD_MESSAGE_TTL, RabbitmqBroker
from dramatiq.common import xq_name
from pika.exceptions import AMQPConnectionError, AMQPError

from penstock.backends.dramatiq.amqp_taker import AmqpTaker
from penstock.backends.dramatiq.worker import encode
from penstock.core.base import BackendContext, WorkOrder
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError, UnsupportedError
from penstock.job.models import Message

_MAX_PRIORITY = 9
_BLOCKED_S = 30
"""How long to wait for a server that takes nothing because its memory or disk is full."""

# pika tells at length of every connection that fails; we say it once.
logging.getLogger("pika").setLevel(logging.CRITICAL)


class OrderedBroker(RabbitmqBroker):
    """One namespace. Everything but a worker's taking goes over one connection, one verb at a time."""

    def __init__(self, context: BackendContext, url: str) -> None:
        """Raises `ConfigError` for a URL that pika cannot read; opens nothing."""
        self.context = context
        self.settings: Any = context.settings
        try:
            super().__init__(url=url, middleware=[], max_priority=_MAX_PRIORITY)
        except ValueError as error:
            raise ConfigError(f"dramatiq+amqp: {error}") from None
        self.wake_exchange = f"{context.namespace}:wake"
        # pika gives a silent connection up after one to two times the heartbeat and 5 s (pika 1.4: `HeartbeatChecker`).
        self.heartbeat_s = max(1, int(self.settings.answer_timeout_s / 2 - 5))
        self._lock = threading.Lock()
        self._channel: Any = None
        self._declared: set[str] = set()

    def native(self, queue: str) -> str:
        """Name Dramatiq's queue for one of ours."""
        # A name that ends so is never that of the dead letters of another, ``<queue>.XQ``.
        return f"{self.context.namespace}:{queue}:jobs"

    def connect(self) -> Any:
        """Open a connection of its own, to the first server of the URL that answers."""
        found: Any = self.parameters
        chosen = [copy.copy(one) for one in (found if isinstance(found, list) else [found])]
        for parameters in chosen:
            parameters.heartbeat = self.heartbeat_s
            parameters.socket_timeout = parameters.stack_timeout = self.settings.connect_timeout_s
            parameters.blocked_connection_timeout = _BLOCKED_S
        return pika.BlockingConnection(chosen)

    def declare_in(self, channel: Any, queue: str) -> int:
        """Declare a queue and its dead letters as Dramatiq would, without the delay queue; count what waits there."""
        channel.queue_declare(xq_name(queue), durable=True, arguments={"x-message-ttl": DEAD_MESSAGE_TTL})
        found = channel.queue_declare(queue, durable=True, arguments=self._build_queue_arguments(queue))
        return found.method.message_count

    def _talk(self, say: Callable[[Any], Any]) -> Any:
        """Call ``say(channel)``, a second time when an idle connection turns out to be lost."""
        with self._lock:
            if self._channel is not None:
                try:
                    return say(self._channel)
                except AMQPError:
                    self._hang_up()
            # Nobody answers heartbeats while this connection is idle: RabbitMQ closes it, the next verb opens another.
            # Without heartbeats a verb would wait for ever on a connection that has fallen silent.
            self._channel = self.connect().channel()
            self._channel.tx_select()
            self._channel.exchange_declare(self.wake_exchange, "fanout", auto_delete=False)
            try:
                return say(self._channel)
            except BaseException:
                self._hang_up()
                raise

    def _hang_up(self) -> None:
        channel, self._channel = self._channel, None
        self._declared.clear()
        if channel is not None:
            with contextlib.suppress(AMQPError):
                channel.connection.close()

    def publish(self, messages: Sequence[Message]) -> None:
        """Store messages in one transaction, and wake the workers that wait."""

        def say(channel: Any) -> None:
            for message in messages:
                queue = self.native(message.queue)
                if queue not in self._declared:
                    self.declare_in(channel, queue)
                    self._declared.add(queue)
                kept = pika.BasicProperties(delivery_mode=pika.DeliveryMode.Persistent.value, priority=message.priority)
                channel.basic_publish("", queue, encode(message, queue), kept)
            channel.basic_publish(self.wake_exchange, "", b"")
            channel.tx_commit()

        self._talk(say)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Not to be had: RabbitMQ gives no single message back."""
        raise UnsupportedError("dramatiq+amqp", "withdraw")

    def depth(self, queue: str) -> int:
        """Count the messages that wait in a queue."""
        return self._talk(lambda channel: self.declare_in(channel, self.native(queue)))

    def taker(self, order: WorkOrder) -> AmqpTaker:
        """Make what takes messages."""
        return AmqpTaker(self, order)

    def close(self) -> None:
        """Let go of the connections."""
        with self._lock:
            self._hang_up()


@contextmanager
def told(where: str) -> Generator[None]:
    """Say in our words what is wrong with the server."""
    try:
        yield
    except (AMQPConnectionError, OSError) as error:
        raise BackendUnavailableError(f"dramatiq cannot reach {where}: {error!r}") from error
    except AMQPError as error:
        raise BackendError(f"dramatiq failed at {where}: {error!r}") from error
