"""What our three brokers share: TaskIQ's messages, one task of any name, and taking that loses nothing when it stops.

They are TaskIQ brokers of our own, not those of taskiq-redis, taskiq-aio-pika and taskiq-nats, for what these cannot
do: several queues in an order, priorities, many messages in one trip, and a broker that comes back after an outage.
What they write is what those would write.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from typing import Any

import msgspec
from taskiq import AckableMessage, AsyncBroker, AsyncTaskiqDecoratedTask, BrokerMessage
from taskiq.abc.serializer import TaskiqSerializer

from penstock.backends.taskiq.config import TaskiqSettings
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.taskiq")

DEFAULT_PRIORITY = 5
HIGHEST_FIRST = range(9, -1, -1)


class Native(msgspec.Struct, frozen=True):
    """A message of ours as TaskIQ writes it."""

    message: Message
    task_name: str
    body: bytes


def native(message: Message) -> Native:
    """Return what TaskIQ would send for a call of our one task with this message."""
    name = message.name or "penstock"
    body: dict[str, Any] = {
        "task_id": message.id, "task_name": name, "labels": {}, "labels_types": {}, "args": [],
        "kwargs": msgspec.to_builtins(message),
    }  # fmt: skip
    return Native(message, name, msgspec.json.encode(body))


class _Json(TaskiqSerializer):
    def dumpb(self, value: Any) -> bytes:
        return msgspec.json.encode(value)

    def loadb(self, value: bytes) -> Any:
        return msgspec.json.decode(value)


class OneTaskBroker(AsyncBroker):
    """A broker whose worker takes from `queues`, in that order, and runs one function whatever the task's name."""

    outages: tuple[type[Exception], ...] = (OSError,)
    """What the driver raises when trying again may help."""

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__()
        self.serializer = _Json()
        self.url = url
        self.namespace = namespace
        self.settings = settings
        self.queues: tuple[str, ...] = ()
        self.concurrency = 1
        self.on_ready: Callable[[], None] = lambda: None
        self._one_task: AsyncTaskiqDecoratedTask[..., Any] | None = None

    def only(self, run: Callable[..., Awaitable[Any]]) -> None:
        """Make ``run`` the one task."""
        self._one_task = self.register_task(run, task_name="penstock")

    def find_task(self, task_name: str) -> AsyncTaskiqDecoratedTask[Any, Any] | None:
        """Each message names its own task, for TaskIQ's screens; all of them are run by our one function."""
        return self._one_task

    def get_all_tasks(self) -> dict[str, AsyncTaskiqDecoratedTask[Any, Any]]:
        """Not those that the user's own code has registered with TaskIQ."""
        return {}

    @abstractmethod
    async def connect(self) -> None:
        """Connect unless connected; anew after an outage."""

    @abstractmethod
    async def publish(self, messages: Sequence[Native]) -> None:
        """Send messages, in order."""

    @abstractmethod
    async def depth(self, queue: str) -> int:
        """Count what waits in a queue."""

    @abstractmethod
    async def take(self) -> bytes | AckableMessage | None:
        """Wait for the best message; None after some seconds without, or after `wake`."""

    async def ended(self) -> None:
        """Hear that what one of the taken messages asked for has been done."""

    @abstractmethod
    async def wake(self) -> None:
        """End the waiting of the `take` that is under way."""

    @abstractmethod
    async def give_back(self, message: Any) -> None:
        """Let a message that was taken wait again, before the others."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Let go of connections."""

    async def kick(self, message: BrokerMessage) -> None:
        """Not used: TaskIQ would send one message at a time."""
        raise NotImplementedError

    async def listen(self) -> AsyncGenerator[bytes | AckableMessage, None]:
        """Yield messages as TaskIQ's receiver has room for them. An outage is waited for."""
        self.on_ready()
        outages = 0
        while True:
            taking = asyncio.ensure_future(self._take(again=outages > 0))
            try:
                message = await asyncio.shield(taking)
                outages = 0
            except asyncio.CancelledError:
                # A message may be on its way already: it must not be lost with the waiting for it.
                with contextlib.suppress(Exception):
                    await self.wake()
                    if (late := await taking) is not None:
                        await self.give_back(late)
                raise
            except self.outages as error:
                outages += 1
                pause_s = min(0.1 * 2**outages, 10.0)
                logger.warning("the broker does not answer: %s; trying again in %g s", error, pause_s)
                await asyncio.sleep(pause_s)
            else:
                if message is not None:
                    yield message

    async def _take(self, *, again: bool) -> bytes | AckableMessage | None:
        if again:
            await self.connect()
        return await self.take()
