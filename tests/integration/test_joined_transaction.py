"""A job and the caller's data in one transaction: both are committed, or neither."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import uuid
from contextlib import closing

import psycopg
import pytest
from psycopg.rows import dict_row

import penstock
from penstock.client import JobQueue
from penstock.core.exceptions import InvalidJobError, UnsupportedError
from penstock.job.models import Outcome
from penstock.testing.harness import short_config, wait_until


@penstock.task(name="joined.double")
def double(n: int) -> int:
    return 2 * n


@penstock.task(name="joined.load")
def load(connection: str) -> str:
    return connection


@pytest.fixture(params=["sqlite", "postgres"])
def kind(request):
    return request.param


@pytest.fixture
def open_queue(tmp_path):
    opened = []
    namespace = f"t{uuid.uuid4().hex[:12]}"

    def make(ledger, backend=None):
        config = short_config(
            backend=backend or f"huey+sqlite:///{tmp_path}/queue.db", ledger=ledger, namespace=namespace,
            results=str(tmp_path / "results"),
        )  # fmt: skip
        opened.append(JobQueue(config=config, root=tmp_path))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


@pytest.fixture
def queue(request, kind, tmp_path, open_queue):
    url = f"sqlite:///{tmp_path}/ledger.db" if kind == "sqlite" else request.getfixturevalue("postgres_url")
    return open_queue(url)


@pytest.fixture
def connection(request, kind, queue, tmp_path):
    """A connection of the caller's with a table of the caller's, beside the ledger's."""
    queue.counts()
    if kind == "sqlite":
        opened = sqlite3.connect(tmp_path / "ledger.db", check_same_thread=False)
    else:
        opened = psycopg.connect(request.getfixturevalue("postgres_url"))
        opened.execute("DROP TABLE IF EXISTS orders")
    with closing(opened):
        opened.execute("CREATE TABLE orders (n INTEGER)")
        opened.commit()
        yield opened


def orders(connection):
    found = [n for (n,) in connection.execute("SELECT n FROM orders").fetchall()]
    connection.rollback()
    return found


def test_a_job_is_there_after_the_callers_commit(queue, connection):
    connection.execute("INSERT INTO orders VALUES (1)")
    handle = queue.enqueue(double, 1, connection=connection)
    assert queue.jobs() == []
    connection.commit()
    assert (handle.outcome, [job.id for job in queue.jobs()], orders(connection)) == (
        Outcome.CREATED, [handle.id], [1]
    )  # fmt: skip


def test_a_rollback_leaves_neither_job_nor_data(queue, connection):
    connection.execute("INSERT INTO orders VALUES (1)")
    queue.enqueue_many([double.call(n) for n in range(3)], connection=connection)
    connection.rollback()
    assert (queue.jobs(), orders(connection)) == ([], [])


def test_a_job_runs_after_the_commit_and_not_before(queue, connection):
    with queue.worker():
        handle = queue.enqueue(double, 21, connection=connection)
        other = None if isinstance(connection, sqlite3.Connection) else queue.enqueue(double, 1)
        if other is not None:
            assert other.result(10) == 2  # the worker works, and this job is not there for it
        assert queue.jobs(states=("queued", "running")) == []
        connection.commit()
        assert handle.result(10) == 42


def test_a_job_that_joins_is_not_pushed_and_is_to_be_published_at_once(queue, connection):
    handle = queue.enqueue(double, 1, connection=connection)
    assert (handle.job.publishes, handle.job.published_at) == (0, None)
    connection.commit()
    assert queue.gateway.depth("default") == 0
    assert [job.id for job in queue.ledger.publishable(10)] == [handle.id]


def test_a_job_for_later_joins_too(queue, connection):
    handle = queue.enqueue(double, 1, delay="1h", connection=connection)
    connection.commit()
    assert queue.job(handle.id).state == "scheduled"
    assert queue.ledger.publishable(10) == []


def test_a_key_that_is_taken_keeps_the_job_that_has_it(queue, connection):
    first = queue.enqueue(double, 1, key="k")
    second = queue.enqueue(double, 2, key="k", connection=connection)
    connection.commit()
    assert (second.outcome, second.id, len(queue.jobs())) == (Outcome.KEPT, first.id, 1)


def test_an_async_caller_joins_from_a_thread(queue, connection):
    handle = asyncio.run(queue.aenqueue(double, 1, connection=connection))
    assert queue.jobs() == []
    connection.commit()
    assert [job.id for job in queue.jobs()] == [handle.id]


