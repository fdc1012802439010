"""What the ledgers behind a server have in common: outages, lost replies, many hands, their own time."""

from __future__ import annotations

import os
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from penstock import JobQueue, as_completed, gather
from penstock.core.exceptions import ConfigError, LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import Intent, JobQuery, LogLine, Outcome, new_job_id
from penstock.ledger import open_ledger
from penstock.testing import services
from penstock.testing.cutting_proxy import CuttingProxy
from penstock.testing.harness import wait_until
from penstock.testing.server import outage

LEASE_S = 60.0


def intents(n, **fields):
    return [Intent(id=new_job_id(), kind="task", name="t", spec=b"{}", **fields) for _ in range(n)]


def namespace():
    return f"t{uuid.uuid4().hex[:12]}"


@pytest.fixture(params=["redis", "postgres"])
def kind(request):
    return request.param


@pytest.fixture
def url(request, kind):
    return request.getfixturevalue(f"{kind}_url")


@pytest.fixture
def ledger(url):
    with closing(open_ledger(url, namespace=namespace())) as ledger:
        yield ledger


@pytest.fixture
def proxied(url):
    with closing(CuttingProxy(url)) as proxy, closing(open_ledger(proxy.url, namespace=namespace())) as ledger:
        # Each statement once: what a server is told on its first use is no lost reply.
        (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
        ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S))
        ledger.apply(lifecycle.succeed(job.id, attempt=1))
        yield ledger, proxy


def test_times_are_the_servers(ledger):
    before, now, after = time.time(), ledger.now().timestamp(), time.time()
    assert before - 0.01 <= now <= after + 0.01
    (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
    claimed = ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)).job
    assert claimed.lease_until.timestamp() == pytest.approx(claimed.started_at.timestamp() + LEASE_S, abs=1e-5)
    assert before - 0.01 <= claimed.started_at.timestamp() <= time.time() + 0.01


def test_a_job_for_later_is_due_by_the_servers_clock(ledger):
    (job,) = [s.job for s in ledger.insert(intents(1, delay_s=0.5), grace_s=30)]
    assert ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)) is None
    while ledger.now() < job.scheduled_at:
        time.sleep(0.01)
    assert [j.id for j in ledger.publishable(10)] == [job.id]
    assert ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)) is not None


def test_two_namespaces_on_one_server_do_not_see_each_other(url):
    with (
        closing(open_ledger(url, namespace=namespace())) as one,
        closing(open_ledger(url, namespace=namespace())) as other,
    ):
        (job,) = one.insert(intents(1, key="k"), grace_s=30)
        (same,) = other.insert([Intent(id=job.job.id, kind="task", name="t", spec=b"{}", key="k")], grace_s=30)
        assert same.outcome is Outcome.CREATED
        one.apply(lifecycle.cancel(job.job.id))
        assert (one.counts(), other.counts()) == ({"cancelled": 1}, {"queued": 1})


