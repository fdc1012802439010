"""Dramatiq read through its brokers: dead letters tell of failures, long jobs run once, strangers stop nobody."""

from __future__ import annotations

import json
import urllib.request
from base64 import b64encode
from urllib.parse import quote, urlsplit

import pika
import pytest
import redis

from penstock.gateway import message_ids
from penstock.job.lifecycle import State
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import flaky, hold, note
from penstock.testing.conformance.waiting import all_final, final
from penstock.testing.harness import CALM, harness_for, wait_until


class OnRedis:
    """What lies at Redis, in Dramatiq's own layout."""

    def __init__(self, url, namespace):
        self.client = redis.Redis.from_url(url)
        self.namespace = f"dramatiq:{namespace}"

    def close(self):
        self.client.close()

    def waiting(self):
        return self.client.llen(f"{self.namespace}:default:p5")

    def running(self):
        return sum(self.client.scard(key) for key in self.client.scan_iter(f"{self.namespace}:__acks__.*"))

    def dead(self):
        return [json.loads(data) for data in self.client.hvals(f"{self.namespace}:default:p5.XQ.msgs")]

    def dead_count(self):
        return self.client.zcard(f"{self.namespace}:default:p5.XQ")

    def put(self, data):
        self.client.hset(f"{self.namespace}:default:p5.msgs", "strange", data)
        self.client.rpush(f"{self.namespace}:default:p5", "strange")

    def retry(self, message):
        """As dramatiq_dashboard does it."""
        options = {"redis_message_id": "again"}
        self.client.hset(f"{self.namespace}:default:p5.msgs", "again", json.dumps({**message, "options": options}))
        self.client.rpush(f"{self.namespace}:default:p5", "again")


class OnRabbitmq:
    """What lies at RabbitMQ, in Dramatiq's own queues."""

    def __init__(self, url, namespace):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.confirm_delivery()
        self.queue = f"{namespace}:default:jobs"

    def close(self):
        self.connection.close()

    def waiting(self):
        return self.channel.queue_declare(self.queue, passive=True).method.message_count

    def dead_count(self):
        return self.channel.queue_declare(f"{self.queue}.XQ", passive=True).method.message_count

    def dead(self):
        found = []
        while (got := self.channel.basic_get(f"{self.queue}.XQ", auto_ack=True))[0] is not None:
            found.append(json.loads(got[2]))
        return found

    def put(self, data):
        self.channel.basic_publish("", self.queue, data)

    def retry(self, message):
        self.put(json.dumps(message).encode())


LOOKS = {"redis": (services.redis_server, OnRedis), "rabbitmq": (services.rabbitmq_server, OnRabbitmq)}


@pytest.fixture(params=sorted(LOOKS))
def transport(request):
    if (why_not := services.available(request.param)) is not None:
        pytest.skip(why_not)
    return request.param


@pytest.fixture
def harness(transport, tmp_path):
    made = harness_for(f"dramatiq+{LOOKS[transport][0]()}")(tmp_path)
    yield made
    made.reset()


@pytest.fixture
def open_queue(open_queue):
    def make(**settings):
        queue = open_queue(**settings)
        queue.gateway.depth("default")  # makes the queue, where tests put strange things
        return queue

    return make


@pytest.fixture
def natively(transport, harness):
    server, look = LOOKS[transport]
    made = None

    def open_look():
        nonlocal made
        made = made or look(server(), harness.namespace)
        return made

    yield open_look
    if made is not None:
        made.close()


def test_a_failed_attempt_is_a_dead_letter_with_the_first_line_of_its_error(open_queue, harness, natively, record):
    queue = open_queue()
    harness.start_worker(queue)
    job = queue.enqueue(flaky, file=record.file, failures=9)
    assert final(queue, job).state is State.FAILED
    wait_until(lambda: natively().dead_count() == 1, what="a dead letter")
    (letter,) = natively().dead()
    assert letter["message_id"] == message_ids(job.job)[0]
    assert letter["options"]["traceback"] == "Oddity: attempt 1 fails"
    assert letter["kwargs"]["name"] == "conformance.flaky"
    assert letter["kwargs"]["job_ids"] == [job.id]
    assert len(record.starts()) == 1


