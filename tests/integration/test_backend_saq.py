"""SAQ as its own tools see it, and jobs that outlive its limits."""

from __future__ import annotations

import asyncio
import time
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from penstock import JobQueue
from penstock.client import PublishWarning
from penstock.core.exceptions import ConfigError
from penstock.job.lifecycle import State
from penstock.job.models import Message
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import anote, flaky, hold, note
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import CALM, harness_for, short_config, wait_until

pytest.importorskip("saq")
from saq.job import Status
from saq.queue.base import Queue

SERVERS = {"redis": services.redis_server, "postgres": services.postgres_server}
TASKS = (bodies.MODULE,)


@pytest.fixture(params=sorted(SERVERS))
def harness(request, tmp_path):
    if why := services.available(request.param):
        pytest.skip(why)
    made = harness_for(f"saq+{SERVERS[request.param]()}")(tmp_path)
    yield made
    made.reset()


def natively(harness, ask: Callable[[Queue], Awaitable[Any]], queue: str = "default") -> Any:
    """Ask SAQ's own queue, opened as its own tools open it."""

    async def main() -> Any:
        native = Queue.from_url(harness.url.partition("+")[2], name=f"{harness.namespace}:{queue}")
        await native.connect()
        try:
            return await ask(native)
        finally:
            await native.disconnect()

    return asyncio.run(main())


async def counts(saq: Queue) -> tuple[int, ...]:
    return tuple([await saq.count(kind) for kind in ("queued", "active", "incomplete")])


async def _web_app(native: Queue) -> Any:
    from aiohttp.test_utils import TestClient, TestServer
    from saq.web.aiohttp import create_app

    client = TestClient(TestServer(create_app([native])))
    await client.start_server()
    return client


def in_web_app(harness, path: str = "", *, press: str = "") -> Any:
    """Read one page of SAQ's own web app, as the browser does; or press one of its buttons."""

    async def ask(native: Queue) -> Any:
        client = await _web_app(native)
        try:
            url = f"/api/queues/{native.name}{path}"
            answer = await (client.post(f"{url}/{press}") if press else client.get(url))
            return await answer.json()
        finally:
            await client.close()

    return natively(harness, ask)


def jobs_of(harness) -> list[Any]:
    async def ask(native: Queue) -> list[Any]:
        return [job async for job in native.iter_jobs()]

    return natively(harness, ask)


def only_job(harness):
    (job,) = jobs_of(harness)
    return job


def test_a_job_longer_than_every_limit_of_saq_runs_once(harness, open_queue, record):
    queue = open_queue(heartbeat_s=1)
    harness.start_worker(queue)
    harness.start_worker(queue)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    native = only_job(harness)
    wait_until(lambda: time.time() * 1000 > native.started + 2500, what="its life in SAQ would have been over twice")
    assert only_job(harness).status is Status.ACTIVE
    record.open_gate()
    assert final(queue, job).attempt == 1
    assert len(record.starts()) == 1
    wait_until(lambda: only_job(harness).status is Status.COMPLETE, what="SAQ shows it as complete")


def test_no_timeout_and_no_second_try_of_saqs_is_asked_for(harness, open_queue, record):
    open_queue().enqueue(note, file=record.file)
    native = only_job(harness)
    assert (native.timeout, native.retries, native.scheduled) == (0, 1, 0)


def test_a_native_job_is_named_after_its_task_and_its_job(harness, open_queue, record):
    job = open_queue().enqueue(note, file=record.file)
    native = only_job(harness)
    assert native.function == "conformance.note"
    assert job.id in native.key
    assert native.kwargs["job_ids"] == [job.id]


