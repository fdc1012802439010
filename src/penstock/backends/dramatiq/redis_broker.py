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
from dramatiq.errors import ConnectionClosed

from penstock.backends.dramatiq.config import DramatiqSettings
from penstock.backends.dramatiq.worker import OrderedConsumer, declare, encode, serve
from penstock.core.base import BackendContext, WorkOrder
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.job.models import Message

_PRIORITIES = range(9, -1, -1)
_BELLS = 16
_BELL_TTL_S = 60

_TAKE = """
local heartbeats, acks = KEYS[1] .. ':__heartbeats__', KEYS[1] .. ':__acks__.' .. ARGV[1] .. '.'
local count, found = tonumber(ARGV[3]), {}
redis.call('zadd', heartbeats, ARGV[2], ARGV[1])
for i = 4, #ARGV do
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
        try:
            client = redis.Redis.from_url(
                url,
                socket_timeout=None,  # redis-py 8 sets 5 s
                socket_connect_timeout=settings.connect_timeout_s,
                socket_keepalive=True,
            )
        except ValueError as error:
            raise ConfigError(f"dramatiq+redis: {error}") from None
        super().__init__(
            client=client,
            namespace=f"dramatiq:{context.namespace}",
            middleware=[],
            heartbeat_timeout=int(settings.heartbeat_timeout_s * 1000),
            dead_message_ttl=settings.failure_ttl_s * 1000,
        )
        self.take = client.register_script(_TAKE)
        self._withdraw = client.register_script(_WITHDRAW)
        self._known_key = f"{self.namespace}:__queues__"
        self.bell_key = f"{self.namespace}:__bell__"
        self._consumer: RedisConsumer | None = None

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
        self._consumer = RedisConsumer(self, queues, order.concurrency)
        self.actors.clear()
        self.queues.clear()
        declare(self, self.context, queues[0])
        try:
            serve(self, self._consumer, order.concurrency, order.on_ready)
        finally:
            self._consumer = None
            with told(self.namespace):
                self.client.zrem(f"{self.namespace}:__heartbeats__", self.broker_id)

    def stop(self) -> None:
        """Make `work` return."""
        if self._consumer is not None:
            self._consumer.stopping.set()

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 5000) -> RedisConsumer:
        """Return the one consumer, also after a lost connection: it knows which threads are busy."""
        assert self._consumer is not None  # noqa: S101 - only a worker consumes
        return self._consumer

    def close(self) -> None:
        """Let go of the connections."""
        self.client.close()

    def _should_do_maintenance(self, command: str) -> int:
        # Dramatiq throws dice; here it is what `RedisConsumer.beat` fetches for.
        return int(command == "fetch")


class RedisConsumer(OrderedConsumer):
    """Takes with one script for all queues."""

    def __init__(self, broker: OrderedRedisBroker, queues: Sequence[str], slots: int) -> None:
        super().__init__(queues, slots, broker.settings)
        self.broker = broker

    def take(self, count: int) -> list[MessageProxy]:
        """See `OrderedConsumer.take`."""
        broker = self.broker
        try:
            found: Any = broker.take(
                keys=[broker.namespace], args=[broker.broker_id, int(time.time() * 1000), count, *self.queues]
            )
            taken: list[MessageProxy] = []
            for name, message_id, data in found:
                queue = name.decode()
                message = self.read(queue, data, redis_message_id=message_id.decode(errors="replace"))
                if message is not None:
                    taken.append(message)
                else:
                    with contextlib.suppress(redis.RedisError):  # those that were taken with it must not be lost
                        broker.do_nack(queue, message_id)
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None
        return taken

    def wait(self, timeout_s: float) -> None:
        """See `OrderedConsumer.wait`: a publish ends the waiting."""
        if self.stopping.is_set():
            time.sleep(timeout_s)
            return
        try:
            if self.broker.client.blpop(self.broker.bell_key, timeout=timeout_s) is not None:
                self.look_again_soon()
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    def done(self, message: MessageProxy, failure: str | None) -> None:
        """See `OrderedConsumer.done`."""
        broker, queue, message_id = self.broker, message.queue_name, message.options["redis_message_id"]
        if failure is None:
            broker.do_ack(queue, message_id)
            return
        ours = Message(**message.kwargs)
        told_of = encode(ours, queue, redis_message_id=message_id, traceback=failure)
        broker.client.hset(f"{broker.namespace}:{queue}.msgs", message_id, told_of)
        broker.do_nack(queue, message_id)

    def requeue(self, messages: Any) -> None:
        """Hand back what was taken and not begun, as the worker leaves."""
        for message in messages:
            self.broker.do_requeue(message.queue_name, message.options["redis_message_id"])

    def close(self) -> None:
        """Hand back what was taken for threads that have ended."""
        left = list(self.taken)
        self.taken.clear()
        with contextlib.suppress(redis.RedisError):
            self.requeue(left)

    def beat(self) -> None:
        """See `OrderedConsumer.beat`; also takes back what dead workers held, and drops old dead letters."""
        for queue in self.queues:
            self.broker.do_fetch(queue, 0)


@contextmanager
def told(where: str) -> Generator[None]:
    """Say in our words what is wrong with the server."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise BackendUnavailableError(f"dramatiq cannot reach {where}: {error}") from error
    except redis.RedisError as error:
        raise BackendError(f"dramatiq failed at {where}: {error}") from error
