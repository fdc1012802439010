"""Dramatiq's worker threads, which take their messages from us: by preference, and never more than they run.

Dramatiq gives each queue a consumer thread of its own, which holds twice as many messages as there are threads and
knows no order among queues; an undecodable message stops it for three seconds. A `Taker` stands in for those threads
and for the queue between them and the workers.
"""

# Dramatiq's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false
# pyright: reportUnknownParameterType=false, reportMissingTypeArgument=false, reportMissingTypeStubs=false

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Sequence
from queue import Empty
from types import SimpleNamespace
from typing import Any

import msgspec
from dramatiq import Actor, Worker
from dramatiq import Message as DramatiqMessage
from dramatiq.broker import Broker, MessageProxy

from penstock.backends.asking import Asking
from penstock.core.base import BackendContext, WorkOrder
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.dramatiq")

# Dramatiq tells at INFO of each start and end of its worker.
logging.getLogger("dramatiq").setLevel(logging.WARNING)

ACTOR = "penstock"
"""The one actor. A message of any other is refused."""


class Delivery(msgspec.Struct):
    """How a message came."""

    queue: str
    tag: Any
    """What the transport knows it by."""
    options: dict[str, Any]
    """What Dramatiq has written into it."""
    dead: bytes | None = None
    """What is to lie among the dead letters for it."""


def encode(message: Message, queue: str, **options: Any) -> bytes:
    """Write a message as Dramatiq's JSON encoder would; a process-wide ``set_encoder`` of others changes nothing."""
    kwargs = msgspec.to_builtins(message)
    return msgspec.json.encode(DramatiqMessage(queue, ACTOR, (), kwargs, options, message.id).asdict())


class Taker(ABC):
    """Where Dramatiq's worker threads get their messages: their work queue, and the consumer of every queue."""

    beat_s: float

    def __init__(self, context: BackendContext, queues: Sequence[str], order: WorkOrder) -> None:
        self.context = context
        self.settings: Any = context.settings
        self.queues = tuple(queues)
        self.ended: deque[Delivery] = deque()
        """Filled by the worker threads, emptied by `take`."""
        self.asking = Asking(self.take, self._claim_ahead, order.on_contact)

    def decoded(self, data: bytes, delivery: Delivery) -> MessageProxy | None:
        """Read a message; one that is not ours has ended. Its own options are dropped: they could delay or pipe it."""
        try:
            found = msgspec.json.decode(data, type=dict[str, Any])
            if found["actor_name"] != ACTOR:
                raise ValueError(f"it is for the actor {found['actor_name']!r}")
            message = msgspec.convert(found["kwargs"], Message)
        except Exception as error:  # noqa: BLE001 - whatever a foreign message holds, it must stop nobody
            self.context.refuse(f"on {delivery.queue}: {type(error).__name__}: {error}")
            delivery.dead = data
            self.ended.append(delivery)
            return None
        return MessageProxy(DramatiqMessage(delivery.queue, ACTOR, (message, delivery), {}, {}, message.id))

    def _claim_ahead(self, messages: Sequence[MessageProxy]) -> None:
        self.context.claim_ahead([message.args[0] for message in messages])

    # -- what Dramatiq's worker calls ---------------------------------------------------------------------------------

    def get(self, timeout: float) -> SimpleNamespace:
        """Wait for a message. Raises `Empty` after a stop."""
        message = self.asking.get()
        if message is None:
            time.sleep(0.01)  # until this thread is told to end, it comes again
            raise Empty
        return SimpleNamespace(message=message)

    def get_nowait(self) -> SimpleNamespace:
        """Nothing waits here."""
        raise Empty

    def task_done(self) -> None:  # noqa: B027 - nobody joins this queue
        """Told to no one."""

    def __contains__(self, queue: str) -> bool:
        """Keep Dramatiq from making a consumer of its own."""
        return True

    def __getitem__(self, queue: str) -> Taker:
        """Be the consumer of a queue."""
        return self

    def values(self) -> tuple[()]:
        """No consumer is there to be stopped and closed."""
        return ()

    def post_process_message(self, message: MessageProxy) -> None:
        """Have the broker told of it on the next trip."""
        self.ended.append(message.args[1])

    # -- what a transport does ----------------------------------------------------------------------------------------

    @abstractmethod
    def take(self, count: int) -> list[MessageProxy]:
        """Tell the broker of what has `ended`, and take messages as `Asking` wants it."""

    @abstractmethod
    def beat(self) -> None:
        """Tell the broker that this worker is alive; called every ``beat_s``, by no worker thread."""

    def rest(self) -> None:  # noqa: B027 - a transport that is asked holds nothing
        """Let others have at once what has come and will not be begun, as `asking` was stopped."""

    @abstractmethod
    def close(self) -> None:
        """Tell of the last that has ended, and let go."""


def serve(broker: Broker, taker: Taker, order: WorkOrder) -> None:
    """Run Dramatiq's worker until the taker is stopped, and return when the last message is dealt with.

    Its one actor has no retries, no time limit and no age limit: the broker has no such middleware. A failed attempt
    is put among the dead letters by us.
    """

    def penstock(message: Message, delivery: Delivery) -> None:
        failure = taker.context.execute(message)
        if failure is not None and taker.settings.mirror_failures:
            delivery.dead = encode(message, delivery.queue, traceback=failure, **delivery.options)

    broker.actors.clear()
    broker.queues.clear()
    broker.middleware.clear()  # that of an earlier worker
    Actor(penstock, broker=broker, actor_name=ACTOR, queue_name=taker.queues[0], priority=0, options={})
    worker: Any = Worker(broker, worker_threads=order.concurrency)
    worker.work_queue = worker.consumers = taker
    taker.beat()
    worker.start()
    order.on_ready()
    while not taker.asking.stopping.wait(taker.beat_s):
        _beat(taker)
    taker.rest()
    while any(thread.is_alive() for thread in worker.workers):
        worker.stop(int(taker.beat_s * 1000))  # returns after that time, whether they have ended or not
        _beat(taker)
    taker.close()


def _beat(taker: Taker) -> None:
    try:
        taker.beat()
    except Exception as error:  # noqa: BLE001 - it is tried again soon
        logger.warning("the broker was not told that this worker is alive: %s", error)
