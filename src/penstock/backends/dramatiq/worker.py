"""Dramatiq's worker threads, which take their messages from us: by preference, and never more than they run.

Dramatiq gives each queue a consumer thread of its own, which holds twice as many messages as there are threads and
knows no order among queues; an undecodable message stops it for three seconds. A `Taker` stands in for those threads
and for the queue between them and the workers.
"""

# Dramatiq's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import contextlib
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from queue import Empty
from typing import Any

import msgspec
from dramatiq import Actor, Middleware, Worker
from dramatiq import Message as DramatiqMessage
from dramatiq.broker import Broker, MessageProxy

from penstock.core.base import BackendContext, MirroredFailure
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.dramatiq")

ACTOR = "penstock"
"""The one actor. A message of any other is refused."""
_FOR_EVER_MS = 10**10
"""A drain has no limit here: the grace is our worker's."""
_RETRY_S = 1.0
"""How long to let a broker rest that failed."""

Ended = tuple[MessageProxy, str | None]
"""A message that has been dealt with, and the first line of the error if its attempt failed."""


def encode(message: Message, queue: str, **options: Any) -> bytes:
    """Write a message as Dramatiq's JSON encoder would; a process-wide ``set_encoder`` of others changes nothing."""
    kwargs = msgspec.to_builtins(message)
    return msgspec.json.encode(DramatiqMessage(queue, ACTOR, (), kwargs, options, message.id).asdict())


def decode(queue: str, data: bytes, **options: Any) -> MessageProxy | None:
    """Read a message; None for one that is not ours. Its own options are dropped: they could delay or pipe it."""
    try:
        found = msgspec.json.decode(data, type=dict[str, Any])
        if found["actor_name"] != ACTOR:
            raise ValueError(f"it is for the actor {found['actor_name']!r}")
        message = msgspec.convert(found["kwargs"], Message)
    except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
        logger.warning("refused a message on %s that is not ours: %s: %s", queue, type(error).__name__, error)
        return None
    return MessageProxy(DramatiqMessage(queue, ACTOR, (message,), {}, options, message.id))


class _Asking:
    """A worker thread that waits for a message. Dramatiq takes it for an item of its work queue."""

    __slots__ = ("bell", "message")

    def __init__(self) -> None:
        self.bell = threading.Lock()
        self.bell.acquire()
        self.message: Any = None

    def ring(self) -> None:
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self.bell.release()


