"""ARQ behind the backend contract: one task, no retries, no timeouts, no results but failures, no clock of its own."""

# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import msgspec
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix, job_key_prefix

from penstock.backends.arq.config import ArqSettings
from penstock.backends.arq.worker import OUTAGES, Workers, encode
from penstock.core.base import AsyncBackend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers import redis_client, redis_look
from penstock.servers.redis_url import SCHEMES as REDIS_SCHEMES
from penstock.servers.redis_url import key_namespace, refuse_unreadable

_KEPT_MS = 365 * 24 * 3600 * 1000
"""ARQ forgets a message after a day; a sweep would publish it again, but it may as well stay."""
_BAND_MS = 10**11
"""Three years: a message of a higher priority lies that much further back in time than one of the next lower."""

# Those that a worker holds lie in the same set, in front; no more than this many are looked at.
_DEPTH = """
local held = 0
for _, id in ipairs(redis.call('ZRANGE', KEYS[1], 0, 4999)) do
    held = held + redis.call('EXISTS', ARGV[1] .. id)
end
return redis.call('ZCARD', KEYS[1]) - held
"""
_WITHDRAW = """
local gone = 0
for i = 3, #ARGV do
    if redis.call('EXISTS', ARGV[1] .. ARGV[i]) == 0 then
        for _, key in ipairs(KEYS) do
            if redis.call('ZREM', key, ARGV[i]) == 1 then
                redis.call('DEL', ARGV[2] .. ARGV[i])
                gone = gone + 1
            end
        end
    end
end
return gone
"""


class ArqBackend(AsyncBackend):
    """Jobs carried by ARQ on Redis."""

    name: ClassVar[str] = "arq"
    schemes: ClassVar[tuple[str, ...]] = tuple(f"arq+{scheme}" for scheme in REDIS_SCHEMES)
    settings_type: ClassVar[type[msgspec.Struct]] = ArqSettings

    _workers: Workers | None = None

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL of Redis that cannot be read."""
        super().__init__(context)
        refuse_unreadable(context.url)

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """ARQ orders by time alone, and counts what is held with what waits."""
        return Capabilities(
            priority=Support.EMULATED,
            withdraw=Support.NATIVE,
            depth=Support.EMULATED,
            bulk=Support.NATIVE,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    @property
    def _url(self) -> str:
        return self.context.url.partition("+")[2]

    @property
    def _namespace(self) -> str:
        return key_namespace(self._url, self.context.namespace)

    @cached_property
    def _redis(self) -> ArqRedis:
        settings: Any = self.context.settings
        try:
            pool = redis_client.async_pool(
                self._url,
                namespace=self._namespace,
                connect_timeout_s=settings.connect_timeout_s,
                socket_timeout=settings.answer_timeout_s,
            )
        except ValueError as error:
            raise ConfigError(f"{mask_url(self.context.url)}: {error}") from error
        return ArqRedis(pool, job_serializer=encode, job_deserializer=msgspec.json.decode)

    def _queue(self, queue: str) -> str:
        return f"arq:{self._namespace}:{queue}"

    def _id(self, message_id: str) -> str:
        # ARQ's ids are one in the whole database, whichever project's.
        return f"{self._namespace}:{message_id}"

    @property
    def _known(self) -> str:
        return f"penstock:{self._namespace}:arq-queues"

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: ARQ's own writes, in one transaction for all."""
        at_ms = int(time.time() * 1000)
        with self._told():
            async with self._redis.pipeline(transaction=True) as pipe:
                queued: defaultdict[str, dict[str, float]] = defaultdict(dict)
                for place, message in enumerate(messages):
                    job_id = self._id(message.id)
                    native = {
                        "t": None, "f": message.name or "penstock", "a": (), "k": msgspec.to_builtins(message),
                        "et": at_ms,
                    }  # fmt: skip
                    # Within a millisecond the place decides; a score in the future would not be taken at once.
                    score = at_ms - 1 + place / 1000 - message.priority * _BAND_MS
                    pipe.psetex(job_key_prefix + job_id, _KEPT_MS, encode(native))
                    queued[self._queue(message.queue)][job_id] = score
                pipe.sadd(self._known, *queued)
                for key, scores in queued.items():
                    pipe.zadd(key, scores)
                await pipe.execute()

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`: what no worker holds is removed, as ARQ does at a job's end."""
        with self._told():
            known: Any = await self._redis.smembers(self._known)  # type: ignore[misc]
            ids = [self._id(message_id) for message_id in message_ids]
            return await self._redis.eval(  # type: ignore[misc]
                _WITHDRAW, len(known), *known, in_progress_key_prefix, job_key_prefix, *ids
            )

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`; exact while fewer than 5,000 messages are held."""
        with self._told():
            return await self._redis.eval(_DEPTH, 1, self._queue(queue), in_progress_key_prefix)  # type: ignore[misc]

    async def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        return await asyncio.to_thread(
            redis_look.look, self._url, "arq", "redis", holds="messages", namespace=self._namespace
        )

    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: ARQ's workers, in this loop."""
        settings: Any = self.context.settings
        names = [self._queue(queue) for queue in order.queues]
        with self._told():
            self._workers = Workers(self._redis, names, self.context, settings, order)
            try:
                await self._workers.work()
            finally:
                self._workers = None

    async def stop(self) -> None:
        """See `Backend.stop`."""
        if self._workers is not None:
            self._workers.stop()

    async def close(self) -> None:
        """See `Backend.close`."""
        if "_redis" in self.__dict__:
            await self._redis.aclose(close_connection_pool=True)

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except (BackendError, ConfigError):
            raise
        except OUTAGES as error:
            raise BackendUnavailableError(f"{mask_url(self.context.url)} cannot be reached: {error}") from error
        except Exception as error:
            raise BackendError(f"{mask_url(self.context.url)}: {type(error).__name__}: {error}") from error