def test_without_mirroring_a_failed_attempt_leaves_no_dead_letter(open_queue, harness, natively, record):
    queue = open_queue(mirror_failures=False)
    harness.start_worker(queue)
    final(queue, queue.enqueue(flaky, file=record.file, failures=9))
    final(queue, queue.enqueue(note, file=record.file))
    assert natively().dead_count() == 0


def test_a_retry_that_is_pressed_in_a_native_tool_does_no_harm(open_queue, harness, natively, record):
    queue = open_queue()
    worker = harness.start_worker(queue)
    final(queue, queue.enqueue(flaky, file=record.file, failures=9))
    wait_until(lambda: natively().dead_count() == 1)
    (letter,) = natively().dead()
    natively().retry(letter)
    wait_until(lambda: worker.counts().get("refused") == 1, what="the claim refuses it")
    assert len(record.starts()) == 1


def test_dead_letters_are_gone_after_a_short_while(open_queue, harness, natively, record):
    queue = open_queue(failure_ttl_s=1, heartbeat_s=0.2)
    harness.start_worker(queue)
    all_final(queue, queue.enqueue_many([flaky.call(file=record.file, failures=9) for _ in range(50)]))
    wait_until(lambda: natively().dead_count() > 0)
    wait_until(lambda: natively().dead_count() == 0, what="no dead letter is left")


STRANGE = {
    "no json": b"\x80\x04pickled",
    "no message": b'{"a": 1}',
    "another actor": json.dumps(
        {
            "queue_name": "default", "actor_name": "os.system", "args": ["true"], "kwargs": {}, "options": {},
            "message_id": "1", "message_timestamp": 1,
        }
    ).encode(),
    "a delay of a year": json.dumps(
        {
            "queue_name": "default", "actor_name": "penstock", "args": [], "message_id": "x_1", "message_timestamp": 1,
            "kwargs": {"id": "x_1", "job_ids": ["x"]}, "options": {"eta": 4102444800000, "pipe_target": {}},
        }
    ).encode(),
}  # fmt: skip


@pytest.mark.parametrize("strange", STRANGE)
def test_a_message_that_is_not_ours_stops_nobody(open_queue, harness, natively, record, strange):
    queue = open_queue()
    natively().put(STRANGE[strange])
    ours = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(5)])
    worker = harness.start_worker(queue, concurrency=1)
    # Dramatiq would start its consumer again after three seconds for each of them.
    assert {row.state for row in all_final(queue, ours, timeout_s=2.5)} == {State.SUCCEEDED}
    wait_until(lambda: natively().waiting() == 0, what="nothing waits")
    name = "refused" if strange == "a delay of a year" else "foreign"
    wait_until(lambda: worker.counts().get(name) == 1, what="it is counted")


def test_a_worker_outlives_an_outage_of_its_broker(transport, tmp_path, record):
    new = services.new_redis if transport == "redis" else services.new_rabbitmq
    with new() as server:
        own = harness_for(f"dramatiq+{server.url}")(tmp_path)
        with own.queue(f"sqlite:///{tmp_path}/own.db", tasks=(bodies.MODULE,)) as queue:
            worker = own.start_worker(queue, concurrency=2)
            held = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="held")
            record.wait_started("held")
            server.stop()
            record.open_gate()
            assert final(queue, held).state is State.SUCCEEDED
            server.start()
            after = [queue.enqueue(note, file=record.file, label="after") for _ in range(3)]
            assert {row.state for row in all_final(queue, after)} == {State.SUCCEEDED}
            assert len(record.starts("held")) == 1
            worker.stop()
            own.reset()


def test_dramatiq_has_no_part_that_tries_again_delays_or_ends_a_job(open_queue, harness):
    worker = harness.start_worker(open_queue())
    parts = [type(part).__name__ for part in worker.queue.gateway._backend._broker.middleware]
    assert parts == ["_WorkerMiddleware"]


# -- what is left behind ----------------------------------------------------------------------------------------------


