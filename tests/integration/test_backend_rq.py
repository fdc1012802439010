"""RQ read through RQ's own API: what its tools show is true, soon gone, and sets nothing off."""

from __future__ import annotations

import itertools
import json
import zlib

import pytest
import redis
from rq import Queue
from rq.job import Job
from rq.serializers import JSONSerializer
from rq.suspension import resume, suspend
from rq.version import VERSION
from rq.worker import BaseWorker
from rq.worker import Worker as NativeWorker

from penstock.backends.rq.queue import native_id
from penstock.client import PublishWarning
from penstock.core.exceptions import BackendError
from penstock.gateway import message_for, message_ids
from penstock.handle import CancelOutcome
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
    made = harness_for(f"rq+{redis_url}")(tmp_path)
    yield made
    made.reset()


def native(queue, broker, name="default"):
    return Queue(f"{queue.config.namespace}:{name}", connection=broker, serializer=JSONSerializer)


def fetch(broker, job):
    return Job.fetch(message_ids(job.job)[0], connection=broker, serializer=JSONSerializer)


def test_rq_shows_a_waiting_attempt_under_its_task_and_job(open_queue, broker, record):
    queue = open_queue()
    job = queue.enqueue(note, file=record.file)
    shown = fetch(broker, job)
    assert shown.description == f"conformance.note {job.id}"
    assert shown.kwargs["job_ids"] == [job.id]
    assert shown.get_status() == "queued"
    assert native(queue, broker).get_job_ids() == [shown.id]


def test_rq_shows_an_attempt_that_ended_well_as_finished(open_queue, broker, harness, record):
    queue = open_queue()
    harness.start_worker(queue)
    job = queue.enqueue(note, file=record.file)
    final(queue, job)
    wait_until(lambda: native(queue, broker).finished_job_registry.get_job_ids() == [fetch(broker, job).id])
    assert fetch(broker, job).get_status() == "finished"
    assert native(queue, broker).count == 0


def test_rq_shows_a_failed_attempt_as_failed_with_the_first_line_of_its_error(open_queue, broker, harness, record):
    queue = open_queue()
    harness.start_worker(queue)
    job = queue.enqueue(flaky, file=record.file, failures=9)
    assert final(queue, job).state is State.FAILED
    wait_until(lambda: native(queue, broker).failed_job_registry.get_job_ids() == [fetch(broker, job).id])
    shown = fetch(broker, job)
    assert shown.get_status() == "failed"
    assert shown.latest_result().exc_string.startswith("Oddity: ")
    assert "\n" not in shown.latest_result().exc_string
    assert shown.retries_left is None
    assert len(record.starts()) == 1


def test_without_mirroring_a_failed_attempt_is_finished_business_to_rq(open_queue, broker, harness, record):
    queue = open_queue(mirror_failures=False)
    harness.start_worker(queue)
    final(queue, job := queue.enqueue(flaky, file=record.file, failures=9))
    wait_until(lambda: fetch(broker, job).get_status() == "finished")


def test_a_retry_that_is_pressed_in_rq_does_no_harm(open_queue, broker, harness, record):
    queue = open_queue()
    worker = harness.start_worker(queue)
    job = queue.enqueue(flaky, file=record.file, failures=9)
    final(queue, job)
    wait_until(lambda: native(queue, broker).failed_job_registry.get_job_ids())
    native(queue, broker).failed_job_registry.requeue(message_ids(job.job)[0])
    wait_until(lambda: worker.counts().get("refused") == 1, what="the claim refuses it")
    wait_until(lambda: fetch(broker, job).get_status() == "finished")
    assert len(record.starts()) == 1


