"""Each engine used directly, as its own documentation shows it: what penstock is measured beside.

``python benchmarks/plain.py TRANSPORT URL QUEUE`` is a worker of ten jobs at once (RQ's own takes one).
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Coroutine
from typing import Any

from stamps import stamp

CONCURRENCY = 10


class Plain:
    """One engine: send one job, send many, work them off."""

    drained = 3000
    """How many jobs tell its pace."""
    started = 150
    """How many tell how soon one begins."""

    def __init__(self, url: str, queue: str) -> None:
        self.url = url
        self.queue = queue

    def one(self) -> None:
        raise NotImplementedError

    def many(self, count: int) -> None:
        for _ in range(count):
            self.one()

    def work(self) -> None:
        raise NotImplementedError

    def close(self) -> None:
        pass


class AsyncPlain(Plain):
    """An engine that is used within a loop."""

    def __init__(self, url: str, queue: str) -> None:
        super().__init__(url, queue)
        self._runner = asyncio.Runner()
        self._run(self.connect())

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        self._runner.run(coroutine)

    async def connect(self) -> None:
        raise NotImplementedError

    async def disconnect(self) -> None:
        raise NotImplementedError

    async def send(self) -> None:
        raise NotImplementedError

    async def serve(self) -> None:
        raise NotImplementedError

    def one(self) -> None:
        self._run(self.send())

    def many(self, count: int) -> None:
        async def all_of_them() -> None:
            for batch in _batches(count):
                await asyncio.gather(*(self.send() for _ in batch))

        self._run(all_of_them())

    def work(self) -> None:
        self._run(self.serve())

    def close(self) -> None:
        self._run(self.disconnect())
        self._runner.close()


def _batches(count: int) -> list[range]:
    return [range(start, min(start + 100, count)) for start in range(0, count, 100)]


async def astamp(sent_at: float) -> None:
    stamp(sent_at)


class Huey(Plain):
    def __init__(self, url: str, queue: str) -> None:
        from huey import RedisHuey, SqliteHuey
        from huey.serializer import Serializer

        super().__init__(url, queue)
        if url.startswith("redis"):
            self.huey: Any = RedisHuey(queue, url=url, results=False, serializer=Serializer())
        else:
            self.huey = SqliteHuey(queue, filename=url.partition("sqlite:///")[2], results=False)
        self.task = self.huey.task(name="stamp")(stamp)

    def one(self) -> None:
        self.task(time.time())

    def work(self) -> None:
        self.huey.create_consumer(workers=CONCURRENCY, periodic=False).run()


class Rq(Plain):
    drained = 300  # a fork each

    def __init__(self, url: str, queue: str) -> None:
        import redis
        import rq

        super().__init__(url, queue)
        self.native = rq.Queue(queue, connection=redis.Redis.from_url(url))

    def one(self) -> None:
        self.native.enqueue(stamp, time.time())

    def many(self, count: int) -> None:
        for batch in _batches(count):
            self.native.enqueue_many([self.native.prepare_data(stamp, (time.time(),)) for _ in batch])

    def work(self) -> None:
        import rq

        rq.Worker([self.native], connection=self.native.connection).work(logging_level="ERROR")


class Dramatiq(Plain):
    def __init__(self, url: str, queue: str) -> None:
        import dramatiq
        from dramatiq.brokers.rabbitmq import RabbitmqBroker
        from dramatiq.brokers.redis import RedisBroker

        super().__init__(url, queue)
        self.broker: Any = RedisBroker(url=url) if url.startswith("redis") else RabbitmqBroker(url=url)
        dramatiq.set_broker(self.broker)
        self.actor = dramatiq.actor(stamp, queue_name=queue, broker=self.broker)

    def one(self) -> None:
        self.actor.send(time.time())

    def work(self) -> None:
        import dramatiq

        worker = dramatiq.Worker(self.broker, worker_threads=CONCURRENCY)
        worker.start()
        time.sleep(1e6)

    def close(self) -> None:
        self.broker.close()


class Saq(AsyncPlain):
    async def connect(self) -> None:
        from saq import Queue

        self.native: Any = Queue.from_url(self.url, name=self.queue)
        await self.native.connect()

    async def disconnect(self) -> None:
        await self.native.disconnect()

    async def send(self) -> None:
        await self.native.enqueue("astamp", sent_at=time.time())

    async def serve(self) -> None:
        from saq import Worker

        async def body(_context: Any, *, sent_at: float) -> None:
            stamp(sent_at)

        await Worker(self.native, functions=[("astamp", body)], concurrency=CONCURRENCY).start()


class Arq(AsyncPlain):
    drained, started = 600, 30  # it looks every half a second

    async def connect(self) -> None:
        from arq import create_pool
        from arq.connections import RedisSettings

        self.pool = await create_pool(RedisSettings.from_dsn(self.url), default_queue_name=self.queue)

    async def disconnect(self) -> None:
        await self.pool.aclose()

    async def send(self) -> None:
        await self.pool.enqueue_job("astamp", time.time())

    async def serve(self) -> None:
        from arq.connections import RedisSettings
        from arq.worker import Worker, func

        async def body(_context: Any, sent_at: float) -> None:
            stamp(sent_at)

        worker = Worker(
            functions=[func(body, name="astamp")],
            redis_settings=RedisSettings.from_dsn(self.url),
            queue_name=self.queue,
            max_jobs=CONCURRENCY,
            handle_signals=False,
        )
        await worker.async_run()


class Taskiq(AsyncPlain):
    async def connect(self) -> None:
        if self.url.startswith("redis"):
            from taskiq_redis import ListQueueBroker

            self.broker: Any = ListQueueBroker(self.url, queue_name=self.queue)
        elif self.url.startswith("amqp"):
            from taskiq_aio_pika import AioPikaBroker, Exchange, Queue

            self.broker = AioPikaBroker(
                self.url, exchange=Exchange(name=self.queue), task_queues=[Queue(name=self.queue)], qos=CONCURRENCY
            )
        else:
            from taskiq_nats import PullBasedJetStreamBroker

            self.broker = PullBasedJetStreamBroker(
                [self.url],
                subject=self.queue,
                stream_name=self.queue,
                durable=self.queue,  # one message a trip: a larger batch is waited for until it is full
            )
        self.task = self.broker.register_task(astamp, task_name="astamp")
        if "work" not in sys.argv:
            await self.broker.startup()

    async def disconnect(self) -> None:
        await self.broker.shutdown()

    async def send(self) -> None:
        await self.task.kiq(time.time())

    async def serve(self) -> None:
        from taskiq.api import run_receiver_task

        self.broker.is_worker_process = True
        await run_receiver_task(self.broker, max_async_tasks=CONCURRENCY, run_startup=True)


ENGINES: dict[str, type[Plain]] = {
    "huey": Huey, "rq": Rq, "dramatiq": Dramatiq, "saq": Saq, "arq": Arq, "taskiq": Taskiq,
}  # fmt: skip


def main() -> None:
    _, transport, url, queue, *_ = sys.argv
    ENGINES[transport.partition("+")[0]](url, queue).work()


if __name__ == "__main__":
    main()
