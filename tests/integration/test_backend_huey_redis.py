"""Huey on Redis: nothing is left behind, strangers stop nobody, a failure reaches Huey's own signal."""

from __future__ import annotations

import struct
import time

import pytest
import redis
from huey.signals import SIGNAL_ERROR

from penstock.gateway import message_ids
from penstock.job.lifecycle import State
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import flaky, hold, note
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import CALM, harness_for, wait_until
from penstock.testing.services import new_redis


@pytest.fixture
def broker(redis_url):
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def harness(redis_url, tmp_path):
    made = harness_for(f"huey+{redis_url}")(tmp_path)
    yield made
    made.reset()


@pytest.fixture
def queue(harness, tmp_path):
    with harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=(bodies.MODULE,), sweep=CALM) as opened:
        yield opened
        harness.reset()


def key_of(queue, name="default"):
    return f"huey.redis.{queue.config.namespace}:{name}"


def put(queue, broker, data):
    broker.zadd(key_of(queue), {struct.pack(">Q", int(time.time() * 1e6)) + data: -9})


def test_nothing_is_left_at_redis_when_the_messages_are_done(queue, broker, harness, record):
    harness.start_worker(queue, concurrency=4)
    jobs = queue.enqueue_many([note.call(file=record.file) for _ in range(300)])
    jobs += queue.enqueue_many([flaky.call(file=record.file, failures=9) for _ in range(50)])
    all_final(queue, jobs, timeout_s=60)
    wait_until(lambda: broker.exists(key_of(queue), f"{key_of(queue)}.ids") == 0, what="no message, no index")
    left = set(broker.scan_iter(f"*{queue.config.namespace}*"))
    assert left == {f"huey.queues.{queue.config.namespace}".encode()}


def test_the_index_names_only_the_messages_that_wait(queue, broker, harness, record):
    queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    queue.enqueue_many([note.call(file=record.file) for _ in range(3)])
    harness.start_worker(queue, concurrency=1)
    record.wait_started()
    assert broker.hlen(f"{key_of(queue)}.ids") == broker.zcard(key_of(queue)) == 3
    record.open_gate()


def test_a_withdrawn_message_leaves_no_trace(queue, broker, record):
    jobs = queue.enqueue_many([note.call(file=record.file) for _ in range(3)])
    assert queue.gateway.withdraw([i for job in jobs for i in message_ids(job.job)]) == 3
    assert broker.exists(key_of(queue), f"{key_of(queue)}.ids") == 0


def test_a_failed_attempt_reaches_hueys_error_signal_and_is_not_tried_again(queue, harness, record):
    worker = harness.start_worker(queue)
    told = []
    engine = worker.queue.gateway._backend._huey
    engine.signal(SIGNAL_ERROR)(lambda _signal, task, error: told.append((task.id, str(error))))
    job = queue.enqueue(flaky, file=record.file, failures=9)
    assert final(queue, job).state is State.FAILED
    wait_until(lambda: told == [(message_ids(job.job)[0], "Oddity: attempt 1 fails")])
    assert len(record.starts()) == 1


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\x80\x04pickled", id="pickled"),
        pytest.param(b"[]", id="no task"),
        pytest.param(b'["1","os.getcwd",null,0,0,[],{},null,null,null,null]', id="another task"),
        pytest.param(b'["1","penstock.backends.huey.engine.penstock",null,0,0,[{"id":7}],{}]', id="no message"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_a_message_that_is_not_ours_stops_nobody(queue, broker, harness, record, data):
    put(queue, broker, data)
    ours = queue.enqueue(note, file=record.file)
    worker = harness.start_worker(queue, concurrency=1)
    assert final(queue, ours).state is State.SUCCEEDED
    assert queue.gateway.depth("default") == 0
    assert worker.counts()["foreign"] == 1


def test_a_worker_outlives_an_outage_of_its_broker(tmp_path, record):
    with new_redis() as server:
        own = harness_for(f"huey+{server.url}")(tmp_path)
        with own.queue(f"sqlite:///{tmp_path}/own.db", tasks=(bodies.MODULE,)) as queue:
            own.start_worker(queue, concurrency=2)
            held = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="held")
            record.wait_started("held")
            server.stop()
            record.open_gate()
            assert final(queue, held).state is State.SUCCEEDED
            server.start()
            after = queue.enqueue(note, file=record.file, label="after")
            assert final(queue, after).state is State.SUCCEEDED
            assert len(record.starts("held")) == 1
            own.reset()


def test_an_idle_worker_starts_a_job_at_once(queue, harness, record):
    harness.start_worker(queue)
    waits = []
    for tried in range(5):
        sent = time.monotonic()
        queue.enqueue(note, file=record.file, label=str(tried))
        (start,) = record.wait_started(str(tried))
        waits.append(start.at_s - sent)
    assert min(waits) < 0.1  # the storage blocks: it does not poll; what is slower, a busy machine made slow
