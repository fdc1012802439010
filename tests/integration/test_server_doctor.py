"""What `penstock doctor` says: of servers that lose data or do not answer, and of queues that nobody works off."""

from __future__ import annotations

import socket
import time
import warnings

import pytest
import redis

from penstock import task
from penstock.client import JobQueue
from penstock.core.config import WorkerConfig
from penstock.core.durations import format_duration
from penstock.core.secrets import mask_url
from penstock.health import checks
from penstock.job.models import WorkerInfo
from penstock.ledger import open_ledger
from penstock.servers.findings import clock
from penstock.testing import services
from penstock.testing.harness import short_config, wait_until
from penstock.testing.server import Server, answers, free_port

ON_REDIS = ("rq", "saq", "arq", "taskiq", "huey", "dramatiq")


@pytest.fixture
def doctor(tmp_path):
    """Open a queue; asked, it is looked at and answers by name."""
    opened = []

    def look(backend, ledger="memory://", **changes):
        config = short_config(backend=backend, ledger=str(ledger), results=str(tmp_path / "results"), **changes)
        queue = JobQueue(config=config, root=tmp_path)
        opened.append(queue)
        return {check.name: check for check in checks(queue)}

    yield look
    for queue in opened:
        queue.close()


@pytest.fixture
def private(redis_url):
    with services.new_redis() as server, redis.Redis.from_url(server.url) as client:
        yield server.url, client


