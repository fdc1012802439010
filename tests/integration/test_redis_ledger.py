"""What is special about the ledger in Redis: where its keys lie, what the server must be like, its scripts."""

from __future__ import annotations

import uuid
import warnings
from contextlib import closing

import pytest
import redis

from penstock.core.exceptions import ConfigError, LedgerError, LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.lifecycle import TRANSITIONS, Event, State
from penstock.job.models import Intent, JobQuery, LogLine, NodeRun, Outcome, WorkerInfo, new_job_id
from penstock.ledger import open_ledger, redis_find, redis_lua
from penstock.ledger.redis_server import LedgerWarning
from penstock.testing import services


@pytest.fixture
def ledger(redis_url):
    with closing(open_ledger(redis_url, namespace=f"t{uuid.uuid4().hex[:12]}")) as ledger:
        yield ledger


@pytest.fixture
def client(redis_url):
    with closing(redis.Redis.from_url(redis_url)) as client:
        yield client


@pytest.fixture
def private():
    if (why_not := services.available("redis")) is not None:
        pytest.skip(why_not)
    started = []

    def start(*options):
        started.append(services.new_redis(*options).start())
        return started[-1].url

    yield start
    for server in started:
        server.close()


def intents(n, **fields):
    ids = sorted(new_job_id() for _ in range(n))  # of one millisecond, they come in any order
    return [Intent(id=job_id, kind="task", name="t", spec=b"{}", **fields) for job_id in ids]


def one_of_everything(ledger):
    (job,) = [s.job for s in ledger.insert(intents(1, key="k", tick_key="s@1", parent_id="p"), grace_s=30)]
    ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=60))
    ledger.report(
        [LogLine(job_id=job.id, attempt=1, at=ledger.now(), level="INFO", source="s", text="x"),
         NodeRun(job_id=job.id, attempt=1, name="n", state="running")]
    )  # fmt: skip
    ledger.apply(lifecycle.succeed(job.id, attempt=1, result=b"1"))
    return job


# -- keys ---------------------------------------------------------------------------------------------------------


def test_all_keys_of_a_ledger_lie_under_one_hash_tag(private):
    url = private()
    with closing(open_ledger(url, namespace="shop")) as ledger, closing(redis.Redis.from_url(url)) as client:
        one_of_everything(ledger)
        now = ledger.now()
        ledger.tell_worker(
            WorkerInfo(id="w", host="h", pid=1, backend="b", queues=("q",), concurrency=1, started_at=now, seen_at=now)
        )
        keys = [key.decode() for key in client.keys("*")]
    assert keys
    assert [key for key in keys if not key.startswith("{shop}:")] == []


def test_a_purge_leaves_nothing_of_a_job(ledger, client):
    job = one_of_everything(ledger)
    assert ledger.purge(State.SUCCEEDED, older_than_s=-1, limit=10) == [job.id]
    left = {key.decode().partition(":")[2] for key in client.keys(f"{ledger._prefix}*")}
    assert left == {"queues", "seq"}  # the queue's name, and the number of the last log line


def test_a_row_is_readable_in_redis_own_tools(ledger, client):
    job = one_of_everything(ledger)
    row = client.hgetall(f"{ledger._prefix}job:{job.id}")
    assert (row[b"state"], row[b"name"], row[b"owner"], row[b"attempt"]) == (b"succeeded", b"t", b"w", b"1")


def test_no_key_has_a_time_to_live(ledger, client):
    one_of_everything(ledger)
    assert {client.ttl(key) for key in client.keys(f"{ledger._prefix}*")} == {-1}


def test_the_namespace_may_stand_in_the_url(redis_url):
    name = f"t{uuid.uuid4().hex[:12]}"
    with (
        closing(open_ledger(f"{redis_url}?namespace={name}", namespace="other")) as told,
        closing(open_ledger(redis_url, namespace=name)) as same,
    ):
        told.insert(intents(1), grace_s=30)
        assert same.counts() == {"queued": 1}


# -- the server ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_evicts_rows_is_refused(private, policy):
    url = private("--maxmemory-policy", policy)
    with pytest.raises(ConfigError, match=f"{policy}.*noeviction"):
        open_ledger(url)


def test_a_server_that_evicts_only_what_expires_will_do(private):
    with closing(open_ledger(private("--maxmemory-policy", "volatile-lru"))) as ledger:
        assert ledger.counts() == {}


def test_a_server_without_a_file_is_warned_of(private):
    url = private("--appendonly", "no")
    with pytest.warns(LedgerWarning, match="appendonly yes"):
        open_ledger(url).close()


def test_a_replica_is_warned_of_and_refuses_jobs(private):
    port = private().rpartition(":")[2].partition("/")[0]
    url = private("--replicaof", "127.0.0.1", port)
    with pytest.warns(LedgerWarning, match="replica"):
        ledger = open_ledger(url)
    with closing(ledger), pytest.raises(LedgerUnavailableError, match="replica"):
        ledger.insert(intents(1), grace_s=30)


def test_a_server_that_keeps_its_rows_is_not_warned_of(private):
    url = private()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        open_ledger(url).close()


