"""What somebody who reaches the broker may put there: bytes that run code where they are unpickled, and worse."""

from __future__ import annotations

import asyncio
import contextlib
import json
import pickle
import random
import sqlite3
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from penstock.job.models import Message, new_job_id

NAMES = (
    "os.system",
    "subprocess:run",
    "builtins.eval",
    "../../etc/passwd",
    "a\0b",
    "__import__('os')",
    "",
    "é" * 300,
    "{{7*7}}",
)
IDS = ("../../etc/passwd", "a\0b", "", "..", "/", "a b", "x" * 4096, "*", "é", "\n", "$(touch executed)")


class Bomb:
    """Writes a file where it is unpickled."""

    def __init__(self, canary: Path) -> None:
        self._canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return (open, (str(self._canary), "w"))


def bodies(rng: random.Random, canary: Path, count: int, *, largest_bytes: int) -> list[bytes]:
    """Return so many hostile messages, each kind about as often; of the very large and very deep ones a few."""
    kinds = [_noise, _pickled, _pickled_as_text, _named, _with_ids, _cut, _of_other_types, _engines_own]
    made = [rng.choice(kinds)(rng, canary) for _ in range(count)]
    rare = [b"[" * 100_000, b'{"kwargs":' * 100_000, b"[" * 50_000 + b"]" * 50_000, b"x" * largest_bytes]
    rare.append(json.dumps({"id": "a_1", "job_ids": ["a"], "name": "x" * largest_bytes}).encode())
    for at, body in zip(rng.sample(range(count), len(rare)), rare, strict=True):
        made[at] = body
    return made


def _noise(rng: random.Random, _canary: Path) -> bytes:
    return rng.randbytes(rng.choice((1, 3, 40, 400, 4000)))


def _pickled(rng: random.Random, canary: Path) -> bytes:
    return pickle.dumps(rng.choice((Bomb(canary), [Bomb(canary)], {"kwargs": Bomb(canary)})), rng.randrange(6))


def _pickled_as_text(rng: random.Random, canary: Path) -> bytes:
    import base64

    return json.dumps({"args": [base64.b64encode(_pickled(rng, canary)).decode()], "py/reduce": "os.system"}).encode()


def _message(rng: random.Random) -> dict[str, Any]:
    job_id = new_job_id()
    return {
        "id": f"{job_id}_1",
        "job_ids": [job_id],
        "queue": "default",
        "priority": rng.randrange(10),
        "name": "shop.pay",
    }


def _named(rng: random.Random, _canary: Path) -> bytes:
    return json.dumps(_around(rng, {**_message(rng), "name": rng.choice(NAMES)})).encode()


def _with_ids(rng: random.Random, _canary: Path) -> bytes:
    return json.dumps(
        _around(rng, {**_message(rng), rng.choice(("id", "queue")): rng.choice(IDS), "job_ids": [rng.choice(IDS)]})
    ).encode()


def _cut(rng: random.Random, _canary: Path) -> bytes:
    whole = json.dumps(_around(rng, _message(rng))).encode()
    return whole[: rng.randrange(1, len(whole))]  # of no bytes it is none: to ARQ one that has expired


def _of_other_types(rng: random.Random, _canary: Path) -> bytes:
    strange = rng.choice((None, True, -1, 1e308, [], {}, [[]], "x", 2**64, {"a": {"b": []}}))
    return json.dumps(
        _around(rng, {**_message(rng), rng.choice(("id", "job_ids", "priority", "name", "queue")): strange})
    ).encode()


def _engines_own(rng: random.Random, _canary: Path) -> bytes:
    """Name a function as the engine's own messages do: an engine that imports by name would run it."""
    name = rng.choice(("os.system", "subprocess.getoutput", "posix.system"))
    shapes = (
        {"function": name, "func_name": name, "kwargs": {"command": "touch executed"}, "args": ["touch executed"]},
        {"task_name": name, "task_id": "a", "labels": {}, "args": ["touch executed"], "kwargs": {}},
        {
            "actor_name": name,
            "queue_name": "default",
            "message_id": "a",
            "message_timestamp": 0,
            "options": {},
            "args": ["touch executed"],
            "kwargs": {},
        },
        {"f": name, "t": 1, "et": 0, "a": ["touch executed"], "k": {}},
        ["a", name, 0, None, None, ["touch executed"], {}],
    )
    return rng.choice((json.dumps, lambda shape: msgspec.msgpack.encode(shape).decode("latin-1")))(
        rng.choice(shapes)
    ).encode("latin-1", "replace")