@pytest.fixture
def silent():
    """A server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0), backlog=64) as listening:
        yield listening.getsockname()[1]


# -- Redis ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ON_REDIS)
def test_it_tells_the_versions_of_server_and_libraries(engine, doctor, redis_url):
    told = doctor(f"{engine}+{redis_url}")["engine"]
    assert told.level == "ok"
    assert "Redis " in told.told
    assert f"{engine} " in told.told.rpartition("Redis ")[2]
    assert "redis 7" in told.told


@pytest.mark.parametrize("engine", ON_REDIS)
def test_a_broker_that_evicts_is_a_warning(engine, doctor, private):
    url, client = private
    client.config_set("maxmemory-policy", "volatile-lru")
    found = doctor(f"{engine}+{url}")["engine memory"]
    assert (found.level, found.hint) == ("warning", "CONFIG SET maxmemory-policy noeviction")
    assert "volatile-lru" in found.told


def test_a_ledger_that_evicts_is_an_error(doctor, private):
    url, client = private
    client.config_set("maxmemory-policy", "allkeys-lru")
    assert doctor("inline://", url)["ledger"].level == "error"


def test_a_ledger_that_evicts_since_it_was_opened_is_an_error(private, tmp_path):
    url, client = private
    with JobQueue("inline://", ledger=url, root=tmp_path) as queue:
        queue.counts()
        client.config_set("maxmemory-policy", "allkeys-lru")
        found = {check.name: check for check in checks(queue)}
    assert found["ledger memory"].level == "error"
    assert "jobs are lost" in found["ledger memory"].told


def test_memory_that_is_nearly_full_is_a_warning(doctor, private):
    url, client = private
    client.config_set("maxmemory", int(client.info("memory")["used_memory"] * 1.05))
    assert "of maxmemory is used" in doctor(f"rq+{url}")["engine memory"].told


def test_a_broker_that_keeps_nothing_on_disk_is_a_warning(doctor, private):
    url, client = private
    client.config_set("appendonly", "no")
    assert "nothing is kept on disk" in doctor(f"rq+{url}")["engine disk"].told
    client.config_set("save", "900 1")
    assert "engine disk" not in doctor(f"rq+{url}")


def test_a_ledger_without_an_append_only_file_is_a_warning_and_no_python_warning(doctor, private):
    url, client = private
    client.config_set("appendonly", "no")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "every job is lost" in doctor("inline://", url)["ledger disk"].told
        client.config_set("save", "900 1")
        assert "loses the newest jobs" in doctor("inline://", url)["ledger disk"].told


def test_a_replica_is_an_error(doctor, private):
    url, client = private
    client.replicaof("127.0.0.1", free_port())
    found = doctor(f"rq+{url}")["engine role"]
    assert found.level == "error"
    assert "takes no writes" in found.told


def test_a_clock_that_is_off_is_told():
    assert clock(time.time()) == []
    (found,) = clock(time.time() - 90)
    assert found.level == "warning"
    assert found.told == f"this machine and the server are {format_duration(90)} apart"


# -- servers that do not answer ---------------------------------------------------------------------------------------

SILENT = [
    *(f"{engine}+redis://ada:hidden@127.0.0.1:{{port}}/0" for engine in ON_REDIS),
    "rq+redis+sentinel://ada:hidden@127.0.0.1:{port}/jobs",
    "saq+redis+cluster://ada:hidden@127.0.0.1:{port}",
    "saq+postgres://ada:hidden@127.0.0.1:{port}/jobs",
    "taskiq+amqp://ada:hidden@127.0.0.1:{port}/",
    "dramatiq+amqp://ada:hidden@127.0.0.1:{port}/",
    "taskiq+nats://ada:hidden@127.0.0.1:{port}",
]


@pytest.mark.slow
@pytest.mark.parametrize("url", SILENT, ids=lambda url: url.partition("://")[0])
def test_an_engine_that_falls_silent_is_an_error_within_seconds(url, silent, doctor):
    started = time.monotonic()
    found = doctor(url.format(port=silent))["engine"]
    assert found.level == "error"
    assert "hidden" not in found.told
    assert time.monotonic() - started < 20


@pytest.mark.parametrize("url", SILENT, ids=lambda url: url.partition("://")[0])
def test_an_engine_that_is_down_is_an_error_with_a_hint(url, doctor):
    found = doctor(url.format(port=1))["engine"]
    assert (found.level, "hidden" in found.told) == ("error", False)
    assert "is the URL right?" in found.hint


# -- PostgreSQL -------------------------------------------------------------------------------------------------------


def test_a_postgres_that_may_lose_commits_is_a_warning(doctor, postgres_url):
    url = f"{postgres_url}?options=-c%20synchronous_commit%3Doff"
    found = doctor(f"saq+{url}", f"{url}&schema=doctor")
    for area in ("engine", "ledger"):
        assert "PostgreSQL " in found[area].told
        assert found[f"{area} fsync"].level == "warning"  # the tests' own server is as fast as it is careless
        assert "newest commits are lost" in found[f"{area} synchronous_commit"].told


def test_a_postgres_that_takes_no_writes_is_an_error(doctor, postgres_url):
    url = f"saq+{postgres_url}?options=-c%20default_transaction_read_only%3Don"
    assert doctor(url)["engine role"].level == "error"


# -- NATS -------------------------------------------------------------------------------------------------------------


def test_a_nats_without_jetstream_is_an_error(doctor, nats_url, tmp_path):
    port, folder = free_port(), tmp_path / "nats"
    folder.mkdir()
    program = str(services.providers._program("nats"))
    command = [program, "-a", "127.0.0.1", "-p", str(port)]
    ready = answers(port, b"", b"INFO ")
    with Server("nats", folder=folder, url=f"nats://127.0.0.1:{port}", commands=[command], ready=ready) as server:
        found = doctor(f"taskiq+{server.url}")
    assert "NATS " in found["engine"].told
    assert found["engine jetstream"].level == "error"
    assert "-js" in found["engine jetstream"].hint


def test_a_stream_in_memory_is_a_warning(doctor, nats_url):
    import asyncio

    import nats

    async def make():
        client = await nats.connect(nats_url)
        await client.jetstream().add_stream(name="penstock-doctor%2Em", subjects=["doctor.m.>"], storage="memory")
        await client.close()

    asyncio.run(make())
    assert doctor(f"taskiq+{nats_url}", namespace="doctor.m")["engine stream"].level == "warning"


# -- RabbitMQ ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("engine", "native"), [("taskiq", "penstock.doctor.default"), ("dramatiq", "doctor:default:jobs")]
)
def test_a_queue_that_is_not_durable_is_an_error(engine, native, doctor, rabbitmq_url):
    import pika

    with pika.BlockingConnection(pika.URLParameters(rabbitmq_url)) as connection:
        channel = connection.channel()
        channel.queue_declare(native)
        try:
            found = doctor(f"{engine}+{rabbitmq_url}", namespace="doctor")
        finally:
            channel.queue_delete(native)
    assert "RabbitMQ " in found["engine"].told
    assert "not durable" in found[f"engine queue {native}"].told


@pytest.mark.parametrize("engine", ["taskiq", "dramatiq"])
def test_a_good_rabbitmq_is_well(engine, doctor, rabbitmq_url):
    found = doctor(f"{engine}+{rabbitmq_url}", namespace="well")
    assert [check for check in found.values() if check.area == "engine" and check.level != "ok"] == []


@pytest.mark.slow
def test_a_rabbitmq_whose_memory_is_full_is_an_error(doctor, rabbitmq_url):
    server = services.new_rabbitmq(management=False)
    conf = server.folder / "rabbitmq.conf"
    conf.write_text(f"{conf.read_text()}vm_memory_high_watermark.absolute = 1MB\n")
    with server:
        for engine in ("taskiq", "dramatiq"):
            assert "takes no messages" in doctor(f"{engine}+{server.url}")["engine alarm"].told


# -- who works --------------------------------------------------------------------------------------------------------


@task(name="doctor.noop")
def noop():
    pass


@pytest.fixture
def at_work(tmp_path, redis_url):
    """A queue whose ledger's time the test makes, and on which workers are as the test tells."""
    now = [time.time()]
    ledger = open_ledger("memory://", clock=lambda: now[0])
    config = short_config(
        backend=f"rq+{redis_url}", results=str(tmp_path / "results"), namespace=f"doctor{time.time_ns()}",
        worker=WorkerConfig(queues=("default", "etl")),
    )  # fmt: skip
    with JobQueue(config=config, ledger=ledger, root=tmp_path) as queue:

        def tell(*queues, backend=config.backend, running=0, concurrency=2):
            at = queue.now()
            ledger.tell_worker(
                WorkerInfo(
                    id=f"host:{'-'.join(queues)}", host="host", pid=1, backend=mask_url(backend), queues=queues,
                    concurrency=concurrency, started_at=at, seen_at=at, running=running,
                )
            )  # fmt: skip

        yield queue, tell, now


