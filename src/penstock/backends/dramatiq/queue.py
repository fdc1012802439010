"""Dramatiq behind the backend contract: one actor, no middleware of Dramatiq's, no delay queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import ClassVar, Protocol

import msgspec

from penstock.backends.dramatiq.config import DramatiqSettings
from penstock.core.base import Backend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendNotInstalledError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES


class _Broker(Protocol):
    """What both brokers do. Each verb raises the errors of its client."""

    def publish(self, messages: Sequence[Message]) -> None: ...
    def withdraw(self, message_ids: Sequence[str]) -> int: ...
    def depth(self, queue: str) -> int: ...
    def work(self, order: WorkOrder) -> None: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...


_Told = Callable[[str], AbstractContextManager[None]]


class DramatiqBackend(Backend):
    """Jobs carried by Dramatiq, on Redis or RabbitMQ, in threads of one process."""

    name: ClassVar[str] = "dramatiq"
    schemes: ClassVar[tuple[str, ...]] = (
        *(f"dramatiq+{scheme}" for scheme in REDIS_SCHEMES), "dramatiq+amqp", "dramatiq+amqps",
    )  # fmt: skip
    settings_type: ClassVar[type[msgspec.Struct]] = DramatiqSettings

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL that the transport's client cannot read."""
        super().__init__(context)
        self._broker, told = _broker(context)
        self._told: Callable[[], AbstractContextManager[None]] = lambda: told(mask_url(context.url))

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """On Redis, priorities are queues of their own; RabbitMQ has them, but gives no single message back."""
        native, on_rabbitmq = Support.NATIVE, "+amqp" in scheme
        return Capabilities(
            priority=native if on_rabbitmq else Support.EMULATED,
            withdraw=Support.ABSENT if on_rabbitmq else native,
            depth=native,
            bulk=native,
            workers=native,
            persistent=native,
        )

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one MULTI, or one transaction of RabbitMQ."""
        with self._told():
            self._broker.publish(messages)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with self._told():
            return self._broker.withdraw(message_ids)

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told():
            return self._broker.depth(queue)

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        url = self.context.url.partition("+")[2]
        if url.startswith("amqp"):
            from penstock.backends.dramatiq import amqp_look

            return amqp_look.look(self._broker, queues)
        from penstock.servers import redis_look

        return redis_look.look(url, "dramatiq", "redis", holds="messages", namespace=self.context.namespace)

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: Dramatiq's worker threads behind one consumer."""
        with self._told():
            self._broker.work(order)

    def stop(self) -> None:
        """See `Backend.stop`."""
        self._broker.stop()

    def close(self) -> None:
        """See `Backend.close`."""
        self._broker.close()


def _broker(context: BackendContext) -> tuple[_Broker, _Told]:
    """Load the client of this transport only, and make the broker: it opens nothing."""
    url = context.url.partition("+")[2]
    try:
        if url.startswith("amqp"):
            from penstock.backends.dramatiq import amqp_broker

            return amqp_broker.OrderedAmqpBroker(context, url), amqp_broker.told
        from penstock.backends.dramatiq import redis_broker
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(context.url.partition("://")[0], "dramatiq") from error
    return redis_broker.OrderedRedisBroker(context, url), redis_broker.told