def test_a_job_that_outlives_rqs_limits_runs_once_and_is_shown_as_started(open_queue, broker, harness, record):
    # RQ gives an attempt up a minute after its last heartbeat, and any process that reads the registry may do so.
    queue = open_queue(heartbeat_s=0.2, abandon_after_s=1.0, maintenance_s=0.2)
    worker = harness.start_worker(queue)
    neighbour = harness.start_worker(queue)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    started = native(queue, broker).started_job_registry
    began_at = fetch(broker, job).started_at
    (entry,) = broker.zrange(started.key, 0, -1, withscores=True)
    # The registry's own due time goes past where it first stood, three times over.
    wait_until(lambda: broker.zrange(started.key, 0, -1, withscores=True)[0][1] > entry[1] + 3, what="heartbeats")
    started.cleanup()
    assert fetch(broker, job).get_status() == "started"
    record.open_gate()
    final(queue, job)
    wait_until(lambda: fetch(broker, job).get_status() == "finished")
    assert fetch(broker, job).started_at == began_at
    assert fetch(broker, job).timeout == -1
    assert len(record.starts()) == 1
    assert worker.counts().get("refused", 0) + neighbour.counts().get("refused", 0) == 0


def test_an_attempt_whose_worker_was_killed_is_shown_as_failed(open_queue, broker, harness, record):
    queue = open_queue(heartbeat_s=0.2, abandon_after_s=1.0, maintenance_s=0.2)
    worker = harness.start_process(queue)
    job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
    record.wait_started()
    worker.kill()
    harness.start_worker(queue, queues=["default"])
    wait_until(lambda: fetch(broker, job).get_status() == "failed", what="RQ shows it as failed")
    assert "AbandonedJobError" in fetch(broker, job).latest_result().exc_string
    record.open_gate()


def undecodable(queue, broker):
    broker.hset("rq:job:strange-1", mapping={"data": b"\x80\x04pickled", "status": "queued"})
    broker.expire("rq:job:strange-1", 60)
    broker.rpush(native(queue, broker).key, "strange-1")


def another_function(queue, broker):
    native(queue, broker).enqueue("os.getcwd", job_id="strange-2", failure_ttl=60)


def not_a_message(queue, broker):
    native(queue, broker).enqueue("penstock.backends.rq.worker.attempt", kwargs={"id": 7}, job_id="strange-3")


def no_job_at_all(queue, broker):
    broker.rpush(native(queue, broker).key, "gone", b"\xff\xfe")


def another_type(queue, broker):
    broker.set("rq:job:strange-4", "text", ex=60)
    broker.rpush(native(queue, broker).key, "strange-4")


def an_unknown_status(queue, broker):
    broker.hset("rq:job:strange-5", mapping={"data": b"[]", "status": "purple"})
    broker.expire("rq:job:strange-5", 60)
    broker.rpush(native(queue, broker).key, "strange-5")


@pytest.mark.parametrize(
    "strange", [undecodable, another_function, not_a_message, no_job_at_all, another_type, an_unknown_status]
)
def test_a_message_that_is_not_ours_stops_nobody(open_queue, broker, harness, record, strange):
    queue = open_queue()
    strange(queue, broker)
    ours = queue.enqueue(note, file=record.file)
    worker = harness.start_worker(queue, concurrency=1)
    assert final(queue, ours).state is State.SUCCEEDED
    assert worker.worker._thread.is_alive()
    assert native(queue, broker).count == 0


def test_a_message_that_names_another_function_is_refused_however_it_looks(open_queue, broker, harness, record):
    queue = open_queue()
    waiting = queue.enqueue(note, file=record.file, label="waiting", delay="1h")
    looks = {"id": "strange-6", "job_ids": [waiting.id]}
    native(queue, broker).enqueue("shutil.rmtree", kwargs=looks, job_id="strange-6", failure_ttl=60)
    worker = harness.start_worker(queue, concurrency=1)
    final(queue, queue.enqueue(note, file=record.file, label="after"))
    refused = Job.fetch("strange-6", connection=broker, serializer=JSONSerializer)
    wait_until(lambda: refused.get_status() == "failed")
    assert "not a message of penstock" in refused.latest_result().exc_string
    assert worker.counts()["foreign"] == 1
    assert worker.counts().get("refused", 0) == 0  # it did not come as far as the ledger


