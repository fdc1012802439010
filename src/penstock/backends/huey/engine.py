"""Huey with a single task and many queues, and a consumer that leaves signals and schedules alone."""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
from huey.api import Huey
from huey.consumer import Consumer, ConsumerStopped, Scheduler
from huey.registry import Message as HueyMessage
from huey.signals import SIGNAL_ERROR

from penstock.core.base import BackendContext, MirroredFailure
from penstock.core.exceptions import BackendError
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.huey")

# Huey tells at INFO of every task, and at WARNING of every id that it does not know: our ledger does that.
logging.getLogger("huey").setLevel(logging.ERROR)


class OneTaskHuey(Huey):
    """A Huey with a single task, whose argument is our message."""

    storage: Any
    """A `QueueStorage` or a `RedisQueueStorage`."""

    def __init__(self, context: BackendContext, *, storage_class: Any) -> None:
        super().__init__(context.namespace, storage_class=storage_class, results=False, utc=True, serializer=_Json())
        self._context = context
        self._asking: deque[_Asking] = deque()
        self._taking = threading.Lock()
        self.stopped: Callable[[], bool] = lambda: False
        """Whether the consumer has been told to stop: then nobody takes."""

        def run(payload: dict[str, Any]) -> None:
            context.execute(msgspec.convert(payload, Message))

        self._task = self.task(name="penstock", retries=0)(run)

    def encode(self, message: Message) -> bytes:
        """Write a message as Huey would write the task."""
        task = self._task.task_class((msgspec.to_builtins(message),), {}, id=message.id, priority=message.priority)
        return self.serialize_task(task)

    def is_revoked(self, *_args: Any, **_kwargs: Any) -> bool:
        """Cancelled jobs are refused by the ledger; Huey's flags would cost two statements a job and stay for ever."""
        return False

    def dequeue(self) -> Message | None:
        """Take a message for the calling thread. What is not ours is refused and stops nobody.

        One of the threads that ask at the same time takes for all of them, in one trip. No thread ever holds a message
        that another could run: as many are taken as threads are waiting.
        """
        asking = _Asking()
        self._asking.append(asking)
        while not asking.answered:
            if self._taking.acquire(blocking=False):
                try:
                    self._serve()
                finally:
                    self._taking.release()
                # After the release: who came before it waits for its bell, who comes now finds the lock free.
                with contextlib.suppress(IndexError):
                    self._asking[0].ring()
            else:
                asking.bell.acquire()
        if asking.error is not None:
            raise BackendError(f"huey could not take messages: {asking.error}") from asking.error
        return asking.message

    def execute(self, task: Message, timestamp: Any = None) -> None:
        """Run a message without Huey's retries, results, locks and revocations, all of which are off.

        Of its signals there is one: an attempt that failed reaches whoever has joined to SIGNAL_ERROR.
        """
        failure = self._context.execute(task)
        settings: Any = self._context.settings
        if failure is not None and settings.mirror_failures:
            self._emit(SIGNAL_ERROR, task, MirroredFailure(failure))

    def _serve(self) -> None:
        served = [self._asking.popleft() for _ in range(len(self._asking))]
        try:
            if served and not self.stopped():
                messages = [m for data in self.storage.take(len(served)) if (m := self._decoded(data)) is not None]
                for one, message in zip(served, messages, strict=False):
                    one.message = message
                if len(messages) > 1:
                    self._context.claim_ahead(messages)
        except Exception as error:  # noqa: BLE001 - raised in each thread that asked
            for one in served:
                one.error = error
        finally:
            for one in served:
                one.answered = True
                one.ring()

    def _decoded(self, data: bytes) -> Message | None:
        try:
            return msgspec.convert(self.deserialize_task(data).args[0], Message)
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            logger.warning("refused a message that is not ours: %s: %s", type(error).__name__, error)
            return None


class _Asking:
    """A worker thread that waits for a message."""

    __slots__ = ("answered", "bell", "error", "message")

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.answered = False
        self.message: Message | None = None
        self.error: Exception | None = None

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self.bell.release()


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