def _around(rng: random.Random, message: dict[str, Any]) -> Any:
    """Wrap a message as one of the engines would, or not at all."""
    return rng.choice((message, {"kwargs": message}, {"args": [message], "kwargs": {}}, [message]))


# -- how they get there -----------------------------------------------------------------------------------------------


def put(arena: Any, hostile: list[bytes]) -> int:
    """Put messages where workers will find them, past penstock; return how many are there.

    On Redis and SQLite real messages are published first and then overwritten, whatever the engine keeps them in: so
    the ids lead to them. No worker may run meanwhile.
    """
    url = arena.queue.config.backend.partition("+")[2]
    if url.startswith("amqp"):
        return asyncio.run(_to_rabbitmq(url, f"{_rabbit_queue(arena)}", hostile))
    if url.startswith("nats"):
        return asyncio.run(_to_nats(url, f"penstock.{arena.queue.config.namespace}.default.5", hostile))
    marker = f"hostile-{arena.queue.config.namespace}"
    decoys = [Message(id=f"{job_id}_1", job_ids=(job_id,), name=marker) for _ in hostile for job_id in [new_job_id()]]
    arena.queue.gateway.publish(decoys)
    left = iter(hostile)
    if url.startswith("sqlite"):
        return _overwrite_sqlite(url.removeprefix("sqlite:///"), marker.encode(), left)
    return _overwrite_redis(url, marker.encode(), left)


def _rabbit_queue(arena: Any) -> str:
    namespace = arena.queue.config.namespace
    engine = arena.queue.config.backend.partition("+")[0]
    return f"penstock.{namespace}.default" if engine == "taskiq" else f"{namespace}:default:jobs"


async def _to_rabbitmq(url: str, queue: str, hostile: list[bytes]) -> int:
    import aio_pika

    async with await aio_pika.connect(url) as connection, connection.channel() as channel:
        for body in hostile:
            await channel.default_exchange.publish(aio_pika.Message(body), queue)
    return len(hostile)


async def _to_nats(url: str, subject: str, hostile: list[bytes]) -> int:
    import nats

    client = await nats.connect(url)
    sent = 0
    for body in hostile:
        if len(body) <= client.max_payload:
            await client.jetstream().publish(subject, body)
            sent += 1
    await client.close()
    return sent


def _overwrite_sqlite(path: str, marker: bytes, left: Iterator[bytes]) -> int:
    connection = sqlite3.connect(path)
    done = 0
    tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    for table in tables:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        for column in columns:
            found = connection.execute(f"SELECT rowid FROM {table} WHERE instr(cast({column} AS BLOB), ?)", (marker,))
            for (rowid,) in found.fetchall():
                body = next(left, None)
                if body is not None:
                    connection.execute(f"UPDATE {table} SET {column} = ? WHERE rowid = ?", (body, rowid))
                    done += 1
    connection.commit()
    connection.close()
    return done


def _overwrite_redis(url: str, marker: bytes, left: Iterator[bytes]) -> int:
    import redis

    client = redis.Redis.from_url(url)
    done = 0
    # RQ's own keys do not tell whose they are; the marker does.
    for key in list(client.scan_iter(count=10_000)):
        kind = client.type(key)
        if kind == b"string" and marker in (client.get(key) or b""):
            done += _each(left, lambda body, key=key: client.set(key, body))
        elif kind == b"list":
            for at, value in enumerate(client.lrange(key, 0, -1)):
                if marker in value:
                    done += _each(left, lambda body, key=key, at=at: client.lset(key, at, body))
        elif kind == b"hash":
            if key.endswith(b".ids"):
                continue  # Huey's list of what may be withdrawn
            fields = client.hgetall(key)
            # RQ compresses its message, and has the name beside it.
            held = [field for field, value in fields.items() if marker in _unpacked(value)]
            for field in [b"data"] if b"data" in held else held:
                done += _each(left, lambda body, key=key, field=field: client.hset(key, field, body) + 1)
        elif kind == b"zset":
            for member, score in client.zrange(key, 0, -1, withscores=True):
                if marker in member:
                    client.zrem(key, member)
                    done += _each(left, lambda body, key=key, score=score: client.zadd(key, {body: score}))
    client.close()
    return done


def _unpacked(value: bytes) -> bytes:
    """RQ compresses its messages."""
    with contextlib.suppress(zlib.error):
        return zlib.decompress(value)
    return value


def _each(left: Iterator[bytes], write: Any) -> int:
    body = next(left, None)
    if body is None:
        return 0
    return 0 if write(body) == 0 else 1
