"""The records of a Redis ledger: ``records:KIND`` is a hash by name, ``records:KIND:due`` a sorted set by time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any

import msgspec

from penstock.core.records import Change, Record, Records
from penstock.ledger import rows
from penstock.ledger.redis_lua import PRELUDE, Script
from penstock.ledger.redis_server import RedisServer

_WRITE = Script(f"""{PRELUDE}
local answers = {{}}
for i, c in ipairs(cmsgpack.unpack(ARGV[3])) do
  local kind, name, seen, body, due = c[1], c[2], c[3], c[4], c[5]
  local at = P .. 'records:' .. kind
  local there = redis.call('HGET', at, name)
  local version = there and string.match(there, '^%d+') or '0'
  if version ~= seen then
    answers[i] = '0'
  elseif not body then
    redis.call('HDEL', at, name)
    redis.call('ZREM', at .. ':due', name)
    answers[i] = there and '1' or '0'
  else
    -- A new record begins where no older one of its name can have ended: nobody has seen that version before.
    version = there and string.format('%.0f', tonumber(version) + 1) or string.format('%.0f', now * 1000000)
    redis.call('HSET', at, name, version .. ' ' .. (due or '') .. ' ' .. body)
    if due then redis.call('ZADD', at .. ':due', due, name) else redis.call('ZREM', at .. ':due', name) end
    answers[i] = version
  end
end
return answers""")
"""Versions and times travel as text: Lua's numbers are doubles, which cmsgpack would cut."""

_DUE = Script(f"""{PRELUDE}
local found, at = {{}}, P .. 'records:' .. ARGV[3]
for _, name in ipairs(redis.call('ZRANGEBYSCORE', at .. ':due', '-inf', num(now), 'LIMIT', 0, ARGV[4])) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('HGET', at, name)
end
return found""")

_pack = msgspec.msgpack.encode


class RedisRecords(Records):
    """See `Records`. Every write is one Lua script; times are the server's, or of ``clock`` in tests."""

    def __init__(self, server: RedisServer, clock: Callable[[], float] | None) -> None:
        self._server = server
        self._clock = clock

    def _time(self) -> str:
        return "" if self._clock is None else repr(self._clock())

    def _key(self, kind: str) -> str:
        return f"{self._server.prefix}records:{kind}"

    def get(self, kind: str, name: str) -> Record | None:
        """See `Records.get`."""
        packed = self._server.call(lambda client, _again: client.hget(self._key(kind), name))
        return None if packed is None else _record(kind, name, packed)

    def all(self, kind: str) -> list[Record]:
        """See `Records.all`."""
        found = self._server.call(lambda client, _again: client.hgetall(self._key(kind)))
        return sorted((_record(kind, _text(name), packed) for name, packed in found.items()), key=lambda r: r.name)

    def due(self, kind: str, limit: int) -> list[Record]:
        """See `Records.due`."""
        found = self._server.run(_DUE, self._time(), kind, limit)
        return [_record(kind, _text(name), packed) for name, packed in zip(found[::2], found[1::2], strict=True)]

    def next_due_at(self, kind: str) -> datetime | None:
        """See `Records.next_due_at`."""
        first = self._server.call(lambda client, _again: client.zrange(f"{self._key(kind)}:due", 0, 0, withscores=True))
        return rows.instant(float(first[0][1])) if first else None

    def write(self, changes: Sequence[Change]) -> list[int]:
        """See `Records.write`."""
        if not changes:
            return []
        given: list[tuple[Any, ...]] = [
            # Redis's MessagePack knows texts and no bytes.
            (c.kind, c.name, str(c.seen), c.body.decode() if c.body is not None else False, _time(c.due_at))
            for c in changes
        ]
        return [int(answer) for answer in self._server.run(_WRITE, self._time(), _pack(given))]


def _time(at: datetime | None) -> str | bool:
    return False if at is None else repr(at.timestamp())


def _record(kind: str, name: str, packed: bytes | None) -> Record:
    """Read what `_WRITE` has written; of anything else the body is empty, which is no JSON."""
    try:
        version, due, body = (packed or b"").split(b" ", 2)
        return Record(kind, name, int(version), body, rows.instant(float(due)) if due else None)
    except ValueError:
        return Record(kind, name, 0, b"")


def _text(name: bytes) -> str:
    return name.decode(errors="backslashreplace")
