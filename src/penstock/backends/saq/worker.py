"""SAQ's own worker, made to take from several queues in order, and to stop without waiting for its upkeep."""

# SAQ leaves the contents of its dictionaries open.
# pyright: reportUnknownMemberType=false

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import msgspec
from saq import Job, Queue, Worker
from saq.job import Status
from saq.utils import now

from penstock.backends.saq.config import SaqSettings
from penstock.core.base import WorkOrder
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.saq")

# SAQ tells at INFO of each job: the ledger does that.
logging.getLogger("saq").setLevel(logging.WARNING)

_NEVER_S = 10**9


def native_job(message: Message, key: str, queue: str, at_ms: int, settings: SaqSettings) -> dict[str, Any]:
    """Return what `saq.Job.to_dict` would, at a tenth of its cost.

    One attempt, no timeout (SAQ's own is 10 s); the lower priority goes first, as SAQ has it on Postgres.
    """
    return {
        "function": message.name or "penstock",
        "kwargs": msgspec.to_builtins(message),
        "queue": queue,
        "key": key,
        "timeout": 0,
        "heartbeat": settings.heartbeat_s,
        "ttl": settings.finished_ttl_s or -1,  # 0 would be for ever
        "queued": at_ms,
        "touched": at_ms,
        "status": "queued",
        "priority": 9 - message.priority,
    }


class Failed:
    """Returned by the one task for an attempt that failed: the queue writes it down as FAILED, with this line."""

    __slots__ = ("line",)

    def __init__(self, line: str) -> None:
        self.line = line


class _Job(Job):
    """A job that tells no more of itself than its key: SAQ asks three times, whether anybody logs it or not."""

    def info(self, full: bool = False) -> str:
        return self.key


class Lane(Queue, ABC):
    """One of SAQ's queues as a worker here uses it; mixed into SAQ's queue of either transport."""

    def deserialize(
        self, payload: dict[str, Any] | str | bytes | None, status: Status | str | None = None
    ) -> Job | None:
        """Read a job. Raises what SAQ raises for one that is not of this queue."""
        job = super().deserialize(payload, status)
        if job is not None:
            job.__class__ = _Job
        return job

    async def notify(self, job: Job) -> None:
        """Nobody waits on SAQ for a job's end: two round trips less for each job."""

    async def update(self, job: Job, **changes: Any) -> None:
        """Write a job down as it is, without the copy that SAQ makes first."""
        job.touched = now()
        for name, value in changes.items():
            if hasattr(job, name):  # the others are for the store
                setattr(job, name, value)
        await self._update(job, **changes)

    async def finish(
        self, job: Job, status: Status, *, result: Any = None, error: str | None = None, **more: Any
    ) -> None:
        """Write the end of a job; a failure that our task has returned becomes one of SAQ's."""
        if isinstance(result, Failed):
            status, error, result = Status.FAILED, result.line, None
        await super().finish(job, status, result=result, error=error, **more)

    @abstractmethod
    async def beat(self, job: Job) -> None:
        """Renew the sign of life of a job that runs; never after its end, which would bring it back for ever."""


class Source(ABC):
    """Where one worker takes from: its lanes, in order of preference."""

    lanes: Sequence[Lane]

    @abstractmethod
    async def connect(self) -> None:
        """Connect; again after an outage."""

    @abstractmethod
    async def take(self, count: int) -> list[Job]:
        """Take the best jobs that wait, at most ``count``, without waiting."""

    @abstractmethod
    async def wait(self) -> Job | None:
        """Wait about a second until there may be something; may return a job that was taken."""

    @abstractmethod
    async def wake(self) -> None:
        """End the `wait` that is under way."""

    @abstractmethod
    async def put_back(self, job: Job) -> None:
        """Let a job that was taken wait again, before the others."""

    @abstractmethod
    async def close(self) -> None:
        """Let go of what only this worker used."""