@pytest.mark.parametrize("mirrored", [True, False])
def test_a_failed_attempt_shows_as_failed_with_its_first_line_and_is_not_tried_again(
    harness, open_queue, record, mirrored
):
    queue = open_queue(mirror_failures=mirrored)
    harness.start_worker(queue)
    job = queue.enqueue(flaky, file=record.file, failures=9)
    assert final(queue, job).state is State.FAILED
    native = wait_until(lambda: (job := only_job(harness)).completed and job, what="SAQ knows of the end")
    if mirrored:
        assert (native.status, native.error) == (Status.FAILED, "Oddity: attempt 1 fails")
    else:
        assert (native.status, native.error) == (Status.COMPLETE, None)
    assert native.attempts == 1
    assert len(record.starts()) == 1


def test_each_attempt_is_a_native_job_of_its_own(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue)
    job = queue.enqueue(flaky, file=record.file, failures=2, max_attempts=3, backoff="50ms")
    final(queue, job)
    wait_until(lambda: all(native.completed for native in jobs_of(harness)))
    assert sorted(native.status.value for native in jobs_of(harness)) == ["complete", "failed", "failed"]


@pytest.mark.parametrize("failures", [0, 9])
def test_a_retry_pressed_in_saqs_web_app_runs_nothing(harness, open_queue, record, failures):
    queue = open_queue()
    worker = harness.start_worker(queue)
    final(queue, queue.enqueue(flaky, file=record.file, failures=failures))
    native = wait_until(lambda: (job := only_job(harness)).completed and job)
    assert in_web_app(harness, f"/jobs/{native.key}", press="retry") == {}
    wait_until(lambda: worker.counts().get("refused") == 1, what="the ledger refuses the second message")
    wait_until(lambda: only_job(harness).status is Status.COMPLETE, what="the second message is dealt with")
    assert natively(harness, counts) == (0, 0, 0)
    assert len(record.starts()) == 1


def test_an_abort_pressed_in_saqs_web_app_does_not_touch_a_running_job(harness, open_queue, record):
    queue = open_queue(heartbeat_s=1, finished_ttl_s=1)
    harness.start_worker(queue)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    in_web_app(harness, f"/jobs/{only_job(harness).key}", press="abort")
    record.open_gate()
    assert final(queue, job).state is State.SUCCEEDED
    wait_until(lambda: jobs_of(harness) == [], what="the aborted job is not kept for ever")


def test_saqs_web_app_tells_what_waits_runs_and_has_ended(harness, open_queue, record):
    queue = open_queue()
    worker = harness.start_worker(queue, concurrency=1)
    running = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    waiting = queue.enqueue(flaky, file=record.file, failures=9)
    page = wait_until(lambda: (page := in_web_app(harness)["queue"])["active"] == 1 and page)
    assert (page["queued"], page["active"], page["scheduled"]) == (1, 1, 0)
    assert [stats["queue_key"] for stats in page["workers"].values()] == [f"{harness.namespace}:default"]
    shown = {job["function"]: job for job in page["jobs"]}
    assert running.id in shown["conformance.hold"]["key"]
    assert shown["conformance.hold"]["status"] == "active"
    assert waiting.id in shown["conformance.flaky"]["key"]
    assert shown["conformance.flaky"]["status"] == "queued"
    record.open_gate()
    final(queue, waiting)
    worker.stop()
    page = in_web_app(harness)["queue"]
    assert (page["queued"], page["active"], page["scheduled"]) == (0, 0, 0)
    (failed,) = [job for job in jobs_of(harness) if job.function == "conformance.flaky"]
    told = in_web_app(harness, f"/jobs/{failed.key}")["job"]
    assert (told["status"], told["error"]) == ("failed", "Oddity: attempt 1 fails")


def test_a_foreign_job_is_refused_counted_and_stops_nobody(harness, open_queue, record, caplog):
    queue = open_queue()

    async def stranger(saq: Queue) -> None:
        await saq.enqueue("theirs", what="ever", key=f"{harness.namespace}-stranger")

    natively(harness, stranger)
    worker = harness.start_worker(queue, concurrency=1)
    job = queue.enqueue(note, file=record.file)
    assert final(queue, job).state is State.SUCCEEDED
    assert worker.counts()["foreign"] == 1
    assert "not ours" in caplog.text


