"""Dramatiq's Redis broker, with its own keys, made to take by preference, to publish in bulk and to withdraw.

Dramatiq fetches messages without their ids: one that does not decode cannot be acknowledged and is kept for ever. It
looks after dead workers by chance, once in a thousand commands.
"""

# Dramatiq's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from dramatiq.broker import MessageProxy
from dramatiq.brokers.redis import RedisBroker

from penstock.backends.dramatiq.worker import Delivery, Taker, encode
from penstock.core.base import BackendContext, WorkOrder
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.job.models import Message
from penstock.servers import redis_client
from penstock.servers.redis_url import key_namespace

_PRIORITIES = range(9, -1, -1)
_BELLS = 16
_BELL_TTL_S = 60

_TAKE = """
local heartbeats, acks = KEYS[1] .. ':__heartbeats__', KEYS[1] .. ':__acks__.' .. ARGV[1] .. '.'
local count, queues, found = tonumber(ARGV[3]), tonumber(ARGV[4]), {}
redis.call('zadd', heartbeats, ARGV[2], ARGV[1])
for i = 5 + queues, #ARGV, 3 do
    if redis.call('srem', acks .. ARGV[i], ARGV[i + 1]) == 1 then
        local queue = KEYS[1] .. ':' .. ARGV[i]
        redis.call('hdel', queue .. '.msgs', ARGV[i + 1])
        if ARGV[i + 2] ~= '' then
            redis.call('zadd', queue .. '.XQ', ARGV[2], ARGV[i + 1])
            redis.call('hset', queue .. '.XQ.msgs', ARGV[i + 1], ARGV[i + 2])
        end
    end
end
for i = 5, 4 + queues do
    local queue = KEYS[1] .. ':' .. ARGV[i]
    while #found < count do
        local id = redis.call('lpop', queue)
        if not id then break end
        local data = redis.call('hget', queue .. '.msgs', id)
        if data then
            redis.call('sadd', acks .. ARGV[i], id)
            found[#found + 1] = {ARGV[i], id, data}
        end
    end
end
return found
"""
_WITHDRAW = """
local gone = 0
for _, queue in ipairs(redis.call('smembers', KEYS[1])) do
    for _, id in ipairs(ARGV) do
        if redis.call('hexists', queue .. '.msgs', id) == 1 and redis.call('lrem', queue, 1, id) == 1 then
            redis.call('hdel', queue .. '.msgs', id)
            gone = gone + 1
        end
    end
end
return gone
"""


class OrderedBroker(RedisBroker):
    """One namespace. A queue of ours is ten of Dramatiq's, by priority: it has none on Redis."""

    client: Any  # redis-py's answers are typed as if they might be awaited

    def __init__(self, context: BackendContext, url: str) -> None:
        """Raises `ConfigError` for a URL that redis-py cannot read; opens nothing."""
        self.context = context
        settings: Any = context.settings
        namespace = key_namespace(url, context.namespace)
        try:
            client: Any = redis.Redis.from_pool(
                redis_client.pool(
                    url,
                    namespace=namespace,
                    connect_timeout_s=settings.connect_timeout_s,
                    socket_timeout=settings.poll_s + settings.answer_timeout_s,
                )
            )
        except ValueError as error:
            raise ConfigError(f"dramatiq+redis: {error}") from None
        super().__init__(
            client=client,
            namespace=f"dramatiq:{namespace}",
            middleware=[],
            heartbeat_timeout=int(settings.heartbeat_timeout_s * 1000),
            dead_message_ttl=settings.failure_ttl_s * 1000,
        )
        self.take = client.register_script(_TAKE)
        self._withdraw = client.register_script(_WITHDRAW)
        self._known_key = f"{self.namespace}:__queues__"
        self.bell_key = f"{self.namespace}:__bell__"

    def bands(self, queue: str) -> list[str]:
        """Name Dramatiq's queues of one of ours, the highest priority first."""
        # A name that ends so is never that of one of Dramatiq's own keys, such as ``<queue>.msgs``.
        return [f"{queue}:p{priority}" for priority in _PRIORITIES]

    def publish(self, messages: Sequence[Message]) -> None:
        """Store messages in one MULTI."""
        with self.client.pipeline() as pipe:
            for message in messages:
                queue = f"{message.queue}:p{message.priority}"
                key = f"{self.namespace}:{queue}"
                # Our ids are unique for each publish, so they can be Dramatiq's ids on Redis too.
                pipe.hset(f"{key}.msgs", message.id, encode(message, queue, redis_message_id=message.id))
                pipe.rpush(key, message.id)
                pipe.sadd(self._known_key, key)
            # One bell wakes one worker that waits; those that nobody hears are few and soon gone.
            pipe.rpush(self.bell_key, 1)
            pipe.ltrim(self.bell_key, 0, _BELLS - 1)
            pipe.expire(self.bell_key, _BELL_TTL_S)
            pipe.execute()

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Delete waiting messages; return how many there were."""
        return int(self._withdraw(keys=[self._known_key], args=list(message_ids)))  # type: ignore[arg-type]

    def depth(self, queue: str) -> int:
        """Count the messages that wait in a queue."""
        with self.client.pipeline(transaction=False) as pipe:
            for band in self.bands(queue):
                pipe.llen(f"{self.namespace}:{band}")
            return sum(pipe.execute())

    def taker(self, order: WorkOrder) -> RedisTaker:
        """Make what takes messages."""
        return RedisTaker(self, order)

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def _should_do_maintenance(self, command: str) -> int:
        # Dramatiq throws dice; here it is what `RedisTaker.beat` fetches for.
        return int(command == "fetch")


class RedisTaker(Taker):
    """One script for all queues, and for all that has ended."""

    def __init__(self, broker: OrderedBroker, order: WorkOrder) -> None:
        super().__init__(broker.context, [band for queue in order.queues for band in broker.bands(queue)], order)
        self.broker = broker
        self.beat_s = self.settings.heartbeat_s

    def take(self, count: int) -> list[MessageProxy]:
        """See `Taker.take`: a publish ends the waiting."""
        broker = self.broker
        ended = list(self.ended)
        told = [part for one in ended for part in (one.queue, one.tag, one.dead or b"")]
        args = [broker.broker_id, int(time.time() * 1000), count, len(self.queues), *self.queues, *told]
        found: Any = broker.take(keys=[broker.namespace], args=args)
        for _ in ended:  # not earlier: what an outage cut off is told again, and the second time is nothing new
            self.ended.popleft()
        if count and not found:
            broker.client.blpop(broker.bell_key, timeout=self.settings.poll_s)
        return [message for each in found if (message := self._decoded(*each)) is not None]

    def _decoded(self, queue: bytes, message_id: bytes, data: bytes) -> MessageProxy | None:
        options = {"redis_message_id": message_id.decode(errors="replace")}
        return self.decoded(data, Delivery(queue.decode(), message_id, options))

    def beat(self) -> None:
        """See `Taker.beat`; also takes back what dead workers held, and drops old dead letters."""
        for queue in self.queues:
            self.broker.do_fetch(queue, 0)

    def close(self) -> None:
        """See `Taker.close`."""
        with contextlib.suppress(redis.RedisError):
            self.take(0)
            self.broker.client.zrem(f"{self.broker.namespace}:__heartbeats__", self.broker.broker_id)


@contextmanager
def told(where: str) -> Generator[None]:
    """Say in our words what is wrong with the server."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise BackendUnavailableError(f"dramatiq cannot reach {where}: {error}") from error
    except redis.RedisError as error:
        raise BackendError(f"dramatiq failed at {where}: {error}") from error
