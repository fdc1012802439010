"""ARQ as its own tools see it, and jobs that outlive its limits."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import msgspec
import pytest

from penstock.client import PublishWarning
from penstock.handle import CancelOutcome
from penstock.job.lifecycle import State
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import anote, flaky, hold, nap, note
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import harness_for, wait_until

pytest.importorskip("arq")
import redis

TASKS = (bodies.MODULE,)


@pytest.fixture
def harness(redis_url, tmp_path):
    made = harness_for(f"arq+{redis_url}")(tmp_path)
    yield made
    made.reset()


@pytest.fixture
def server(redis_url):
    client = redis.Redis.from_url(redis_url)
    yield client
    client.close()


def keys(server, harness) -> list[str]:
    """What of ours ARQ keeps; the set of our queues' names is our own."""
    return sorted(k.decode() for k in server.keys(f"arq:*{harness.namespace}*"))


def test_a_job_longer_than_arqs_lock_runs_once(harness, open_queue, record, server):
    queue = open_queue(lock_s=1)
    harness.start_worker(queue)
    harness.start_worker(queue)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    (start,) = record.wait_started()
    lock = f"arq:in-progress:{harness.namespace}:{job.id}_1"
    wait_until(lambda: not server.exists(lock) or time.monotonic() - start.at_s > 2.5, what="the lock's time is over")
    assert server.exists(lock)
    record.open_gate()
    assert final(queue, job).attempt == 1
    assert len(record.starts()) == 1


def test_a_failed_attempt_leaves_a_failed_result_and_is_not_tried_again(harness, open_queue, record, server):
    queue = open_queue()
    harness.start_worker(queue)
    job = queue.enqueue(flaky, file=record.file, failures=9)
    assert final(queue, job).state is State.FAILED
    key = f"arq:result:{harness.namespace}:{job.id}_1"
    result: Any = msgspec.json.decode(wait_until(lambda: server.get(key), what="ARQ has the result"))
    assert (result["f"], result["s"], result["r"]) == ("conformance.flaky", False, "Oddity: attempt 1 fails")
    assert 0 < server.ttl(key) <= 600
    assert len(record.starts()) == 1


def test_nothing_is_left_in_arq_of_what_has_succeeded(harness, open_queue, record, server):
    queue = open_queue()
    harness.start_worker(queue, concurrency=4)
    for job in queue.enqueue_many([note.options(priority=n % 10).call(file=record.file) for n in range(40)]):
        final(queue, job)
    wait_until(lambda: keys(server, harness) == [], what="no key is left")


def test_a_failure_that_is_not_mirrored_leaves_nothing(harness, open_queue, record, server):
    queue = open_queue(mirror_failures=False)
    harness.start_worker(queue)
    assert final(queue, queue.enqueue(flaky, file=record.file, failures=9)).state is State.FAILED
    wait_until(lambda: keys(server, harness) == [], what="no key is left")


def test_what_runs_is_neither_counted_as_waiting_nor_withdrawn(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue, concurrency=1)
    running = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    waiting = queue.enqueue(note, file=record.file)
    assert queue.gateway.depth("default") == 1
    assert queue.gateway.withdraw([f"{running.id}_1", f"{waiting.id}_1"]) == 1
    assert queue.gateway.depth("default") == 0
    record.open_gate()
    assert final(queue, running).state is State.SUCCEEDED


def test_foreign_messages_are_refused_and_stop_nobody(harness, open_queue, record, server):
    queue = open_queue()
    name = f"arq:{harness.namespace}:default"

    server.set(f"arq:job:{harness.namespace}:pickled", b"\x80\x04K\x01.")  # ARQ's own default is pickle
    server.zadd(name, {f"{harness.namespace}:pickled": 1})
    server.zadd(name, {b"\xff\xfe": 1, b"no-such-job": 2})
    native = {"f": "theirs", "a": [], "k": {"what": "ever"}, "t": None, "et": 1}
    server.set(f"arq:job:{harness.namespace}:x", msgspec.json.encode(native))
    server.zadd(name, {f"{harness.namespace}:x": 3})
    for place, odd in enumerate(({"f": ["a list"]}, {"et": "no time"}, {"k": "no arguments"})):
        server.set(f"arq:job:{harness.namespace}:odd-{place}", msgspec.json.encode(native | odd))
        server.zadd(name, {f"{harness.namespace}:odd-{place}": 4})
    worker = harness.start_worker(queue, concurrency=1)
    assert final(queue, queue.enqueue(note, file=record.file)).state is State.SUCCEEDED
    wait_until(lambda: server.zcard(name) == 0, what="all were taken out")
    assert worker.counts()["foreign"] == 6
    assert worker.worker._thread.is_alive()


def test_a_message_of_a_killed_worker_goes_to_another_that_refuses_it(harness, open_queue, record, server):
    queue = open_queue(lock_s=1)
    first = harness.start_process(queue, "--concurrency", "1", PENSTOCK_LEASE__TTL="60s")
    queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    first.kill()
    harness.start_worker(queue)
    wait_until(lambda: server.zcard(f"arq:{harness.namespace}:default") == 0, what="the message is gone")
    assert len(record.starts()) == 1
    record.open_gate()