def test_nothing_is_left_at_rq_after_a_short_while(open_queue, broker, harness, record):
    queue = open_queue(result_ttl_s=1, failure_ttl_s=1, maintenance_s=0.2, heartbeat_s=0.1)
    harness.start_worker(queue, concurrency=8)
    jobs = queue.enqueue_many([note.call(file=record.file) for _ in range(500)])
    jobs += queue.enqueue_many([flaky.call(file=record.file, failures=9) for _ in range(100)])
    all_final(queue, jobs, timeout_s=60)
    names = [native(queue, broker), *(native(queue, broker, f"default:p{p}") for p in range(10))]
    registries = [r for q in names for r in (q.finished_job_registry, q.failed_job_registry, q.started_job_registry)]
    keys = [key for job in jobs for key in (f"rq:job:{job.id}_1", f"rq:results:{job.id}_1")]
    wait_until(lambda: broker.exists(*keys) == 0, what="no native job is left")
    wait_until(lambda: not any(broker.zcard(r.key) for r in registries), what="no registry holds anything")


def test_rq_keeps_the_newest_attempts_and_no_more_than_it_is_to_show(open_queue, broker, harness, record):
    queue = open_queue(shown=5)
    harness.start_worker(queue, concurrency=1)
    jobs = queue.enqueue_many([note.call(file=record.file) for _ in range(12)])
    jobs += queue.enqueue_many([flaky.call(file=record.file, failures=9) for _ in range(12)])
    all_final(queue, jobs)
    newest = [[f"{job.id}_1" for job in group[-5:]] for group in (jobs[:12], jobs[12:])]
    default = native(queue, broker)
    wait_until(lambda: default.failed_job_registry.get_job_ids() == newest[1])
    assert default.finished_job_registry.get_job_ids() == newest[0]
    left = {key for job in jobs for key in (f"rq:job:{job.id}_1", f"rq:results:{job.id}_1") if broker.exists(key)}
    assert left == {f"rq:job:{one}" for group in newest for one in group} | {f"rq:results:{one}" for one in newest[1]}


def test_what_is_over_leaves_rq_also_where_no_worker_is_left(open_queue, broker, harness, record):
    queue = open_queue(result_ttl_s=1, failure_ttl_s=1)
    worker = harness.start_worker(queue)
    jobs = queue.enqueue_many([note.call(file=record.file), flaky.call(file=record.file, failures=9)])
    all_final(queue, jobs)
    worker.stop()
    wait_until(lambda: broker.keys(f"rq:*{queue.config.namespace}:*") == [], what="no list of RQ's is left")


def test_a_message_of_another_namespace_is_not_withdrawn(open_queue, broker, harness, record, redis_url):
    queue = open_queue()
    job = queue.enqueue(note, file=record.file)
    stranger = harness_for(f"rq+{redis_url}")(harness.folder)
    with stranger.queue("memory://") as other:
        assert other.gateway.withdraw(message_ids(job.job)) == 0
    assert queue.gateway.withdraw(message_ids(job.job)) == 1
    assert not broker.exists(f"rq:job:{message_ids(job.job)[0]}")


def test_rq_lists_a_worker_while_it_lives(open_queue, broker, harness):
    queue = open_queue()
    worker = harness.start_worker(queue, queues=["a", "b"])

    def listed():
        workers = NativeWorker.all(connection=broker, serializer=JSONSerializer)
        return [w for w in workers if w.name.startswith(queue.config.namespace)]

    (shown,) = listed()
    assert f"{queue.config.namespace}:a" in shown.queue_names()
    worker.stop()
    assert listed() == []


