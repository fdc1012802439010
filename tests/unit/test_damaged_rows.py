"""A row that somebody has changed into what cannot be read is in nobody's way: its job fails, and says why."""

from __future__ import annotations

import sqlite3
import uuid
from contextlib import closing
from pathlib import Path

import pytest

from penstock import JobQueue, task
from penstock.core.config import Config
from penstock.core.exceptions import LedgerError
from penstock.gateway import message_ids
from penstock.job import lifecycle
from penstock.job.lifecycle import Reason, State
from penstock.job.models import DamagedJob, Intent, new_job_id
from penstock.ledger import open_ledger

STORES = ["sqlite", "redis", "postgres"]
OF_ALL = {"backoff": "no json", "tags": "{", "metadata": "[1]", "error": "[" * 5000}
OF_SOME = {
    "created_at": "x", "started_at": "x", "attempt": "x", "priority": "x", "max_attempts": "x", "timeout_s": "x",
    "name": b"\xff",
}  # fmt: skip
"""Columns that Postgres has types for."""
WRITTEN_ANEW = {"started_at", "attempt"}
"""By the claim: the job runs."""


class Store:
    """A ledger, and a way to its rows past penstock."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind, self.url = kind, url
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self.ledger = open_ledger(url, namespace=self.namespace)

    def write(self, job_id: str, column: str, value: object) -> None:
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.url.removeprefix("sqlite:///"))) as connection, connection:
                connection.execute(f"UPDATE jobs SET {column} = ? WHERE id = ?", (value, job_id))
        elif self.kind == "redis":
            redis = pytest.importorskip("redis")
            with closing(redis.Redis.from_url(self.url)) as client:
                (key,) = [k for k in client.scan_iter(f"*{self.namespace}*{job_id}") if client.type(k) == b"hash"]
                client.hset(key, column, value)
        else:
            psycopg = pytest.importorskip("psycopg")
            with psycopg.connect(self.url) as connection:
                statement = f"UPDATE {self.namespace}.jobs SET {column} = %s WHERE id = %s"
                connection.execute(statement, (value, job_id))


@pytest.fixture(params=STORES)
def store(request, tmp_path):
    url = f"sqlite:///{tmp_path}/l.db" if request.param == "sqlite" else request.getfixturevalue(f"{request.param}_url")
    opened = Store(request.param, url)
    yield opened
    opened.ledger.close()


@pytest.fixture
def ran():
    calls = []

    @task(name="counted", max_attempts=3)
    def counted(n: int = 0):
        calls.append(n)

    return calls


def three(store) -> list[str]:
    intents = [Intent(id=new_job_id(), kind="task", name="counted", spec=b'{"args":[%d]}' % n) for n in range(3)]
    store.ledger.insert(intents, grace_s=0)
    return [intent.id for intent in intents]


def opened(store) -> JobQueue:
    return JobQueue("inline://", ledger=store.ledger, config=Config(ledger="memory://"))


def columns(store) -> dict[str, object]:
    return OF_ALL if store.kind == "postgres" else OF_ALL | OF_SOME


def test_the_others_run_and_the_damaged_job_fails_and_says_where(store, ran):
    with opened(store) as queue:
        for column, value in columns(store).items():
            ran.clear()
            damaged, *good = three(store)
            store.write(damaged, column, value)
            queue.sweeper.publish_due()
            assert {store.ledger.get(job_id).state for job_id in good} == {State.SUCCEEDED}, column
            if column in WRITTEN_ANEW and 0 in ran:
                continue
            assert ran == [1, 2], column
            job = store.ledger.get(damaged)
            assert isinstance(job, DamagedJob) or column == "error", column  # its end has written another error
            assert (job.state, job.reason) == (State.FAILED, Reason.INVALID), column
            if column != "error":
                assert job.error.type == "DamagedRowError"
                assert f"{column} (" in job.error.message
        assert queue.execution.counts["damaged"] >= len(columns(store).keys() - WRITTEN_ANEW)


def test_a_damaged_job_is_listed_told_of_and_can_be_cancelled(store, ran):
    with opened(store) as queue:
        for column, value in columns(store).items():
            damaged = queue.enqueue("counted", delay="1h").id
            store.write(damaged, column, value)
            assert damaged in [handle.id for handle in queue.jobs(limit=5)]
            assert f"{column} (" in queue.job(damaged).job.damage
            queue.explain(damaged)
            queue.snapshot()
            assert queue.job(damaged).cancel().value == "cancelled"


def test_an_instant_beyond_the_calendar_is_its_end(store, ran):
    job_id = three(store)[0]
    store.write(job_id, "created_at", 1e300)
    assert store.ledger.get(job_id).created_at.year == 9999


def test_an_unknown_state_is_no_bodys(store, ran):
    job_id, *_ = three(store)
    store.write(job_id, "state", "undead")
    with opened(store) as queue:
        queue.sweeper.publish_due()
        assert "state (" in queue.job(job_id).job.damage
    assert 0 not in ran


@pytest.mark.parametrize(
    ("column", "value"), [("queue", "../x\0"), ("id", "../x\0"), ("name", "n" * 999), ("priority", 10**12)]
)
def test_a_row_that_no_engine_takes_keeps_no_other_from_being_published(tmp_path, ran, column, value):
    store = Store("sqlite", f"sqlite:///{tmp_path}/l.db")
    damaged = three(store)[0]
    store.write(damaged, column, value)
    pushed: list[int] = []
    with opened(store) as queue:
        queue.gateway.publish = lambda messages: pushed.extend(message.priority for message in messages)
        queue.sweeper.publish_due()
        assert pushed == ([9, 5, 5] if column == "priority" else [5, 5])
        assert queue.sweeper.counts["damaged"] == (column != "priority")
    store.ledger.close()


def test_a_job_that_was_published_very_often_can_be_cancelled(tmp_path, ran):
    store = Store("sqlite", f"sqlite:///{tmp_path}/l.db")
    with opened(store) as queue:
        job = queue.enqueue("counted", delay="1h")
        store.write(job.id, "publishes", 10**15)
        assert message_ids(queue.job(job.id).job)[-1] == f"{job.id}_{10**15}"
        assert job.cancel().value == "cancelled"
    store.ledger.close()


def test_a_damaged_history_is_told_and_the_attempt_ends(tmp_path, ran):
    store = Store("sqlite", f"sqlite:///{tmp_path}/l.db")
    job_id, *_ = three(store)
    with closing(sqlite3.connect(f"{tmp_path}/l.db")) as connection, connection:
        values = (job_id,)
        connection.execute(
            "INSERT INTO history (job, no, at, event, from_state, to_state, attempt) "
            "SELECT seq, 0, 0, 'invented', 'queued', 'queued', 0 FROM jobs WHERE id = ?", values
        )  # fmt: skip
    with opened(store) as queue:
        queue.sweeper.publish_due()
        assert store.ledger.get(job_id).state is State.SUCCEEDED
        with pytest.raises(LedgerError, match=r"history of job .* damaged"):
            store.ledger.history(job_id)
    store.ledger.close()


def test_a_line_that_is_no_text_is_told_as_damage(tmp_path):
    store = Store("sqlite", f"sqlite:///{tmp_path}/l.db")
    job_id, *_ = three(store)
    with closing(sqlite3.connect(f"{tmp_path}/l.db")) as connection, connection:
        connection.execute(
            "INSERT INTO logs (job, attempt, at, level, source, text) SELECT seq, 1, 0, 'INFO', 's', X'ff' "
            "FROM jobs WHERE id = ?", (job_id,)
        )  # fmt: skip
    with pytest.raises(LedgerError, match=r"log of job .* damaged"):
        store.ledger.logs(job_id)
    store.ledger.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis"])
def test_a_record_of_other_types_is_in_nobodys_way(kind, tmp_path, request, ran):
    url = f"sqlite:///{tmp_path}/l.db" if kind == "sqlite" else request.getfixturevalue("redis_url")
    store = Store(kind, url)
    if kind == "sqlite":
        with closing(sqlite3.connect(f"{tmp_path}/l.db")) as connection, connection:
            for name, version, body, due in (("a", 1, 10**12, 1.0), ("b", "x", b"{}", 1.0), (b"\xff", 1, "text", "x")):
                values = (name, version, due, body)
                connection.execute("INSERT INTO records VALUES ('schedule', ?, ?, ?, ?)", values)
    else:
        redis = pytest.importorskip("redis")
        with closing(redis.Redis.from_url(url)) as client:
            at = f"{{{store.namespace}}}:records:schedule"
            client.hset(at, mapping={b"a": b"nonsense", b"\xff": b"x y z"})
            client.zadd(f"{at}:due", {b"a": 1.0, b"gone": 1.0})
    with opened(store) as queue:
        queue.schedule("counted", every="1h", name="good", start="2026-01-01T00:00Z")
        queue.scheduler.tick()
        assert [schedule.name for schedule in queue.schedules.list()] == ["good"]
    store.ledger.close()


def test_what_no_worker_has_told_is_no_worker(tmp_path):
    store = Store("sqlite", f"sqlite:///{tmp_path}/l.db")
    with closing(sqlite3.connect(f"{tmp_path}/l.db")) as connection, connection:
        connection.execute("INSERT INTO workers (id, seen_at, info) VALUES ('a', 9e12, '{\"id\": 3}')")
    assert store.ledger.workers() == []
    store.ledger.close()


def test_a_whole_number_of_seconds_is_no_damage(tmp_path: Path) -> None:
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        job = queue.enqueue_command(["true"], timeout=300)
        claimed = queue.ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=60))
        assert claimed is not None
        assert not isinstance(claimed.job, DamagedJob)
