"""TaskIQ's three transports as their servers see them, and jobs that outlive their limits."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import msgspec
import pytest

from penstock.job.lifecycle import State
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import anote, flaky, hold, note
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import CALM, harness_for, wait_until

pytest.importorskip("taskiq")
import aio_pika
import nats
import redis

from penstock.backends.taskiq.broker import native
from penstock.job.models import Message

TASKS = (bodies.MODULE,)


def _harness(url, tmp_path):
    return harness_for(f"taskiq+{url}")(tmp_path)


@pytest.fixture(params=["redis", "rabbitmq", "nats"])
def harness(request, tmp_path):
    made = _harness(request.getfixturevalue(f"{request.param}_url"), tmp_path)
    yield made
    made.reset()


@pytest.fixture
def queue(harness, tmp_path):
    made = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS, sweep=CALM)
    yield made
    harness.reset()
    made.close()


async def _put(harness, body: bytes) -> None:
    """Put bytes into the default queue, past penstock."""
    url, namespace = harness.url.partition("+")[2], harness.namespace
    if url.startswith("redis"):
        client = redis.Redis.from_url(url)
        client.lpush(f"taskiq:{namespace}:default", body)
        client.close()
    elif url.startswith("amqp"):
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            await channel.default_exchange.publish(aio_pika.Message(body), f"penstock.{namespace}.default")
    else:
        client = await nats.connect(url)
        await client.jetstream().publish(f"penstock.{namespace}.default.5", body)
        await client.close()


async def _to_confirm(harness) -> int:
    """Ask NATS how many messages a worker has taken without acknowledging them."""
    client = await nats.connect(harness.url.partition("+")[2])
    info = await client.jetstream().consumer_info(f"penstock-{harness.namespace}", "default-5")
    await client.close()
    return info.num_ack_pending or 0


def test_nats_waits_for_nothing_of_a_job_that_runs(nats_url, tmp_path, record):
    harness = _harness(nats_url, tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS, sweep=CALM)
    harness.start_worker(queue, concurrency=1)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    wait_until(lambda: asyncio.run(_to_confirm(harness)) == 0, what="the message is acknowledged")
    assert queue.gateway.depth("default") == 0
    record.open_gate()
    final(queue, job)
    harness.reset()
    queue.close()


def test_a_job_that_outlives_rabbitmqs_consumer_timeout_runs_once(rabbitmq_url, tmp_path, record):
    own = services.new_rabbitmq(management=False)
    advanced = own.folder / "advanced.config"
    advanced.write_text("[{rabbit, [{consumer_timeout, 500}, {channel_tick_interval, 500}]}].")
    (own.folder / "env.conf").write_text(f"ADVANCED_CONFIG_FILE={advanced}\n")
    own.start()
    harness = _harness(own.url, tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS, sweep=CALM)
    try:
        workers = [harness.start_worker(queue, concurrency=1) for _ in range(2)]
        long = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="long")
        record.wait_started("long")
        wait_until(lambda: sum(w.counts().get("refused", 0) for w in workers), what="the message has come again")
        assert final(queue, queue.enqueue(note, file=record.file, label="other")).attempt == 1
        record.open_gate()
        assert final(queue, long).attempt == 1
        assert len(record.starts("long")) == 1
        # Both go on: each of two jobs that last has a worker.
        for label in ("a", "b"):
            queue.enqueue(hold, file=record.file, gate=str(record.gate("second")), label=label)
        record.wait_started("a")
        record.wait_started("b")
    finally:
        record.open_gate("second")
        record.open_gate()
        harness.reset()
        queue.close()
        own.close()


async def _left(harness) -> dict[str, int]:
    """Count what the server still has of this namespace: messages, and names without end."""
    url, namespace = harness.url.partition("+")[2], harness.namespace
    if url.startswith("redis"):
        client = redis.Redis.from_url(url)
        keys = list(client.scan_iter(f"*{namespace}*"))
        client.close()
        return {"keys": len(keys)}
    if url.startswith("amqp"):
        async with await aio_pika.connect(url) as connection, connection.channel() as channel:
            queue = await channel.declare_queue(f"penstock.{namespace}.default", passive=True)
            return {"messages": queue.declaration_result.message_count or 0}
    client = await nats.connect(url)
    state = (await client.jetstream().stream_info(f"penstock-{namespace}")).state
    await client.close()
    return {"messages": state.messages, "bytes": state.bytes}


def test_nothing_is_left_with_the_broker_of_jobs_that_have_ended(harness, queue, record):
    harness.start_worker(queue, concurrency=10)
    calls = [note.call(file=record.file, label=str(n)) for n in range(100)]
    jobs = queue.enqueue_many([*calls, *(flaky.call(file=record.file, failures=9) for _ in range(20))])
    for job in jobs:
        final(queue, job)
    wait_until(lambda: not any(asyncio.run(_left(harness)).values()), what="the broker has nothing")


def test_a_worker_full_of_long_jobs_takes_again_when_there_is_room(harness, queue, record):
    harness.start_worker(queue, concurrency=2)
    long = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="long")
    record.wait_started("long")
    for job in queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(5)]):
        final(queue, job)
    record.open_gate()
    final(queue, long)
    for job in queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(5)]):
        final(queue, job)


def test_a_worker_full_of_long_jobs_holds_nothing_back_from_another(harness, queue, record):
    queue.enqueue_many([hold.call(file=record.file, gate=str(record.gate()), label=str(n)) for n in range(5)])
    harness.start_worker(queue, concurrency=2)
    record.wait_started(count=2)
    wait_until(lambda: queue.gateway.depth("default") == 3)
    harness.start_worker(queue, concurrency=3)
    record.wait_started(count=5)
    record.open_gate()


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"\x00\xff not json", id="no JSON"),
        pytest.param(b"{}", id="no TaskIQ message"),
        pytest.param(
            msgspec.json.encode(
                {"task_id": "1", "task_name": "theirs", "labels": {}, "args": [], "kwargs": {"what": "ever"}}
            ),
            id="a message of somebody else's",
        ),
        pytest.param(
            msgspec.json.encode({"task_id": "1", "task_name": "x", "labels": {}, "args": [1], "kwargs": {}}),
            id="arguments without names",
        ),
        pytest.param(
            msgspec.json.encode(
                {"task_id": "1", "task_name": "x", "labels": {"timeout": "soon"}, "args": [], "kwargs": {}}
            ),
            id="a limit of time that is none",
        ),
    ],
)
def test_a_foreign_message_is_refused_and_stops_nobody(harness, queue, record, body):
    queue.gateway.depth("default")  # makes the queue where that is needed
    final_before = queue.enqueue(note, file=record.file)
    asyncio.run(_put(harness, body))
    worker = harness.start_worker(queue, concurrency=1)
    final(queue, final_before)
    assert final(queue, queue.enqueue(note, file=record.file)).state is State.SUCCEEDED
    wait_until(lambda: queue.gateway.depth("default") == 0)
    assert worker.counts()["foreign"] == 1


def test_a_failed_attempt_is_an_error_for_taskiq_without_a_traceback_in_its_log(harness, queue, record, caplog):
    harness.start_worker(queue)
    assert final(queue, queue.enqueue(flaky, file=record.file, failures=9)).state is State.FAILED
    assert "MirroredFailure" not in caplog.text
    assert len(record.starts()) == 1


def test_a_message_is_what_taskiq_itself_would_send():
    from taskiq.message import TaskiqMessage

    message = Message(id="x_1", job_ids=("x",), name="some.task")
    read = TaskiqMessage.model_validate_json(native(message))
    assert (read.task_id, read.task_name, read.args) == ("x_1", "some.task", [])
    assert msgspec.convert(read.kwargs, Message) == message


OWN = {
    "redis": services.new_redis,
    "nats": services.new_nats,
    "rabbitmq": partial(services.new_rabbitmq, management=False),
}


@pytest.mark.parametrize("name", ["redis", "nats", pytest.param("rabbitmq", marks=pytest.mark.slow)])
def test_a_worker_outlives_an_outage_of_its_broker_and_so_do_its_jobs(tmp_path, record, request, name):
    request.getfixturevalue(f"{name}_url")
    own = OWN[name]().start()
    harness = _harness(own.url, tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS)
    try:
        harness.start_worker(queue)
        running = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
        record.wait_started()
        own.kill()
        record.open_gate()
        assert final(queue, running).state is State.SUCCEEDED
        own.start()
        assert final(queue, queue.enqueue(note, file=record.file), 30).state is State.SUCCEEDED
        assert final(queue, running).attempt == 1
    finally:
        harness.reset()
        queue.close()
        own.close()


@pytest.mark.parametrize("name", ["redis", "nats"])
def test_a_worker_stops_at_once_while_its_broker_is_away(tmp_path, request, name, caplog):
    request.getfixturevalue(f"{name}_url")
    own = OWN[name]().start()
    harness = _harness(own.url, tmp_path)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS)
    try:
        worker = harness.start_worker(queue)
        own.kill()
        wait_until(lambda: "the broker does not answer" in caplog.text)
        began = time.monotonic()
        worker.stop()
        assert time.monotonic() - began < 3
    finally:
        harness.reset()
        queue.close()
        own.close()


def test_a_body_that_blocks_its_thread_holds_up_no_async_body(harness, queue, record):
    harness.start_worker(queue, concurrency=2)
    blocking = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    assert final(queue, queue.enqueue(anote, file=record.file)).state is State.SUCCEEDED
    assert blocking.state == "running"
    record.open_gate()
    final(queue, blocking)


def test_a_lower_queue_is_taken_from_only_while_the_higher_is_empty(harness, queue, record):
    harness.start_worker(queue, queues=["high", "low"], concurrency=1)
    running = queue.enqueue(hold, file=record.file, gate=str(record.gate()), queue="low")
    record.wait_started()
    for number in range(6):
        queue.enqueue(note, file=record.file, label="low", queue="low", priority=9)
        queue.enqueue(note, file=record.file, label="high", queue="high", priority=number)
    record.open_gate()
    final(queue, running)
    record.wait_started(count=13)
    assert [entry.label for entry in record.starts()][1:] == ["high"] * 6 + ["low"] * 6


def test_a_namespace_with_dots_is_one_of_its_own(nats_url, tmp_path, record):
    harness = _harness(nats_url, tmp_path)
    harness.namespace = f"{harness.namespace}.with.dots"
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS)
    harness.start_worker(queue, queues=["a.b"])
    assert final(queue, queue.enqueue(note, file=record.file, queue="a.b")).state is State.SUCCEEDED
    harness.reset()
    queue.close()
