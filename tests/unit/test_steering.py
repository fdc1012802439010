"""Strikes and pauses: which jobs may not begin, from where, and when they go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from penstock import JobQueue, Outcome, task
from penstock.core.exceptions import InvalidJobError, RuleNotFoundError
from penstock.job.steering import Strike
from penstock.sources.decorators import TASKS
from penstock.testing.harness import wait_until


@pytest.fixture
def queue(tmp_path):
    with JobQueue("huey+sqlite:///q.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        yield queue


@pytest.fixture
def report():
    @task(name="report")
    def report(customer: str, size: int = 1) -> str:
        return customer

    yield report
    TASKS.discard("report")


@pytest.fixture
def renamed():
    @task(name="renamed", aliases=("old_name",))
    def renamed(value: Any = None, *rest: int, **more: Any) -> str:
        return "done"

    yield renamed
    TASKS.discard("renamed")


@pytest.fixture
def other():
    @task(name="other")
    def other() -> str:
        return "done"

    yield other
    TASKS.discard("other")


def work(queue):
    queue.worker(burst=True).run()


def states(jobs):
    return [job.state for job in jobs]


def test_a_struck_task_does_not_begin_and_others_do(queue, report, other):
    queue.strike("report")
    jobs = [queue.enqueue(report, "a"), queue.enqueue(other)]
    work(queue)
    assert states(jobs) == ["blocked", "succeeded"]


def test_enqueue_tells_that_a_job_is_blocked_and_why(queue, report):
    queue.strike(report)
    job = queue.enqueue(report, "a")
    assert (job.outcome, job.job.held) == (Outcome.BLOCKED, "struck: report")


def test_jobs_that_wait_already_are_held_too(queue, report):
    jobs = [queue.enqueue(report, "a"), queue.enqueue(report, "b", delay="1h")]
    assert queue.strike("report").jobs == 2
    assert states(jobs) == ["blocked", "blocked"]


def test_restored_jobs_run(queue, report):
    before = queue.enqueue(report, "a")
    queue.strike("report")
    after = queue.enqueue(report, "b")
    assert queue.restore("report").jobs == 2
    work(queue)
    assert states([before, after]) == ["succeeded", "succeeded"]


def test_a_strike_that_drops_cancels_what_meets_it(queue, report):
    before = queue.enqueue(report, "a")
    queue.strike("report", drop=True)
    after = queue.enqueue(report, "b")
    assert (states([before, after]), after.outcome) == (["cancelled", "cancelled"], Outcome.BLOCKED)
    assert [entry.reason for entry in before.history()][-1] == "struck"


def test_a_strike_that_drops_takes_what_waits_for_something_else(queue, report):
    queue.pause(queue="default")
    paused = queue.enqueue(report, "a")
    assert queue.strike("report", drop=True).jobs == 1
    assert paused.state == "cancelled"


def test_a_strike_may_drop_later_what_it_has_held_so_far(queue, report):
    queue.strike("report")
    held = queue.enqueue(report, "a")
    assert queue.strike("report", drop=True).jobs == 1
    assert held.state == "cancelled"
    assert queue.restore("report").jobs == 0


@pytest.mark.parametrize(
    ("operator", "value", "met"),
    [
        ("==", 5, [5]),
        ("!=", 5, [1, 9]),
        ("<", 5, [1]),
        ("<=", 5, [1, 5]),
        (">", 5, [9]),
        (">=", 5, [5, 9]),
        ("between", [2, 6], [5]),
        ("in", [1, 9], [1, 9]),
    ],
)
def test_a_strike_compares_an_argument(queue, report, operator, value, met):
    queue.strike("report", "size", operator, value)
    jobs = {size: queue.enqueue(report, "a", size) for size in (1, 5, 9)}
    assert [size for size, job in jobs.items() if job.state == "blocked"] == met


def test_an_argument_that_was_left_out_counts_as_its_default(queue, report):
    queue.strike("report", "size", "==", 1)
    assert queue.enqueue(report, "a").state == "blocked"


@pytest.mark.parametrize(
    ("operator", "value", "given", "met"),
    [
        ("==", 1, True, False), ("==", False, 0, False), ("==", True, True, True), ("!=", 1, True, True),
        ("in", [0, "a"], False, False), ("==", [1, {"a": 1}], [1, {"a": 1}], True), ("==", [1], [True], False),
        ("==", {"a": 1}, {"a": True}, False), ("==", None, None, True), ("<", 5, True, False), ("==", 1.0, 1, True),
    ],
)  # fmt: skip
def test_values_are_compared_as_json_does(queue, renamed, operator, value, given, met):
    queue.strike("renamed", "value", operator, value)
    assert (queue.enqueue(renamed, given).outcome == Outcome.BLOCKED) is met


NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("operator", "value", "met"),
    [
        ("==", NOON, True), ("==", "2026-01-01T12:00:00Z", True), ("==", "2026-01-01T14:00:00+02:00", True),
        ("<", "2026-01-01T11:30:00-01:00", True), (">", NOON - timedelta(microseconds=1), True), (">", NOON, False),
        ("between", [NOON, NOON], True), ("in", ["2026-01-01T12:00:00+00:00"], True), (">=", "2026-01-01", True),
    ],
)  # fmt: skip
def test_instants_are_compared_as_such_whatever_their_zones(queue, renamed, operator, value, met):
    queue.strike("renamed", "value", operator, value)
    there = NOON.astimezone(timezone(timedelta(hours=1)))
    assert (queue.enqueue(renamed, there).outcome == Outcome.BLOCKED) is met


def test_an_argument_that_has_no_parameter_of_its_own_may_be_struck_too(queue, renamed):
    queue.strike("renamed", "extra", "==", 3)
    queue.strike("renamed", "rest", "==", [1, 2])
    jobs = [queue.enqueue(renamed, 0), queue.enqueue(renamed, 0, extra=3), queue.enqueue(renamed, 0, 1, 2)]
    assert states(jobs) == ["queued", "blocked", "blocked"]


@pytest.mark.parametrize("name", ["renamed", "old_name"])
def test_a_task_is_struck_and_paused_by_any_of_its_names(queue, renamed, name):
    before = queue.enqueue(renamed)
    assert queue.strike(name).jobs == 1
    assert queue.enqueue("old_name").outcome == Outcome.BLOCKED
    assert queue.restore(name).jobs == 2
    assert before.state == "queued"
    assert queue.pause(task=name).jobs == 2


def test_who_strikes_or_pauses_what_nothing_here_has_is_told(queue, report):
    assert queue.strike("report", "customer", "==", "a").doubt == ""
    assert "Did you mean 'customer'?" in queue.strike("report", "costumer", "==", "a").doubt
    assert "Did you mean 'report'?" in queue.strike("raport").doubt
    assert "Did you mean 'default'?" in queue.pause(queue="defualt").doubt
    assert "no worker that lives" in queue.pause(worker="nobody").doubt
    assert queue.pause(queue="default").doubt == ""


def test_the_nearest_rule_is_named_where_one_cannot_be_taken_back(queue, report):
    queue.strike("report", "customer", "==", "acme")
    with pytest.raises(RuleNotFoundError, match="Did you mean 'struck: report, customer == \"acme\"'"):
        queue.restore("report", "customer", "==", "acm")


def test_an_argument_may_be_struck_in_all_tasks(queue, report, other):
    queue.strike(parameter="customer", value="acme")
    assert states([queue.enqueue(report, "acme"), queue.enqueue(report, "b"), queue.enqueue(other)]) == [
        "blocked", "queued", "queued"
    ]  # fmt: skip


def test_what_cannot_be_compared_is_not_struck(queue, report):
    queue.strike("report", "customer", "<", 5)
    assert queue.enqueue(report, "a").state == "queued"


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"task": "report", "operator": "like", "parameter": "size"},
        {"task": "report", "value": 3},
        {"parameter": "size", "operator": "between", "value": [3]},
        {"parameter": "size", "operator": "between", "value": ["a", 1]},
        {"parameter": "size", "operator": "in", "value": 3},
        {"parameter": "size", "value": object()},
        {"task": 3},
    ],
)
def test_a_strike_that_means_nothing_is_refused(queue, said):
    with pytest.raises(InvalidJobError):
        queue.strike(**said)
    assert queue.rules() == []


def test_the_message_of_a_job_that_was_published_before_a_strike_starts_nothing(queue, report):
    job = queue.enqueue(report, "a")
    queue.ledger.records.write([_change(Strike(task="report"))])  # by another process: nobody has held the job
    work_once(queue)
    assert (job.state, job.job.held) == ("blocked", "struck: report")


def _change(rule):
    import msgspec

    from penstock.core.records import Change
    from penstock.job.steering import KIND

    return Change(kind=KIND, name=rule.name, seen=0, body=msgspec.json.encode(rule))


def work_once(queue):
    queue.steering._read_at = None
    work(queue)


def test_a_job_held_for_a_rule_that_is_gone_goes_on_after_the_next_look(queue, report):
    queue.strike("report")
    job = queue.enqueue(report, "a")
    record = queue.ledger.records.all("steering")[0]
    queue.ledger.records.write([_gone(record)])  # whoever restored died before it let the jobs go on
    assert queue.steering.reconcile() == 1
    assert job.state == "queued"


def _gone(record):
    from penstock.core.records import Change

    return Change(kind=record.kind, name=record.name, seen=record.version, body=None)


def test_what_is_not_struck_cannot_be_restored(queue):
    queue.strike("report")
    with pytest.raises(RuleNotFoundError, match=r"there are: struck: report\."):
        queue.restore("reports")


def test_a_paused_queue_begins_nothing_until_it_is_resumed(queue, report):
    jobs = [queue.enqueue(report, "a", queue="etl"), queue.enqueue(report, "b")]
    assert queue.pause(queue="etl", why="migration").jobs == 1
    jobs.append(queue.enqueue(report, "c", queue="etl"))
    queue.worker(burst=True, queues=["etl", "default"]).run()
    assert states(jobs) == ["blocked", "succeeded", "blocked"]
    queue.resume(queue="etl")
    queue.worker(burst=True, queues=["etl", "default"]).run()
    assert states(jobs) == ["succeeded"] * 3


def test_a_pause_survives_the_processes_that_made_it(queue, report, tmp_path):
    queue.pause(task="report")
    queue.close()
    with JobQueue("huey+sqlite:///q.db", ledger="sqlite:///ledger.db", root=tmp_path) as later:
        assert later.enqueue(report, "a").job.held == "paused: task report"


def test_what_is_struck_and_paused_waits_for_both(queue, report):
    job = queue.enqueue(report, "a")
    queue.strike("report")
    queue.pause(queue="default")
    queue.restore("report")
    work(queue)
    assert job.job.held == "paused: queue default" or job.refresh().held == "paused: queue default"
    queue.resume(queue="default")
    work(queue)
    assert job.state == "succeeded"


@pytest.mark.parametrize("said", [{}, {"queue": "a", "task": "b"}, {"queue": "not a queue!"}])
def test_a_pause_that_means_nothing_is_refused(queue, said):
    with pytest.raises(InvalidJobError):
        queue.pause(**said)


def test_a_paused_worker_takes_nothing_and_goes_on_when_resumed(queue, report):
    with queue.worker() as worker:
        queue.pause(worker=queue.owner)
        wait_until(lambda: worker.vitals.phase == "paused")
        wait_until(lambda: not worker._resting._at_work)
        job = queue.enqueue(report, "a")
        queue.resume(worker=queue.owner)
        assert job.result(20) == "a"
        assert worker.vitals.phase == "working"


def test_who_lists_workers_is_told_which_are_paused_by_whom_and_why(queue, report, monkeypatch):
    monkeypatch.setenv("PENSTOCK_ACTOR", "ada")
    with queue.worker():
        wait_until(queue.workers)
        assert [worker.paused for worker in queue.workers()] == [""]
        queue.pause(worker=queue.owner, why="repair")
        for found in (queue.workers(), queue.workers_for(report), queue.snapshot().workers):
            assert [worker.paused for worker in found] == ["paused by ada: repair"]
        queue.resume(worker=queue.owner)
        assert [worker.paused for worker in queue.workers()] == [""]


def test_a_worker_that_begins_while_it_is_paused_takes_nothing_until_it_is_resumed(queue, report):
    host = queue.owner.split(":")[0]
    queue.pause(worker=host)
    job = queue.enqueue(report, "a")
    with queue.worker() as worker:
        assert (worker.vitals.phase, worker._resting._at_work, job.state) == ("paused", False, "queued")
        queue.resume(worker=host)
        assert job.result(20) == "a"
        assert worker.vitals.phase == "working"
    assert job.job.attempt == 1


def test_a_paused_worker_can_be_stopped(queue):
    with queue.worker() as worker:
        queue.pause(worker=queue.owner.split(":")[0])
        wait_until(lambda: worker.vitals.phase == "paused")
    assert worker.vitals.phase == "ended"


def test_every_decision_stands_in_the_audit_and_in_the_snapshot(queue):
    queue.strike("report", why="wrong prices")
    queue.pause(queue="etl", why="migration")
    assert {(d.told, d.why) for d in queue.snapshot().decisions} == {
        ("struck: report", "wrong prices"), ("paused: queue etl", "migration")
    }  # fmt: skip
    queue.restore("report", why="mended")
    assert [(e.verb, e.subject, e.why) for e in queue.audit()] == [
        ("restore", "report", "mended"), ("pause", "queue etl", "migration"), ("strike", "report", "wrong prices")
    ]  # fmt: skip
