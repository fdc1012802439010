"""A queue with a limit is never fuller than that by an enqueue, whoever else enqueues."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import uuid
from itertools import count
from threading import Barrier, Thread

import pytest

from penstock import JobQueue, QueueFullError
from penstock.cli.failures import TRY_LATER, exit_code
from penstock.core.config import Config, LimitsConfig
from penstock.job import lifecycle
from penstock.job.models import Intent, JobQuery, Outcome
from penstock.ledger import open_ledger

numbers = count(1)


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def url(request, tmp_path):
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/ledger.db"}
    return urls.get(request.param) or request.getfixturevalue(f"{request.param}_url")


@pytest.fixture
def ledger(url):
    opened = open_ledger(url, namespace=f"t{uuid.uuid4().hex[:12]}")
    yield opened
    opened.close()


def intent(**fields):
    return Intent(**{"id": f"job-{next(numbers):05}", "kind": "task", "name": "t", "spec": b"{}", **fields})


def insert(ledger, *intents, limit=3, queue="default"):
    return ledger.insert(list(intents), grace_s=30, max_queued={queue: limit})


def queued(ledger):
    return len(ledger.find(JobQuery(limit=1000)))


def test_the_job_that_fills_a_queue_is_taken_and_the_next_is_refused(ledger):
    for _ in range(3):
        insert(ledger, intent())
    with pytest.raises(QueueFullError, match="'default' is full: at most 3 jobs"):
        insert(ledger, intent())
    assert queued(ledger) == 3


def test_of_several_jobs_all_are_taken_or_none(ledger):
    insert(ledger, intent(), intent())
    with pytest.raises(QueueFullError):
        insert(ledger, intent(), intent())
    assert queued(ledger) == 2


def test_a_job_for_later_waits_too(ledger):
    insert(ledger, intent(delay_s=3600), limit=1)
    with pytest.raises(QueueFullError):
        insert(ledger, intent(), limit=1)


def test_a_job_that_was_claimed_makes_room(ledger):
    (first,) = insert(ledger, intent(), limit=1)
    ledger.apply(lifecycle.claim(first.job.id, owner="w", lease_s=60))
    insert(ledger, intent(), limit=1)
    assert queued(ledger) == 2


def test_a_job_that_is_there_already_is_kept_also_in_a_full_queue(ledger):
    insert(ledger, intent(key="k"), limit=1)
    (again,) = insert(ledger, intent(key="k"), limit=1)
    assert again.outcome is Outcome.KEPT


def test_one_key_twice_in_a_batch_counts_once(ledger):
    answers = insert(ledger, intent(key="k"), intent(key="k"), limit=1)
    assert [str(a.outcome) for a in answers] == ["created", "kept"]


def test_another_queue_is_not_counted(ledger):
    insert(ledger, intent(queue="other"), intent(queue="other"), limit=1)
    insert(ledger, intent(), limit=1)
    assert queued(ledger) == 3


def test_a_ledger_takes_jobs_as_before_after_it_refused_some(ledger):
    with pytest.raises(QueueFullError):
        insert(ledger, intent(), intent(), limit=1)
    (taken,) = insert(ledger, intent(key="k"), limit=1)
    assert taken.outcome is Outcome.CREATED


def test_of_threads_that_enqueue_at_once_exactly_as_many_get_in_as_there_is_room(ledger):
    barrier, outcomes = Barrier(8), []

    def produce():
        barrier.wait(20)
        for _ in range(10):
            try:
                insert(ledger, intent(), limit=25)
                outcomes.append("in")
            except QueueFullError:
                outcomes.append("full")

    threads = [Thread(target=produce) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (outcomes.count("in"), queued(ledger)) == (25, 25)


PRODUCER = """
import sys
from penstock.core.exceptions import QueueFullError
from penstock.job.models import Intent, new_job_id
from penstock.ledger import open_ledger
ledger = open_ledger(sys.argv[1], namespace=sys.argv[2])
print("ready", flush=True)
sys.stdin.readline()
taken = 0
for _ in range(20):
    try:
        wanted = Intent(id=new_job_id(), kind="task", name="t", spec=b"{}")
        ledger.insert([wanted], grace_s=30, max_queued={"default": 30})
        taken += 1
    except QueueFullError:
        pass
print(taken)
"""


@pytest.mark.parametrize("store", ["sqlite", "redis", "postgres"])
def test_of_processes_that_enqueue_at_once_exactly_as_many_get_in_as_there_is_room(request, store, tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db" if store == "sqlite" else request.getfixturevalue(f"{store}_url")
    namespace = f"t{uuid.uuid4().hex[:12]}"
    producers = [
        subprocess.Popen(
            [sys.executable, "-c", PRODUCER, url, namespace], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    for producer in producers:
        assert producer.stdout.readline() == "ready\n"
    taken = sum(int(producer.communicate("go\n", timeout=60)[0]) for producer in producers)
    assert taken == 30


@pytest.mark.parametrize("store", ["sqlite", "postgres"])
def test_in_a_joined_transaction_a_refusal_takes_back_only_its_own_jobs(request, store, tmp_path):
    url = f"sqlite:///{tmp_path}/ledger.db" if store == "sqlite" else request.getfixturevalue("postgres_url")
    namespace = f"t{uuid.uuid4().hex[:12]}"
    ledger = open_ledger(url, namespace=namespace)
    if store == "sqlite":
        connection = sqlite3.connect(tmp_path / "ledger.db")
    else:
        psycopg = pytest.importorskip("psycopg")
        connection = psycopg.connect(url)
    try:
        ledger.insert([intent(), intent()], grace_s=30, connection=connection)
        with pytest.raises(QueueFullError):
            ledger.insert([intent()], grace_s=30, connection=connection, max_queued={"default": 2})
        connection.commit()
        assert queued(ledger) == 2
    finally:
        connection.close()
        ledger.close()


# -- as users meet it -------------------------------------------------------------------------------------------------


def queue_with(tmp_path, max_queued):
    config = Config(
        backend=f"huey+sqlite:///{tmp_path}/q.db", ledger="memory://", limits=LimitsConfig(max_queued=max_queued)
    )
    return JobQueue(config=config, root=tmp_path)


@pytest.mark.parametrize(("max_queued", "taken"), [(2, 2), ({"etl": 1, "*": 5}, 1), ({"*": 2}, 2), ({"web": 1}, 4)])
def test_the_setting_holds_for_each_queue_or_by_name(tmp_path, max_queued, taken):
    with queue_with(tmp_path, max_queued) as queue:
        done = 0
        for _ in range(4):
            try:
                queue.enqueue_command(["true"], queue="etl")
                done += 1
            except QueueFullError:
                pass
        assert done == taken


def test_the_error_names_the_queue_the_limit_the_setting_and_what_to_do():
    error = QueueFullError("etl", 1000, 3)
    assert str(error) == (
        "queue 'etl' is full: at most 1,000 jobs may wait there (limits.max_queued), and the 3 jobs would not fit; "
        "try again later, or start more workers"
    )


def test_the_command_line_answers_a_full_queue_by_the_exit_code_for_try_later():
    assert exit_code(QueueFullError("etl", 1, 1)) == TRY_LATER == 75
