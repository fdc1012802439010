"""What is special about the ledger in Postgres: its schema, its connections, its statements."""

from __future__ import annotations

import threading
import uuid
from contextlib import closing
from urllib.parse import quote

import psycopg
import pytest

from penstock.core.exceptions import ConfigError, InvalidJobError, LedgerError, LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import ErrorInfo, Intent, JobQuery, LogLine, NodeRun, Progress, new_job_id
from penstock.ledger import open_ledger
from penstock.testing import services
from penstock.testing.harness import wait_until


@pytest.fixture
def schema():
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture
def ledger(postgres_url, schema):
    with closing(open_ledger(postgres_url, namespace=schema)) as ledger:
        yield ledger


@pytest.fixture
def connection(postgres_url):
    with psycopg.connect(postgres_url, autocommit=True) as connection:
        yield connection


def intents(n, **fields):
    ids = sorted(new_job_id() for _ in range(n))
    return [Intent(id=job_id, kind="task", name="t", spec=b"{}", **fields) for job_id in ids]


def running(ledger, n=1):
    jobs = [s.job.id for s in ledger.insert(intents(n), grace_s=30)]
    ledger.apply_many([lifecycle.claim(i, owner="w", lease_s=60) for i in jobs])
    return jobs


# -- the schema ---------------------------------------------------------------------------------------------------


def test_many_that_open_a_new_schema_at_once_make_it_once(postgres_url, schema):
    opened, errors, start = [], [], threading.Barrier(8)

    def opens():
        start.wait()
        try:
            opened.append(open_ledger(postgres_url, namespace=schema))
        except Exception as error:
            errors.append(error)

    hands = [threading.Thread(target=opens) for _ in range(8)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    for ledger in opened:
        ledger.close()
    assert (len(opened), errors) == (8, [])
    assert len({ledger._server.identity for ledger in opened}) == 1


def test_a_schema_of_a_newer_version_is_left_alone(postgres_url, schema, ledger, connection):
    connection.execute(f'UPDATE "{schema}".ledger SET version = 99')
    with pytest.raises(LedgerError, match="newer penstock"):
        open_ledger(postgres_url, namespace=schema)


def test_somebody_elses_tables_are_left_alone(postgres_url, schema, connection):
    connection.execute(f'CREATE SCHEMA "{schema}"')
    connection.execute(f'CREATE TABLE "{schema}".jobs (x int)')
    with pytest.raises(LedgerError, match="not penstock's"):
        open_ledger(postgres_url, namespace=schema)
    assert connection.execute(f'SELECT * FROM "{schema}".jobs').fetchall() == []


def test_a_schema_that_was_made_for_us_needs_no_right_to_make_one(postgres_url, schema, connection):
    connection.execute(f'CREATE ROLE "{schema}" LOGIN')
    connection.execute(f'CREATE SCHEMA "{schema}" AUTHORIZATION "{schema}"')
    with closing(open_ledger(postgres_url.replace("penstock@", f"{schema}@"), namespace=schema)) as ledger:
        assert ledger.counts() == {}


def test_the_schema_may_stand_in_the_url(postgres_url, schema, ledger):
    ledger.insert(intents(1), grace_s=30)
    url = f"{postgres_url.replace('postgres://', 'postgresql://')}?schema={schema}&application_name=a%20b"
    with closing(open_ledger(url, namespace="other")) as same:
        assert same.counts() == {"queued": 1}


def test_a_url_may_name_a_host_in_its_query(postgres_url, schema, connection):
    info = connection.info
    url = f"postgres:///{info.dbname}?host={info.host}&port={info.port}&user=penstock&schema={schema}"
    with closing(open_ledger(url)) as ledger:
        assert ledger.counts() == {}


def test_a_search_path_does_not_lead_to_other_tables(postgres_url, schema, ledger, connection):
    ledger.insert(intents(1), grace_s=30)
    options = quote("-c search_path=pg_catalog")
    with closing(open_ledger(f"{postgres_url}?options={options}", namespace=schema)) as same:
        assert same.counts() == {"queued": 1}


def test_ids_sort_by_their_bytes_whatever_the_language(ledger):
    ids = ["B", "a", "A-1", "a_1", "a.1", "Z"]
    ledger.insert([Intent(id=i, kind="task", name="t", spec=b"{}") for i in ids], grace_s=30)
    assert [job.id for job in ledger.find(JobQuery())] == sorted(ids, reverse=True)


@pytest.mark.parametrize("url", ["postgres://[::1/db", "postgres://h/db?no_such_word=1"])
def test_a_url_that_cannot_be_read_is_refused(url):
    with pytest.raises(ConfigError, match="write postgres://user"):
        open_ledger(url)


def test_a_user_that_is_not_let_in_is_told(postgres_url):
    with pytest.raises(LedgerUnavailableError, match='role "nobody"'):
        open_ledger(postgres_url.replace("penstock@", "nobody@"))


# -- connections ----------------------------------------------------------------------------------------------------


def test_a_connection_that_the_server_closed_is_opened_again():
    # A server of its own: it is for every connection there.
    with services.new_postgres() as server, closing(open_ledger(server.url)) as ledger:
        ledger.insert(intents(1), grace_s=30)
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'penstock'"
            )
        assert ledger.counts() == {"queued": 1}
        ledger.insert(intents(1), grace_s=30)


