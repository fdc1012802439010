"""Redis by every form of its URL, on every engine and on the ledger: a job runs, or the refusal says what to use."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import warnings
from urllib.parse import urlsplit

import pytest
from redis_forms import Cluster, Guarded, certificates, tls_redis

from penstock.client import JobQueue
from penstock.core.exceptions import (
    BackendError,
    BackendUnavailableError,
    ConfigError,
    LedgerUnavailableError,
    UnsupportedError,
)
from penstock.ledger import open_ledger
from penstock.ledger.redis_server import LedgerWarning
from penstock.servers import redis_client
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.bodies import note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import CALM, harness_for
from penstock.testing.server import Server, answers, free_port

ENGINES = ("rq", "saq", "arq", "taskiq", "huey", "dramatiq")


@pytest.fixture(scope="module", autouse=True)
def redis_is_here():
    if (why_not := services.available("redis")) is not None:
        pytest.skip(why_not)


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    with tls_redis(tmp_path_factory.mktemp("tls")) as url:
        yield url


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    with Guarded(tmp_path_factory.mktemp("sentinel")) as found:
        yield found


@pytest.fixture(scope="module")
def cluster():
    with Cluster() as found:
        yield found


@pytest.fixture(scope="module")
def unix(tmp_path_factory):
    path = tmp_path_factory.mktemp("socket") / "redis.sock"
    with services.new_redis("--unixsocket", str(path)):
        yield f"unix://{path}?db=1"


@pytest.fixture
def queue_at(tmp_path):
    made = []

    def make(url, ledger="", **changes):
        harness = harness_for(url)(tmp_path)
        queue = harness.queue(ledger or f"sqlite:///{tmp_path}/ledger.db", tasks=(bodies.MODULE,), **changes)
        made.append((harness, queue))
        return harness, queue

    make.made = made
    yield make
    for harness, queue in made:
        harness.reset()
        queue.close()


@pytest.fixture
def runs(queue_at, tmp_path):
    """Run one job with priority, after another that is taken back where that can be done; return what ran."""

    def run(url, ledger=""):
        record = Record(tmp_path)
        harness, queue = queue_at(url, ledger, sweep=CALM)
        job = queue.enqueue(note, record.file, label="ran", priority=7)
        withdrawn = queue.enqueue(note, record.file, label="withdrawn")
        withdrawn.cancel()
        assert queue.gateway.depth("default") >= 1
        harness.start_worker(queue)
        assert final(queue, job).state == "succeeded"
        return [entry.label for entry in record.starts()]

    return run


@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_runs_over_tls(engine, tls, runs):
    assert runs(f"{engine}+{tls}") == ["ran"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_runs_over_a_socket(engine, unix, runs):
    assert runs(f"{engine}+{unix}") == ["ran"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_job_runs_behind_sentinels(engine, guarded, runs):
    assert runs(f"{engine}+{guarded.url}") == ["ran"]


@pytest.mark.parametrize("engine", [engine for engine in ENGINES if engine != "rq"])
def test_a_job_runs_on_a_cluster(engine, cluster, runs):
    assert runs(f"{engine}+{cluster.url}") == ["ran"]


@pytest.mark.parametrize("form", ["tls", "unix", "guarded", "cluster"])
def test_the_ledger_is_kept_by_every_form(form, request, runs, redis_url, tmp_path):
    found = request.getfixturevalue(form)
    url = found if isinstance(found, str) else found.url
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LedgerWarning)  # the nodes of this cluster keep nothing on disk
        assert runs(f"huey+sqlite:///{tmp_path}/queue.db", url) == ["ran"]


# -- what is refused, and what it says --------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["redis://h", "rediss://h", "unix:///s", "redis+sentinel://h/m", "redis+cluster://h"])
@pytest.mark.parametrize("make", [redis_client.pool, redis_client.async_pool])
def test_every_connection_reads_in_small_pieces(make, url):
    """Pieces of 64 KB leave holes in a worker's memory: it grew by a tenth in an hour."""
    parser = make(url, connect_timeout_s=1).make_connection()._parser
    size_bytes = getattr(parser, "socket_read_size", None) or parser._read_size
    assert size_bytes <= 8192


@pytest.mark.parametrize("scheme", ["rq+redis+cluster", "rq+rediss+cluster"])
def test_rq_refuses_a_cluster_before_anything_is_written(scheme, tmp_path):
    ledger = tmp_path / "ledger.db"
    with pytest.raises(UnsupportedError, match=r"RQ .* cluster|saq\+redis\+cluster"):
        JobQueue(f"{scheme}://127.0.0.1:7000", ledger=f"sqlite:///{ledger}")
    assert not ledger.exists()


@pytest.mark.parametrize("engine", ENGINES)
def test_a_worker_is_told_in_plain_words_that_a_server_is_a_node_of_a_cluster(engine, cluster, queue_at):
    _, queue = queue_at(f"{engine}+{cluster.nodes[0].url}")
    with pytest.raises(BackendError, match=r"node of a cluster; write redis\+cluster://"):
        queue.gateway.depth("default")


def test_the_ledger_refuses_a_node_of_a_cluster_in_plain_words(cluster):
    with pytest.raises(ConfigError, match=r"node of a cluster; write redis\+cluster://"):
        open_ledger(cluster.nodes[0].url)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "url", ["redis+sentinel://host:26379", "rediss+sentinel://host:port/jobs", "unix://", "redis://host/jobs"]
)
def test_an_engine_refuses_a_url_that_cannot_be_read_before_anything_is_written(engine, url, tmp_path):
    ledger = tmp_path / "ledger.db"
    with pytest.raises(ConfigError):
        JobQueue(f"{engine}+{url}", ledger=f"sqlite:///{ledger}")
    assert not ledger.exists()


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",
        "redis+sentinel://host:26379/jobs/x",
        "redis+sentinel://:26379/jobs",
        "redis+cluster://host:6379,",
        "redis+cluster://host:6379/1",
        "redis+cluster://host:many",
        "redis://host:6379/0?ssl_typo=1",
        "redis://host:6379/jobs",
        "unix://",
    ],
)
def test_a_url_that_cannot_be_read_is_refused(url):
    with pytest.raises(ConfigError):
        open_ledger(url)


