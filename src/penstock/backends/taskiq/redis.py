"""TaskIQ on Redis: the lists of taskiq-redis's `ListQueueBroker`, one beside another for each priority.

Lists and not streams: a stream gives a job that outlives its idle time to a second worker, reclaims those of dead
workers only when new ones come, and grows. What a list loses with its worker, the ledger publishes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis import asyncio as aioredis
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from penstock.backends.taskiq.broker import DEFAULT_PRIORITY, HIGHEST_FIRST, OneTaskBroker, Taken, native
from penstock.backends.taskiq.config import TaskiqSettings
from penstock.job.models import Message
from penstock.servers import redis_client
from penstock.servers.redis_url import key_namespace

_WAIT_S = 5.0

_TAKE = """
local taken = {}
for _, key in ipairs(KEYS) do
    while #taken < tonumber(ARGV[1]) * 2 do
        local body = redis.call('RPOP', key)
        if not body then break end
        taken[#taken + 1] = body
        taken[#taken + 1] = key
    end
end
return taken
"""


class RedisBroker(OneTaskBroker):
    """Pushes on the left, pops on the right."""

    outages = (RedisConnectionError, RedisTimeoutError, OSError)

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__(url, key_namespace(url, namespace), settings)
        self._redis: Any = aioredis.Redis.from_pool(
            redis_client.async_pool(
                url,
                namespace=namespace,
                connect_timeout_s=settings.connect_timeout_s,
                socket_timeout=_WAIT_S + settings.answer_timeout_s,
            )
        )
        self._waiting: Any = self._redis.client()
        self._waiting_id = 0
        self._more = False

    def _band(self, queue: str, priority: int) -> str:
        key = f"taskiq:{self.namespace}:{queue}"
        return key if priority == DEFAULT_PRIORITY else f"{key}:{priority}"

    def _bands(self, queue: str) -> list[str]:
        return [self._band(queue, priority) for priority in HIGHEST_FIRST]

    async def connect(self) -> None:
        """See `OneTaskBroker.connect`."""
        if self.queues:
            self._waiting_id = await self._waiting.client_id()

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `OneTaskBroker.publish`: one transaction for all."""
        lists: dict[str, list[bytes]] = {}
        for each in messages:
            lists.setdefault(self._band(each.queue, each.priority), []).append(native(each))
        async with self._redis.pipeline(transaction=True) as pipe:
            for key, bodies in lists.items():
                pipe.lpush(key, *bodies)
            await pipe.execute()

    async def depth(self, queue: str) -> int:
        """See `OneTaskBroker.depth`."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for key in self._bands(queue):
                pipe.llen(key)
            return sum(await pipe.execute())

    async def take(self, room: int) -> Sequence[Taken]:
        """See `OneTaskBroker.take`: many in a trip while there are some, else one when it comes."""
        keys = [key for queue in self.queues for key in self._bands(queue)]
        if self._more:
            flat = await self._waiting.eval(_TAKE, len(keys), *keys, room)
            if flat:
                return [Taken(body, key) for body, key in zip(flat[::2], flat[1::2], strict=True)]
        found = await self._waiting.brpop(keys, timeout=_WAIT_S)
        self._more = found is not None
        return [Taken(found[1], found[0])] if found else []

    async def wake(self) -> None:
        """See `OneTaskBroker.wake`: the read ends as if its time were over, so nothing that it popped is lost."""
        await self._redis.client_unblock(self._waiting_id)

    async def give_back(self, taken: Taken) -> None:
        """See `OneTaskBroker.give_back`: before the others."""
        await self._redis.rpush(taken.origin, taken.body)

    async def disconnect(self) -> None:
        """See `OneTaskBroker.disconnect`."""
        await self._waiting.aclose()
        await self._redis.aclose()