def test_a_transaction_that_was_given_up_for_another_is_done_again(ledger, schema, connection):
    first, second = running(ledger, 2)
    held = f'UPDATE "{schema}".jobs SET message = %s WHERE id = %s'
    with psycopg.connect(connection.info.dsn) as other:
        # The ledger's patience ends first: of the two, the one whose turn it is to look finds the deadlock.
        other.execute("SET deadlock_timeout = '60s'")
        other.execute(held, ("x", second))
        both = [lifecycle.succeed(i, attempt=1) for i in (first, second)]
        hand = threading.Thread(target=ledger.apply_many, args=(both,))
        hand.start()
        wait_until(lambda: _waiting(connection), what="the ledger waits for the second row")
        other.execute(held, ("x", first))
        other.commit()
        hand.join()
    assert ledger.counts() == {"succeeded": 2}


def _waiting(connection):
    return connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone()


def test_a_row_that_somebody_holds_is_waited_for(ledger, schema, connection):
    (job,) = running(ledger)
    answers = []
    with psycopg.connect(connection.info.dsn) as other:
        other.execute(f'SELECT 1 FROM "{schema}".jobs WHERE id = %s FOR UPDATE', (job,))
        hand = threading.Thread(target=lambda: answers.append(ledger.apply(lifecycle.succeed(job, attempt=1))))
        hand.start()
        wait_until(lambda: _waiting(connection))
        other.rollback()
        hand.join()
    assert answers[0].state is State.SUCCEEDED


def test_rows_that_another_purge_holds_are_left_to_it(ledger, schema, connection):
    jobs = running(ledger, 3)
    ledger.apply_many([lifecycle.succeed(i, attempt=1) for i in jobs])
    with psycopg.connect(connection.info.dsn) as other:
        other.execute(f'SELECT 1 FROM "{schema}".jobs WHERE id = %s FOR UPDATE', (jobs[0],))
        assert sorted(ledger.purge(State.SUCCEEDED, older_than_s=-1, limit=10)) == jobs[1:]
    assert ledger.purge(State.SUCCEEDED, older_than_s=-1, limit=10) == jobs[:1]


# -- statements -----------------------------------------------------------------------------------------------------


def _commits_lazily(ledger, transition, *, lazily):
    """Run a transition's own statement in a transaction and ask whether its commit will wait for the disk."""
    statement = ledger._step(transition, lazily)
    with psycopg.connect(ledger._server._conninfo) as inside:
        inside.execute(statement, ledger._given(transition)).fetchall()
        (setting,) = inside.execute("SHOW synchronous_commit").fetchone()
        inside.rollback()
    return setting == "off"


def test_a_heartbeat_does_not_wait_for_the_disk_and_a_success_does(ledger):
    (job,) = running(ledger)
    assert _commits_lazily(ledger, lifecycle.beat(job, attempt=1, lease_s=60), lazily=True)
    assert not _commits_lazily(ledger, lifecycle.succeed(job, attempt=1), lazily=False)


def test_a_heartbeat_among_others_waits_with_them(ledger, monkeypatch):
    (job, other) = running(ledger, 2)
    asked = []
    step = ledger._step
    monkeypatch.setattr(ledger, "_step", lambda transition, lazily: asked.append(lazily) or step(transition, lazily))
    ledger.apply_many([lifecycle.beat(job, attempt=1, lease_s=60), lifecycle.succeed(other, attempt=1)])
    ledger.apply_many([lifecycle.beat(job, attempt=1, lease_s=60)] * 2)
    assert asked == [False, False, True, True]


