"""SAQ on Redis: bands for priorities, bulk in one transaction, several queues in order of preference.

Keys are SAQ's own, so that its web app reads them; only the list of what is queued is split: messages of the default
priority lie in SAQ's list, the others in one beside it for each priority. SAQ's screens count the latter as scheduled,
not as queued: that number is what they have in no list of theirs, and they know of one list of what is queued.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import msgspec
import redis.exceptions
from redis import asyncio as aioredis
from saq import Job
from saq.job import Status
from saq.queue.redis import RedisQueue

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.queue import SaqBackend
from penstock.backends.saq.worker import Lane
from penstock.core.base import BackendContext, Finding
from penstock.core.exceptions import ConfigError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers import redis_client, redis_look
from penstock.servers.redis_url import key_namespace

_WAIT_S = 1.0
_BELLS = 16

# SAQ's own BLMOVE knows one list.
_TAKE = """
local taken = {}
for i = 1, #KEYS, 2 do
    while #taken < tonumber(ARGV[1]) do
        local id = redis.call('LPOP', KEYS[i])
        if not id then break end
        local body = redis.call('GET', id)
        if body then
            redis.call('RPUSH', KEYS[i + 1], id)
            redis.call('EXPIRE', id, ARGV[2])
            taken[#taken + 1] = {KEYS[i + 1], id, body}
        end
    end
end
return taken
"""
_RENEW = """
for i = 2, #ARGV do redis.call('EXPIRE', ARGV[i], ARGV[1]) end
for _, id in ipairs(redis.call('LRANGE', KEYS[1], 0, -1)) do
    if redis.call('EXISTS', id) == 0 then
        redis.call('LREM', KEYS[1], 0, id)
        redis.call('ZREM', KEYS[2], id)
    end
end
"""
_WITHDRAW = """
local gone = 0
for _, id in ipairs(ARGV) do
    for i = 2, #KEYS * redis.call('EXISTS', id) do
        if redis.call('LREM', KEYS[i], 1, id) == 1 then
            gone = gone + 1
            redis.call('ZREM', KEYS[1], id)
            redis.call('DEL', id)
        end
    end
end
return gone
"""


class RedisLane(Lane, RedisQueue):
    """A queue of ours in SAQ's keys."""

    def __init__(self, redis: Any, name: str, settings: SaqSettings) -> None:
        RedisQueue.__init__(self, redis, name=name, dump=msgspec.json.encode, load=msgspec.json.decode)
        self.settings = settings
        self.active = self.namespace("active")
        self.incomplete = self.namespace("incomplete")
        self.bell = self.namespace("bell")
        queued = self.namespace("queued")
        self.bands = [f"{queued}:{n}" if n else queued for n in range(-5, 5)]
        self._renew = redis.register_script(_RENEW)

    async def _update(self, job: Job, status: Status | None = None, **_more: Any) -> None:
        # As SAQ's, but what runs has a short life.
        job.status = status or job.status
        await self.redis.set(job.id, self.serialize(job), ex=self.settings.heartbeat_s)

    async def renew(self, jobs: Sequence[Job]) -> None:
        """See `Lane.renew`."""
        ids = [job.id for job in jobs]
        await self._renew(keys=[self.active, self.incomplete], args=[self.settings.heartbeat_s, *ids])


class RedisBackend(SaqBackend):
    """SAQ's keys on one Redis."""

    outages = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError)

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL that cannot be read."""
        super().__init__(context)
        self._namespace = key_namespace(self.url, context.namespace)
        self._known = f"penstock:{self._namespace}:saq-queues"
        try:
            pool = redis_client.async_pool(
                self.url,
                namespace=self._namespace,
                connect_timeout_s=self.settings.connect_timeout_s,
                socket_timeout=_WAIT_S + self.settings.answer_timeout_s,
            )
        except ValueError as error:
            raise ConfigError(f"{mask_url(context.url)}: {error}") from error
        self._redis: Any = aioredis.Redis.from_pool(pool)
        self._take = self._redis.register_script(_TAKE)
        self._withdraw = self._redis.register_script(_WITHDRAW)

    def new_lane(self, queue: str) -> RedisLane:
        """See `SaqBackend.new_lane`."""
        return RedisLane(self._redis, f"{self._namespace}:{queue}", self.settings)

    async def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        namespace = self.context.namespace
        return await asyncio.to_thread(redis_look.look, self.url, "saq", "redis", holds="messages", namespace=namespace)

    async def close(self) -> None:
        """See `Backend.close`."""
        await self._redis.aclose()

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction. Bells wake the workers that wait; they are soon forgotten."""
        bodies: dict[str, Any] = {}
        incomplete: defaultdict[str, dict[str, int]] = defaultdict(dict)
        bands: defaultdict[str, list[str]] = defaultdict(list)
        for message in messages:
            lane = self.lane(message.queue)
            job = lane.native(message, message.id)
            bodies[job.id] = lane.serialize(job)
            incomplete[lane.incomplete][job.id] = 0
            bands[lane.bands[message.priority]].append(job.id)
        with self.told():
            async with self._redis.pipeline(transaction=True) as pipe:
                # Few commands with many values: each command costs the client as much as it costs to make a job.
                pipe.mset(bodies)
                for key, ids in incomplete.items():
                    pipe.zadd(key, ids)
                for key, queued in bands.items():
                    pipe.rpush(key, *queued)
                for queue in {message.queue for message in messages}:
                    bell = self.lane(queue).bell
                    pipe.sadd(self._known, queue)
                    pipe.rpush(bell, *[""] * min(len(messages), _BELLS))
                    pipe.ltrim(bell, -_BELLS, -1)
                    pipe.expire(bell, 60)
                await pipe.execute()

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`; in which queue they wait is not told."""
        gone = 0
        with self.told():
            for queue in await self._redis.smembers(self._known):
                lane = self.lane(queue.decode())
                ids = [lane.job_id(message_id) for message_id in message_ids]
                gone += await self._withdraw(keys=[lane.incomplete, *lane.bands], args=ids)
        return gone

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self.told():
            return sum([await self._redis.llen(band) for band in self.lane(queue).bands])

    async def take(self, queues: Sequence[str], count: int) -> list[Job]:
        """See `SaqBackend.take`: one trip."""
        lanes = {lane.active.encode(): lane for lane in map(self.lane, queues)}
        keys = [key for lane in lanes.values() for band in reversed(lane.bands) for key in (band, lane.active)]
        return [
            lanes[active].read(lanes[active].job_key_from_id(saq_id.decode(errors="replace")), body)
            for active, saq_id, body in await self._take(keys=keys, args=[count, self.settings.heartbeat_s])
        ]

    async def wait(self, queues: Sequence[str]) -> None:
        """See `SaqBackend.wait`."""
        await self._redis.blpop([self.lane(queue).bell for queue in queues], timeout=_WAIT_S)
