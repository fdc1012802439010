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
from arq.jobs import DeserializationError
from arq.utils import timestamp_ms
from arq.worker import Worker, func
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from penstock.backends.arq.config import ArqSettings
from penstock.core.base import BackendContext, MirroredFailure, WorkOrder
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.arq")

_NEVER_S = 10**9
OUTAGES = (RedisConnectionError, RedisTimeoutError, OSError)
"""What redis-py raises when trying again may help."""


# What ARQ's worker does for each message, for many at once: whoever sets its lock has it. Those that others hold lie
# in the same set, in front: they are passed by, however many they are.
_TAKE = """
local taken, from, ids = {}, 0, nil
local left = tonumber(ARGV[3])
repeat
    ids = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[2], 'LIMIT', from, 100)
    for _, id in ipairs(ids) do
        if left > 0 and redis.call('SET', ARGV[1] .. id, '1', 'NX', 'PX', ARGV[4]) then
            taken[#taken + 1] = id
            left = left - 1
        end
    end
    from = from + #ids
until left == 0 or #ids < 100
return taken
"""


class _Mirrored(logging.Filter):
    """ARQ logs a traceback of each job that raises; what is only mirrored, or was refused, has been told already."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and isinstance(record.exc_info[1], MirroredFailure | DeserializationError))


# ARQ tells at INFO of each job: the ledger does that.
logging.getLogger("arq").setLevel(logging.WARNING)
logging.getLogger("arq.worker").addFilter(_Mirrored())


def encode(native: dict[str, Any]) -> bytes:
    """Write ARQ's dictionary of a job, or of a result: only failures are kept, and those as text."""
    if native.get("s"):
        return b""  # ARQ stores nothing then
    return msgspec.json.encode(native, enc_hook=str)


class _Native(msgspec.Struct):
    """A job as ARQ writes it: function, arguments, try, time of the enqueue."""

    f: str
    a: list[Any]
    k: dict[str, Any]
    t: int | None
    et: int


_native = msgspec.json.Decoder(_Native)


class _AnyName(dict[str, Any]):
    """Each job is named after its task; all of them are run by our one function."""

    def __missing__(self, name: str) -> Any:
        return next(iter(self.values()))


class QueueWorker(Worker):
    """ARQ's worker for one queue: no signals, crons, aborts, timeouts or retries."""

    def __init__(
        self,
        redis: ArqRedis,
        queue_name: str,
        run: Callable[..., Awaitable[None]],
        refuse: Callable[[str], None],
        settings: ArqSettings,
    ) -> None:
        self._refuse = refuse
        keep_s = settings.failed_ttl_s if settings.mirror_failures else 0
        super().__init__(
            [func(run, name="penstock", timeout=_NEVER_S, max_tries=1)],  # type: ignore[arg-type]
            queue_name=queue_name,
            redis_pool=redis,
            handle_signals=False,
            keep_result=keep_s,
            retry_jobs=False,
            job_serializer=encode,
            job_deserializer=self._read,
            log_results=False,
        )
        self.functions = _AnyName(self.functions)
        self._lock_ms = int(settings.lock_s * 1000)

    async def take(self, most: int) -> list[asyncio.Task[None]]:
        """Start what there is, in one trip (ARQ's own takes three for each)."""
        found: list[bytes] = await self.pool.eval(  # type: ignore[misc]
            _TAKE, 1, self.queue_name, in_progress_key_prefix, timestamp_ms(), most, self._lock_ms
        )
        return [self.loop.create_task(self._deal_with(taken)) for taken in found]

    async def _deal_with(self, taken: bytes) -> None:
        """Run one message as ARQ does. What it cannot tell Redis leaves the message there, for its lock's time."""
        job_id = taken.decode(errors="replace")
        try:
            if job_id.encode() != taken:
                raise ValueError("its id is no text")
            await self.run_job(job_id, timestamp_ms())
        except OUTAGES as error:
            logger.warning("message %s stays in ARQ: %s", job_id, error)
        except Exception as error:  # noqa: BLE001 - ARQ trips over a message whose fields are of other types
            self._refuse(f"{job_id}: {type(error).__name__}: {error}")
            with contextlib.suppress(*OUTAGES):
                await self.pool.zrem(self.queue_name, taken)
                await self.finish_failed_job(job_id, None)

    def _read(self, data: bytes) -> dict[str, Any]:
        """Read a message; ARQ logs one that cannot be read and goes on, so that it is told of and counted here."""
        try:
            return msgspec.to_builtins(_native.decode(data))
        except Exception as error:
            self._refuse(f"{type(error).__name__}: {error}")
            raise

    async def renew(self) -> None:
        """Keep the messages of running jobs from other workers."""
        async with self.pool.pipeline(transaction=False) as pipe:
            for job_id in self.job_tasks:
                pipe.pexpire(in_progress_key_prefix + job_id, self._lock_ms)
            await pipe.execute()


class Workers:
    """The workers of several queues, on one loop."""

    def __init__(
        self,
        redis: ArqRedis,
        names: Sequence[str],
        context: BackendContext,
        settings: ArqSettings,
        order: WorkOrder,
    ) -> None:
        self._execute = context.aexecute
        self._refuse = context.refuse
        self._settings = settings
        self._order = order
        self._running: set[asyncio.Task[None]] = set()
        self._changed = asyncio.Event()
        self._stopped = False
        self._workers = [QueueWorker(redis, name, self._run, context.refuse, settings) for name in names]

    async def _run(self, _ctx: Any, *args: Any, **kwargs: Any) -> None:
        try:
            message = msgspec.convert(kwargs, Message)
        except msgspec.ValidationError as error:
            self._refuse(str(error))
            raise MirroredFailure(f"not a message of penstock: {error}") from None
        line = await self._execute(message)
        if line is not None and self._settings.mirror_failures:
            raise MirroredFailure(line)

    async def work(self) -> None:
        """Take messages until `stop`; returns when what runs has ended. An outage is waited for.

        Raises what redis-py raises if Redis cannot be reached at the start, and for any trouble that is no outage.
        """
        await self._look()
        self._order.on_ready()
        renewing = asyncio.create_task(self._renew())
        outages = 0
        try:
            while not self._stopped:
                self._changed.clear()
                try:
                    await self._look()
                    outages, pause_s = 0, self._settings.poll_s
                except OUTAGES as error:
                    outages, pause_s = outages + 1, min(0.2 * 2**outages, 10.0)
                    logger.warning("Redis does not answer: %s; looking again within %g s", error, pause_s)
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), pause_s)
        finally:
            await asyncio.gather(*self._running)
            renewing.cancel()

    async def _look(self) -> None:
        """Take what there is room for, of a queue only what those before it leave free."""
        for worker in self._workers:
            free = self._order.concurrency - len(self._running)
            if free <= 0:
                return
            found = await worker.take(free)
            self._order.on_contact()
            for task in found:
                self._running.add(task)
                task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        self._changed.set()

    def stop(self) -> None:
        """Take nothing new."""
        self._stopped = True
        self._changed.set()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._settings.lock_s / 4)
            for worker in self._workers:
                try:
                    await worker.renew()
                except Exception as error:  # noqa: BLE001 - the look at the queue tells of an outage
                    logger.warning("could not renew ARQ's locks: %s", error)
