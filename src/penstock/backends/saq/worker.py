"""SAQ's own worker, made to take from several queues in order, and to stop without waiting for its upkeep.

SAQ's own takes from one queue. Its sweep takes a job that was only just taken for a dead one (SAQ #124, #277), and a
worker killed while it sweeps leaves that job in no list, with no end. So there is no sweep: what runs has a short life
in the store, which its worker renews.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import defaultdict, deque
from collections.abc import Awaitable, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec
from saq import Job, Queue, Worker
from saq.job import Status
from saq.utils import now

from penstock.backends.saq.config import SaqSettings
from penstock.core.base import WorkOrder
from penstock.job.models import Message

if TYPE_CHECKING:
    from penstock.backends.saq.queue import SaqBackend

logger = logging.getLogger("penstock.backends.saq")

# SAQ tells at INFO of each job: the ledger does that.
logging.getLogger("saq").setLevel(logging.WARNING)

_NEVER_S = 10**9


class Lane(Queue, ABC):
    """One of SAQ's queues as it is used here; mixed into SAQ's queue of either transport."""

    settings: SaqSettings

    @abstractmethod
    async def renew(self, jobs: Sequence[Job]) -> None:
        """Let the jobs that run here live on in the store; remove what is past its life."""

    def native(self, message: Message, key: str) -> Job:
        """Make SAQ's job of a message: one attempt, no timeout (SAQ's own is 10 s), the lower priority first."""
        ttl = self.settings.finished_ttl_s or -1  # 0 would be for ever
        job = Job(message.name or "penstock", msgspec.to_builtins(message), self, key, timeout=0, ttl=ttl)
        job.queued, job.status, job.priority = now(), Status.QUEUED, 9 - message.priority
        return job

    def read(self, key: str, body: Any) -> Job:
        """Read a job that was taken; of what is none, make one that is refused when it is run."""
        try:
            return cast("Job", cast("Any", self).deserialize(body, Status.ACTIVE))
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            return Job("undecodable", kwargs={"error": repr(error)}, queue=self, key=key, timeout=0)

    async def finish(
        self, job: Job, status: Status, *, result: Any = None, error: str | None = None, **more: Any
    ) -> None:
        """See `Queue.finish`; our task returns None or the line of a failure. It is for SAQ's screens: never raises."""
        if result is not None:
            status, error = Status.FAILED, result
        try:
            await super().finish(job, status, error=error, **more)
        except Exception as problem:  # noqa: BLE001 - the ledger knows the end, and an outage must not change it
            logger.warning("could not tell SAQ of the end of job %s: %s", job.key, problem)


class LanesWorker(Worker[Any]):
    """SAQ's worker with no signals, crons, delays, aborts, timeouts or retries; to itself it is its queue."""

    SIGNALS = ()  # type: ignore[assignment]
    name = "penstock"

    def __init__(self, backend: SaqBackend, order: WorkOrder) -> None:
        self._backend = backend
        self._order = order
        self._turn = asyncio.Lock()
        self._idle = 0
        self._outages = 0
        self._taken: deque[Job] = deque()
        self._waiting: asyncio.Future[None] | None = None
        itself = cast("Queue", self)
        super().__init__(itself, [], concurrency=order.concurrency, shutdown_grace_period_s=_NEVER_S)
        # Each job is shown under the name of its task; all of them are run by our one function.
        self.functions = defaultdict(lambda: self._run)

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:
        """Wait for a job; None when there will be none any more.

        One of the idle tasks takes for all of them, never more than they are: nothing is kept from other workers.
        """
        self._idle += 1
        try:
            async with self._turn:
                while not self._taken and not self.event.is_set():
                    await self._look()
                return self._taken.popleft() if self._taken else None
        finally:
            self._idle -= 1

    async def _look(self) -> None:
        try:
            self._taken.extend(await self._backend.take(self._order.queues, self._idle))
            self._order.on_contact()
            if not self._taken:
                await self._until_quit(self._backend.wait(self._order.queues))
            self._outages = 0
        except Exception as error:  # noqa: BLE001 - SAQ would ask again at once, and in silence
            self._outages += 1
            pause_s = min(0.1 * 2**self._outages, 10.0)
            logger.warning("SAQ's store: %s: %s; trying again in %g s", type(error).__name__, error, pause_s)
            await self._until_quit(asyncio.sleep(pause_s))

    async def _until_quit(self, what: Awaitable[None]) -> None:
        self._waiting = waiting = asyncio.ensure_future(what)
        if self.event.is_set():
            waiting.cancel()
        await asyncio.wait([waiting])
        if not waiting.cancelled():
            waiting.result()

    async def _run(self, _ctx: Any, **kwargs: Any) -> str | None:
        try:
            message = msgspec.convert(kwargs, Message)
        except msgspec.ValidationError as error:
            self._backend.context.refuse(f"{error}: {kwargs}")
            return f"refused, not a message of penstock: {error}"
        line = await self._backend.context.aexecute(message)
        return line if self._backend.settings.mirror_failures else None

    async def upkeep(self) -> list[asyncio.Task[None]]:
        """Renew the lives of what runs, and tell SAQ's screens of this worker."""

        async def renew() -> None:
            life_s = self._backend.settings.heartbeat_s
            while not self.event.is_set():
                for queue in self._order.queues:
                    lane = self._backend.lane(queue)
                    try:
                        await lane.renew([job for job in self.job_task_contexts if job.queue is lane])
                        await lane.worker_info(f"{self.id}-{queue}", lane.name, ttl=life_s)
                    except Exception as error:  # noqa: BLE001 - an outage must not end the worker
                        logger.warning("upkeep of %s: %s: %s", lane.name, type(error).__name__, error)
                # A cancel during a call to Redis is lost there: redis-py 7.4 with a socket_timeout swallows it.
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self.event.wait(), life_s / 4)

        self._order.on_ready()
        return [asyncio.create_task(renew())]

    def quit(self) -> None:
        """Take nothing new; `start` returns when what runs has ended. SAQ's `stop` would wait for its upkeep."""
        self.event.set()
        for task in self.tasks:
            if task.get_name() != "process":
                task.cancel()
        if self._waiting is not None:
            self._waiting.cancel()
