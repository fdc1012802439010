"""Huey with a single task and many queues, and a consumer that leaves signals and schedules alone."""

# Huey has no types: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingParameterType=false
# pyright: reportMissingTypeStubs=false

from __future__ import annotations

import logging
from typing import Any

import msgspec
from huey.api import Huey
from huey.consumer import Consumer, Scheduler
from huey.registry import Message as HueyMessage
from huey.signals import SIGNAL_ERROR
from huey.storage import MemoryStorage

from penstock.backends.asking import Asking
from penstock.core.base import BackendContext, MirroredFailure
from penstock.job.models import Message

# Huey tells at INFO of every task, and at WARNING of every id that it does not know: our ledger does that.
logging.getLogger("huey").setLevel(logging.ERROR)

_HEALTH_EVERY_S = 1.0
"""How often threads that have died are replaced."""


class OneTaskHuey(Huey):
    """A Huey with a single task, whose argument is our message."""

    asking: Asking[Message]
    storage: Any

    def __init__(self, context: BackendContext, storage: Any) -> None:
        """Open nothing. The ``storage`` is a `QueueStorage` or a `RedisQueueStorage`."""
        super().__init__(context.namespace, storage_class=MemoryStorage, results=False, serializer=_Json())
        self.storage = storage
        self.context = context
        self.settings: Any = context.settings
        self._task = self.task(name="penstock", retries=0)(self.execute)

    def encode(self, message: Message) -> bytes:
        """Write a message as Huey would write the task."""
        task = self._task.task_class((msgspec.to_builtins(message),), {}, id=message.id, priority=message.priority)
        return self.serialize_task(task)

    def dequeue(self) -> Message | None:
        """Take a message for the calling thread."""
        return self.asking.get()

    def fetch(self, count: int) -> list[Message]:
        """Take messages for `asking`. What is not ours is refused and stops nobody."""
        found = self.storage.take(count)
        if not found and not self.storage.blocking:
            self.asking.stopping.wait(self.settings.poll_s)
        return [message for data in found if (message := self._decoded(data)) is not None]

    def execute(self, task: Message, timestamp: Any = None) -> None:
        """Run a message without Huey's retries, results, locks and revocations, all of which are off.

        Of its signals there is one: an attempt that failed reaches whoever has joined to SIGNAL_ERROR.
        """
        failure = self.context.execute(task)
        if failure is not None and self.settings.mirror_failures:
            self._emit(SIGNAL_ERROR, task, MirroredFailure(failure))

    def _decoded(self, data: bytes) -> Message | None:
        try:
            return msgspec.convert(self.deserialize_task(data).args[0], Message)
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            self.context.refuse(f"{type(error).__name__}: {error}")
            return None


class _Json:
    """Huey's serializer protocol in JSON: messages are named tuples of plain data, results are never stored."""

    def serialize(self, data: Any) -> bytes:
        return msgspec.json.encode(data)

    def deserialize(self, data: bytes) -> HueyMessage:
        return HueyMessage(*msgspec.json.decode(data, type=list[Any]))


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
        while not self.stop_flag.wait(_HEALTH_EVERY_S):
            self.check_worker_health()
        self._join_workers()
