"""RQ behind the backend contract: one function, no retries, no timeouts, no scheduler, results that are soon gone."""

# RQ's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any, ClassVar

import msgspec
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer

from penstock.backends.rq.config import RqSettings
from penstock.backends.rq.worker import ENTRY, ThreadWorker
from penstock.core.base import Backend, BackendContext, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.core.secrets import mask_url
from penstock.job.models import Message

_PRIORITIES = range(9, -1, -1)
_USUAL = 5


class RqBackend(Backend):
    """Jobs carried by RQ. A queue is ten native ones, by priority; the usual one bears the plain name.

    RQ has no priorities within a queue; its workers take from their queues in strict order.
    """

    name: ClassVar[str] = "rq"
    schemes: ClassVar[tuple[str, ...]] = ("rq+redis", "rq+rediss", "rq+unix")
    settings_type: ClassVar[type[msgspec.Struct]] = RqSettings

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL that redis-py cannot read."""
        super().__init__(context)
        settings: Any = context.settings
        self._settings: RqSettings = settings
        self._where = mask_url(context.url)
        self._worker: ThreadWorker | None = None
        self._queues: dict[str, Queue] = {}
        try:
            self._redis: Any = redis.Redis.from_url(
                context.url.partition("+")[2],
                socket_timeout=None,  # redis-py 8 sets 5 s, which would end a blocking read
                socket_connect_timeout=settings.connect_timeout_s,
                socket_keepalive=True,
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
        """See `Backend.publish`: one MULTI for all."""
        settings = self._settings
        with self._told(), self._redis.pipeline() as pipe:
            for name, group in groupby(messages, key=lambda m: self._native(m.queue, m.priority)):
                jobs = [
                    Queue.prepare_data(
                        ENTRY,
                        kwargs=msgspec.to_builtins(message),
                        job_id=message.id,
                        description=f"{message.name} {' '.join(message.job_ids)}".strip()[:200],
                        timeout=-1,
                        result_ttl=settings.result_ttl_s,
                        failure_ttl=settings.failure_ttl_s,
                        ttl=settings.message_ttl_s,
                    )
                    for message in group
                ]
                self._queue(name).enqueue_many(jobs, pipeline=pipe)
            pipe.execute()

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`: out of RQ's lists, and the native jobs deleted."""
        ours = f"{self.context.namespace}:".encode()
        with self._told(), self._redis.pipeline(transaction=False) as pipe:
            for message_id in message_ids:
                pipe.hget(Job.key_for(message_id), "origin")
            found = [
                (message_id, origin.decode())
                for message_id, origin in zip(message_ids, pipe.execute(), strict=True)
                if origin is not None and origin.startswith(ours)
            ]
            for message_id, origin in found:
                pipe.lrem(self._queue(origin).key, 1, message_id)
            removed = [one for one, count in zip(found, pipe.execute(), strict=True) if count]
            for message_id, _ in removed:
                pipe.delete(Job.key_for(message_id))
            pipe.execute()
        return len(removed)

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self._told(), self._redis.pipeline(transaction=False) as pipe:
            for name in self._bands(queue):
                pipe.llen(self._queue(name).key)
            return sum(pipe.execute())

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: threads, and one entry in RQ's list of workers."""
        with self._told():
            queues = [self._queue(name) for queue in order.queues for name in self._bands(queue)]
            self._worker = ThreadWorker(self.context, queues, connection=self._redis)
            try:
                self._worker.serve(order.concurrency, order.on_ready)
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

    def _queue(self, name: str) -> Queue:
        """Return a queue that always carries the serializer: RQ falls back to pickle wherever it is not told."""
        queue = self._queues.get(name)
        if queue is None:
            queue = self._queues[name] = Queue(name, connection=self._redis, serializer=JSONSerializer)
        return queue

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except (redis.ConnectionError, redis.TimeoutError, OSError) as error:
            raise BackendUnavailableError(f"rq cannot reach {self._where}: {error}") from error
        except redis.RedisError as error:
            raise BackendError(f"rq failed at {self._where}: {error}") from error

    # A worker's own trouble with Redis is dealt with in its threads; `_told` hears of the start only.