def test_a_certificate_that_nobody_vouches_for_is_refused(tls):
    with pytest.raises(LedgerUnavailableError, match=r"(?i)certificate"):
        open_ledger(tls.partition("?")[0])


@pytest.mark.parametrize("engine", ENGINES)
def test_no_password_of_a_sentinel_is_told(engine, queue_at):
    url = f"{engine}+redis+sentinel://ada:hidden1@127.0.0.1:1,127.0.0.1:2/jobs/0?sentinel_password=hidden2"
    _, queue = queue_at(url)
    with pytest.raises(BackendUnavailableError) as told:
        queue.gateway.depth("default")
    assert "hidden" not in str(told.value)


# -- the master goes, the work goes on --------------------------------------------------------------------------------


def test_workers_and_ledger_go_on_after_the_sentinels_promote_the_replica(queue_at, tmp_path):
    record = Record(tmp_path)
    with Guarded(tmp_path) as guarded:
        queues = {}
        for engine in ENGINES:
            ledger = f"sqlite:///{tmp_path}/{engine}.db"
            harness, queues[engine] = queue_at(f"{engine}+{guarded.url}", ledger)
            harness.start_worker(queues[engine])
        harness, queues["ledger"] = queue_at(f"huey+sqlite:///{tmp_path}/queue.db", guarded.url)
        harness.start_worker(queues["ledger"])
        before = {each: queue.enqueue(note, record.file, label=f"{each} before") for each, queue in queues.items()}
        for each, job in before.items():
            assert final(queues[each], job).state == "succeeded", each
        guarded.promote()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a push may find the old connection broken: the sweep repeats it
            after = {each: queue.enqueue(note, record.file, label=f"{each} after") for each, queue in queues.items()}
        for each, job in after.items():
            assert final(queues[each], job).state == "succeeded", each
        assert queues["ledger"].ledger.get(before["ledger"].id).state == "succeeded"
        for harness in {harness for harness, _ in queue_at.made}:
            harness.reset()


# -- RabbitMQ, NATS and PostgreSQL: what a URL says of TLS reaches the client ------------------------------------------


@pytest.fixture(scope="module")
def certified(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("certificates"))


@pytest.fixture
def tls_listener(certified):
    """A server that only shakes hands; it tells what it heard first, or why there was nothing to hear."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certified.certificate, certified.key)
    heard = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(10)

        def serve():
            with contextlib.suppress(OSError):
                plain, _ = listening.accept()
                plain.settimeout(10)
                try:
                    with context.wrap_socket(plain, server_side=True) as connection:
                        heard.append(connection.recv(8))
                except ssl.SSLError as error:
                    heard.append(error.reason)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], heard, thread
    thread.join()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("taskiq+amqps://127.0.0.1:{port}/?cafile={authority}", b"AMQP\x00\x00\x09\x01"),
        ("taskiq+amqps://127.0.0.1:{port}/", None),
        ("dramatiq+amqps://127.0.0.1:{port}/?ssl_options={{'ca_certs':'{authority}'}}", b"AMQP\x00\x00\x09\x01"),
        ("dramatiq+amqps://127.0.0.1:{port}/", None),
    ],
)
def test_rabbitmq_is_spoken_to_over_tls_and_only_if_somebody_vouches(url, said, certified, tls_listener, queue_at):
    port, heard, thread = tls_listener
    _, queue = queue_at(url.format(port=port, authority=certified.authority))
    assert queue.gateway.inspect(["default"])[0].level == "error"  # it hangs up
    thread.join()
    assert [word for word in heard if isinstance(word, bytes)] == ([said] if said else [])


def test_a_job_runs_on_nats_over_tls(certified, nats_url, runs, tmp_path, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certified.authority))
    port, folder = free_port(), tmp_path / "nats"
    folder.mkdir()
    program = str(services.providers._program("nats"))
    command = [
        program, "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "data"),
        "--tls", "--tlscert", str(certified.certificate), "--tlskey", str(certified.key),
    ]  # fmt: skip
    ready = answers(port, b"", b"INFO ")
    with Server("nats", folder=folder, url="", commands=[command], ready=ready):
        assert runs(f"taskiq+tls://127.0.0.1:{port}") == ["ran"]


@pytest.mark.parametrize("where", ["ledger", "engine"])
def test_postgres_is_refused_when_tls_is_asked_for_and_not_to_be_had(where, postgres_url, queue_at):
    url = f"{postgres_url}?sslmode=require"
    if where == "ledger":
        with pytest.raises(LedgerUnavailableError, match="SSL"):
            open_ledger(url)
    else:
        _, queue = queue_at(f"saq+{url}")
        with pytest.raises(BackendUnavailableError, match="SSL"):
            queue.gateway.depth("default")


def test_a_job_runs_on_the_first_of_several_rabbitmqs_that_answers(rabbitmq_url, runs):
    assert runs(f"dramatiq+amqp://127.0.0.1:1/;{rabbitmq_url}") == ["ran"]


def test_a_job_runs_on_the_first_of_several_postgres_hosts_that_answers(postgres_url, runs):
    host = urlsplit(postgres_url).netloc.partition("@")[2]
    url = postgres_url.replace(host, f"127.0.0.1:1,{host}")
    assert runs(f"saq+{url}", f"{url}?schema=several") == ["ran"]
