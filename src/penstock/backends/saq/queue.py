"""SAQ behind the backend contract: one task, no retries, no timeouts, no aborts, no clock of its own."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.worker import OneTaskWorker
from penstock.core.base import AsyncBackend, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendError, BackendNotInstalledError, BackendUnavailableError, ConfigError
from penstock.core.secrets import mask_url
from penstock.job.models import Message

if TYPE_CHECKING:
    from penstock.backends.saq.worker import Source


class _Transport(Protocol):
    """What SAQ stores its jobs in."""

    async def publish(self, messages: Sequence[Message]) -> None: ...
    async def withdraw(self, message_ids: Sequence[str]) -> int: ...
    async def depth(self, queue: str) -> int: ...
    async def source(self, queues: Sequence[str]) -> Source: ...
    async def close(self) -> None: ...


class SaqBackend(AsyncBackend):
    """Jobs carried by SAQ, on Redis or Postgres."""

    name: ClassVar[str] = "saq"
    schemes: ClassVar[tuple[str, ...]] = ("saq+redis", "saq+rediss", "saq+postgres", "saq+postgresql")
    settings_type: ClassVar[type[msgspec.Struct]] = SaqSettings

    _worker: OneTaskWorker | None = None

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

    @property
    def _url(self) -> str:
        return self.context.url.partition("+")[2]

    @cached_property
    def _transport(self) -> _Transport:
        settings: Any = self.context.settings
        try:
            if self._url.startswith("postgres"):
                from penstock.backends.saq.postgres import PostgresTransport

                return PostgresTransport(self._url, self.context.namespace, settings)
            from penstock.backends.saq.redis import RedisTransport

            return RedisTransport(self._url, self.context.namespace, settings)
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError("saq", "saq,postgres") from error
        except ValueError as error:
            raise ConfigError(f"{mask_url(self.context.url)}: {error}") from error

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction for all."""
        with self._told():
            await self._transport.publish(messages)

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with self._told():
            return await self._transport.withdraw(message_ids)

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told():
            return await self._transport.depth(queue)

    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: SAQ's worker, in this loop."""
        settings: Any = self.context.settings
        with self._told():
            source = await self._transport.source(order.queues)
            try:
                await source.connect()
                self._worker = worker = OneTaskWorker(source, self.context.aexecute, settings, order, _is_outage)
                await worker.start()
            finally:
                self._worker = None
                await source.close()
            if worker.failure is not None:
                raise worker.failure

    async def stop(self) -> None:
        """See `Backend.stop`."""
        if self._worker is not None:
            await self._worker.quit()

    async def close(self) -> None:
        """See `Backend.close`."""
        if "_transport" in self.__dict__:
            await self._transport.close()

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except (BackendError, ConfigError):
            raise
        except Exception as error:
            where = mask_url(self.context.url)
            if _is_outage(error):
                raise BackendUnavailableError(f"{where} cannot be reached: {error}") from error
            raise BackendError(f"{where}: {type(error).__name__}: {error}") from error


def _is_outage(error: Exception) -> bool:
    """Whether trying again may help. The drivers are not imported for it: only one of them need be installed."""
    if isinstance(error, OSError):
        return True
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    return bool(names & {"redis.ConnectionError", "redis.TimeoutError", "psycopg.OperationalError"})