def test_a_suspended_worker_takes_nothing_until_it_is_resumed(harness, tmp_path, record):
    # `rq suspend` is for the whole server: this test has one of its own.
    with new_redis() as server, redis.Redis.from_url(server.url) as client:
        suspend(client)
        own = harness_for(f"rq+{server.url}")(tmp_path)
        with own.queue(f"sqlite:///{tmp_path}/own.db", tasks=(bodies.MODULE,), sweep=CALM) as queue:
            own.start_worker(queue)
            job = queue.enqueue(note, file=record.file)
            with pytest.raises(TimeoutError):
                wait_until(record.starts, timeout_s=1.5)
            resume(client)
            assert final(queue, job).state is State.SUCCEEDED
            own.reset()


def test_a_worker_outlives_an_outage_of_its_broker(harness, tmp_path, record):
    with new_redis() as server:
        own = harness_for(f"rq+{server.url}")(tmp_path)
        ledger = f"sqlite:///{tmp_path}/own.db"
        with own.queue(ledger, tasks=(bodies.MODULE,)) as queue:
            own.start_worker(queue, concurrency=2)
            held = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="held")
            record.wait_started("held")
            server.stop()
            record.open_gate()
            assert final(queue, held).state is State.SUCCEEDED
            with pytest.warns(PublishWarning):
                during = queue.enqueue(note, file=record.file, label="during")
            server.start()
            assert final(queue, during).state is State.SUCCEEDED
            after = queue.enqueue(note, file=record.file, label="after")
            assert final(queue, after).state is State.SUCCEEDED
            assert len(record.starts("held")) == 1
            own.reset()


@pytest.mark.parametrize("gone", ["set_state", "heartbeat"])
def test_a_worker_ends_where_its_rq_lacks_what_it_calls(open_queue, record, monkeypatch, caplog, gone):
    queue = open_queue()
    queue.enqueue(note, file=record.file)
    monkeypatch.delattr(BaseWorker, gone)
    with pytest.raises(BackendError, match=f"AttributeError: .*{gone}"):
        queue.worker(burst=True).run()
    assert f"with RQ {VERSION}" in caplog.text


def test_rq_lists_all_that_a_worker_runs_or_one_of_them(open_queue, broker, harness, record):
    # RQ 2 has one field for it, RQ 3 a list of executions.
    queue = open_queue()
    worker = harness.start_worker(queue, concurrency=2)
    jobs = queue.enqueue_many([hold.call(file=record.file, gate=str(record.gate())) for _ in range(2)])
    record.wait_started(count=2)
    (shown,) = [
        one
        for one in NativeWorker.all(connection=broker, serializer=JSONSerializer)
        if one.name.startswith(queue.config.namespace)
    ]
    ids = {message_ids(job.job)[0] for job in jobs}
    assert shown.get_state() == "busy"
    assert shown.get_current_job_id() in ids
    if VERSION >= "3":
        assert {one.job_id for one in shown.get_current_executions()} == ids
    record.open_gate()
    all_final(queue, jobs)
    worker.stop()
    assert broker.keys(f"rq:worker:{queue.config.namespace}*:executions") == []


def test_messages_are_plain_json_in_the_broker(open_queue, broker, record):
    queue = open_queue()
    job = queue.enqueue(note, file=record.file, queue="etl", priority=9)
    stored = broker.hget(f"rq:job:{message_ids(job.job)[0]}", "data")
    _function, _instance, args, kwargs = json.loads(stored)
    assert args == []
    assert kwargs["name"] == "conformance.note"
    assert broker.llen(f"rq:queue:{queue.config.namespace}:etl:p9") == 1


def test_a_bulk_is_in_the_broker_whole_or_not_at_all(open_queue, broker, record):
    queue = open_queue()
    jobs = queue.enqueue_many([note.options(delay="1h").call(file=record.file) for _ in range(3)])
    messages = [message_for(job.job) for job in jobs]
    broken = messages[2].__class__(id="half-a-letter_1", job_ids=messages[2].job_ids, name="\ud800")
    with pytest.raises(BackendError, match="surrogates"):
        queue.gateway.publish([*itertools.islice(messages, 2), broken])
    assert queue.gateway.depth("default") == 0


