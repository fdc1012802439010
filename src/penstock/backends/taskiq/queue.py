"""TaskIQ behind the backend contract: one task, no retries, no results, no delays, no scheduler."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import msgspec
from taskiq import AckableMessage
from taskiq.acks import AcknowledgeType
from taskiq.receiver import Receiver

from penstock.backends.taskiq.broker import OneTaskBroker, native
from penstock.backends.taskiq.config import TaskiqSettings
from penstock.core.base import AsyncBackend, MirroredFailure, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import (
    BackendError,
    BackendNotInstalledError,
    BackendUnavailableError,
    ConfigError,
    UnsupportedError,
)
from penstock.core.secrets import mask_url
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.taskiq")


class _Mirrored(logging.Filter):
    """TaskIQ logs a traceback of each task that raises; a failure that is only mirrored has been told already."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], MirroredFailure))


# TaskIQ tells at INFO of each task: the ledger does that.
logging.getLogger("taskiq").setLevel(logging.WARNING)
logging.getLogger("taskiq.receiver.receiver").addFilter(_Mirrored())


class _Receiver(Receiver):
    """TaskIQ's receiver; it also knows what runs, and tells the broker of each message that is dealt with."""

    broker: OneTaskBroker

    def __init__(self, broker: OneTaskBroker, **options: Any) -> None:
        super().__init__(broker, **options)
        self.running: set[asyncio.Task[Any]] = set()

    async def callback(self, message: bytes | AckableMessage, raise_err: bool = False) -> None:
        """Deal with a message, whatever it holds."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the receiver makes one for each message
        self.running.add(task)
        try:
            await super().callback(message, raise_err)
        finally:
            self.running.discard(task)
            await self.broker.ended()


class TaskiqBackend(AsyncBackend):
    """Jobs carried by TaskIQ, on Redis, RabbitMQ or NATS."""

    name: ClassVar[str] = "taskiq"
    schemes: ClassVar[tuple[str, ...]] = (
        "taskiq+redis", "taskiq+rediss", "taskiq+amqp", "taskiq+amqps", "taskiq+nats", "taskiq+tls",
    )  # fmt: skip
    settings_type: ClassVar[type[msgspec.Struct]] = TaskiqSettings

    _stopped: asyncio.Event | None = None

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """TaskIQ itself knows neither priorities nor withdrawal nor bulk; RabbitMQ has the first, Redis the last."""
        transport = scheme.partition("+")[2]
        return Capabilities(
            priority=Support.NATIVE if transport.startswith("amqp") else Support.EMULATED,
            withdraw=Support.ABSENT,
            depth=Support.NATIVE,
            bulk=Support.NATIVE if transport.startswith("redis") else Support.EMULATED,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    @cached_property
    def _broker(self) -> OneTaskBroker:
        url = self.context.url.partition("+")[2]
        settings: Any = self.context.settings
        try:
            return _broker_class(url)(url, self.context.namespace, settings)
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError("taskiq") from error
        except ValueError as error:
            raise ConfigError(f"{mask_url(self.context.url)}: {error}") from error

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`."""
        with self._told():
            await self._broker.publish([native(message) for message in messages])

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """Not to be had: no broker of TaskIQ's finds a message by its id."""
        raise UnsupportedError(self.context.url.partition("://")[0], "withdraw")

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told():
            return await self._broker.depth(queue)

    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: TaskIQ's receiver, in this loop."""
        settings: Any = self.context.settings
        broker = self._broker

        async def run(**kwargs: Any) -> None:
            try:
                message = msgspec.convert(kwargs, Message)
            except msgspec.ValidationError as error:
                logger.warning("refused a message that is not ours: %s", error)
                line = f"not a message of penstock: {error}"
            else:
                line = await self.context.aexecute(message)
            if line is not None and settings.mirror_failures:
                raise MirroredFailure(line)

        with self._told():
            broker.queues = order.queues
            broker.concurrency = order.concurrency
            broker.on_ready = order.on_ready
            broker.only(run)
            broker.is_worker_process = True
            await broker.connect()
            self._stopped = asyncio.Event()
            receiver = _Receiver(
                broker,
                validate_params=False,
                max_async_tasks=order.concurrency,
                max_prefetch=0,
                run_startup=False,
                ack_type=AcknowledgeType.WHEN_RECEIVED,
            )
            try:
                await receiver.listen(self._stopped)
            finally:
                self._stopped = None
                # When listening fails, TaskIQ leaves what runs behind.
                if receiver.running:
                    await asyncio.wait(tuple(receiver.running))

    async def stop(self) -> None:
        """See `Backend.stop`."""
        if self._stopped is not None:
            self._stopped.set()

    async def close(self) -> None:
        """See `Backend.close`."""
        if "_broker" in self.__dict__:
            with self._told():
                await self._broker.disconnect()

    @contextmanager
    def _told(self) -> Generator[None]:
        where = mask_url(self.context.url)
        try:
            yield
        except (BackendError, ConfigError):
            raise
        except BaseExceptionGroup as group:
            # TaskIQ's receiver runs in a task group.
            raise BackendError(f"{where}: {group.exceptions[0]}") from group
        except Exception as error:
            if isinstance(error, self._broker.outages):
                raise BackendUnavailableError(f"{where} cannot be reached: {error}") from error
            raise BackendError(f"{where}: {type(error).__name__}: {error}") from error


def _broker_class(url: str) -> type[OneTaskBroker]:
    """Import the broker of a URL, and with it the one driver that it needs."""
    if url.startswith("redis"):
        from penstock.backends.taskiq.redis import RedisBroker

        return RedisBroker
    if url.startswith("amqp"):
        from penstock.backends.taskiq.amqp import AmqpBroker

        return AmqpBroker
    from penstock.backends.taskiq.nats import NatsBroker

    return NatsBroker
