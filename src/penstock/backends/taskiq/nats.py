"""TaskIQ on NATS JetStream: a work-queue stream for each project, a subject for each queue and priority.

A message is acknowledged when it is taken, so no job outlives the time that NATS waits for that: the ledger's lease
watches over it from there. Who has published rings a bell, a subject that no stream keeps.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from typing import Any

import msgspec
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.js.api import AckPolicy, ConsumerConfig, RetentionPolicy, StorageType, StreamConfig
from nats.js.errors import APIError

from penstock.backends.taskiq.broker import HIGHEST_FIRST, OneTaskBroker, Taken, native
from penstock.backends.taskiq.config import TaskiqSettings
from penstock.backends.taskiq.nats_look import connect, token
from penstock.job.models import Message

_WAIT_S = 5.0
_SOON_S = 0.02
"""What is counted and not to be had is being taken, or given back, by somebody else: it is looked for again."""


class NatsBroker(OneTaskBroker):
    """One connection, made anew when it is gone; a worker also hears of each new message, to look at once."""

    outages = (NatsError, TimeoutError, OSError)

    def __init__(self, url: str, namespace: str, settings: TaskiqSettings) -> None:
        super().__init__(url, namespace, settings)
        self._stream = f"penstock-{token(namespace)}"
        self._root = f"penstock.{token(namespace)}"
        self._client: Any = None
        self._jetstream: Any = None
        self._inbox = ""
        self._answers: asyncio.Queue[Msg] = asyncio.Queue()
        self._connecting = asyncio.Lock()
        self._consumers: set[str] = set()
        self._bell = asyncio.Event()

    def _subject(self, queue: str, priority: int) -> str:
        return f"{self._root}.{token(queue)}.{priority}"

    def _bell_of(self, queue: str) -> str:
        return f"penstock-bell.{token(self.namespace)}.{token(queue)}"

    async def connect(self) -> None:
        """See `OneTaskBroker.connect`."""
        async with self._connecting:
            if self._client is not None and self._client.is_connected:
                return
            await self.disconnect()
            settings = self.settings
            client: Any = await connect(
                self.url, timeout_s=settings.connect_timeout_s, silent_s=settings.answer_timeout_s
            )
            self._client, self._jetstream = client, client.jetstream(timeout=self.settings.answer_timeout_s)
            with contextlib.suppress(APIError):  # it is there, with settings of somebody's own
                await self._jetstream.add_stream(
                    StreamConfig(
                        name=self._stream,
                        subjects=[f"{self._root}.>"],
                        retention=RetentionPolicy.WORK_QUEUE,
                        storage=StorageType.FILE,
                    )
                )
            self._inbox, self._answers = client.new_inbox(), asyncio.Queue()
            await client.subscribe(self._inbox, cb=self._answers.put)
            for queue in self.queues:
                await client.subscribe(self._bell_of(queue), cb=self._heard)

    async def _heard(self, _ring: Msg) -> None:
        self._bell.set()

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `OneTaskBroker.publish`: each is confirmed by JetStream, all are on their way at once."""
        await self.connect()
        publish = self._jetstream.publish
        await asyncio.gather(*(publish(self._subject(each.queue, each.priority), native(each)) for each in messages))
        for queue in {each.queue for each in messages}:
            await self._client.publish(self._bell_of(queue))
        await self._client.flush()

    async def depth(self, queue: str) -> int:
        """See `OneTaskBroker.depth`."""
        await self.connect()
        return sum((await self._counts(f"{self._root}.{token(queue)}.*")).values())

    async def _counts(self, subjects: str) -> dict[str, int]:
        info = await self._jetstream.stream_info(self._stream, subjects_filter=subjects)
        return dict(info.state.subjects or {})

    async def take(self, room: int) -> Sequence[Taken]:
        """See `OneTaskBroker.take`: one trip to see which subjects have something, one to take from each of these."""
        self._bell.clear()
        try:
            waiting = await self._counts(f"{self._root}.>")
        except TimeoutError:
            await self.disconnect()  # it looks connected until nats-py has missed its pings
            raise
        found: list[Taken] = []
        wait_s = _WAIT_S
        for subject in (self._subject(queue, priority) for queue in self.queues for priority in HIGHEST_FIRST):
            if waiting.get(subject) and len(found) < room:
                found += await self._fetch(subject, min(room - len(found), waiting[subject]))
                wait_s = _SOON_S
        if not found:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._bell.wait(), wait_s)
        return found

    async def _fetch(self, subject: str, most: int) -> list[Taken]:
        consumer = subject.removeprefix(f"{self._root}.").replace(".", "-")
        if consumer not in self._consumers:
            await self._jetstream.add_consumer(
                self._stream,
                ConsumerConfig(durable_name=consumer, filter_subject=subject, ack_policy=AckPolicy.EXPLICIT),
            )
            self._consumers.add(consumer)
        # By hand: the client's own `fetch` waits for as many as it asks for, and there are other subjects to look at.
        await self._client.publish(
            f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{consumer}",
            msgspec.json.encode({"batch": most, "no_wait": True}),
            reply=self._inbox,
        )
        found: list[Taken] = []
        while len(found) < most:
            message = await self._answer()
            if message.headers and "Status" in message.headers:  # there is no more
                break
            await message.ack()
            found.append(Taken(message.data, subject))
        return found

    async def _answer(self) -> Msg:
        if not self._answers.empty():
            return self._answers.get_nowait()  # a timeout costs a task
        try:
            return await asyncio.wait_for(self._answers.get(), self.settings.answer_timeout_s)
        except TimeoutError:
            await self.disconnect()  # an answer that came after all would be taken for the next one's
            raise

    async def wake(self) -> None:
        """See `OneTaskBroker.wake`."""
        self._bell.set()

    async def give_back(self, taken: Taken) -> None:
        """See `OneTaskBroker.give_back`."""
        await self._jetstream.publish(taken.origin, taken.body)

    async def disconnect(self) -> None:
        """See `OneTaskBroker.disconnect`."""
        client, self._client = self._client, None
        self._consumers.clear()
        if client is not None and not client.is_closed:
            await client.close()
