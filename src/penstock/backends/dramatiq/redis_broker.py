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

from penstock.backends.dramatiq.config import DramatiqSettings
from penstock.backends.dramatiq.worker import Taker, decode, encode, serve
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
for i = 5 + queues, #ARGV, 2 do
    if redis.call('srem', acks .. ARGV[i], ARGV[i + 1]) == 1 then
        redis.call('hdel', KEYS[1] .. ':' .. ARGV[i] .. '.msgs', ARGV[i + 1])
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


class OrderedRedisBroker(RedisBroker):
    """One namespace. A queue of ours is ten of Dramatiq's, by priority: it has none on Redis."""

    client: Any  # redis-py's answers are typed as if they might be awaited

    def __init__(self, context: BackendContext, url: str) -> None:
        """Raises `ConfigError` for a URL that redis-py cannot read; opens nothing."""
        settings: Any = context.settings
        self.context = context
        self.settings: DramatiqSettings = settings
        namespace = key_namespace(url, context.namespace)
        try:
            client: Any = redis.Redis.from_pool(
                redis_client.pool(url, namespace=namespace, connect_timeout_s=settings.connect_timeout_s)
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
        self._taker: RedisTaker | None = None

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

    def work(self, order: WorkOrder) -> None:
        """Run Dramatiq's worker until `stop`."""
        queues = [band for queue in order.queues for band in self.bands(queue)]
        self._taker = taker = RedisTaker(self, self.context, queues)
        try:
            serve(self, taker, self.context, order.concurrency, order.on_ready)
        finally:
            self._taker = None

    def stop(self) -> None:
        """Make `work` return."""
        if self._taker is not None:
            self._taker.stop()

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def _should_do_maintenance(self, command: str) -> int:
        # Dramatiq throws dice; here it is what `RedisTaker.beat` fetches for.
        return int(command == "fetch")


class RedisTaker(Taker):
    """One script for all queues, and for all that has ended."""

    def __init__(self, broker: OrderedRedisBroker, context: BackendContext, queues: Sequence[str]) -> None:
        super().__init__(context, queues)
        self.broker = broker
        self.beat_s = self.settings.heartbeat_s

    def take(self, count: int) -> list[MessageProxy]:
        """See `Taker.take`."""
        broker = self.broker
        ended = [self.ended.popleft() for _ in range(len(self.ended))]
        try:
            for message, failure in ended:
                if failure is not None:
                    self._fail(message, failure)
            acks = [part for m, _ in ended for part in (m.queue_name, m.options["redis_message_id"])]
            now_ms = int(time.time() * 1000)
            found: Any = broker.take(
                keys=[broker.namespace], args=[broker.broker_id, now_ms, count, len(self.queues), *self.queues, *acks]
            )
        except BaseException:
            self.ended.extendleft(reversed(ended))  # to be told again: the second time it is nothing new
            raise
        taken: list[MessageProxy] = []
        for name, message_id, data in found:
            queue = name.decode()
            message = decode(queue, data, redis_message_id=message_id.decode(errors="replace"))
            if message is not None:
                taken.append(message)
            else:
                with contextlib.suppress(redis.RedisError):  # those that were taken with it must not be lost
                    broker.do_nack(queue, message_id)
        return taken

    def _fail(self, message: MessageProxy, failure: str) -> None:
        queue, message_id = message.queue_name, message.options["redis_message_id"]
        dead = encode(message.args[0], queue, redis_message_id=message_id, traceback=failure)
        space, client = self.broker.namespace, self.broker.client
        if client.sismember(f"{space}:__acks__.{self.broker.broker_id}.{queue}", message_id):  # not told before
            client.hset(f"{space}:{queue}.msgs", message_id, dead)
            self.broker.do_nack(queue, message_id)

    def wait(self) -> None:
        """See `Taker.wait`: a publish ends the waiting."""
        self.broker.client.blpop(self.broker.bell_key, timeout=self.settings.poll_s)

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