def test_a_message_is_written_as_rq_itself_writes_it(open_queue, broker, record):
    queue = open_queue()
    job = queue.enqueue(note, file=record.file)
    shown = fetch(broker, job)
    theirs = native(queue, broker).enqueue(
        shown.func_name, kwargs=shown.kwargs, description=shown.description, job_timeout=-1, ttl=shown.ttl,
        result_ttl=shown.result_ttl, failure_ttl=shown.failure_ttl,
    )  # fmt: skip
    own, other = shown.to_dict(), Job.fetch(theirs.id, connection=broker, serializer=JSONSerializer).to_dict()
    times = ("created_at", "enqueued_at")
    assert all(own.pop(name) <= other.pop(name) for name in times)
    assert json.loads(zlib.decompress(own.pop("data"))) == json.loads(zlib.decompress(other.pop("data")))
    assert own == other
    assert 0 <= broker.ttl(theirs.key) - broker.ttl(shown.key) <= 1
    assert f"rq:queue:{theirs.origin}".encode() in broker.smembers("rq:queues")


def test_nothing_of_rqs_own_is_on(open_queue, broker, record):
    queue = open_queue()
    shown = fetch(broker, queue.enqueue(note, file=record.file))
    assert (shown.timeout, shown.retries_left, shown.repeats_left) == (-1, None, None)
    assert (shown.result_ttl, shown.failure_ttl, shown.ttl) == (60, 3600, 604_800)
    assert not broker.exists(f"rq:scheduled:{shown.origin}", f"rq:deferred:{shown.origin}")


@pytest.mark.parametrize("job_id", ["report.2026-11-21", "...", "x-report_2e_5", "x" * 128])
def test_every_job_id_that_a_user_may_give_is_taken_by_rq_and_its_tools(open_queue, broker, harness, record, job_id):
    queue = open_queue()
    job = queue.enqueue(note, file=record.file, job_id=job_id)
    (shown,) = native(queue, broker).get_jobs()
    assert shown.description == f"conformance.note {job_id}"
    assert queue.gateway.withdraw(message_ids(job.job)) == 1
    queue.gateway.publish([message_for(job.job)])
    harness.start_worker(queue)
    assert final(queue, job).state is State.SUCCEEDED
    wait_until(lambda: native(queue, broker).finished_job_registry.get_job_ids() == [shown.id])


def test_two_job_ids_are_never_one_to_rq():
    ids = ["a.b_1", "a_b_1", "a_2e_b_1", "x-a_2e_b_5f_1", "a-b_1", "x-a-b_1", "x.a-b_1"]
    assert len({native_id(one) for one in ids}) == len(ids)


def test_a_cancelled_backlog_leaves_the_broker_empty(open_queue, broker, record):
    queue = open_queue()
    calls = [note.options(priority=n % 10).call(file=record.file) for n in range(300)]
    jobs = queue.enqueue_many(calls)
    assert broker.exists(*(f"rq:job:{job.id}_1" for job in jobs)) == 300
    assert {job.cancel() for job in jobs} == {CancelOutcome.CANCELLED}
    assert broker.exists(*(f"rq:job:{job.id}_1" for job in jobs)) == 0
    assert broker.keys(f"rq:*{queue.config.namespace}*") == []


def test_a_worker_that_is_busy_holds_no_message_from_another(open_queue, harness, record):
    queue = open_queue()
    workers = [harness.start_worker(queue, concurrency=1) for _ in range(2)]
    held = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="held")
    record.wait_started("held")
    rest = queue.enqueue_many([note.call(file=record.file) for _ in range(20)])
    all_final(queue, rest)
    assert sorted(worker.counts()["claimed"] for worker in workers) == [1, 20]
    record.open_gate()
    assert final(queue, held).state is State.SUCCEEDED


def test_a_lower_queue_waits_while_the_higher_has_anything(open_queue, harness, record):
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
