"""SAQ on Postgres: its own table and notifications, with our order of taking.

Read at SAQ 0.26.4: its query to dequeue takes from one queue, leaves the order within a second open, and starves jobs
without a group while one with a group runs (SAQ #298); so the query is ours.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from typing import Any

import msgspec
from psycopg import AsyncConnection, OperationalError
from psycopg.sql import SQL, Identifier
from psycopg_pool import AsyncConnectionPool
from saq import Job
from saq.queue.postgres import PostgresQueue

from penstock.backends.saq.config import SaqSettings
from penstock.backends.saq.queue import SaqBackend
from penstock.backends.saq.worker import Lane
from penstock.core.base import BackendContext, Finding
from penstock.job.models import Message
from penstock.servers import postgres_look

_WAIT_S = 1.0

_PUBLISH = """
insert into saq_jobs (key, job, queue, status, priority, scheduled)
values (%s, %s, %s, 'queued', %s, %s) on conflict (key) do nothing
"""
_WITHDRAW = "delete from saq_jobs where key = any(%s) and status = 'queued'"
_TAKE = """
with best as (
    select key from saq_jobs where status = 'queued' and queue = %s
    order by priority, scheduled, lock_key limit %s for update skip locked
)
update saq_jobs set status = 'active', expire_at = %s from best where saq_jobs.key = best.key
returning saq_jobs.priority, saq_jobs.scheduled, saq_jobs.lock_key, saq_jobs.key, saq_jobs.job
"""
_RENEW = "update saq_jobs set expire_at = %s where key = any(%s) and status = 'active'"
_TIDY_JOBS = "delete from saq_jobs where queue = %s and status <> 'queued' and expire_at < %s"
_TIDY_STATS = "delete from saq_stats where expire_at < %s"


class _Connection(AsyncConnection[Any]):
    """Gives up a server that does not answer; psycopg would wait for ever, as libpq does."""

    patience_s: float

    async def wait(self, gen: Any, *args: Any, **options: Any) -> Any:
        """Wait for what libpq waits for. Raises OperationalError when nothing has come for too long."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        silent = False

        def give_up() -> None:
            nonlocal silent
            silent = True
            self.pgconn.finish()  # first: of an open connection psycopg would ask the same server to cancel
            if task is not None:
                task.cancel()

        timer = loop.call_later(self.patience_s, give_up)
        try:
            return await super().wait(gen, *args, **options)
        except BaseException as error:
            if not silent or task is None or task.uncancel():
                raise
            raise OperationalError(f"no answer for {self.patience_s:g} s") from error
        finally:
            timer.cancel()


class PostgresLane(Lane, PostgresQueue):
    """A queue of ours in SAQ's table."""

    def __init__(self, pool: Any, name: str, settings: SaqSettings) -> None:
        PostgresQueue.__init__(self, pool=pool, name=name, dump=msgspec.json.encode, load=msgspec.json.decode)
        self.settings = settings
        # What SAQ notifies of a new job; Postgres cuts long names at 63 letters on both sides alike.
        self.channel = Identifier(f"saq:{name}"[:63])

    async def renew(self, jobs: Sequence[Job]) -> None:
        """See `Lane.renew`."""
        at_s = int(time.time())
        async with self.pool.connection() as connection:
            await connection.execute(_RENEW, (at_s + self.settings.heartbeat_s, [job.key for job in jobs]))
            await connection.execute(_TIDY_JOBS, (self.name, at_s))
            await connection.execute(_TIDY_STATS, (at_s,))