def test_of_many_claims_of_a_job_one_succeeds(ledger):
    jobs = [s.job.id for s in ledger.insert(intents(100), grace_s=30)]
    won, start = [], threading.Barrier(8)

    def claims(owner):
        start.wait()
        answers = ledger.apply_many([lifecycle.claim(i, owner=owner, lease_s=LEASE_S) for i in jobs])
        won.extend(i for i, answer in zip(jobs, answers, strict=True) if answer is not None)

    hands = [threading.Thread(target=claims, args=(f"w{n}",)) for n in range(8)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert sorted(won) == sorted(jobs)
    assert {job.attempt for job in ledger.find(JobQuery(limit=100))} == {1}


def test_of_many_submits_of_a_key_one_creates(ledger):
    outcomes, start = [], threading.Barrier(8)

    def submits():
        start.wait()
        outcomes.extend(s.outcome for s in ledger.insert(intents(3, key="k"), grace_s=30))

    hands = [threading.Thread(target=submits) for _ in range(8)]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert (len(outcomes), outcomes.count(Outcome.CREATED)) == (24, 1)


def test_batches_in_opposite_order_do_not_lock_each_other_out(ledger):
    jobs = [s.job.id for s in ledger.insert(intents(60), grace_s=30)]
    ledger.apply_many([lifecycle.claim(i, owner="w", lease_s=LEASE_S) for i in jobs])
    errors = []

    def beats(ids):
        try:
            for _ in range(20):
                ledger.apply_many([lifecycle.beat(i, attempt=1, lease_s=LEASE_S) for i in ids])
        except Exception as error:
            errors.append(error)

    hands = [threading.Thread(target=beats, args=(ids,)) for ids in (jobs, jobs[::-1], jobs, jobs[::-1])]
    for hand in hands:
        hand.start()
    for hand in hands:
        hand.join()
    assert errors == []


def test_thousands_are_inserted_together_and_listed_page_by_page(ledger):
    wanted = intents(2_500)
    assert {s.outcome for s in ledger.insert(wanted, grace_s=30)} == {Outcome.CREATED}
    seen, before = [], None
    while page := ledger.find(JobQuery(states=("queued",), limit=900, before=before)):
        seen += [job.id for job in page]
        before = seen[-1]
    assert seen == sorted((i.id for i in wanted), reverse=True)


# -- a lost reply -------------------------------------------------------------------------------------------------


def test_a_submit_whose_answer_is_lost_has_created_its_job_once(proxied):
    ledger, proxy = proxied
    proxy.cut_next_reply()
    (answer,) = ledger.insert(intents(1), grace_s=30)
    assert (proxy.cuts, answer.outcome, ledger.counts()) == (
        1, Outcome.CREATED, {"queued": 1, "succeeded": 1}
    )  # fmt: skip


def test_a_success_whose_answer_is_lost_is_written_once(proxied):
    ledger, proxy = proxied
    (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
    ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S))
    proxy.cut_next_reply()
    # Refused the second time: the owner asks, and finds its own attempt final.
    assert ledger.apply(lifecycle.succeed(job.id, attempt=1, result=b"1")) is None
    row = ledger.get(job.id)
    assert (proxy.cuts, row.state, row.attempt, row.result) == (1, State.SUCCEEDED, 1, b"1")
    assert [e.event.value for e in ledger.history(job.id)] == ["enqueue", "claim", "succeed"]


def test_a_claim_whose_answer_is_lost_is_nobodys_second_attempt(proxied):
    ledger, proxy = proxied
    (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
    proxy.cut_next_reply()
    assert ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)) is None
    assert (ledger.get(job.id).state, ledger.get(job.id).attempt) == (State.RUNNING, 1)


# -- an outage ----------------------------------------------------------------------------------------------------


@pytest.fixture
def private(kind):
    if (why_not := services.available(kind)) is not None:
        pytest.skip(why_not)
    with getattr(services, f"new_{kind}")() as server:
        yield server


def test_a_ledger_whose_server_is_away_says_so_and_goes_on_when_it_is_back(private):
    with closing(open_ledger(private.url)) as ledger:
        jobs = [s.job.id for s in ledger.insert(intents(3), grace_s=30)]
        ledger.apply(lifecycle.claim(jobs[0], owner="w", lease_s=LEASE_S))
        with outage(private):
            with pytest.raises(LedgerUnavailableError, match="up and reachable"):
                ledger.counts()
            with pytest.raises(LedgerUnavailableError):
                ledger.insert(intents(1), grace_s=30)
            with pytest.raises(LedgerUnavailableError):
                open_ledger(private.url)
        assert ledger.counts() == {"running": 1, "queued": 2}
        assert ledger.apply(lifecycle.succeed(jobs[0], attempt=1)).state is State.SUCCEEDED


def test_who_follows_a_job_goes_on_where_he_was_when_the_ledger_is_back(private, tmp_path, caplog):
    with (
        closing(open_ledger(private.url)) as ledger,
        JobQueue("huey+sqlite:///q.db", ledger=ledger, root=tmp_path) as q,
    ):
        (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
        heard = []
        follower = threading.Thread(target=lambda: heard.extend(q.job(job.id).events(timeout=60)), daemon=True)
        follower.start()
        ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S))
        with outage(private):
            wait_until(lambda: "the ledger is away" in caplog.text, 30)
        ledger.report([LogLine(job_id=job.id, attempt=1, at=ledger.now(), level="INFO", source="b", text="hello")])
        ledger.apply(lifecycle.succeed(job.id, attempt=1))
        follower.join(30)
        assert [getattr(event, "event", "line") for event in heard] == ["enqueue", "claim", "line", "succeed"]


