"""Huey's priority queue on Redis, made to carry several queues, bulk and withdrawal.

Read at Huey 3.5.4: `PriorityRedisStorage` keeps one sorted set for one queue, adds one message per call, refuses
names with a colon by dropping it, and cannot find a message by its id. The sorted sets and their members are Huey's
own; beside each lies a hash from message ids to members.
"""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import re
import struct
import time
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import redis
from huey.storage import PriorityRedisStorage

from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.servers import redis_client

_ID = re.compile(rb'\["([^"]*)"')
"""A message is a JSON list that begins with its id."""
_PREFIX_BYTES = 8
"""Huey puts the time, in microseconds, before the data, so that equal priorities keep their order."""

_TAKE = """
local found, count = {}, tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
    local members = #found < count and redis.call('zpopmin', key, count - #found) or {}
    for i = 1, #members, 2 do
        found[#found + 1] = members[i]
        local id = string.match(members[i], '^%["([^"]*)', 9)
        if id then redis.call('hdel', key .. '.ids', ARGV[1] .. ':' .. id) end
    end
    if #found < count then redis.call('del', key .. '.ids') end
end
return found
"""
_WITHDRAW = """
local gone = 0
for _, key in ipairs(KEYS) do
    for _, id in ipairs(ARGV) do
        local member = redis.call('hget', key .. '.ids', id)
        if member then
            redis.call('hdel', key .. '.ids', id)
            gone = gone + redis.call('zrem', key, member)
        end
    end
end
return gone
"""


class RedisQueueStorage(PriorityRedisStorage):
    """The queues of one namespace; workers take from `queues`, in that order."""

    conn: Any  # redis-py's answers are typed as if they might be awaited

    def __init__(self, name: str, url: str, settings: Any) -> None:
        """Raises `ConfigError` for a URL that redis-py cannot read; opens nothing."""
        try:
            pool = redis_client.pool(
                url,
                namespace=name,
                connect_timeout_s=settings.connect_timeout_s,
                socket_timeout=settings.block_s + settings.answer_timeout_s,
            )
        except ValueError as error:
            raise ConfigError(f"huey+redis: {error}") from None
        super().__init__(name, clean_name=False, connection_pool=pool, read_timeout=settings.block_s)
        self.queues: tuple[str, ...] = ()
        self._known_key = f"huey.queues.{name}"
        self._take = self.conn.register_script(_TAKE)
        self._withdraw = self.conn.register_script(_WITHDRAW)

    def _key(self, queue: str) -> str:
        return f"huey.redis.{queue}"

    def listen(self, queues: Sequence[str]) -> None:
        """Take from these queues, in this order of preference. Asks the server for a sign of life."""
        self.conn.ping()
        self.queues = tuple(queues)

    def put_messages(self, rows: Iterable[tuple[str, bytes, int, str]]) -> None:
        """Store (queue, data, priority, message id) rows in one MULTI."""
        now_us = int(time.time() * 1e6)
        with self.conn.pipeline() as pipe:
            for number, (queue, data, priority, message_id) in enumerate(rows):
                member = struct.pack(">Q", now_us + number) + data
                key = self._key(queue)
                pipe.zadd(key, {member: -priority})
                pipe.hset(f"{key}.ids", message_id, member)
                pipe.sadd(self._known_key, key)
            pipe.execute()

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Delete waiting messages; return how many there were."""
        keys = [key.decode() for key in self.conn.smembers(self._known_key)]
        return self._withdraw(keys=keys, args=list(message_ids)) if keys and message_ids else 0

    def waiting(self, queue: str) -> int:
        """Count the messages of one queue."""
        return self.conn.zcard(self._key(queue))

    def take(self, count: int) -> list[bytes]:
        """Take the best messages, at most ``count``, the best first; wait a while if there is none."""
        keys = [self._key(queue) for queue in self.queues]
        members: list[bytes] = self._take(keys=keys, args=[self.name, count])
        if not members and (found := self.conn.bzpopmin(keys, timeout=self.read_timeout)) is not None:
            key, member, _ = found
            members = [member]
            if match := _ID.match(member, _PREFIX_BYTES):
                self.conn.hdel(f"{key.decode()}.ids", f"{self.name}:{match[1].decode()}")
        return [member[_PREFIX_BYTES:] for member in members]

    def close(self) -> None:
        """Let go of the connections."""
        self.conn.close()
        self.pool.disconnect()


@contextmanager
def told(where: str) -> Generator[None]:
    """Say in our words what is wrong with the server."""
    try:
        yield
    except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
        raise BackendUnavailableError(f"huey cannot reach {where}: {error}") from error
    except redis.RedisError as error:
        raise BackendError(f"huey failed at {where}: {error}") from error
