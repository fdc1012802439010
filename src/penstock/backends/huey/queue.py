"""Huey behind the backend contract: one task, no results, no retries, no revocations, no clock of its own."""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec
from huey.consumer import Consumer

from penstock.backends.huey.config import HueySettings
from penstock.backends.huey.engine import OneTaskHuey, QuietConsumer
from penstock.backends.huey.storage import QueueStorage
from penstock.core.base import Backend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import (
    BackendError,
    BackendNotInstalledError,
    BackendUnavailableError,
    ConfigError,
)
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers import disk
from penstock.servers.findings import well
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES
from penstock.servers.redis_url import key_namespace


class HueyBackend(Backend):
    """Jobs carried by Huey in a SQLite file or on Redis. Threads of one process; several processes may share both."""

    name: ClassVar[str] = "huey"
    schemes: ClassVar[tuple[str, ...]] = ("huey+sqlite", *(f"huey+{scheme}" for scheme in REDIS_SCHEMES))
    settings_type: ClassVar[type[msgspec.Struct]] = HueySettings

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL without a path, or that redis-py cannot read."""
        self._url = url = context.url.partition("+")[2]
        context = msgspec.structs.replace(context, namespace=key_namespace(url, context.namespace))
        super().__init__(context)
        transport, _, rest = url.partition("://")
        self._storage: Callable[..., Any]
        if transport == "sqlite":
            self._where = rest.removeprefix("/")
            if not self._where:
                raise ConfigError("huey+sqlite needs a path: huey+sqlite:///queue.db")
            self._storage, self._told = partial(_sqlite, self._where, context.settings), partial(_told, self._where)
        else:
            self._where = mask_url(context.url)
            self._storage, told = _redis(url, context)
            self._told = partial(told, self._where)
        self._consumer: Consumer | None = None
        self._opened: OneTaskHuey | None = None
        self._lock = threading.Lock()

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """What Huey can do, on SQLite and on Redis."""
        return Capabilities(
            priority=Support.NATIVE,
            withdraw=Support.NATIVE,
            depth=Support.NATIVE,
            bulk=Support.NATIVE,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    @property
    def _huey(self) -> OneTaskHuey:
        # Not a cached_property: since Python 3.12 two threads may both make one, and a connection stays open.
        if self._opened is None:
            with self._lock, self._told():
                if self._opened is None:
                    self._opened = OneTaskHuey(self.context, storage_class=self._storage)
        return self._opened

    def _queue(self, queue: str) -> str:
        return f"{self.context.namespace}:{queue}"

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction for all."""
        rows = [
            (self._queue(m.queue), self._huey.encode(m), m.priority, f"{self.context.namespace}:{m.id}")
            for m in messages
        ]
        with self._told():
            self._huey.storage.put_messages(rows)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with self._told():
            return self._huey.storage.withdraw([f"{self.context.namespace}:{i}" for i in message_ids])

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told():
            return self._huey.storage.waiting(self._queue(queue))

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        if self._url.startswith("sqlite"):
            told = f"SQLite {sqlite3.sqlite_version}, synchronous NORMAL"
            return [well(told, "huey"), *disk.look(Path(self._where))]
        from penstock.servers import redis_look

        return redis_look.look(self._url, "huey", "redis", holds="messages", namespace=self.context.namespace)

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: Huey's consumer with worker threads."""
        settings: Any = self.context.settings
        with self._told():
            self._huey.storage.listen([self._queue(queue) for queue in order.queues])
        consumer = QuietConsumer(
            self._huey,
            workers=order.concurrency,
            periodic=False,
            initial_delay=settings.first_poll_s,
            backoff=1.5,
            max_delay=settings.poll_s,
            worker_type="thread",
            check_worker_health=True,
            health_check_interval=1,
        )
        self._huey.stopped = consumer.stop_flag.is_set
        self._consumer = consumer
        consumer.start()
        order.on_ready()
        consumer.run_until_stopped()
        self._consumer = None

    def stop(self) -> None:
        """See `Backend.stop`."""
        consumer = self._consumer
        if consumer is not None:
            consumer.stop_flag.set()

    def close(self) -> None:
        """See `Backend.close`."""
        if self._opened is not None:
            self._opened.storage.close()


def _sqlite(path: str, settings: Any, name: str) -> QueueStorage:
    return QueueStorage(name, filename=path, timeout=settings.busy_timeout_s, cache_mb=settings.cache_mb)


def _redis(url: str, context: BackendContext) -> tuple[Callable[..., Any], Callable[[str], Any]]:
    """Load what needs redis-py, which the embedded default does without, and make the storage: it opens nothing."""
    settings: Any = context.settings
    try:
        from penstock.backends.huey.redis_storage import RedisQueueStorage, told
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError("huey+redis", "huey") from error
    storage = RedisQueueStorage(
        context.namespace, url, block_s=settings.block_s, connect_timeout_s=settings.connect_timeout_s
    )

    def made(_name: str) -> RedisQueueStorage:
        return storage

    return made, told


@contextmanager
def _told(path: str) -> Generator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise BackendUnavailableError(f"huey cannot use its queue file {path}: {error}") from error
    except sqlite3.Error as error:
        raise BackendError(f"huey's queue file {path} is damaged or foreign: {error}") from error
