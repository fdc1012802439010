"""SAQ on Postgres: its own table and notifications, with our order of taking.

Read at SAQ 0.26.4: its query to dequeue takes from one queue, leaves the order within a second open, and starves jobs
without a group while one with a group runs (SAQ #298); so the query is ours, every other write is SAQ's.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from psycopg import AsyncConnection, OperationalError
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool
from saq import Job
from saq.job import Status
from saq.queue.postgres import PostgresQueue

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.worker import Lane, Source, native_job
from penstock.job.models import Message

logger = logging.getLogger("penstock.backends.saq")

_WAIT_S = 5.0
_TABLES_S = 10.0

_PUBLISH = """
insert into saq_jobs (key, job, queue, status, priority, scheduled)
values (%s, %s, %s, 'queued', %s, %s) on conflict (key) do nothing
"""
_WITHDRAW = """
update saq_jobs set status = 'aborted', expire_at = %s
where key = any(%s) and status = 'queued'
"""
_TAKE = """
with best as (
    select key from saq_jobs
    where status = 'queued' and queue = %s and scheduled <= %s
    order by priority, scheduled, lock_key limit %s for update skip locked
)
update saq_jobs set status = 'active' from best where saq_jobs.key = best.key
returning saq_jobs.priority, saq_jobs.scheduled, saq_jobs.lock_key, saq_jobs.key, saq_jobs.job
"""
_END = "update saq_jobs set status = %s, expire_at = %s where key = %s"
_BEAT = "update saq_jobs set job = %s where key = %s and status = 'active'"


class PostgresLane(Lane, PostgresQueue):
    """A queue of ours in SAQ's table."""

    def __init__(self, pool: Any, name: str) -> None:
        PostgresQueue.__init__(self, pool=pool, name=name, dump=msgspec.json.encode, load=msgspec.json.decode)

    @property
    def channel(self) -> Identifier:
        """What SAQ notifies of a new job; Postgres cuts long names at 63 letters on both sides alike."""
        return Identifier(f"saq:{self.name}"[:63])

    # What SAQ writes of a job is for its screens and for its sweep: an outage must not end the job.

    async def _update(self, job: Job, status: Status | None = None, **more: Any) -> None:
        with self._written(job):
            await super()._update(job, status, **more)

    async def _finish(
        self, job: Job, status: Status, *, result: Any = None, error: str | None = None, **more: Any
    ) -> None:
        with self._written(job):
            await super()._finish(job, status, result=result, error=error, **more)

    @contextmanager
    def _written(self, job: Job) -> Generator[None]:
        try:
            yield
        except OperationalError as error:
            logger.warning("could not note in SAQ's table how job %s stands: %s", job.key, error)

    async def beat(self, job: Job) -> None:
        """See `Lane.beat`: the guard is in the statement."""
        job.touched = int(time.time() * 1000)
        async with self.pool.connection() as connection:
            await connection.execute(_BEAT, (self.serialize(job), job.key))