class Taker:
    """Takes for all idle process tasks of a worker together: as many jobs as tasks are idle, never one more."""

    name = "penstock"

    def __init__(
        self, source: Source, failed: Callable[[Exception], None], outage: Callable[[Exception], bool]
    ) -> None:
        self._source = source
        self._failed = failed
        self._outage = outage
        self._stopping = asyncio.Event()
        self._idle: deque[asyncio.Future[Job | None]] = deque()
        self._taking: asyncio.Task[None] | None = None

    async def dequeue(self, timeout: float = 0.0, poll_interval: float = 0.0) -> Job | None:
        """Wait for a job; None when there will be none any more."""
        if self._stopping.is_set():
            return None
        found: asyncio.Future[Job | None] = asyncio.get_running_loop().create_future()
        self._idle.append(found)
        if self._taking is None:
            self._taking = asyncio.create_task(self._take())
        return await found

    async def stop(self) -> None:
        """Take nothing more; returns when every idle task knows."""
        self._stopping.set()
        taking = self._taking
        if taking is not None:
            with contextlib.suppress(Exception):  # an outage: then nothing is waited for
                await self._source.wake()
            await asyncio.wait([taking])

    async def _take(self) -> None:
        outages = 0
        try:
            while self._idle and not self._stopping.is_set():
                try:
                    if outages:
                        await self._source.connect()
                    await self._take_once()
                    outages = 0
                except Exception as error:
                    if not self._outage(error):
                        raise
                    outages += 1
                    pause_s = min(0.1 * 2**outages, 10.0)
                    logger.warning("SAQ's store does not answer: %s; trying again in %g s", error, pause_s)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(self._stopping.wait(), pause_s)
        except Exception as error:  # noqa: BLE001 - told by the worker's end
            self._stopping.set()
            self._failed(error)
        finally:
            self._taking = None
            if self._stopping.is_set():
                while self._idle:
                    self._idle.popleft().set_result(None)

    async def _take_once(self) -> None:
        jobs = await self._source.take(len(self._idle))
        if not jobs and not self._stopping.is_set() and (job := await self._source.wait()) is not None:
            jobs = [job]
        for job in jobs:
            if self._stopping.is_set():
                await self._source.put_back(job)
            else:
                self._idle.popleft().set_result(job)


class _AnyName(dict[str, Any]):
    """Each job is shown under the name of its task; all of them are run by our one function."""

    def __init__(self, run: Callable[..., Awaitable[Any]]) -> None:
        super().__init__()
        self._run = run

    def __missing__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return self._run


class OneTaskWorker(Worker[Any]):
    """SAQ's worker with no signals, crons, delays, aborts, timeouts or retries."""

    SIGNALS = ()  # type: ignore[assignment]

    def __init__(
        self,
        source: Source,
        execute: Callable[[Message], Awaitable[str | None]],
        settings: SaqSettings,
        order: WorkOrder,
        outage: Callable[[Exception], bool],
    ) -> None:
        self.failure: Exception | None = None
        self._source = source
        self._settings = settings
        self._execute = execute
        self._on_ready = order.on_ready
        self._taker = Taker(source, self._fail, outage)
        super().__init__(
            cast("Queue", self._taker),
            functions=[],
            concurrency=order.concurrency,
            shutdown_grace_period_s=_NEVER_S,
        )
        self.functions = _AnyName(self._run)

    async def _run(self, _ctx: Any, **kwargs: Any) -> Failed | None:
        try:
            message = msgspec.convert(kwargs, Message)
        except msgspec.ValidationError as error:
            logger.warning("refused a message that is not ours: %s", error)
            return Failed(f"refused, not a message of penstock: {error}")
        line = await self._execute(message)
        return Failed(line) if line is not None and self._settings.mirror_failures else None

    async def upkeep(self) -> list[asyncio.Task[None]]:
        """Sweep, tell SAQ's screens of this worker, and renew the sign of life of what runs long."""

        async def every(pause_s: float, do: Callable[[Lane], Awaitable[Any]]) -> None:
            while True:
                for lane in self._source.lanes:
                    try:
                        await do(lane)
                    except Exception as error:  # noqa: BLE001 - upkeep must not end the worker; an outage does
                        logger.warning("upkeep of %s: %s: %s", lane.name, type(error).__name__, error)
                await asyncio.sleep(pause_s)

        self._on_ready()
        info_s = int(self.timers["worker_info"])
        return [
            asyncio.create_task(every(self._settings.sweep_s, lambda lane: lane.sweep(lock=self._settings.sweep_s))),
            asyncio.create_task(
                every(info_s, lambda lane: lane.worker_info(self.id, queue_key=lane.name, ttl=2 * info_s))
            ),
            asyncio.create_task(every(self._settings.heartbeat_s / 4, self._beat)),
        ]

    async def _beat(self, lane: Lane) -> None:
        for job in list(self.job_task_contexts):
            if job.queue is lane and (job.duration("running") or 0) > self._settings.heartbeat_s * 250:
                await lane.beat(job)

    def _fail(self, error: Exception) -> None:
        self.failure = error
        asyncio.get_running_loop().call_soon(self._quit)

    async def quit(self) -> None:
        """Take nothing new; `start` returns when what runs has ended."""
        await self._taker.stop()
        self._quit()

    def _quit(self) -> None:
        # SAQ's own stop would wait for its upkeep to wake from its sleeps.
        for task in list(self.tasks):
            if task.get_name() != "process":
                task.cancel()
        self.event.set()
