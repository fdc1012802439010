"""Huey behind the backend contract: one task, no results, no retries, no revocations, no clock of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from penstock.backends.asking import Asking
from penstock.backends.huey import storage
from penstock.backends.huey.config import HueySettings
from penstock.backends.huey.engine import OneTaskHuey, QuietConsumer
from penstock.core.base import Backend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendNotInstalledError, ConfigError
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
        self._path = url.removeprefix("sqlite://").removeprefix("/") if url.startswith("sqlite") else None
        if self._path == "":
            raise ConfigError("huey+sqlite needs a path: huey+sqlite:///queue.db")
        self._storage: Any
        self._told: Callable[[], AbstractContextManager[None]]
        if self._path is None:
            self._storage, self._told = _redis(url, context)
        else:
            self._storage, self._told = (
                storage.QueueStorage(context.namespace, self._path),
                partial(storage.told, self._path),
            )
        self._huey = OneTaskHuey(context, self._storage)
        self._consumer: Any = None

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """What Huey can do, on SQLite and on Redis."""
        native = Support.NATIVE
        return Capabilities(
            priority=native, withdraw=native, depth=native, bulk=native, workers=native, persistent=native
        )

    def _native(self, name: str) -> str:
        return f"{self.context.namespace}:{name}"

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction for all."""
        rows = [(self._native(m.queue), self._huey.encode(m), m.priority, self._native(m.id)) for m in messages]
        with self._told():
            self._storage.put_messages(rows)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with self._told():
            return self._storage.withdraw([self._native(message_id) for message_id in message_ids])

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told():
            return self._storage.waiting(self._native(queue))

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        if self._path is not None:
            path = Path(self._path)
            if not path.exists() and (why := disk.cannot_make(path)) is not None:
                return [Finding(name="server", level="error", told=f"its file cannot be made: {why}")]
            told = f"SQLite {sqlite3.sqlite_version}, synchronous NORMAL"
            return [well(told, "huey"), *disk.look(Path(self._path))]
        from penstock.servers import redis_look

        return redis_look.look(self._url, "huey", "redis", holds="messages", namespace=self.context.namespace)

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: Huey's consumer with worker threads."""
        huey = self._huey
        with self._told():
            self._storage.listen([self._native(queue) for queue in order.queues])
        huey.asking = Asking(huey.fetch, self.context.claim_ahead, order.on_contact)
        self._consumer = QuietConsumer(huey, workers=order.concurrency, periodic=False)
        self._consumer.start()
        order.on_ready()
        self._consumer.run_until_stopped()
        self._consumer = None

    def stop(self) -> None:
        """See `Backend.stop`."""
        consumer = self._consumer
        if consumer is not None:
            consumer.stop_flag.set()
            self._huey.asking.stop()

    def close(self) -> None:
        """See `Backend.close`."""
        self._storage.close()


def _redis(url: str, context: BackendContext) -> tuple[Any, Callable[[], AbstractContextManager[None]]]:
    """Load what needs redis-py, which the embedded default does without."""
    try:
        from penstock.backends.huey import redis_storage
    except ModuleNotFoundError as error:
        raise BackendNotInstalledError("huey+redis", "huey") from error
    made = redis_storage.RedisQueueStorage(context.namespace, url, context.settings)
    return made, partial(redis_storage.told, mask_url(context.url))