def test_on_redis_nothing_is_left_when_the_dead_letters_are_over(redis_url, tmp_path, record):
    harness = harness_for(f"dramatiq+{redis_url}")(tmp_path)
    short = {"failure_ttl_s": 1, "heartbeat_s": 0.2}
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    with harness.queue(ledger, tasks=(bodies.MODULE,), engines={"dramatiq": short}, sweep=CALM) as queue:
        worker = harness.start_worker(queue, concurrency=4)
        jobs = queue.enqueue_many([note.call(file=record.file) for _ in range(150)])
        jobs += queue.enqueue_many([flaky.call(file=record.file, failures=9) for _ in range(50)])
        all_final(queue, jobs, timeout_s=60)
        look = OnRedis(redis_url, harness.namespace)

        def left():
            return {key.decode().removeprefix(look.namespace) for key in look.client.scan_iter(f"{look.namespace}:*")}

        bookkeeping = {":__queues__", ":__heartbeats__", ":__bell__"}
        wait_until(lambda: left() <= bookkeeping, what="no message, no index, no dead letter")
        worker.stop()
        assert left() <= bookkeeping - {":__heartbeats__"}
        look.close()


def rabbitmq_with(options):
    server = services.new_rabbitmq()
    server._environ["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"] += options
    return server


@pytest.fixture
def impatient_rabbitmq():
    """A RabbitMQ that gives up on a message after 4 s (30 minutes, looked at every minute)."""
    with rabbitmq_with(" -rabbit consumer_timeout 4000 -rabbit channel_tick_interval 1000") as server:
        yield server


@pytest.fixture
def counting_rabbitmq():
    """A RabbitMQ that counts every 200 ms."""
    with rabbitmq_with(" -rabbit collect_statistics_interval 200") as server:
        yield server


@pytest.fixture
def counts(counting_rabbitmq):
    """Ask RabbitMQ's management interface for the counts of a queue: (ready, unacknowledged), None while unknown."""
    parts = urlsplit((counting_rabbitmq.folder / "management").read_text())
    login = b64encode(f"{parts.username}:{parts.password}".encode()).decode()

    def ask(queue):
        url = f"http://{parts.hostname}:{parts.port}/api/queues/%2F/{quote(queue, safe='')}"
        request = urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})
        with urllib.request.urlopen(request) as answer:
            found = json.load(answer)
        return found.get("messages_ready"), found.get("messages_unacknowledged")

    return ask


@pytest.mark.slow  # RabbitMQ counts for its management every few seconds
def test_rabbitmqs_management_counts_what_waits_what_runs_and_what_failed(counting_rabbitmq, counts, tmp_path, record):
    harness = harness_for(f"dramatiq+{counting_rabbitmq.url}")(tmp_path)
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    engines = {"dramatiq": {"failure_ttl_s": 5}}
    with harness.queue(ledger, tasks=(bodies.MODULE,), engines=engines, sweep=CALM) as queue:
        native = f"{harness.namespace}:default:jobs"
        call = hold.call(file=record.file, gate=str(record.gate()))
        jobs = queue.enqueue_many([call] * 5)
        wait_until(lambda: counts(native) == (5, 0), what="five wait")
        harness.start_worker(queue, concurrency=2)
        wait_until(lambda: counts(native) == (3, 2), what="three wait, two run")
        record.open_gate()
        jobs.append(queue.enqueue(flaky, file=record.file, failures=9))
        all_final(queue, jobs)
        wait_until(lambda: counts(f"{native}.XQ") == (1, 0), what="one dead letter")
        wait_until(lambda: counts(native) == (0, 0), what="nothing is left")
        wait_until(lambda: counts(f"{native}.XQ") == (0, 0), what="the dead letter is gone")
        harness.reset()


# -- jobs that outlive Dramatiq's and RabbitMQ's limits --------------------------------------------------------------


def test_on_redis_a_job_that_outlives_the_heartbeat_timeout_is_not_handed_to_another(redis_url, tmp_path, record):
    harness = harness_for(f"dramatiq+{redis_url}")(tmp_path)
    limits = {"heartbeat_s": 0.2, "heartbeat_timeout_s": 1.0}
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    with harness.queue(ledger, tasks=(bodies.MODULE,), engines={"dramatiq": limits}, sweep=CALM) as queue:
        workers = [harness.start_worker(queue, concurrency=1) for _ in range(2)]
        job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
        record.wait_started()
        look = OnRedis(redis_url, harness.namespace)
        with pytest.raises(TimeoutError):  # three times over the timeout, with another worker that looks after the dead
            wait_until(lambda: look.running() != 1, timeout_s=3.5)
        record.open_gate()
        final(queue, job)
        wait_until(lambda: look.running() == 0, what="it is acknowledged")
        look.close()
        assert len(record.starts()) == 1
        assert [worker.counts().get("refused", 0) for worker in workers] == [0, 0]
        harness.reset()