def test_a_connection_that_commits_by_itself_is_refused(queue, connection):
    if isinstance(connection, sqlite3.Connection):
        connection.isolation_level = None
    else:
        connection.autocommit = True
    with pytest.raises(InvalidJobError, match="commits each statement by itself"):
        queue.enqueue(double, 1, connection=connection)
    assert queue.jobs() == []


def test_a_transaction_that_was_begun_by_hand_is_joined(queue, connection):
    if isinstance(connection, sqlite3.Connection):
        connection.isolation_level = None
        connection.execute("BEGIN")
        queue.enqueue(double, 1, connection=connection)
        connection.execute("ROLLBACK")
    else:
        connection.autocommit = True
        with connection.transaction(force_rollback=True):
            queue.enqueue(double, 1, connection=connection)
    assert queue.jobs() == []


def test_rows_may_come_as_anything(queue, connection):
    connection.row_factory = (lambda *_: None) if isinstance(connection, sqlite3.Connection) else dict_row
    first = queue.enqueue(double, 1, key="k", connection=connection)
    assert queue.enqueue(double, 1, key="k", connection=connection).id == first.id


def test_an_object_that_is_no_connection_is_refused(queue):
    with pytest.raises(UnsupportedError, match=r"Connection, not a .*str"):
        queue.enqueue(double, 1, connection="orders.db")
    assert queue.jobs() == []


def test_a_parameter_named_connection_is_not_mistaken_for_the_transaction(queue, connection):
    with pytest.raises(InvalidJobError, match=r"joined.load.call\(connection=...\)"):
        queue.enqueue(load, connection="warehouse")
    handle = queue.enqueue(load.call(connection="warehouse"), connection=connection)
    connection.commit()
    with queue.worker():
        assert handle.result(10) == "warehouse"


def test_a_backend_that_runs_jobs_at_once_refuses_to_join(queue, connection, open_queue):
    inline = open_queue(queue.config.ledger, backend="inline://")
    with pytest.raises(UnsupportedError, match="after your commit"):
        inline.enqueue(double, 1, connection=connection)
    connection.commit()
    assert queue.jobs() == []


# -- ledgers that cannot ------------------------------------------------------------------------------------------


def test_a_ledger_in_memory_refuses_to_join(open_queue):
    queue = open_queue("memory://")
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(UnsupportedError, match="memory://"):
        queue.enqueue(double, 1, connection=connection)
    assert queue.jobs() == []


def test_a_ledger_in_redis_refuses_to_join(open_queue, redis_url):
    queue = open_queue(redis_url)
    with closing(sqlite3.connect(":memory:")) as connection, pytest.raises(UnsupportedError, match="redis://"):
        queue.enqueue(double, 1, connection=connection)
    assert queue.jobs() == []


def test_a_sqlite_file_that_is_not_the_ledgers_is_refused(open_queue, tmp_path):
    queue = open_queue(f"sqlite:///{tmp_path}/ledger.db")
    queue.counts()
    with closing(sqlite3.connect(tmp_path / "orders.db")) as connection:
        connection.execute("ATTACH ? AS ledger", (str(tmp_path / "ledger.db"),))
        with pytest.raises(UnsupportedError, match="another database"):
            queue.enqueue(double, 1, connection=connection)
    assert queue.jobs() == []


def test_a_postgres_database_that_is_not_the_ledgers_is_refused(open_queue, postgres_url):
    name = f"d{uuid.uuid4().hex[:12]}"
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    elsewhere = postgres_url.replace("/postgres", f"/{name}").replace(f"{name}://", "postgres://", 1)
    queue, other = open_queue(postgres_url), open_queue(elsewhere)
    assert (queue.counts(), other.counts()) == ({}, {})  # both have a ledger of the same schema
    with psycopg.connect(elsewhere) as connection, pytest.raises(UnsupportedError, match="another database"):
        queue.enqueue(double, 1, connection=connection)
    assert (queue.jobs(), other.jobs()) == ([], [])


def test_a_key_in_an_open_postgres_transaction_is_waited_for(open_queue, postgres_url):
    queue, outcomes = open_queue(postgres_url), []
    queue.counts()
    with psycopg.connect(postgres_url) as connection:
        queue.enqueue(double, 1, key="k", connection=connection)
        hand = threading.Thread(target=lambda: outcomes.append(queue.enqueue(double, 1, key="k").outcome))
        hand.start()
        with psycopg.connect(postgres_url, autocommit=True) as looking:
            wait_until(lambda: looking.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())
        connection.rollback()
        hand.join()
    assert outcomes == [Outcome.CREATED]
