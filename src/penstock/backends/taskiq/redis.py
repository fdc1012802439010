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

from penstock.backends.taskiq.broker import DEFAULT_PRIORITY, HIGHEST_FIRST, Native, OneTaskBroker
from penstock.backends.taskiq.config import TaskiqSettings

_WAIT_S = 5.0


class RedisBroker(OneTaskBroker):
    """Pushes on the left, pops on the right."""

    outages = (RedisConnectionError, RedisTimeoutError, OSError)

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__(url, namespace, settings)
        # A blocking read must not time out: redis-py 8 would let it after 5 s.
        self._redis: Any = aioredis.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=settings.connect_timeout_s,
            socket_keepalive=True,
        )
        self._waiting: Any = self._redis.client()
        self._waiting_id = 0
        self._popped: dict[bytes, bytes] = {}

    def _band(self, queue: str, priority: int) -> str:
        key = f"taskiq:{self.namespace}:{queue}"
        return key if priority == DEFAULT_PRIORITY else f"{key}:{priority}"

    def _bands(self, queue: str) -> list[str]:
        return [self._band(queue, priority) for priority in HIGHEST_FIRST]

    async def connect(self) -> None:
        """See `OneTaskBroker.connect`."""
        if self.queues:
            self._waiting_id = await self._waiting.client_id()

    async def publish(self, messages: Sequence[Native]) -> None:
        """See `OneTaskBroker.publish`: one transaction for all."""
        lists: dict[str, list[bytes]] = {}
        for each in messages:
            lists.setdefault(self._band(each.message.queue, each.message.priority), []).append(each.body)
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

    async def take(self) -> bytes | None:
        """See `OneTaskBroker.take`: of several lists, Redis pops from the first that has something."""
        keys = [key for queue in self.queues for key in self._bands(queue)]
        found = await self._waiting.brpop(keys, timeout=_WAIT_S)
        if found is None:
            return None
        self._popped = {found[1]: found[0]}
        return found[1]

    async def wake(self) -> None:
        """See `OneTaskBroker.wake`: the read ends as if its time were over, so nothing that it popped is lost."""
        await self._redis.client_unblock(self._waiting_id)

    async def give_back(self, message: bytes) -> None:
        """See `OneTaskBroker.give_back`."""
        await self._redis.rpush(self._popped[message], message)

    async def disconnect(self) -> None:
        """See `OneTaskBroker.disconnect`."""
        await self._waiting.aclose()
        await self._redis.aclose()
