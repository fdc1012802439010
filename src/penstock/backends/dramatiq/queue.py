"""Dramatiq behind the backend contract: one actor, no middleware of Dramatiq's, no delay queues."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import msgspec

from penstock.backends.dramatiq.config import DramatiqSettings
from penstock.backends.dramatiq.worker import Taker, serve
from penstock.core.base import Backend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendNotInstalledError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES


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
        self._url = context.url.partition("+")[2]
        self._broker, self._told = _broker(context, self._url)
        self._taker: Taker | None = None

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
        if self._url.startswith("amqp"):
            from penstock.backends.dramatiq import amqp_look

            return amqp_look.look(self._broker, queues)
        from penstock.servers import redis_look

        return redis_look.look(self._url, "dramatiq", "redis", holds="messages", namespace=self.context.namespace)

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: Dramatiq's worker threads behind one consumer."""
        taker = self._taker = self._broker.taker(order)
        try:
            with self._told():
                serve(self._broker, taker, order)
        finally:
            self._taker = None

    def stop(self) -> None:
        """See `Backend.stop`."""
        taker = self._taker
        if taker is not None:
            taker.asking.stop()

    def close(self) -> None:
        """See `Backend.close`."""
        self._broker.close()


def _broker(context: BackendContext, url: str) -> tuple[Any, Callable[[], AbstractContextManager[None]]]:
    """Load the client of this transport only, and make the broker: it opens nothing."""
    try:
        if url.startswith("amqp"):
            from penstock.backends.dramatiq import amqp_broker as transport
        else:
            from penstock.backends.dramatiq import redis_broker as transport
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError(context.url.partition("://")[0], "dramatiq") from error
    return transport.OrderedBroker(context, url), partial(transport.told, mask_url(context.url))