def test_a_cluster_is_refused(private):
    url = private("--cluster-enabled", "yes")
    with pytest.raises(ConfigError, match="node of a cluster"):
        open_ledger(url)


def test_a_server_whose_memory_is_full_says_so(private):
    url = private("--maxmemory", "3mb")
    with closing(open_ledger(url)) as ledger:

        def fill():
            for _ in range(100):
                ledger.insert(intents(50, metadata={"pad": "x" * 2000}), grace_s=30)

        with pytest.raises(LedgerUnavailableError, match="no memory left"):
            fill()
        assert ledger.counts()["queued"] % 50 == 0  # the last batch is in whole or not at all


def test_a_unix_socket_will_do(private, tmp_path):
    private("--unixsocket", str(tmp_path / "s"))
    with closing(open_ledger(f"unix://{tmp_path / 's'}?namespace=shop")) as ledger:
        assert ledger.counts() == {}


@pytest.mark.parametrize("url", ["redis://127.0.0.1:nan/0", "redis://127.0.0.1/0?socket_timeout=soon"])
def test_a_url_that_cannot_be_read_is_refused(url):
    with pytest.raises(ConfigError, match="redis://host:6379/0"):
        open_ledger(url)


# -- scripts ------------------------------------------------------------------------------------------------------


def test_scripts_that_the_server_forgot_are_told_again(ledger, client):
    jobs = [s.job.id for s in ledger.insert(intents(4), grace_s=30)]
    claims = [lifecycle.claim(i, owner="w", lease_s=60) for i in jobs]
    client.script_flush()
    assert ledger.apply(claims[0]) is not None
    client.script_flush()
    assert [a is not None for a in ledger.apply_many(claims)] == [False, True, True, True]
    client.script_flush()
    assert {s.outcome for s in ledger.insert(intents(1_200), grace_s=30)} == {Outcome.CREATED}
    client.script_flush()
    assert ledger.counts() == {"queued": 1_200, "running": 4}


def test_a_connection_that_was_closed_is_opened_again(private):
    url = private("--appendonly", "yes")  # a server of its own: it is for every connection there
    with closing(open_ledger(url, namespace="t")) as ledger, closing(redis.Redis.from_url(url)) as client:
        ledger.insert(intents(1), grace_s=30)
        assert client.client_kill_filter(_type="normal", skipme=True) > 0
        assert ledger.counts() == {"queued": 1}


def test_every_guard_of_the_table_is_in_its_script():
    for event, rule in TRANSITIONS.items():
        if event in (Event.ENQUEUE, Event.PURGE):
            continue
        text = redis_lua.transition(event, rule.to[0], None).text
        assert f"if not ({redis_lua.may_start(rule)}) then return false end" in text


def test_a_step_that_the_table_does_not_know_has_no_script():
    with pytest.raises(ValueError, match="claim does not lead to succeeded"):
        redis_lua.transition(Event.CLAIM, State.SUCCEEDED, None)


def test_a_store_that_is_no_ledger_is_an_error_of_the_ledger(ledger, client):
    client.set(f"{ledger._prefix}due", "x")
    with pytest.raises(LedgerError, match="WRONGTYPE"):
        ledger.publishable(10)


# -- listing ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("few", [0, 10_000])
def test_jobs_are_found_by_the_time_they_are_due_whether_few_or_many(ledger, monkeypatch, few):
    monkeypatch.setattr(redis_find, "_FEW", few)
    later = [s.job.id for s in ledger.insert(intents(3, delay_s=100), grace_s=30)]
    now = [s.job.id for s in ledger.insert(intents(3), grace_s=30)]
    both = sorted(later + now, reverse=True)
    assert [j.id for j in ledger.find(JobQuery(states=("scheduled",)))] == later[::-1]
    assert [j.id for j in ledger.find(JobQuery(states=("queued",)))] == now[::-1]
    assert [j.id for j in ledger.find(JobQuery(states=("scheduled", "queued"), limit=4))] == both[:4]


@pytest.mark.parametrize("few", [0, 100])
def test_jobs_are_found_by_a_pattern_whether_few_names_fit_or_many(ledger, monkeypatch, few):
    monkeypatch.setattr(redis_find, "_FEW_NAMES", few)
    for name in ("shop.buy", "shop.sell", "other"):
        ledger.insert([Intent(id=new_job_id(), kind="task", name=name, spec=b"{}")], grace_s=30)
    assert [j.name for j in ledger.find(JobQuery(name="shop.*"))] == ["shop.sell", "shop.buy"]


def test_a_page_within_a_prefix_follows_the_one_before(ledger):
    for job_id in ("a-1", "a-2", "a-3", "b-1"):
        ledger.insert([Intent(id=job_id, kind="task", name="t", spec=b"{}")], grace_s=30)
    assert [j.id for j in ledger.find(JobQuery(id_prefix="a-", before="b-9"))] == ["a-3", "a-2", "a-1"]
    assert [j.id for j in ledger.find(JobQuery(id_prefix="a-", before="a-3"))] == ["a-2", "a-1"]
    assert ledger.find(JobQuery(id_prefix="b-", before="a-9")) == []
