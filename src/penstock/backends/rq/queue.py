"""RQ behind the backend contract: one function, no retries, no timeouts, no scheduler, results that are soon gone."""

# RQ's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import re
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import msgspec
import redis
from rq import Queue
from rq.job import Job
from rq.utils import now, utcformat

from penstock.backends.rq.config import RqSettings
from penstock.backends.rq.worker import ENTRY, ThreadWorker
from penstock.core.base import Backend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.core.secrets import mask_url
from penstock.job.models import Message
from penstock.servers import redis_client, redis_look

_PRIORITIES = range(9, -1, -1)
_USUAL = 5
_ALLOWED = re.compile("(?!x-)[A-Za-z0-9_-]+")
_JOB = Job.redis_job_namespace_prefix
_QUEUE = Queue.redis_queue_namespace_prefix
_QUEUES = Queue.redis_queues_keys

# What RQ's own enqueueing writes, but for the fields that are empty at first.
_PUBLISH = """
local fields = cjson.decode(ARGV[5])
for i = 6, #ARGV, 4 do
    local key, queue = ARGV[1] .. ARGV[i], ARGV[2] .. ARGV[i + 1]
    redis.call('HSET', key, 'origin', ARGV[i + 1], 'description', ARGV[i + 2], 'data', ARGV[i + 3], unpack(fields))
    redis.call('EXPIRE', key, ARGV[4])
    redis.call('SADD', ARGV[3], queue)
    redis.call('RPUSH', queue, ARGV[i])
end
"""
_WITHDRAW = """
local gone = 0
for i = 4, #ARGV do
    local key = ARGV[1] .. ARGV[i]
    local origin = redis.call('HGET', key, 'origin') or ''
    if string.sub(origin, 1, #ARGV[3]) == ARGV[3] and redis.call('LREM', ARGV[2] .. origin, 1, ARGV[i]) == 1 then
        redis.call('DEL', key)
        gone = gone + 1
    end
end
return gone
"""
_NO_CLUSTER = (
    "RQ changes keys of several nodes in one transaction, which a Redis Cluster refuses; use rq+redis:// or "
    "rq+redis+sentinel://, or an engine that takes a cluster: saq+redis+cluster://"
)


def native_id(message_id: str) -> str:
    """Write a message's id as RQ takes it: a user's job id may hold dots, RQ 2.12 refuses all but ``A-Za-z0-9_-``."""
    if _ALLOWED.fullmatch(message_id):
        return message_id
    return "x-" + re.sub("[^A-Za-z0-9-]", lambda found: f"_{ord(found[0]):x}_", message_id)


class RqBackend(Backend):
    """Jobs carried by RQ. A queue is ten native ones, by priority; the usual one bears the plain name.

    RQ has no priorities within a queue; its workers take from their queues in strict order.
    """

    name: ClassVar[str] = "rq"
    schemes: ClassVar[tuple[str, ...]] = ("rq+redis", "rq+rediss", "rq+unix", "rq+redis+sentinel", "rq+rediss+sentinel")
    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(("rq+redis+cluster", "rq+rediss+cluster"), _NO_CLUSTER)
    settings_type: ClassVar[type[msgspec.Struct]] = RqSettings

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL that redis-py cannot read."""
        super().__init__(context)
        settings: Any = context.settings
        self._settings: RqSettings = settings
        self._where = mask_url(context.url)
        self._worker: ThreadWorker | None = None
        try:
            self._redis: Any = redis.Redis.from_pool(
                redis_client.pool(
                    context.url.partition("+")[2],
                    connect_timeout_s=settings.connect_timeout_s,
                    socket_timeout=settings.block_s + settings.answer_timeout_s,
                )
            )
        except ValueError as error:
            raise ConfigError(f"{self._where}: {error}") from None

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """What RQ on Redis can do."""
        return Capabilities(
            priority=Support.EMULATED,
            withdraw=Support.NATIVE,
            depth=Support.NATIVE,
            bulk=Support.NATIVE,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one script for all.

        RQ's own `enqueue_many` makes 1,400 to 3,900 jobs a second: each is an object first, then a command of 30 words.
        """
        settings, at = self._settings, utcformat(now())
        common: dict[str, object] = {
            "created_at": at, "enqueued_at": at, "status": "queued", "timeout": -1, "ttl": settings.message_ttl_s,
            "result_ttl": settings.result_ttl_s, "failure_ttl": settings.failure_ttl_s,
        }  # fmt: skip
        words: list[str | bytes] = []
        for message in messages:
            words += (
                native_id(message.id),
                self._native(message.queue, message.priority),
                f"{message.name} {' '.join(message.job_ids)}".strip()[:200],
                msgspec.json.encode((ENTRY, None, (), message)),
            )
        fields = msgspec.json.encode([word for field in common.items() for word in map(str, field)])
        with self._told():
            self._redis.eval(_PUBLISH, 0, _JOB, _QUEUE, _QUEUES, settings.message_ttl_s, fields, *words)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`: out of RQ's lists, and the native jobs deleted."""
        with self._told():
            return self._redis.eval(
                _WITHDRAW, 0, _JOB, _QUEUE, f"{self.context.namespace}:", *map(native_id, message_ids)
            )

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told(), self._redis.pipeline(transaction=False) as pipe:
            for name in self._bands(queue):
                pipe.llen(_QUEUE + name)
            return sum(pipe.execute())

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        return redis_look.look(self.context.url.partition("+")[2], "rq", "redis", holds="messages")

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: threads, and one entry in RQ's list of workers."""
        with self._told():
            names = [name for queue in order.queues for name in self._bands(queue)]
            self._worker = ThreadWorker(self.context, names, connection=self._redis)
            try:
                self._worker.serve(order)
            finally:
                self._worker = None

    def stop(self) -> None:
        """See `Backend.stop`."""
        worker = self._worker
        if worker is not None:
            worker.stopping.set()

    def close(self) -> None:
        """See `Backend.close`."""
        self._redis.close()

    def _native(self, queue: str, priority: int) -> str:
        # Neither a namespace nor a queue's name can hold a colon.
        name = f"{self.context.namespace}:{queue}"
        return name if priority == _USUAL else f"{name}:p{priority}"

    def _bands(self, queue: str) -> list[str]:
        return [self._native(queue, priority) for priority in _PRIORITIES]

    @contextmanager
    def _told(self) -> Generator[None]:
        # A worker's own trouble with Redis is dealt with in its threads; this hears of its start only.
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise BackendUnavailableError(f"rq cannot reach {self._where}: {error}") from error
        except redis.RedisError as error:
            raise BackendError(f"rq failed at {self._where}: {error}") from error
