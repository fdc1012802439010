"""SAQ behind the backend contract: one task, no retries, no timeouts, no aborts, no clock of its own."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.worker import Lane, LanesWorker
from penstock.core.base import AsyncBackend, BackendContext, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendNotInstalledError, BackendUnavailableError
from penstock.core.secrets import mask_url
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES

if TYPE_CHECKING:
    from saq import Job


class SaqBackend(AsyncBackend):
    """Jobs carried by SAQ: what is made of a URL is the backend for Redis, or for Postgres."""

    name: ClassVar[str] = "saq"
    schemes: ClassVar[tuple[str, ...]] = (
        *(f"saq+{scheme}" for scheme in REDIS_SCHEMES), "saq+postgres", "saq+postgresql",
    )  # fmt: skip
    settings_type: ClassVar[type[msgspec.Struct]] = SaqSettings
    outages: ClassVar[tuple[type[Exception], ...]] = ()
    """What the driver raises when the store is out of reach."""

    def __new__(cls, context: BackendContext) -> SaqBackend:
        """Import the driver of this URL, and no other. Raises `BackendNotInstalledError`."""
        try:
            if "postgres" in context.url.partition("://")[0]:
                from penstock.backends.saq.postgres import PostgresBackend as Backend
            else:
                from penstock.backends.saq.redis import RedisBackend as Backend
        except ModuleNotFoundError as error:
            raise BackendNotInstalledError("saq", "saq,postgres") from error
        return object.__new__(Backend)

    def __init__(self, context: BackendContext) -> None:
        """See `Backend`."""
        super().__init__(context)
        self.url = context.url.partition("+")[2]
        self.settings: Any = context.settings
        self._lanes: dict[str, Any] = {}
        self._worker: LanesWorker | None = None

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """SAQ knows priorities on Postgres only; on Redis there is a list for each."""
        return Capabilities(
            priority=Support.NATIVE if "postgres" in scheme else Support.EMULATED,
            withdraw=Support.NATIVE,
            depth=Support.NATIVE,
            bulk=Support.NATIVE,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: SAQ's worker, in this loop."""
        with self.told():
            await self.depth(order.queues[0])  # a store out of reach is told at once, not waited for
            self._worker = LanesWorker(self, order)
            await self._worker.start()

    async def stop(self) -> None:
        """See `Backend.stop`."""
        if self._worker is not None:
            self._worker.quit()

    @contextmanager
    def told(self) -> Generator[None]:
        """Make what the driver raises an error of ours."""
        try:
            yield
        except self.outages as error:
            raise BackendUnavailableError(f"{mask_url(self.context.url)} cannot be reached: {error}") from error

    def lane(self, queue: str) -> Any:
        """Return one queue of this namespace, always the same object."""
        if queue not in self._lanes:
            self._lanes[queue] = self.new_lane(queue)
        return self._lanes[queue]

    @abstractmethod
    def new_lane(self, queue: str) -> Lane:
        """Make SAQ's own queue for one of ours."""

    @abstractmethod
    async def take(self, queues: Sequence[str], count: int) -> list[Job]:
        """Take the best jobs that wait, at most ``count``, without waiting."""

    @abstractmethod
    async def wait(self, queues: Sequence[str]) -> None:
        """Wait about a second until there may be something to take. Nothing is lost when it is cancelled."""