class Taker(ABC):
    """Gives a message to each thread that asks.

    One of the threads goes to the broker for all that ask by then, and tells it in the same trip of what has ended
    since. So no thread is woken in between, and nothing is held that no thread is free to run.
    """

    beat_s: float

    def __init__(self, context: BackendContext, queues: Sequence[str]) -> None:
        self.settings: Any = context.settings
        self.queues = tuple(queues)
        self.stopping = threading.Event()
        self.lock = threading.Lock()
        """Held by whoever talks to the broker."""
        self.ended: deque[Ended] = deque()
        self._asking: deque[_Asking] = deque()
        self._due = False
        self._context = context

    def stop(self) -> None:
        """Let nobody have a message any more."""
        self.stopping.set()
        for asking in list(self._asking):
            asking.ring()

    # -- what Dramatiq's worker threads call: their work queue, and the consumer of each queue ------------------------

    def get(self, timeout: float) -> _Asking:
        """Wait for a message. Raises `Empty` after `stop`."""
        asking = _Asking()
        self._asking.append(asking)
        while asking.message is None and not self.stopping.is_set():
            if self.lock.acquire(blocking=False):
                try:
                    self._serve()
                finally:
                    self._leave()
            else:
                asking.bell.acquire()
        if asking.message is None:
            with self.lock:
                if asking.message is None:
                    self._asking.remove(asking)
                    time.sleep(0.01)  # until this thread is told to end, it comes again
                    raise Empty
        return asking

    def get_nowait(self) -> _Asking:
        """Nothing waits here."""
        raise Empty

    def task_done(self) -> None:  # noqa: B027 - nobody joins this queue
        """Told to no one."""

    def post_process_message(self, message: MessageProxy) -> None:
        """Have the broker told of it on the next trip."""
        self.ended.append((message, message.options.get("traceback", "") if message.failed else None))

    # -- what a transport does, with the lock held -------------------------------------------------------------------

    @abstractmethod
    def take(self, count: int) -> list[MessageProxy]:
        """Tell the broker of what has `ended`, and take at most ``count`` messages, the best first."""

    @abstractmethod
    def wait(self) -> None:
        """Wait a short while for a message to come."""

    @abstractmethod
    def beat(self) -> None:
        """Tell the broker that this worker is alive; called every ``beat_s``."""

    @abstractmethod
    def close(self) -> None:
        """Tell of the last that has ended, and let go."""

    def _serve(self) -> None:
        try:
            self._beat_if_due()
            messages = self.take(len(self._asking))
            if not messages:
                self.wait()
                return
        except Exception as error:  # noqa: BLE001 - an outage must not end the thread
            logger.warning("dramatiq could not take messages, trying again: %s: %s", type(error).__name__, error)
            self.stopping.wait(_RETRY_S)
            return
        try:
            if len(messages) > 1:
                self._context.claim_ahead([message.args[0] for message in messages])
        finally:
            for message in messages:
                asking = self._asking.popleft()
                asking.message = message
                asking.ring()

    def beat_until(self, over: threading.Event) -> None:
        """Have it beaten by whoever holds the lock, or here."""
        while not over.wait(self.beat_s):
            self._due = True
            while self._due and not over.is_set():
                if self.lock.acquire(timeout=0.1):
                    try:
                        self._beat_if_due()
                    except Exception as error:  # noqa: BLE001 - it is tried again soon
                        logger.warning("the broker was not told that this worker is alive: %s", error)
                    finally:
                        self._leave()

    def _leave(self) -> None:
        self.lock.release()
        # After the release: who came before it waits for its bell, who comes now finds the lock free.
        with contextlib.suppress(IndexError):
            self._asking[0].ring()

    def _beat_if_due(self) -> None:
        if self._due:
            self._due = False
            self.beat()


class _Consumers(dict[str, Any]):
    """The consumer of every queue is the taker; none is there to be stopped and closed."""

    def __init__(self, taker: Taker) -> None:
        self._taker = taker

    def __missing__(self, queue: str) -> Taker:
        return self._taker


class _Mirror(Middleware):
    """Without Dramatiq's `Retries`, nothing marks the message of a task that raised."""

    def after_process_message(
        self, broker: Broker, message: Any, *, result: Any = None, exception: BaseException | None = None
    ) -> None:
        """Have the message of a task that raised go to the dead letters."""
        if exception is not None:
            message.options["traceback"] = str(exception)
            message.fail()


def serve(
    broker: Broker, taker: Taker, context: BackendContext, concurrency: int, on_ready: Callable[[], None]
) -> None:
    """Run Dramatiq's worker until the taker is stopped, and return when the last message is dealt with.

    Its one actor has no retries, no time limit and no age limit: the broker has no such middleware.
    """
    settings: Any = context.settings

    def penstock(message: Message) -> None:
        failure = context.execute(message)
        if failure is not None and settings.mirror_failures:
            raise MirroredFailure(failure)

    broker.actors.clear()
    broker.queues.clear()
    broker.add_middleware(_Mirror())
    Actor(
        penstock, broker=broker, actor_name=ACTOR, queue_name=taker.queues[0], priority=0,
        options={"throws": (MirroredFailure,)},
    )  # fmt: skip
    # A whitelist that names none of them keeps Dramatiq from giving each queue a consumer of its own.
    worker: Any = Worker(broker, queues={"-"}, worker_threads=concurrency)
    worker.work_queue, worker.consumers = taker, _Consumers(taker)
    with taker.lock:
        taker.beat()
    over = threading.Event()
    beating = threading.Thread(target=taker.beat_until, args=(over,), name="penstock-dramatiq-beat", daemon=True)
    beating.start()
    worker.start()
    try:
        on_ready()
        taker.stopping.wait()
        worker.stop(_FOR_EVER_MS)
    finally:
        over.set()
        beating.join()
        taker.close()