def test_a_worker_outlives_an_outage_of_redis_and_so_do_its_jobs(tmp_path, record, redis_url):
    own = services.new_redis().start()
    harness = harness_for(f"arq+{own.url}")(tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS)
    try:
        harness.start_worker(queue)
        running = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
        record.wait_started()
        own.kill()
        record.open_gate()
        assert final(queue, running).state is State.SUCCEEDED
        with pytest.warns(PublishWarning):
            during = queue.enqueue(note, file=record.file)
        own.start()
        assert final(queue, during, 30).state is State.SUCCEEDED
        assert final(queue, queue.enqueue(note, file=record.file), 30).state is State.SUCCEEDED
    finally:
        harness.reset()
        queue.close()
        own.close()


def test_nothing_of_arqs_own_is_on(redis_url):
    from arq.connections import ArqRedis

    from penstock.backends.arq.config import ArqSettings
    from penstock.backends.arq.worker import QueueWorker

    async def run(*_args: Any) -> None:
        raise AssertionError

    async def made() -> QueueWorker:
        return QueueWorker(ArqRedis.from_url(redis_url), "arq:off", run, lambda _why: None, ArqSettings())

    worker = asyncio.run(made())
    function = worker.functions["any name"]
    assert function.timeout_s == 10**9
    assert (function.max_tries, worker.retry_jobs, worker.allow_abort_jobs) == (1, False, False)
    assert not worker.cron_jobs
    assert worker.keep_result_s == ArqSettings().failed_ttl_s


def test_nothing_is_left_in_arq_of_what_has_failed_once_its_time_is_over(harness, open_queue, record, server):
    queue = open_queue(failed_ttl_s=1)
    harness.start_worker(queue, concurrency=8)
    jobs = queue.enqueue_many([flaky.call(file=record.file, failures=9) for _ in range(200)])
    all_final(queue, jobs, timeout_s=60)
    wait_until(lambda: keys(server, harness) == [], what="no key is left")
    assert server.scard(f"penstock:{harness.namespace}:arq-queues") == 1


def test_a_cancelled_backlog_leaves_the_broker_empty(harness, open_queue, record, server):
    queue = open_queue()
    jobs = queue.enqueue_many([note.options(priority=n % 10).call(file=record.file) for n in range(300)])
    assert len(keys(server, harness)) == 301
    assert {job.cancel() for job in jobs} == {CancelOutcome.CANCELLED}
    assert keys(server, harness) == []


def test_a_worker_that_is_busy_holds_no_message_from_another(harness, open_queue, record):
    queue = open_queue()
    workers = [harness.start_worker(queue, concurrency=1) for _ in range(2)]
    held = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="held")
    record.wait_started("held")
    all_final(queue, queue.enqueue_many([note.call(file=record.file) for _ in range(20)]))
    assert sorted(worker.counts()["claimed"] for worker in workers) == [1, 20]
    record.open_gate()
    assert final(queue, held).state is State.SUCCEEDED


def test_messages_that_others_hold_hide_none_behind_them(harness, open_queue, record, server):
    queue = open_queue()
    ids = [f"{harness.namespace}:held-{n:03}" for n in range(350)]
    server.zadd(f"arq:{harness.namespace}:default", dict.fromkeys(ids, 1))
    server.mset({f"arq:in-progress:{one}": 1 for one in ids})
    harness.start_worker(queue, concurrency=2)
    assert final(queue, queue.enqueue(note, file=record.file)).state is State.SUCCEEDED
    server.delete(*(f"arq:in-progress:{one}" for one in ids), f"arq:{harness.namespace}:default")


def test_a_lower_queue_waits_while_the_higher_has_anything(harness, open_queue, record):
    queue = open_queue()
    gate = str(record.gate())
    jobs = [queue.enqueue(hold, file=record.file, gate=gate, label="first", queue="high")]
    harness.start_worker(queue, queues=["high", "low"], concurrency=1)
    record.wait_started("first")
    jobs += [queue.enqueue(note, file=record.file, label="low", queue="low", priority=9)]
    jobs += [queue.enqueue(note, file=record.file, label="high", queue="high", priority=0) for _ in range(3)]
    record.open_gate()
    all_final(queue, jobs)
    assert [entry.label for entry in record.starts()] == ["first", "high", "high", "high", "low"]


def test_a_body_that_blocks_does_not_delay_an_async_one(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue, concurrency=2)
    blocking = queue.enqueue(nap, file=record.file, seconds=1.5, label="blocking")
    record.wait_started("blocking")
    assert final(queue, queue.enqueue(anote, file=record.file, label="async")).state is State.SUCCEEDED
    assert record.ends("blocking") == []
    assert final(queue, blocking).state is State.SUCCEEDED