def test_a_job_that_saq_itself_cannot_read_is_refused_counted_and_stops_nobody(harness, open_queue, record):
    queue = open_queue()
    job = queue.enqueue(note, file=record.file)

    async def spoil(saq: Any) -> None:
        async for native in saq.iter_jobs():
            if hasattr(saq, "redis"):
                await saq.redis.set(native.id, b"{")
            else:
                async with saq.pool.connection() as connection:
                    await connection.execute("update saq_jobs set job = '{' where key = %s", (native.key,))

    natively(harness, spoil)
    worker = harness.start_worker(queue, concurrency=1)
    after = queue.enqueue(note, file=record.file)
    assert final(queue, after).state is State.SUCCEEDED
    assert worker.counts()["foreign"] == 1
    assert queue.ledger.get(job.id).state is State.QUEUED
    wait_until(lambda: natively(harness, counts) == (0, 0, 0), what="it is nowhere any more")


def test_saq_counts_nothing_as_waiting_or_active_when_all_is_done(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue, concurrency=4)
    for job in queue.enqueue_many([note.options(priority=n % 10).call(file=record.file) for n in range(40)]):
        final(queue, job)

    wait_until(lambda: natively(harness, counts) == (0, 0, 0), what="nothing is left over")


def test_what_a_killed_worker_left_in_saq_is_cleared_away(harness, open_queue, record):
    queue = open_queue(heartbeat_s=1, finished_ttl_s=1)
    first = harness.start_process(queue, "--concurrency", "1")
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    first.kill()
    record.open_gate()
    harness.start_worker(queue)
    final(queue, job)
    wait_until(lambda: jobs_of(harness) == [], 10, "the attempt that died is forgotten, and so is the next")
    assert natively(harness, counts) == (0, 0, 0)


@pytest.mark.parametrize("kind", sorted(SERVERS))
def test_a_worker_outlives_an_outage_of_saqs_store_and_so_do_its_jobs(kind, tmp_path, record):
    if why := services.available(kind):
        pytest.skip(why)
    server = {"redis": services.new_redis, "postgres": services.new_postgres}[kind]().start()
    harness = harness_for(f"saq+{server.url}")(tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS)
    try:
        harness.start_worker(queue)
        running = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
        record.wait_started()
        server.kill()
        record.open_gate()
        assert final(queue, running).state is State.SUCCEEDED
        server.start()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PublishWarning)  # the first push may find the old connection broken
            after = queue.enqueue(note, file=record.file)
        assert final(queue, after, 30).state is State.SUCCEEDED
    finally:
        harness.reset()
        queue.close()
        server.close()


@pytest.mark.skipif(services.available("redis") is not None, reason="no Redis")
def test_an_idle_worker_stops_at_once(tmp_path, record):
    harness = harness_for(f"saq+{services.redis_server()}")(tmp_path)
    queue = harness.queue("memory://")
    worker = harness.start_worker(queue)
    began = time.monotonic()
    worker.stop()
    assert time.monotonic() - began < 1.0
    harness.reset()
    queue.close()


def test_a_busy_worker_keeps_nothing_from_an_idle_one(harness, open_queue, record):
    queue = open_queue()
    held = [queue.enqueue(hold, file=record.file, gate=str(record.gate())) for _ in range(2)]
    quick = [queue.enqueue(note, file=record.file, label="quick") for _ in range(10)]
    harness.start_worker(queue, concurrency=2)
    record.wait_started(count=2)
    harness.start_worker(queue, concurrency=1)
    for job in quick:
        assert final(queue, job, 5).state is State.SUCCEEDED
    record.open_gate()
    for job in held:
        final(queue, job)