def test_on_redis_what_a_killed_worker_held_comes_back(redis_url, tmp_path, record):
    harness = harness_for(f"dramatiq+{redis_url}")(tmp_path)
    limits = {"heartbeat_s": 0.2, "heartbeat_timeout_s": 1.0}
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    with harness.queue(ledger, tasks=(bodies.MODULE,), engines={"dramatiq": limits}, sweep=CALM) as queue:
        worker = harness.start_process(queue, "--concurrency", "1")
        queue.enqueue(hold, file=record.file, gate=str(record.gate()))
        record.wait_started()
        worker.kill()
        record.open_gate()
        second = harness.start_worker(queue)
        wait_until(lambda: second.counts().get("claimed", 0) + second.counts().get("refused", 0) > 0)
        look = OnRedis(redis_url, harness.namespace)
        wait_until(lambda: look.running() == 0)
        look.close()
        harness.reset()


def test_on_rabbitmq_a_job_that_outlives_the_consumer_timeout_runs_once(impatient_rabbitmq, tmp_path, record):
    harness = harness_for(f"dramatiq+{impatient_rabbitmq.url}")(tmp_path)
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    engines = {"dramatiq": {"ack_after_s": 0.5}}
    with harness.queue(ledger, tasks=(bodies.MODULE,), engines=engines, sweep=CALM) as queue:
        workers = [harness.start_worker(queue, concurrency=2) for _ in range(2)]
        job = queue.enqueue(hold, file=record.file, gate=str(record.gate()))
        record.wait_started()
        with pytest.raises(TimeoutError):  # were it held, the server would have given it out again by then
            wait_until(lambda: any(worker.counts().get("refused") for worker in workers), timeout_s=7)
        record.open_gate()
        assert final(queue, job).state is State.SUCCEEDED
        final(queue, queue.enqueue(note, file=record.file, label="after"))
        assert len(record.starts("")) == 1
        harness.reset()


def test_on_rabbitmq_a_long_job_that_is_acknowledged_draws_no_message_that_would_wait_for_it(
    rabbitmq_url, tmp_path, record
):
    harness = harness_for(f"dramatiq+{rabbitmq_url}")(tmp_path)
    ledger = f"sqlite:///{tmp_path}/ledger.db"
    engines = {"dramatiq": {"ack_after_s": 0.2}}
    with harness.queue(ledger, tasks=(bodies.MODULE,), engines=engines, sweep=CALM) as queue:
        harness.start_worker(queue, concurrency=2)
        held = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="held")
        record.wait_started("held")
        look = OnRabbitmq(rabbitmq_url, harness.namespace)
        with pytest.raises(TimeoutError):
            wait_until(lambda: False, timeout_s=0.6)
        second = queue.enqueue(hold, file=record.file, gate=str(record.gate()), label="second")
        record.wait_started("second")
        waits = queue.enqueue(note, file=record.file, label="waits")
        with pytest.raises(TimeoutError):  # both threads are busy: it stays where another worker can have it
            wait_until(lambda: look.waiting() == 0, timeout_s=0.6)
        harness.start_worker(queue, concurrency=1)
        assert final(queue, waits).state is State.SUCCEEDED
        record.open_gate()
        all_final(queue, [held, second])
        look.close()
        harness.reset()


def test_a_lower_queue_is_taken_only_when_the_higher_is_empty(open_queue, harness, record):
    queue = open_queue()
    low = [queue.enqueue(note, file=record.file, label="low", queue="low") for _ in range(12)]
    high = [queue.enqueue(note, file=record.file, label="high", queue="high") for _ in range(12)]
    harness.start_worker(queue, queues=("high", "low"), concurrency=1)
    all_final(queue, low + high)
    assert [entry.label for entry in record.starts()] == ["high"] * 12 + ["low"] * 12
