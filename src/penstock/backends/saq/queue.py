"""SAQ behind the backend contract: one task, no retries, no timeouts, no aborts, no clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.worker import LanesWorker
from penstock.core.base import AsyncBackend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendNotInstalledError, BackendUnavailableError, ConfigError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES
from penstock.servers.redis_url import refuse_unreadable

if TYPE_CHECKING:
    from penstock.backends.saq.postgres import PostgresStore
    from penstock.backends.saq.redis import RedisStore


class SaqBackend(AsyncBackend):
    """Jobs carried by SAQ, on Redis or Postgres."""

    name: ClassVar[str] = "saq"
    schemes: ClassVar[tuple[str, ...]] = (
        *(f"saq+{scheme}" for scheme in REDIS_SCHEMES), "saq+postgres", "saq+postgresql",
    )  # fmt: skip
    settings_type: ClassVar[type[msgspec.Struct]] = SaqSettings

    _worker: LanesWorker | None = None

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL of Redis that cannot be read."""
        super().__init__(context)
        refuse_unreadable(context.url)

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """SAQ knows priorities on Postgres only; on Redis there is a list for each."""
        on_postgres = "postgres" in scheme
        return Capabilities(
            priority=Support.NATIVE if on_postgres else Support.EMULATED,
            withdraw=Support.NATIVE,
            depth=Support.NATIVE,
            bulk=Support.NATIVE,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    @cached_property
    def _store(self) -> RedisStore | PostgresStore:
        settings: Any = self.context.settings
        url = self.context.url.partition("+")[2]
        try:
            if url.startswith("postgres"):
                from penstock.backends.saq.postgres import PostgresStore

                return PostgresStore(url, self.context.namespace, settings)
            from penstock.backends.saq.redis import RedisStore

            return RedisStore(url, self.context.namespace, settings)
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError("saq", "saq,postgres") from error
        except ValueError as error:
            raise ConfigError(f"{mask_url(self.context.url)}: {error}") from error

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction for all."""
        with self._told() as store:
            await store.publish(messages)

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with self._told() as store:
            return await store.withdraw(message_ids)

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told() as store:
            return await store.depth(queue)

    async def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        url = self.context.url.partition("+")[2]
        if url.startswith("postgres"):
            from penstock.servers import postgres_look

            return await asyncio.to_thread(postgres_look.look, url, "saq", "psycopg")
        from penstock.servers import redis_look

        return await asyncio.to_thread(
            redis_look.look, url, "saq", "redis", holds="messages", namespace=self.context.namespace
        )

    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: SAQ's worker, in this loop."""
        settings: Any = self.context.settings
        with self._told() as store:
            await store.connect()
            self._worker = LanesWorker(store, self.context, settings, order)
            await self._worker.start()

    async def stop(self) -> None:
        """See `Backend.stop`."""
        if self._worker is not None:
            self._worker.quit()

    async def close(self) -> None:
        """See `Backend.close`."""
        if "_store" in self.__dict__:
            await self._store.close()

    @contextmanager
    def _told(self) -> Generator[RedisStore | PostgresStore]:
        store = self._store
        try:
            yield store
        except store.outages as error:
            raise BackendUnavailableError(f"{mask_url(self.context.url)} cannot be reached: {error}") from error
