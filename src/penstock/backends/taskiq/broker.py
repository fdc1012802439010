"""What our three brokers share: TaskIQ's messages, one task of any name, and verbs that move many messages in a trip.

What they write is what the official brokers would write. Those would not do:
taskiq-redis 1.2.4 wants redis>=8, which arq (<6) and saq[redis] (<8) exclude; its list broker takes one message a trip
from one list, and its listening ends at an outage (it waits for Python's ConnectionError, not redis-py's).
taskiq-aio-pika 0.6.1 merges its queues in no order, and sends one message at a time, each confirmed before the next.
taskiq-nats 0.7.0 has one subject, so no queues or priorities, and one trip for each message.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Sequence
from contextvars import ContextVar
from typing import Any, NamedTuple

import msgspec
from taskiq import AckableMessage, AsyncBroker, AsyncTaskiqDecoratedTask, BrokerMessage, TaskiqMessage
from taskiq.formatters.proxy_formatter import ProxyFormatter

from penstock.backends.taskiq.config import TaskiqSettings
from penstock.job.models import Message

DEFAULT_PRIORITY = 5
HIGHEST_FIRST = range(9, -1, -1)


_HEARD: ContextVar[list[str]] = ContextVar("penstock_taskiq_heard")
"""What was said of the message that this asyncio task is about."""


class Taken(NamedTuple):
    """A message that a worker has taken, and what its broker knows it by."""

    body: bytes
    origin: Any


def native(message: Message) -> bytes:
    """Return what TaskIQ would send for a call of our one task with this message."""
    return msgspec.json.encode(
        {
            "task_id": message.id, "task_name": message.name or "penstock", "labels": {}, "labels_types": {},
            "args": [], "kwargs": msgspec.to_builtins(message),
        }
    )  # fmt: skip


class _Formatter(ProxyFormatter):
    """Tells of what it cannot read; TaskIQ 0.13 then logs it and goes on."""

    def __init__(self, broker: AsyncBroker, refuse: Callable[[str], None]) -> None:
        super().__init__(broker)
        self._refuse = refuse

    def loads(self, message: bytes) -> TaskiqMessage:
        try:
            read = super().loads(message)
            read.parse_labels()
            read.labels = {}  # ours have none, and others may ask TaskIQ for a timeout
        except Exception as error:
            self._refuse(f"{type(error).__name__}: {error}")
            raise
        return read


class OneTaskBroker(AsyncBroker):
    """A broker whose worker takes from `queues`, in that order, and runs one function whatever the task's name."""

    outages: tuple[type[Exception], ...] = (OSError,)
    """What the driver raises when trying again may help."""

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__()
        self.url = url
        self.namespace = namespace
        self.settings = settings
        self.queues: tuple[str, ...] = ()
        self._one_task: AsyncTaskiqDecoratedTask[..., Any] | None = None
        self.refuse: Callable[[str], None] = lambda _why: None

    def serve(self, queues: tuple[str, ...], run: Callable[..., Awaitable[Any]], refuse: Callable[[str], None]) -> None:
        """Be a worker's from now on."""
        self.is_worker_process = True
        self.queues = queues

        def heard(why: str) -> None:
            _HEARD.get().append(why)
            refuse(why)

        async def one(*args: Any, **kwargs: Any) -> Any:
            if args:
                heard("it has arguments without names")
                return None
            _HEARD.get().append("")
            return await run(**kwargs)

        self.refuse = heard
        self.formatter = _Formatter(self, heard)
        self._one_task = self.register_task(one, task_name="penstock")

    async def call(self, receive: Callable[[bytes], Awaitable[None]], body: bytes) -> None:
        """Let TaskIQ's receiver have a message, and tell of one that it neither ran nor refused.

        What it calls a function with is not checked (labels such as ``timeout`` are the message's own): an error there
        is logged and forgotten.
        """
        said: list[str] = []
        _HEARD.set(said)
        await receive(body)
        if not said:
            self.refuse("TaskIQ could not run it")

    def find_task(self, task_name: str) -> AsyncTaskiqDecoratedTask[Any, Any] | None:
        """Each message names its own task, for TaskIQ's screens; all of them are run by our one function."""
        return self._one_task

    @abstractmethod
    async def connect(self) -> None:
        """Connect unless connected; anew after an outage."""

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> None:
        """Send messages, in order."""

    @abstractmethod
    async def depth(self, queue: str) -> int:
        """Count what waits in a queue."""

    @abstractmethod
    async def take(self, room: int) -> Sequence[Taken]:
        """Wait for messages and take the best, at most ``room``; none after some seconds without, or after `wake`."""

    @abstractmethod
    async def wake(self) -> None:
        """End the waiting of the `take` that is under way; without one, nothing happens."""

    @abstractmethod
    async def give_back(self, taken: Taken) -> None:
        """Let a message that was taken wait again."""

    async def ended(self, taken: Taken) -> None:
        """Hear that what a message asked for has been done."""

    async def rest(self) -> None:
        """Hear that nothing will be taken any more, while what was taken still runs."""

    @abstractmethod
    async def disconnect(self) -> None:
        """Let go of connections."""

    async def kick(self, message: BrokerMessage) -> None:
        """Not used: TaskIQ would send one message at a time."""
        raise NotImplementedError

    def listen(self) -> AsyncGenerator[bytes | AckableMessage, None]:
        """Not used: TaskIQ would take one message at a time."""
        raise NotImplementedError