def test_a_lower_queue_is_taken_from_only_while_the_higher_is_empty(harness, open_queue, record):
    queue = open_queue()
    for number in range(6):
        queue.enqueue(note, file=record.file, label="low", queue="low", priority=9)
        queue.enqueue(note, file=record.file, label="high", queue="high", priority=number)
    harness.start_worker(queue, queues=["high", "low"], concurrency=1)
    record.wait_started(count=12)
    assert [entry.label for entry in record.starts()] == ["high"] * 6 + ["low"] * 6


def test_a_body_that_blocks_its_thread_holds_up_no_async_body(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue, concurrency=2)
    blocking = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    assert final(queue, queue.enqueue(anote, file=record.file)).state is State.SUCCEEDED
    assert blocking.state == "running"
    record.open_gate()
    final(queue, blocking)


def test_a_cancelled_backlog_leaves_nothing_in_saq(harness, open_queue, record):
    queue = open_queue()
    jobs = queue.enqueue_many([note.options(priority=n % 10).call(file=record.file) for n in range(300)])
    for job in jobs:
        job.cancel()
    assert natively(harness, counts) == (0, 0, 0)
    assert jobs_of(harness) == []


def test_what_saq_keeps_of_jobs_that_ended_is_gone_after_its_life(harness, open_queue, record):
    queue = open_queue(heartbeat_s=1, finished_ttl_s=1)
    harness.start_worker(queue, concurrency=4)
    calls = [flaky.options(priority=n % 10).call(file=record.file, failures=n % 2) for n in range(200)]
    for job in queue.enqueue_many(calls):
        final(queue, job)
    wait_until(lambda: jobs_of(harness) == [], what="no job is left")
    assert natively(harness, counts) == (0, 0, 0)


@pytest.mark.skipif(services.available("redis") is not None, reason="no Redis")
def test_only_bounded_bookkeeping_is_left_in_redis(tmp_path, record):
    from redis import Redis

    with services.new_redis() as server:
        harness = harness_for(f"saq+{server.url}")(tmp_path)
        queue = harness.queue(
            f"sqlite:///{tmp_path}/ledger.db",
            tasks=TASKS,
            sweep=CALM,
            engines={"saq": {"heartbeat_s": 1, "finished_ttl_s": 1}},
        )
        worker = harness.start_worker(queue, concurrency=4)
        for job in queue.enqueue_many([note.options(priority=n % 10).call(file=record.file) for n in range(50)]):
            final(queue, job)
        worker.stop()
        with Redis.from_url(server.url) as client:
            known = f"penstock:{harness.namespace}:saq-queues".encode()
            bell = f"saq:{harness.namespace}:default:bell".encode()
            wait_until(lambda: set(client.keys()) <= {known, bell}, what="all else is gone")
            assert client.llen(bell) <= 16
            assert not client.exists(bell) or 0 < client.ttl(bell) <= 60
        queue.close()


def test_a_message_of_many_priorities_is_withdrawn_from_wherever_it_waits(open_queue, record):
    queue = open_queue()
    jobs = [queue.enqueue(note, file=record.file, priority=n, queue=f"q{n % 3}") for n in range(10)]
    assert queue.gateway.withdraw([f"{job.id}_1" for job in jobs]) == 10
    assert [queue.gateway.depth(f"q{n}") for n in range(3)] == [0, 0, 0]


def test_a_wrong_setting_is_refused_by_name(tmp_path):
    config = msgspec.structs.replace(short_config(), backend="saq+redis://h/0", engines={"saq": {"heartbeet_s": 3}})
    with pytest.raises(ConfigError, match="heartbeet_s"):
        JobQueue(config=config, root=tmp_path)


def test_messages_keep_what_they_carry(harness, open_queue):
    message = Message(id="x_1", job_ids=("x", "y"), queue="other", priority=7, name="some.task")
    open_queue().gateway.publish([message])
    (native,) = natively(harness, _all, "other")
    assert msgspec.convert(native.kwargs, Message) == message


async def _all(native: Queue) -> list[Any]:
    return [job async for job in native.iter_jobs()]
