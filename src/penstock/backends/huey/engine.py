"""Huey with a single task and many queues, and a consumer that leaves signals and schedules alone."""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from huey.api import Huey, Task
from huey.consumer import Consumer, ConsumerStopped, Scheduler
from huey.registry import Message as HueyMessage

from penstock.core.base import MirroredFailure
from penstock.core.exceptions import BackendError
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.huey")

# Huey tells at INFO of every task, at WARNING of every id that it does not know, and at length of every failure: our
# ledger does that.
logging.getLogger("huey").setLevel(logging.ERROR)
logging.getLogger("huey").addFilter(lambda record: not (record.exc_info and record.exc_info[0] is MirroredFailure))


class OneTaskHuey(Huey):
    """A Huey with a single task, whose argument is our message."""

    storage: Any
    """A `QueueStorage` or a `RedisQueueStorage`."""

    def __init__(
        self, execute: Callable[[Message], str | None], *, mirror_failures: bool, storage_class: Any, name: str
    ) -> None:
        super().__init__(name, storage_class=storage_class, results=False, utc=True, serializer=_Json())
        self._asking: deque[_Asking] = deque()
        self._taking = threading.Lock()
        self.stopped: Callable[[], bool] = lambda: False
        """Whether the consumer has been told to stop: then nobody begins to wait."""

        def run(payload: dict[str, Any]) -> None:
            failure = execute(msgspec.convert(payload, Message))
            if failure is not None and mirror_failures:
                raise MirroredFailure(failure)

        self._task = self.task(name="penstock", retries=0)(run)

    def encode(self, message: Message) -> bytes:
        """Write a message as Huey would write the task."""
        task = self._task.task_class((msgspec.to_builtins(message),), {}, id=message.id, priority=message.priority)
        return self.serialize_task(task)

    def is_revoked(self, *_args: Any, **_kwargs: Any) -> bool:
        """Cancelled jobs are refused by the ledger; Huey's flags would cost two statements a job and stay for ever."""
        return False

    def dequeue(self) -> Task | None:
        """Take a message for the calling thread. What is not ours is refused and stops nobody."""
        data = self._one_waits() if self.storage.blocking else self._shared()
        if data is None:
            return None
        try:
            task = self.deserialize_task(data)
            msgspec.convert(task.args[0], Message)
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            logger.warning("refused a message that is not ours: %s: %s", type(error).__name__, error)
            return None
        return task

    def _one_waits(self) -> bytes | None:
        """Let one thread at a time wait at the server, the others for that thread: one connection blocks, not all."""
        with self._taking:
            return None if self.stopped() else self.storage.dequeue()

    def _shared(self) -> bytes | None:
        """Let threads that ask at the same time share one transaction.

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
        return asking.data


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


class QuietConsumer(Consumer):
    """A consumer that leaves the process's signal handlers alone and returns when its threads have finished."""

    scheduler_class = _NoScheduler

    def _set_signal_handlers(self) -> None:
        """Signals belong to our worker."""

    def run_until_stopped(self) -> None:
        """Return when the stop flag is set and the last message has been dealt with."""
        checked_at = 1.0
        try:
            while True:
                checked_at = self.loop(checked_at)
        except ConsumerStopped:
            self._join_workers()