def asked(queue):
    return {check.name: check for check in checks(queue)}


def test_a_queue_that_nobody_listens_to_is_named(at_work):
    queue, tell, _ = at_work
    tell("default")
    queue.enqueue(noop, queue="etl")
    found = asked(queue)
    assert found["queue default"].level == "ok"
    assert found["queue etl"].level == "warning"
    assert found["queue etl"].told == "nobody listens, 1 due, 0 running"
    assert found["queue etl"].hint == "start a worker that does: penstock worker --queues etl"


def test_a_queue_that_no_setting_names_is_found_by_its_jobs(at_work):
    queue, tell, _ = at_work
    tell("default", "etl")
    queue.enqueue(noop, queue="forgotten")
    assert asked(queue)["queue forgotten"].level == "warning"


def test_a_worker_that_listens_and_takes_nothing_is_told(at_work):
    queue, tell, now = at_work
    tell("default", "etl")
    queue.enqueue(noop)
    assert asked(queue)["queue default"].level == "ok"
    now[0] += 40  # within the minute in which a worker counts as alive
    found = asked(queue)["queue default"]
    assert found.level == "warning"
    assert "take nothing" in found.hint


def test_a_busy_worker_is_well(at_work):
    queue, tell, now = at_work
    tell("default", "etl", running=2)
    queue.enqueue(noop)
    now[0] += 40
    found = asked(queue)["queue default"]
    assert found.level == "ok"
    assert "all are busy" in found.told


def test_a_worker_on_another_engine_does_not_count(at_work):
    queue, tell, _ = at_work
    tell("default", backend="rq+redis://elsewhere:6379/0")
    queue.enqueue(noop)
    found = asked(queue)
    assert found["queue default"].level == "warning"
    assert "elsewhere" in found["other engine"].told


def test_the_last_claim_of_a_queue_is_told(at_work):
    queue, _, _ = at_work
    job = queue.enqueue(noop)
    with queue.worker(queues=("default",)):
        wait_until(lambda: queue.ledger.get(job.id).state.final)
        found = asked(queue)
    assert found["queue default"].told.startswith("1 listening, 0 due, 0 running, last claim ")
    assert "nobody listens" in found["queue etl"].told