@pytest.mark.parametrize(
    "wait_for",
    [
        lambda job: job.wait(60).state.value,
        lambda job: job.wait().state.value,
        lambda job: gather(job, return_exceptions=True, timeout=60) and job.job.state.value,
        lambda job: next(iter(as_completed([job], timeout=60))).job.state.value,
    ],
    ids=["wait", "wait without end", "gather", "as_completed"],
)
def test_who_waits_for_a_job_goes_on_when_the_ledger_is_back(private, tmp_path, caplog, wait_for):
    with (
        closing(open_ledger(private.url)) as ledger,
        JobQueue("huey+sqlite:///q.db", ledger=ledger, root=tmp_path) as q,
    ):
        (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
        ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S))
        with ThreadPoolExecutor(1) as pool:
            answer = pool.submit(wait_for, q.job(job.id))
            with outage(private):
                wait_until(lambda: "the ledger is away, the wait for" in caplog.text or answer.done(), 30)
            ledger.apply(lifecycle.succeed(job.id, attempt=1))
            assert answer.result(30) == "succeeded"


def test_who_waits_for_a_time_is_told_of_the_ledger_that_is_away_when_it_is_over(private, tmp_path):
    with (
        closing(open_ledger(private.url)) as ledger,
        JobQueue("huey+sqlite:///q.db", ledger=ledger, root=tmp_path) as q,
    ):
        (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]
        handle = q.job(job.id)
        with outage(private):
            for wait_for in (handle.wait, handle.result, lambda s: gather(handle, timeout=s)):
                began = time.monotonic()
                with pytest.raises(LedgerUnavailableError):
                    wait_for(0.5)
                assert time.monotonic() - began >= 0.5


def test_what_was_acknowledged_is_there_after_the_server_was_killed(private):
    with closing(open_ledger(private.url)) as ledger:
        ids = [s.job.id for s in ledger.insert(intents(50), grace_s=30)]
        private.kill()
        private.start()
        assert sorted(job.id for job in ledger.find(JobQuery(limit=100))) == sorted(ids)


def test_a_restart_in_between_is_not_noticed(private):
    with closing(open_ledger(private.url)) as ledger:
        ledger.insert(intents(1), grace_s=30)
        with outage(private):
            pass
        ledger.insert(intents(1), grace_s=30)
        assert ledger.counts() == {"queued": 2}


# -- processes and settings -----------------------------------------------------------------------------------------


def test_a_forked_child_leaves_its_parents_connections_alone(ledger):
    ledger.insert(intents(1), grace_s=30)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            ledger.insert(intents(1), grace_s=30)
            code = 0 if ledger.counts() == {"queued": 2} else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    ledger.insert(intents(1), grace_s=30)
    assert ledger.counts() == {"queued": 3}


def test_a_follower_misses_no_line_of_a_job_that_several_write_to(ledger):
    (job,) = [s.job for s in ledger.insert(intents(1), grace_s=30)]

    def line(n):
        return LogLine(job_id=job.id, attempt=1, at=ledger.now(), level="INFO", source="s", text=str(n))

    for start in range(0, 30, 10):
        ledger.report([line(n) for n in range(start, start + 10)])
    seen, after = [], 0
    while lines := ledger.logs(job.id, after_seq=after, limit=7):
        seen += [int(x.text) for x in lines]
        after = lines[-1].seq
    assert seen == list(range(30))


@pytest.mark.parametrize("bad", ["a b", "", "x" * 80, 'a"b'])
def test_a_name_that_is_no_namespace_is_refused(url, bad):
    with pytest.raises(ConfigError, match="1 to 6"):
        open_ledger(url, namespace=bad)


@pytest.mark.parametrize("kind", ["redis", "postgres"])
def test_a_password_is_not_told(kind):
    with pytest.raises(LedgerUnavailableError) as caught:
        open_ledger(f"{kind}://ada:geheim123@127.0.0.1:1/0")
    assert "geheim123" not in str(caught.value)
    assert "127.0.0.1" in str(caught.value)


@pytest.mark.parametrize(("kind", "driver"), [("redis", "redis"), ("postgres", "psycopg")])
def test_a_missing_driver_is_told_with_the_line_that_installs_it(kind, driver, monkeypatch):
    for name in [n for n in sys.modules if n.startswith((f"penstock.ledger.{kind}", driver))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, driver, None)
    with pytest.raises(ConfigError, match=rf'pip install "penstock\[{kind}\]"'):
        open_ledger(f"{kind}://127.0.0.1:1/0")
