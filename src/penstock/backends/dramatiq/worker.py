"""Dramatiq's worker with one consumer for all its queues, in order of preference, that takes no more than is run.

Dramatiq gives each queue a consumer thread of its own, which holds twice as many messages as there are threads, and
takes from its queues in no order; undecodable messages stop such a thread for three seconds each.
"""

# Dramatiq's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import logging
import threading
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
from dramatiq import Actor, Middleware, Worker
from dramatiq import Message as DramatiqMessage
from dramatiq.broker import Broker, Consumer, MessageProxy
from dramatiq.worker import ConsumerThread

from penstock.core.base import BackendContext, MirroredFailure
from penstock.job.models import Message

if TYPE_CHECKING:
    from penstock.backends.dramatiq.config import DramatiqSettings

logger = logging.getLogger("penstock.backends.dramatiq")

ACTOR = "penstock"
"""The one actor. A message of any other is refused."""
_NONE = {"-"}
_TURN_MS = 200
"""How often an idle thread looks whether it is to end."""
_FOR_EVER_MS = 10**10
"""A drain has no limit here: the grace is our worker's."""


def encode(message: Message, queue: str, **options: Any) -> bytes:
    """Write a message as Dramatiq's JSON encoder would; a process-wide ``set_encoder`` of others changes nothing."""
    return msgspec.json.encode(
        DramatiqMessage(
            queue_name=queue,
            actor_name=ACTOR,
            args=(),
            kwargs=msgspec.to_builtins(message),
            options=options,
            message_id=message.id,
        ).asdict()
    )


class OrderedConsumer(Consumer):
    """Takes from the first of its queues that has a message, as long as a thread is free. It outlives reconnects."""

    def __init__(self, queues: Sequence[str], slots: int, settings: DramatiqSettings) -> None:
        self.queues = tuple(queues)
        self.settings = settings
        self.stopping = threading.Event()
        self.free = threading.Semaphore(slots)
        """The threads without a message."""
        self.taken: deque[MessageProxy] = deque()
        """What has been taken for threads that are free, and is not yet on its way to them."""
        self._slots = slots
        self._pause_s = settings.first_poll_s

    def __next__(self) -> MessageProxy | None:
        """Return the best message, or None when there is none or all threads are busy; waits a while before that."""
        if self.taken:
            return self.taken.popleft()
        if self.stopping.is_set():
            self.wait(0.05)
            return None
        if not self.reserve():
            return None
        count = 1
        while count < self._slots and self.free.acquire(blocking=False):
            count += 1
        try:
            self.taken.extend(self.take(count))
        finally:
            for _ in range(count - len(self.taken)):
                self.free.release()
        if not self.taken:
            self.wait(self._pause_s)
            self._pause_s = min(self._pause_s * 1.5, self.settings.poll_s)
            return None
        self._pause_s = self.settings.first_poll_s
        return self.taken.popleft()

    def look_again_soon(self) -> None:
        """Forget how long nothing came."""
        self._pause_s = self.settings.first_poll_s

    def read(self, queue: str, data: bytes, **options: Any) -> MessageProxy | None:
        """Decode a message; None for one that is not ours. Its options are dropped: they could delay or pipe it."""
        try:
            found = msgspec.json.decode(data, type=dict[str, Any])
            if found["actor_name"] != ACTOR:
                raise ValueError(f"it is for the actor {found['actor_name']!r}")
            message = msgspec.convert(found["kwargs"], Message)
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            logger.warning("refused a message on %s that is not ours: %s: %s", queue, type(error).__name__, error)
            return None
        return MessageProxy(DramatiqMessage(queue, ACTOR, (), msgspec.to_builtins(message), options, message.id))

    def ack(self, message: MessageProxy) -> None:
        """Tell the broker that a message is dealt with. Never raises: what it holds back is refused later."""
        self._tell(message, None)

    def nack(self, message: MessageProxy) -> None:
        """Put a message into the dead letters."""
        self._tell(message, message.options.get("traceback", ""))

    def _tell(self, message: MessageProxy, failure: str | None) -> None:
        self.free.release()  # first: `done` may be what ends the waiting for it
        try:
            self.done(message, failure)
        except Exception as error:  # noqa: BLE001 - the ledger knows how it ended
            logger.warning("the broker was not told of %s: %s: %s", message.message_id, type(error).__name__, error)

    def reserve(self) -> bool:
        """Wait a while for a free thread, and count it as taken."""
        return self.free.acquire(timeout=0.2)

    @abstractmethod
    def take(self, count: int) -> list[MessageProxy]:
        """Take at most ``count`` messages, the best first.

        Raises dramatiq's `ConnectionClosed`; it is then called again after three seconds.
        """

    @abstractmethod
    def wait(self, timeout_s: float) -> None:
        """Wait for something to happen."""

    @abstractmethod
    def done(self, message: MessageProxy, failure: str | None) -> None:
        """Remove a message; with a failure, keep it among the dead letters for a while."""

    def beat(self) -> None:
        """Tell the broker that this worker is alive."""


class _Mirror(Middleware):
    """Without Dramatiq's `Retries`, nothing marks the message of a task that raised."""

    def after_process_message(
        self, broker: Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Have the message of a task that raised go to the dead letters."""
        if exception is not None:
            message.options["traceback"] = str(exception)
            message.fail()


def declare(broker: Broker, context: BackendContext, queue: str) -> None:
    """Give a broker its one actor, which has no retries, no time limit and no age limit: it has no such middleware."""
    settings: Any = context.settings

    def penstock(**message: Any) -> None:
        failure = context.execute(msgspec.convert(message, Message))
        if failure is not None and settings.mirror_failures:
            raise MirroredFailure(failure)

    broker.add_middleware(_Mirror())
    Actor(
        penstock, broker=broker, actor_name=ACTOR, queue_name=queue, priority=0, options={"throws": (MirroredFailure,)}
    )


def serve(broker: Broker, consumer: OrderedConsumer, concurrency: int, on_ready: Callable[[], None]) -> None:
    """Run Dramatiq's worker until ``consumer.stopping`` is set, and return when the last message is dealt with."""
    # The whitelist keeps Dramatiq from giving each queue, and its delay queue, a consumer of its own.
    worker = Worker(broker, queues=set(_NONE), worker_threads=concurrency, worker_timeout=_TURN_MS)
    thread = ConsumerThread(
        broker=broker,
        queue_name=consumer.queues[0],
        prefetch=concurrency,
        work_queue=worker.work_queue,
        worker_timeout=_TURN_MS,
    )
    worker.consumers.update(dict.fromkeys(consumer.queues, thread))
    consumer.beat()
    thread.start()
    worker.start()
    ended = threading.Event()
    beating = threading.Thread(target=_beat_until, args=(ended, consumer), name="penstock-dramatiq-beat", daemon=True)
    beating.start()
    on_ready()
    consumer.stopping.wait()
    worker.stop(_FOR_EVER_MS)
    ended.set()
    beating.join()


def _beat_until(ended: threading.Event, consumer: OrderedConsumer) -> None:
    while not ended.wait(consumer.settings.heartbeat_s):
        try:
            consumer.beat()
        except Exception as error:  # noqa: BLE001 - it is tried again soon
            logger.warning("the broker was not told that this worker is alive: %s", error)
