"""SAQ as its own tools see it, and jobs that outlive its limits."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import pytest

from penstock import JobQueue
from penstock.core.exceptions import ConfigError
from penstock.job.lifecycle import State
from penstock.job.models import Message
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import flaky, hold, note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import CALM, harness_for, short_config, wait_until

pytest.importorskip("saq")
from saq.job import TERMINAL_STATUSES, Status
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


@pytest.fixture
def open_queue(harness, tmp_path):
    opened = []

    def make(**settings):
        opened.append(
            harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=TASKS, sweep=CALM, engines={"saq": settings})
        )
        return opened[-1]

    yield make
    harness.reset()
    for queue in opened:
        queue.close()


@pytest.fixture
def record(tmp_path) -> Record:
    return Record(tmp_path)


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


def jobs_of(harness) -> list[Any]:
    async def ask(native: Queue) -> list[Any]:
        return [job async for job in native.iter_jobs()]

    return natively(harness, ask)


def only_job(harness):
    (job,) = jobs_of(harness)
    return job


def test_a_job_longer_than_every_limit_of_saq_runs_once(harness, open_queue, record):
    queue = open_queue(heartbeat_s=1, sweep_s=1)
    harness.start_worker(queue)
    harness.start_worker(queue)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    native = wait_until(
        lambda: (native := only_job(harness)).touched > native.started + 2500 and native, 10, "signs of life come"
    )
    assert native.status is Status.ACTIVE
    record.open_gate()
    assert final(queue, job).attempt == 1
    assert len(record.starts()) == 1
    wait_until(lambda: only_job(harness).status is Status.COMPLETE, what="SAQ shows it as complete, not as swept")


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


def test_a_retry_pressed_in_saqs_web_app_runs_nothing(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue)
    final(queue, queue.enqueue(note, file=record.file))
    native = wait_until(lambda: (job := only_job(harness)).status is Status.COMPLETE and job)

    async def press(saq: Queue) -> None:
        job = await saq.job(native.key)
        await job.retry("pressed")

    natively(harness, press)
    wait_until(lambda: queue.gateway.depth("default") == 0)
    wait_until(lambda: only_job(harness).status is Status.COMPLETE, what="the second message is dealt with")
    assert len(record.starts()) == 1


def test_a_foreign_job_is_refused_and_stops_nobody(harness, open_queue, record, caplog):
    queue = open_queue()

    async def stranger(saq: Queue) -> None:
        await saq.enqueue("theirs", what="ever", key=f"{harness.namespace}-stranger")

    natively(harness, stranger)
    harness.start_worker(queue, concurrency=1)
    job = queue.enqueue(note, file=record.file)
    assert final(queue, job).state is State.SUCCEEDED
    assert "not ours" in caplog.text


def test_saq_counts_nothing_as_waiting_or_active_when_all_is_done(harness, open_queue, record):
    queue = open_queue()
    harness.start_worker(queue, concurrency=4)
    for job in queue.enqueue_many([note.options(priority=n % 10).call(file=record.file) for n in range(40)]):
        final(queue, job)

    async def counts(saq: Queue) -> tuple[int, ...]:
        return tuple([await saq.count(kind) for kind in ("queued", "active", "incomplete")])

    wait_until(lambda: natively(harness, counts) == (0, 0, 0), what="nothing is left over")


def test_what_a_killed_worker_left_in_saq_is_cleared_away(harness, open_queue, record):
    queue = open_queue(heartbeat_s=1, sweep_s=1)
    first = harness.start_process(queue, "--concurrency", "1")
    queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    first.kill()
    record.open_gate()
    harness.start_worker(queue)
    wait_until(lambda: all(job.status in TERMINAL_STATUSES for job in jobs_of(harness)), 25, "SAQ's sweep ended it")


@pytest.mark.skipif(services.available("redis") is not None, reason="no Redis")
def test_a_worker_outlives_an_outage_of_redis_and_so_do_its_jobs(tmp_path, record):
    server = services.new_redis().start()
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
        assert final(queue, queue.enqueue(note, file=record.file), 30).state is State.SUCCEEDED
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
