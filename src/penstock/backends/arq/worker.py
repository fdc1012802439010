"""ARQ's own worker, one for each queue, polled in order of preference and sharing one limit."""

# ARQ leaves the contents of its dictionaries open.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportMissingTypeArgument=false

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.utils import timestamp_ms
from arq.worker import Function, Worker
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from penstock.backends.arq.config import ArqSettings
from penstock.core.base import MirroredFailure, WorkOrder
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.arq")

_NEVER_S = 10**9
OUTAGES = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises when trying again may help."""


# What ARQ's worker does for each message, for many at once: whoever sets its lock has it.
_TAKE = """
local taken = {}
local left = tonumber(ARGV[4])
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', 0, ARGV[3])) do
    if left == 0 then break end
    if redis.call('SET', ARGV[1] .. id, '1', 'NX', 'PX', ARGV[5]) then
        taken[#taken + 1] = id
        left = left - 1
    end
end
return taken
"""


class _Mirrored(logging.Filter):
    """ARQ logs a traceback of each job that raises; a failure that is only mirrored has been told already."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], MirroredFailure))


# ARQ tells at INFO of each job: the ledger does that.
logging.getLogger("arq").setLevel(logging.WARNING)
logging.getLogger("arq.worker").addFilter(_Mirrored())


def encode(native: dict[str, Any]) -> bytes:
    """Write ARQ's dictionary of a job, or of a result: only failures are kept, and those as text."""
    if native.get("s"):
        return b""  # ARQ stores nothing then
    return msgspec.json.encode(native, enc_hook=str)


class Slots:
    """How many messages the workers of all queues hold together, and a bell for when one is done."""

    def __init__(self) -> None:
        self.held = 0
        self.changed = asyncio.Event()


class QueueWorker(Worker):
    """ARQ's worker for one queue: no signals, crons, aborts, timeouts or retries."""

    def __init__(
        self,
        redis: ArqRedis,
        queue_name: str,
        slots: Slots,
        run: Callable[..., Awaitable[None]],
        settings: ArqSettings,
        concurrency: int,
    ) -> None:
        self._slots = slots
        super().__init__(
            [_function(run, settings)],
            queue_name=queue_name,
            redis_pool=redis,
            handle_signals=False,
            max_jobs=concurrency,
            queue_read_limit=settings.read_limit,
            job_serializer=encode,
            job_deserializer=msgspec.json.decode,
            log_results=False,
        )
        self.functions = _AnyName(self.functions)
        self.in_progress_timeout_s = settings.lock_s

    async def look(self) -> None:
        """Take what there is room for, in one trip (ARQ's own takes three for each), and start it.

        Raises what an ended task could not tell Redis.
        """
        for job_id, task in list(self.tasks.items()):
            if task.done():
                del self.tasks[job_id]
                task.result()
        free = self.max_jobs - self._slots.held
        if free <= 0:
            return
        lock_ms = int(self.in_progress_timeout_s * 1000)
        found: list[bytes] = await self.pool.eval(  # type: ignore[misc]
            _TAKE, 1, self.queue_name, in_progress_key_prefix, timestamp_ms(), self.queue_read_limit, free, lock_ms
        )
        for taken in found:
            try:
                job_id = taken.decode()
            except UnicodeDecodeError:
                logger.warning("refused a message that is not ours: its id is %r", taken)
                await self.pool.zrem(self.queue_name, taken)
                continue
            self._slots.held += 1
            task = self.loop.create_task(self.run_job(job_id, timestamp_ms()))
            task.add_done_callback(self._make_room)
            self.tasks[job_id] = task

    def _make_room(self, _task: asyncio.Task[Any]) -> None:
        self._slots.held -= 1
        self._slots.changed.set()

    async def renew(self) -> None:
        """Keep the messages of running jobs from other workers."""
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.job_tasks:
                pipe.pexpire(in_progress_key_prefix + job_id, int(self.in_progress_timeout_s * 1000))
            await pipe.execute()


class Workers:
    """The workers of several queues, on one loop."""

    def __init__(
        self,
        redis: ArqRedis,
        names: Sequence[str],
        execute: Callable[[Message], Awaitable[str | None]],
        settings: ArqSettings,
        order: WorkOrder,
    ) -> None:
        self._execute = execute
        self._settings = settings
        self._slots = Slots()
        self._stopped = False
        self._workers = [
            QueueWorker(redis, name, self._slots, self._run, settings, order.concurrency) for name in names
        ]

    async def _run(self, _ctx: Any, *args: Any, **kwargs: Any) -> None:
        try:
            message = msgspec.convert(kwargs, Message)
        except msgspec.ValidationError as error:
            logger.warning("refused a message that is not ours: %s", error)
            raise MirroredFailure(f"not a message of penstock: {error}") from None
        line = await self._execute(message)
        if line is not None and self._settings.mirror_failures:
            raise MirroredFailure(line)

    async def work(self, on_ready: Callable[[], None]) -> None:
        """Take messages until `stop`; returns when what runs has ended. An outage is waited for.

        Raises what redis-py raises if Redis cannot be reached at the start, and for any trouble that is no outage.
        """
        for worker in self._workers:
            await worker.look()
        on_ready()
        renewing = asyncio.create_task(self._renew())
        outages = 0
        try:
            while not self._stopped:
                pause_s = self._settings.poll_s
                self._slots.changed.clear()
                try:
                    for worker in self._workers:
                        await worker.look()
                    outages = 0
                except OUTAGES as error:
                    outages += 1
                    pause_s = min(0.1 * 2**outages, 10.0)
                    logger.warning("Redis does not answer: %s; looking again in %g s", error, pause_s)
                await self._pause(pause_s, ends_early=not outages)
        finally:
            running = [task for worker in self._workers for task in worker.tasks.values()]
            # What they cannot tell Redis any more only leaves a message there, for its lock's time.
            await asyncio.gather(*running, return_exceptions=True)
            renewing.cancel()

    async def _pause(self, pause_s: float, *, ends_early: bool) -> None:
        until = asyncio.get_running_loop().time() + pause_s
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._slots.changed.wait(), pause_s)
        if not ends_early and not self._stopped:
            await asyncio.sleep(min(1.0, max(0.0, until - asyncio.get_running_loop().time())))

    def stop(self) -> None:
        """Take nothing new."""
        self._stopped = True
        self._slots.changed.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lock_s / 4)
            for worker in self._workers:
                try:
                    await worker.renew()
                except Exception as error:  # noqa: BLE001 - the look at the queue tells of an outage
                    logger.warning("could not renew ARQ's locks: %s", error)


class _AnyName(dict[str, Any]):
    """Each job is named after its task; all of them are run by our one function."""

    def __missing__(self, name: str) -> Any:
        return next(iter(self.values()))


def _function(run: Callable[..., Awaitable[None]], settings: ArqSettings) -> Function:
    keep_s = float(settings.failed_ttl_s if settings.mirror_failures else 0)
    return Function(
        name="penstock",
        coroutine=run,  # type: ignore[arg-type]
        timeout_s=_NEVER_S,
        keep_result_s=keep_s,
        keep_result_forever=False,
        max_tries=1,
    )
