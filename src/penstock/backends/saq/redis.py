"""SAQ on Redis: bands for priorities, bulk in one transaction, several queues in order of preference.

Keys are SAQ's own, so that its web app reads them; only the list of what is queued is split: messages of the default
priority lie in SAQ's list, the others in one beside it for each priority.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from redis import asyncio as aioredis
from saq import Job
from saq.job import Status
from saq.queue.redis import RedisQueue

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.worker import Lane, Source, native_job
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.saq")

_DEFAULT = 5
_HIGHEST_FIRST = range(9, -1, -1)
_WAIT_S = 5.0

_TAKE = """
local taken = {}
local left = tonumber(ARGV[1])
for i = 1, #KEYS, 2 do
    while left > 0 do
        local id = redis.call('LPOP', KEYS[i])
        if not id then break end
        redis.call('RPUSH', KEYS[i + 1], id)
        taken[#taken + 1] = {KEYS[i + 1], id, redis.call('GET', id)}
        left = left - 1
    end
end
return taken
"""


class _Trips:
    """One pipeline under way at a time; what comes meanwhile shares the next. Sending is what costs, not the commands.

    What is posted before something is asked arrives before it.
    """

    def __init__(self, redis: Any) -> None:
        self._redis = redis
        self._waiting: list[tuple[tuple[Any, ...], asyncio.Future[Any] | None]] = []
        self._going: asyncio.Task[None] | None = None

    def post(self, *command: Any) -> None:
        """Send a command whose answer nobody needs; a failure is logged."""
        self._add(command, None)

    async def ask(self, *command: Any) -> Any:
        """Send a command and return its answer. Raises what redis-py raises."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._add(command, answer)
        return await answer

    async def over(self) -> None:
        """Wait until everything posted has been sent."""
        if self._going is not None:
            await asyncio.wait([self._going])

    def _add(self, command: tuple[Any, ...], answer: asyncio.Future[Any] | None) -> None:
        self._waiting.append((command, answer))
        if self._going is None:
            self._going = asyncio.create_task(self._go())

    async def _go(self) -> None:
        while self._waiting:
            trip, self._waiting = self._waiting, []
            answers: list[Any]
            try:
                async with self._redis.pipeline(transaction=False) as pipe:
                    for command, _ in trip:
                        pipe.execute_command(*command)
                    answers = await pipe.execute(raise_on_error=False)
            except Exception as error:  # noqa: BLE001 - told to each that waits
                answers = [error] * len(trip)
            for (command, waiting), answer in zip(trip, answers, strict=True):
                if waiting is None:
                    if isinstance(answer, Exception):
                        logger.warning("%s on Redis: %s", command[0], answer)
                elif isinstance(answer, Exception):
                    waiting.set_exception(answer)
                else:
                    waiting.set_result(answer)
        self._going = None


class RedisLane(Lane, RedisQueue):
    """A queue of ours in SAQ's keys."""

    def __init__(self, redis: Any, name: str, trips: _Trips) -> None:
        RedisQueue.__init__(self, redis, name=name, dump=msgspec.json.encode, load=msgspec.json.decode)
        self._trips = trips
        self.active = self.namespace("active")
        self.incomplete = self.namespace("incomplete")

    def band(self, priority: int) -> str:
        """Name the list in which messages of one priority wait."""
        queued = self.namespace("queued")
        return queued if priority == _DEFAULT else f"{queued}:{priority}"

    @property
    def bands(self) -> list[str]:
        """All those lists, the highest priority first."""
        return [self.band(priority) for priority in _HIGHEST_FIRST]

    # What SAQ writes of a job is for its screens and for its sweep: nobody has to wait until it is there.

    async def _update(self, job: Job, status: Status | None = None, **_more: Any) -> None:
        job.status = status or job.status
        self._trips.post("SET", job.id, self.serialize(job))

    async def _finish(self, job: Job, status: Status, *, result: Any = None, error: str | None = None) -> None:
        self._trips.post("LREM", self.active, 1, job.id)
        self._trips.post("ZREM", self.incomplete, job.id)
        if job.ttl > 0:
            self._trips.post("SETEX", job.id, job.ttl, self.serialize(job))
        else:
            self._trips.post("DEL", job.id)

    async def beat(self, job: Job) -> None:
        """See `Lane.beat`: posted in the order of the job's other writes."""
        await self.update(job)


class RedisTransport:
    """Publishes to SAQ's keys on one Redis, and opens what a worker takes from."""

    def __init__(self, url: str, namespace: str, settings: SaqSettings) -> None:
        self._namespace = namespace
        self._settings = settings
        self._lanes: dict[str, RedisLane] = {}
        self._known = f"penstock:{namespace}:saq-queues"
        # A blocking read must not time out: redis-py 8 would let it after 5 s.
        self._redis: Any = aioredis.from_url(
            url,
            socket_timeout=None,
            socket_connect_timeout=settings.connect_timeout_s,
            socket_keepalive=True,
        )
        self._trips = _Trips(self._redis)

    def _lane(self, queue: str) -> RedisLane:
        if queue not in self._lanes:
            self._lanes[queue] = RedisLane(self._redis, f"{self._namespace}:{queue}", self._trips)
        return self._lanes[queue]

    async def publish(self, messages: Sequence[Message]) -> None:
        """Hand over all messages in one transaction."""
        at_ms = int(time.time() * 1000)
        jobs: dict[str, bytes] = {}
        waiting: dict[str, list[str]] = {}
        incomplete: dict[str, dict[str, float]] = {}
        for message in messages:
            lane = self._lane(message.queue)
            saq_id = lane.job_id(message.id)
            jobs[saq_id] = msgspec.json.encode(native_job(message, message.id, lane.name, at_ms, self._settings))
            waiting.setdefault(lane.band(message.priority), []).append(saq_id)
            incomplete.setdefault(lane.incomplete, {})[saq_id] = 0
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.sadd(self._known, *{message.queue for message in messages})
            pipe.mset(jobs)
            for key, scores in incomplete.items():
                pipe.zadd(key, scores)
            for key, ids in waiting.items():
                pipe.rpush(key, *ids)
            await pipe.execute()

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """Take messages out of whichever list they wait in."""
        gone = 0
        known: set[bytes] = await self._redis.smembers(self._known)
        for lane in [self._lane(name.decode()) for name in known]:
            ids = [lane.job_id(message_id) for message_id in message_ids]
            there = [saq_id for saq_id, job in zip(ids, await self._redis.mget(ids), strict=True) if job]
            for saq_id in there:
                async with self._redis.pipeline(transaction=True) as pipe:
                    for band in lane.bands:
                        pipe.lrem(band, 1, saq_id)
                    removed = sum(await pipe.execute())
                if removed:
                    gone += removed
                    await self._redis.zrem(lane.incomplete, saq_id)
                    await self._redis.delete(saq_id)
        return gone

    async def depth(self, queue: str) -> int:
        """Count what waits in all bands of a queue."""
        async with self._redis.pipeline(transaction=False) as pipe:
            for band in self._lane(queue).bands:
                pipe.llen(band)
            return sum(await pipe.execute())

    async def source(self, queues: Sequence[str]) -> Source:
        """Connect a worker."""
        return RedisSource(self._redis, self._trips, [self._lane(queue) for queue in queues])

    async def close(self) -> None:
        """Close the connections."""
        await self._redis.aclose()


class RedisSource(Source):
    """Takes from the bands of several queues in one trip, or waits on all of them with one connection."""

    def __init__(self, redis: Any, trips: _Trips, lanes: Sequence[RedisLane]) -> None:
        self.lanes = lanes
        self._redis = redis
        self._trips = trips
        self._by_active = {lane.active: lane for lane in lanes}
        self._bands = {band: lane for lane in lanes for band in lane.bands}
        self._keys = [key for band, lane in self._bands.items() for key in (band, lane.active)]
        self._waiting: Any = redis.client()
        self._waiting_id = 0

    async def connect(self) -> None:
        """See `Source.connect`."""
        self._waiting_id = await self._waiting.client_id()

    async def take(self, count: int) -> list[Job]:
        """See `Source.take`."""
        taken: list[tuple[bytes, bytes, bytes | None]] = await self._trips.ask(
            "EVAL", _TAKE, len(self._keys), *self._keys, count
        )
        return [job for active, saq_id, body in taken if (job := await self._read(active.decode(), saq_id, body))]

    async def wait(self) -> Job | None:
        """See `Source.wait`."""
        found: Any = await self._waiting.blpop(list(self._bands), timeout=_WAIT_S)
        if found is None:
            return None
        lane = self._bands[found[0].decode()]
        saq_id = found[1]
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.rpush(lane.active, saq_id)
            pipe.get(saq_id)
            _, body = await pipe.execute()
        return await self._read(lane.active, saq_id, body)

    async def wake(self) -> None:
        """See `Source.wake`: the read ends as if its time were over, so nothing that it popped is lost."""
        await self._redis.client_unblock(self._waiting_id)

    async def close(self) -> None:
        """See `Source.close`."""
        await self._trips.over()
        await self._waiting.aclose()

    async def put_back(self, job: Job) -> None:
        """See `Source.put_back`."""
        lane = job.get_queue()
        assert isinstance(lane, RedisLane)  # noqa: S101 - the source's own lanes
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.lrem(lane.active, 1, job.id)
            pipe.lpush(lane.band(9 - job.priority), job.id)
            await pipe.execute()

    async def _read(self, active: str, saq_id: bytes, body: bytes | None) -> Job | None:
        lane = self._by_active[active]
        try:
            job = lane.deserialize(body)
            if job is not None:
                return job
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            logger.warning("refused a message that is not ours: %s: %s", type(error).__name__, error)
        self._trips.post("LREM", active, 1, saq_id)
        self._trips.post("ZREM", lane.incomplete, saq_id)
        return None