class PostgresBackend(SaqBackend):
    """SAQ's table in one database."""

    outages = (OperationalError, OSError)

    def __init__(self, context: BackendContext) -> None:
        """See `SaqBackend`."""
        super().__init__(context)
        self._opening = asyncio.Lock()
        self._pool: Any = None
        self._ear: AsyncConnection[Any] | None = None
        self._ear_tried_at = 0.0
        patience_s = self.settings.answer_timeout_s
        self._connection_class: type[_Connection] = type("Connection", (_Connection,), {"patience_s": patience_s})

    def new_lane(self, queue: str) -> PostgresLane:
        """See `SaqBackend.new_lane`; after `_connect`."""
        return PostgresLane(self._pool, self._key(queue), self.settings)

    async def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        return await asyncio.to_thread(postgres_look.look, self.url, "saq", "psycopg")

    async def _connect(self) -> Any:
        async with self._opening:
            if self._pool is None:
                # First one connection: a pool would try in silence until its time is over. And its lock: SAQ leaves
                # making its tables to whoever has begun, without waiting for them.
                async with await self._connection() as first:
                    await first.execute("select pg_advisory_lock(hashtext('penstock:saq'))")
                    timeout_s, most = self.settings.connect_timeout_s, self.settings.postgres_connections
                    pool: Any = AsyncConnectionPool(
                        self.url,
                        connection_class=self._connection_class,
                        min_size=1,
                        max_size=most,
                        open=False,
                        timeout=timeout_s,
                    )
                    await pool.open()
                    await PostgresLane(pool, "", self.settings).init_db()
                self._pool = pool
        return self._pool

    async def _connection(self) -> AsyncConnection[Any]:
        timeout_s = max(2, int(self.settings.connect_timeout_s))
        return await self._connection_class.connect(self.url, autocommit=True, connect_timeout=timeout_s)

    def _key(self, name: str) -> str:
        # The table is one, whichever project's.
        return f"{self.context.namespace}:{name}"

    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`: one transaction."""
        with self.told():
            pool = await self._connect()
            rows: list[tuple[Any, ...]] = []
            for message in messages:
                lane = self.lane(message.queue)
                job = lane.native(message, self._key(message.id))
                rows.append((job.key, lane.serialize(job), lane.name, job.priority, job.queued // 1000))
            async with pool.connection() as connection, connection.transaction(), connection.cursor() as cursor:
                await cursor.executemany(_PUBLISH, rows)
                for queue in {message.queue for message in messages}:
                    await cursor.execute(SQL("notify {}, 'saq:enqueue'").format(self.lane(queue).channel))

    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""
        with self.told():
            async with (await self._connect()).connection() as connection:
                cursor = await connection.execute(_WITHDRAW, ([self._key(message_id) for message_id in message_ids],))
                return cursor.rowcount

    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""
        with self.told():
            await self._connect()
            return await self.lane(queue).count("queued")

    async def take(self, queues: Sequence[str], count: int) -> list[Job]:
        """See `SaqBackend.take`."""
        jobs: list[Job] = []
        async with self._pool.connection() as connection:
            for lane in map(self.lane, queues):
                if len(jobs) < count:
                    until = int(time.time()) + self.settings.heartbeat_s
                    cursor = await connection.execute(_TAKE, (lane.name, count - len(jobs), until))
                    jobs += [lane.read(key, bytes(body)) for *_, key, body in sorted(await cursor.fetchall())]
        return jobs

    async def wait(self, queues: Sequence[str]) -> None:
        """See `SaqBackend.wait`."""
        if self._ear is None or self._ear.closed:
            # Returns at once: something may have come before it began to listen.
            self._ear = await self._connection()
            for queue in queues:
                await self._ear.execute(SQL("listen {}").format(self.lane(queue).channel))
            self._ear_tried_at = time.monotonic()
            return
        if time.monotonic() - self._ear_tried_at > self.settings.answer_timeout_s:
            await self._ear.execute("select 1")  # who only listens never hears that nobody is there
            self._ear_tried_at = time.monotonic()
        async for _ in self._ear.notifies(timeout=_WAIT_S, stop_after=1):
            pass

    async def close(self) -> None:
        """See `Backend.close`."""
        for opened in (self._ear, self._pool):
            if opened is not None:
                await opened.close()