class PostgresTransport:
    """Publishes to SAQ's table in one database, and opens what a worker takes from."""

    def __init__(self, url: str, namespace: str, settings: SaqSettings) -> None:
        self._url = url
        self._namespace = namespace
        self._settings = settings
        self._pool: Any = None
        self._opening = asyncio.Lock()
        self._lanes: dict[str, PostgresLane] = {}

    async def _open(self) -> Any:
        async with self._opening:
            if self._pool is None:
                # First one connection: a pool would try in silence until its time is over.
                await (await self._connect()).close()
                pool: Any = AsyncConnectionPool(
                    self._url,
                    min_size=1,
                    max_size=self._settings.postgres_connections,
                    open=False,
                    kwargs={"autocommit": True},
                    timeout=self._settings.connect_timeout_s,
                )
                await pool.open()
                await _make_tables(PostgresLane(pool, f"{self._namespace}:default"))
                self._pool = pool
        return self._pool

    async def _connect(self) -> AsyncConnection[Any]:
        timeout_s = max(2, int(self._settings.connect_timeout_s))
        return await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=timeout_s)

    def _lane(self, pool: Any, queue: str) -> PostgresLane:
        if queue not in self._lanes:
            self._lanes[queue] = PostgresLane(pool, f"{self._namespace}:{queue}")
        return self._lanes[queue]

    def _key(self, message_id: str) -> str:
        # A key is one in the whole table, whichever project's.
        return f"{self._namespace}:{message_id}"

    async def publish(self, messages: Sequence[Message]) -> None:
        """Hand over all messages in one transaction."""
        pool = await self._open()
        at_s = time.time()
        rows: list[tuple[Any, ...]] = []
        lanes: dict[str, PostgresLane] = {}
        for message in messages:
            lane = lanes[message.queue] = self._lane(pool, message.queue)
            key = self._key(message.id)
            job = native_job(message, key, lane.name, int(at_s * 1000), self._settings)
            rows.append((key, msgspec.json.encode(job), lane.name, 9 - message.priority, int(at_s)))
        async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
            await cursor.executemany(_PUBLISH, rows)
            for lane in lanes.values():
                await cursor.execute(SQL("notify {}, 'saq:enqueue'").format(lane.channel))

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """Mark waiting messages as aborted; the sweep removes them."""
        pool = await self._open()
        keys = [self._key(message_id) for message_id in message_ids]
        async with pool.connection() as connection:
            cursor = await connection.execute(_WITHDRAW, (int(time.time()) + self._settings.finished_ttl_s, keys))
            return cursor.rowcount

    async def depth(self, queue: str) -> int:
        """Count what waits in a queue."""
        return await self._lane(await self._open(), queue).count("queued")

    async def source(self, queues: Sequence[str]) -> Source:
        """Connect a worker."""
        pool = await self._open()
        return PostgresSource(pool, [self._lane(pool, queue) for queue in queues], self._connect)

    async def close(self) -> None:
        """Close the connections."""
        if self._pool is not None:
            await self._pool.close()


class PostgresSource(Source):
    """Takes from several queues in order, and waits for the notifications of all with one connection."""

    def __init__(
        self,
        pool: Any,
        lanes: Sequence[PostgresLane],
        connect: Callable[[], Awaitable[AsyncConnection[Any]]],
    ) -> None:
        self.lanes = lanes
        self._channels = [lane.channel for lane in lanes]
        self._pool = pool
        self._connect = connect
        self._listening: AsyncConnection[Any] | None = None
        self._waiting: asyncio.Task[None] | None = None

    async def connect(self) -> None:
        """See `Source.connect`."""
        await self.close()
        self._listening = await self._connect()
        for channel in self._channels:
            await self._listening.execute(SQL("listen {}").format(channel))

    async def take(self, count: int) -> list[Job]:
        """See `Source.take`."""
        jobs: list[Job] = []
        async with self._pool.connection() as connection:
            for lane in self.lanes:
                if len(jobs) < count:
                    cursor = await connection.execute(_TAKE, (lane.name, time.time(), count - len(jobs)))
                    for *_, key, body in sorted(await cursor.fetchall()):
                        try:
                            job = lane.deserialize(bytes(body), Status.ACTIVE)
                            assert job is not None  # noqa: S101 - only nothing is read as nothing
                            jobs.append(job)
                        except Exception as error:  # noqa: BLE001 - whatever it holds, it must stop nobody
                            logger.warning("refused a message that is not ours: %s: %s", type(error).__name__, error)
                            await connection.execute(_END, (Status.FAILED, int(time.time()), key))
        return jobs

    async def wait(self) -> Job | None:
        """See `Source.wait`."""

        async def listen() -> None:
            assert self._listening is not None  # noqa: S101 - connected
            async for _ in self._listening.notifies(timeout=_WAIT_S, stop_after=1):
                pass

        self._waiting = asyncio.create_task(listen())
        await asyncio.wait([self._waiting])
        if not self._waiting.cancelled():
            self._waiting.result()
        return None

    async def wake(self) -> None:
        """See `Source.wake`."""
        if self._waiting is not None:
            self._waiting.cancel()

    async def put_back(self, job: Job) -> None:
        """See `Source.put_back`: its place in the order is in its row."""
        async with self._pool.connection() as connection:
            await connection.execute(_END, (Status.QUEUED, None, job.key))

    async def close(self) -> None:
        """See `Source.close`."""
        if self._listening is not None:
            await self._listening.close()


async def _make_tables(lane: PostgresLane) -> None:
    """Let SAQ make its tables. It leaves that to whoever has begun already, without waiting for them."""
    until = time.monotonic() + _TABLES_S
    while True:
        await lane.init_db()
        async with lane.pool.connection() as connection:
            row: Any = await (await connection.execute("select to_regclass('saq_stats')")).fetchone()
        if row[0] is not None or time.monotonic() > until:
            return
        await asyncio.sleep(0.1)
