"""Huey behind the backend contract: one task, no results, no retries, no revocations, no clock of its own."""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from functools import cached_property
from typing import Any, ClassVar

import msgspec
from huey.api import Huey, Task
from huey.consumer import Consumer, ConsumerStopped, Scheduler
from huey.registry import Message as HueyMessage

from penstock.backends.huey.config import HueySettings
from penstock.backends.huey.storage import QueueStorage
from penstock.core.base import Backend, BackendContext, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendError, BackendUnavailableError, ConfigError
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.huey")

# Huey tells at INFO of every task, and at WARNING of every id that it does not know: our ledger does that.
logging.getLogger("huey").setLevel(logging.ERROR)


class HueyBackend(Backend):
    """Jobs carried by Huey in a SQLite file. Threads of one process; several processes may share the file."""

    name: ClassVar[str] = "huey"
    schemes: ClassVar[tuple[str, ...]] = ("huey+sqlite",)
    settings_type: ClassVar[type[msgspec.Struct]] = HueySettings

    def __init__(self, context: BackendContext) -> None:
        """Raises `ConfigError` for a URL without a path."""
        super().__init__(context)
        self._path = context.url.partition("://")[2].removeprefix("/")
        if not self._path:
            raise ConfigError("huey+sqlite needs a path: huey+sqlite:///queue.db")
        self._consumer: Consumer | None = None
        self._lock = threading.Lock()

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """What Huey on SQLite can do."""
        return Capabilities(
            priority=Support.NATIVE,
            withdraw=Support.NATIVE,
            depth=Support.NATIVE,
            bulk=Support.NATIVE,
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    @cached_property
    def _huey(self) -> _OneTaskHuey:
        settings: Any = self.context.settings
        with self._lock, _told(self._path):
            return _OneTaskHuey(
                self.context.execute,
                name=self.context.namespace,
                filename=self._path,
                timeout=settings.busy_timeout_s,
                cache_mb=settings.cache_mb,
            )

    def _queue(self, queue: str) -> str:
        return f"{self.context.namespace}:{queue}"

    def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction for all."""
        rows = [
            (self._queue(m.queue), self._huey.encode(m), m.priority, f"{self.context.namespace}:{m.id}")
            for m in messages
        ]
        with _told(self._path):
            self._huey.storage.put_messages(rows)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with _told(self._path):
            return self._huey.storage.withdraw([f"{self.context.namespace}:{i}" for i in message_ids])

    def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with _told(self._path):
            return self._huey.storage.waiting(self._queue(queue))

    def work(self, order: WorkOrder) -> None:
        """See `Backend.work`: Huey's consumer with worker threads."""
        settings: Any = self.context.settings
        with _told(self._path):
            self._huey.storage.listen([self._queue(queue) for queue in order.queues])
        consumer = _QuietConsumer(
            self._huey,
            workers=order.concurrency,
            periodic=False,
            initial_delay=settings.first_poll_s,
            backoff=1.5,
            max_delay=settings.poll_s,
            worker_type="thread",
            check_worker_health=True,
            health_check_interval=1,
        )
        self._consumer = consumer
        consumer.start()
        order.on_ready()
        consumer.run_until_stopped()
        self._consumer = None

    def stop(self) -> None:
        """See `Backend.stop`."""
        consumer = self._consumer
        if consumer is not None:
            consumer.stop_flag.set()

    def close(self) -> None:
        """See `Backend.close`."""
        if "_huey" in self.__dict__:
            self._huey.storage.close()


class _OneTaskHuey(Huey):
    """A Huey with a single task, whose argument is our message."""

    storage: QueueStorage

    def __init__(self, execute: Callable[[Message], str | None], **options: Any) -> None:
        super().__init__(storage_class=QueueStorage, results=False, utc=True, serializer=_Json(), **options)
        self._asking: deque[_Asking] = deque()
        self._taking = threading.Lock()

        def run(payload: dict[str, Any]) -> None:
            execute(msgspec.convert(payload, Message))

        self._task = self.task(name="penstock", retries=0)(run)

    def encode(self, message: Message) -> bytes:
        task = self._task.task_class((msgspec.to_builtins(message),), {}, id=message.id, priority=message.priority)
        return self.serialize_task(task)

    def is_revoked(self, *_args: Any, **_kwargs: Any) -> bool:
        # Cancelled jobs are refused by the ledger; Huey's flags would cost two statements a job and stay for ever.
        return False

    def dequeue(self) -> Task | None:
        """Take a message for the calling thread; threads that ask at the same time share one transaction.

        No thread ever holds a message that another could run: as many are taken as threads are waiting.
        """
        asking = _Asking()
        self._asking.append(asking)
        while self._asking and self._taking.acquire(blocking=False):
            served: list[_Asking] = []
            try:
                while self._asking:
                    served.append(self._asking.popleft())
                for one, data in zip(served, self.storage.take(len(served)), strict=False):
                    one.data = data
            except BaseException as error:
                for one in served:
                    one.error = error
                raise
            finally:
                self._taking.release()
                for one in served:
                    one.answered.release()
        asking.answered.acquire()
        if asking.error is not None:
            raise BackendError(f"huey could not take messages: {asking.error}") from asking.error
        if asking.data is None:
            return None
        try:
            return self.deserialize_task(asking.data)
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            logger.warning("refused a message that is not ours: %s: %s", type(error).__name__, error)
            return None


class _Asking:
    """A worker thread that waits for a message."""

    __slots__ = ("answered", "data", "error")

    def __init__(self) -> None:
        self.answered = threading.Lock()
        self.answered.acquire()
        self.data: bytes | None = None
        self.error: BaseException | None = None


class _Json:
    """Huey's serializer protocol in JSON: messages are named tuples of plain data, results are never stored."""

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def deserialize(self, data: bytes) -> HueyMessage:
        fields = msgspec.json.decode(data, type=list[Any])
        return HueyMessage(*fields)


class _NoScheduler(Scheduler):
    """Delays and schedules are ours: Huey's schedule table stays empty, so nothing need look at it every second."""

    def loop(self, now: Any = None) -> None:
        self.stop_flag.wait(60)


class _QuietConsumer(Consumer):
    """A consumer that leaves the process's signal handlers alone and returns when its threads have finished."""

    scheduler_class = _NoScheduler

    def _set_signal_handlers(self) -> None:
        """Signals belong to our worker."""

    def run_until_stopped(self) -> None:
        checked_at = 1.0
        try:
            while True:
                checked_at = self.loop(checked_at)
        except ConsumerStopped:
            self._join_workers()


@contextmanager
def _told(path: str) -> Generator[None]:
    try:
        yield
    except (sqlite3.OperationalError, OSError) as error:
        raise BackendUnavailableError(f"huey cannot use its queue file {path}: {error}") from error
    except sqlite3.Error as error:
        raise BackendError(f"huey's queue file {path} is damaged or foreign: {error}") from error