def test_heartbeats_touch_no_index(ledger, schema, connection):
    jobs = running(ledger, 20)
    for _ in range(5):
        ledger.apply_many([lifecycle.beat(i, attempt=1, lease_s=60) for i in jobs])

    def updates():
        return connection.execute(
            "SELECT n_tup_upd, n_tup_hot_upd FROM pg_stat_user_tables WHERE schemaname = %s AND relname = 'jobs'",
            (schema,),
        ).fetchone()

    wait_until(lambda: updates()[0] >= 120, what="the statistics of 20 claims and 100 beats")
    # A full page sends a row elsewhere, the more so while others hold old snapshots; with an index none would be hot.
    assert updates()[1] >= 10


def test_everything_of_a_purged_job_goes(ledger, schema, connection):
    (job,) = running(ledger)
    ledger.report(
        [LogLine(job_id=job, attempt=1, at=ledger.now(), level="INFO", source="s", text="x"),
         NodeRun(job_id=job, attempt=1, name="n", state="running")]
    )  # fmt: skip
    ledger.apply(lifecycle.succeed(job, attempt=1))
    assert ledger.purge(State.SUCCEEDED, older_than_s=-1, limit=10) == [job]
    left = [connection.execute(f'SELECT count(*) FROM "{schema}".{t}').fetchone() for t in ("history", "logs", "nodes")]
    assert left == [(0,), (0,), (0,)]


@pytest.mark.parametrize("field", ["key", "tick_key", "parent_id"])
def test_a_nul_in_what_names_a_job_is_refused_before_anything_is_written(ledger, field):
    with pytest.raises(InvalidJobError, match="NUL"):
        ledger.insert([*intents(1), *intents(1, **{field: "a\0b"})], grace_s=30)
    assert ledger.counts() == {}


def test_a_nul_in_what_a_body_tells_is_shown(ledger):
    (job,) = running(ledger)
    ledger.report([Progress(job_id=job, attempt=1, message="a\0b")])
    ledger.report([NodeRun(job_id=job, attempt=1, name="n\0", state="failed", error="e\0")])
    ledger.apply(lifecycle.release(job, attempt=1, note="c\0d"))
    row, (node,) = ledger.get(job), ledger.nodes(job)
    assert (row.message, row.note, node.name, node.error) == ("a\\x00b", "c\\x00d", "n\\x00", "e\\x00")


def test_the_id_twice_in_a_batch_with_another_key_is_what_it_would_be_one_by_one(ledger):
    ledger.insert(intents(1, key="k"), grace_s=30)
    first, second = (Intent(id="same", kind="task", name="t", spec=b"{}", key=key) for key in ("k", None))
    assert [str(s.outcome) for s in ledger.insert([first, second], grace_s=30)] == ["kept", "created"]


def test_a_pattern_of_a_name_takes_no_other_wildcards(ledger):
    for name in ("a_b", "axb", "a%b", "a\\b"):
        ledger.insert([Intent(id=new_job_id(), kind="task", name=name, spec=b"{}")], grace_s=30)
    assert [j.name for j in ledger.find(JobQuery(name="a_*"))] == ["a_b"]
    assert [j.name for j in ledger.find(JobQuery(name="a%*"))] == ["a%b"]
    assert [j.name for j in ledger.find(JobQuery(name="a\\*"))] == ["a\\b"]


def test_an_error_of_one_in_a_batch_leaves_none_written(ledger, schema, connection):
    jobs = running(ledger, 3)
    connection.execute(f'ALTER TABLE "{schema}".jobs ADD CONSTRAINT no CHECK (error IS NULL)')
    row = ledger.get(jobs[1])
    steps = [
        lifecycle.succeed(jobs[0], attempt=1),
        lifecycle.fail(row, error=ErrorInfo("E", "no")),
        lifecycle.succeed(jobs[2], attempt=1),
    ]
    with pytest.raises(LedgerError, match="no"):
        ledger.apply_many(steps)
    assert ledger.counts() == {"running": 3}
    assert ledger.apply(steps[0]).state is State.SUCCEEDED
