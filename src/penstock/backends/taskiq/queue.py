"""TaskIQ behind the backend contract: one task, no retries, no results, no delays, no scheduler."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec

from penstock.backends.taskiq.broker import OneTaskBroker
from penstock.backends.taskiq.config import TaskiqSettings
from penstock.backends.taskiq.worker import Worker
from penstock.core.base import AsyncBackend, BackendContext, Finding, MirroredFailure, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendNotInstalledError, BackendUnavailableError, ConfigError, UnsupportedError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES


class TaskiqBackend(AsyncBackend):
    """Jobs carried by TaskIQ, on Redis, RabbitMQ or NATS."""

    name: ClassVar[str] = "taskiq"
    schemes: ClassVar[tuple[str, ...]] = (
        *(f"taskiq+{scheme}" for scheme in REDIS_SCHEMES), "taskiq+amqp", "taskiq+amqps", "taskiq+nats", "taskiq+tls",
    )  # fmt: skip
    settings_type: ClassVar[type[msgspec.Struct]] = TaskiqSettings

    _worker: Worker | None = None

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL that cannot be read."""
        super().__init__(context)
        self._url = url = context.url.partition("+")[2]
        self._settings: Any = context.settings
        try:
            self._broker = _broker_class(url)(url, context.namespace, self._settings)
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError("taskiq") from error
        except ValueError as error:
            raise ConfigError(f"{mask_url(context.url)}: {error}") from error

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """TaskIQ itself knows neither priorities nor withdrawal nor bulk; RabbitMQ has the first, Redis the last."""
        transport = scheme.partition("+")[2]
        return Capabilities(
            priority=Support.NATIVE if transport.startswith("amqp") else Support.EMULATED,
            withdraw=Support.ABSENT,
            depth=Support.NATIVE,
            bulk=Support.NATIVE if transport in REDIS_SCHEMES else Support.EMULATED,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`."""
        with self._told():
            await self._broker.publish(messages)

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """Not to be had: no broker of TaskIQ's finds a message by its id."""
        raise UnsupportedError(self.context.url.partition("://")[0], "withdraw")

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told():
            return await self._broker.depth(queue)

    async def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        url, namespace = self._url, self.context.namespace
        if url.startswith("amqp"):
            from penstock.backends.taskiq import amqp_look

            return await amqp_look.look(url, [f"penstock.{namespace}.{queue}" for queue in queues])
        if url.startswith(("nats", "tls")):
            from penstock.backends.taskiq import nats_look

            return await nats_look.look(url, f"penstock-{nats_look.token(namespace)}")
        from penstock.servers import redis_look

        return await asyncio.to_thread(redis_look.look, url, "taskiq", "redis", holds="messages", namespace=namespace)

    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: TaskIQ's receiver, in this loop."""

        async def run(**kwargs: Any) -> None:
            try:
                message = msgspec.convert(kwargs, Message)
            except msgspec.ValidationError as error:
                self.context.refuse(str(error))
                line = f"not a message of penstock: {error}"
            else:
                line = await self.context.aexecute(message)
            if line is not None and self._settings.mirror_failures:
                raise MirroredFailure(line)

        self._broker.serve(order.queues, run, self.context.refuse)
        self._worker = worker = Worker(self._broker, order)
        with self._told():
            await worker.work()

    async def stop(self) -> None:
        """See `Backend.stop`."""
        if self._worker is not None:
            await self._worker.stop()

    async def close(self) -> None:
        """See `Backend.close`."""
        with self._told():
            await self._broker.disconnect()

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except self._broker.outages as error:
            raise BackendUnavailableError(f"{mask_url(self.context.url)} cannot be reached: {error}") from error


def _broker_class(url: str) -> type[OneTaskBroker]:
    """Import the broker of a URL, and with it the one driver that it needs."""
    if url.partition("://")[0] in REDIS_SCHEMES:
        from penstock.backends.taskiq.redis import RedisBroker

        return RedisBroker
    if url.startswith("amqp"):
        from penstock.backends.taskiq.amqp import AmqpBroker

        return AmqpBroker
    from penstock.backends.taskiq.nats import NatsBroker

    return NatsBroker
