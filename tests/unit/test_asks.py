"""A body says how its attempt ends: in the worker, in a child process, on a loop."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asking_bodies as bodies
import pytest

from penstock import Discard, JobFailedError, JobQueue, RetryLater, Snooze
from penstock.body import Ended
from penstock.endings import ending
from penstock.job.lifecycle import Event

WAYS = ["inline", "process", "async"]


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        yield queue


@pytest.fixture(params=WAYS)
def way(request) -> str:
    return request.param


def body(name: str, way: str):
    task = getattr(bodies, f"{name}_async" if way == "async" else name)
    return task.options(isolation="inline" if way == "async" else way)


def events(job) -> list[str]:
    return [entry.event.value for entry in job.history() if entry.event is not Event.CLAIM][1:]


def test_a_body_that_asks_for_later_is_tried_again_then(queue, way, tmp_path):
    job = queue.enqueue(body("asks_later", way).call(str(tmp_path / "mark"), "1h"))
    assert (job.state, job.job.errors) == ("retrying", 1)
    assert job.job.error.message.endswith("the shop is closed")
    due_s = (job.scheduled_at - queue.now()).total_seconds()
    assert 3500 < due_s <= 3600


def test_asking_for_later_spends_a_try(queue, way, tmp_path):
    job = queue.enqueue(body("asks_later", way).options(max_attempts=1).call(str(tmp_path / "mark")))
    assert job.state == "failed"
    assert job.job.error.message.endswith("no try is left (max_attempts is 1)")


def test_a_snooze_spends_nothing(queue, way, tmp_path):
    job = queue.enqueue(body("snoozes", way).call(str(tmp_path / "mark")))
    assert job.wait(30).state == "succeeded"
    assert (job.job.errors, job.job.crashes, job.job.attempt, job.job.max_attempts) == (0, 0, 4, 1)
    assert events(job) == ["release", "release", "release", "succeed"]


def test_a_snooze_shows_its_reason_while_it_lasts(queue, tmp_path):
    file = tmp_path / "mark"
    job = queue.enqueue(bodies.snoozes, str(file), 1)
    assert (job.state, job.job.note) == ("blocked", "no file yet")
    job.wait(10)
    assert job.job.note is None


def test_a_discarded_job_fails_at_once(queue, way):
    job = queue.enqueue(body("discards", way).call())
    assert (job.state, job.job.reason, job.job.attempt) == ("failed", "error", 1)
    with pytest.raises(JobFailedError, match="Discard: the order is gone"):
        job.result()


def test_asks_have_a_base_by_which_a_body_lets_them_through(queue):
    assert queue.enqueue(bodies.lets_asks_through).refresh().error.type == "Discard"


def test_no_rule_keeps_an_ask_from_being_heard(queue, tmp_path):
    asking = bodies.asks_later.options(retry_on=[OSError])
    assert queue.enqueue(asking.call(str(tmp_path / "mark"))).wait(10).state == "succeeded"


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_each_class_of_errors_has_its_own_count(queue, isolation):
    rules = {bodies.FlakyError: {"max_attempts": 3, "backoff": "10ms"}, ConnectionError: 2, ValueError: None}
    flaky = bodies.flaky.options(retry_on=rules, isolation=isolation)
    job = queue.enqueue(flaky.call(["flaky", "connection", "flaky", "value", "flaky"]))
    assert job.wait(30).state == "failed"
    assert (job.job.attempt, job.job.error.type) == (5, "FlakyError")


def test_a_count_of_its_own_may_be_more_than_that_of_the_job(queue):
    flaky = bodies.flaky.options(retry_on={bodies.FlakyError: 5}, max_attempts=1)
    assert queue.enqueue(flaky.call(["flaky"] * 4 + [""])).result(10) == 5


def test_a_rule_s_errors_do_not_spend_the_job_s_own_tries(queue):
    flaky = bodies.flaky.options(retry_on={bodies.FlakyError: 5, Exception: None}, max_attempts=2)
    assert queue.enqueue(flaky.call(["flaky", "flaky", "value", "flaky", ""])).result(10) == 5
    job = queue.enqueue(flaky.call(["flaky", "value", "flaky", "value", ""]))
    assert (job.wait(10).state, job.job.attempt) == ("failed", 4)


def test_a_timeout_is_an_error_that_rules_know(queue):
    job = queue.enqueue(bodies.flaky.options(delay="1h", discard_on=[TimeoutError], timeout=5).call([])).job
    assert ending(job, Ended(how="timeout"), None).event is Event.FAIL


@pytest.mark.parametrize("ask", [RetryLater("5m", "why"), Snooze(timedelta(seconds=3)), Discard("gone")])
def test_an_ask_passes_through_a_pool_of_processes(ask):
    again = pickle.loads(pickle.dumps(ask))
    assert (type(again), again.args, str(again)) == (type(ask), ask.args, str(ask))


def test_an_ask_may_name_the_time_itself():
    assert 3590 < Snooze(datetime.now(UTC) + timedelta(hours=1)).wait_s <= 3600
    assert RetryLater(datetime.now(UTC) - timedelta(hours=1)).wait_s == 0


@pytest.mark.parametrize("delay", ["soon", -1, datetime(2030, 1, 1)])  # noqa: DTZ001 - that is the point
def test_an_ask_refuses_what_is_no_time(delay):
    with pytest.raises(ValueError, match=r"is not a duration|is negative|has no time zone"):
        RetryLater(delay)


def test_jobs_without_rules_never_read_their_history(queue, monkeypatch):
    asked: list[str] = []
    monkeypatch.setattr(queue.ledger, "history", lambda job_id: asked.append(job_id) or [])
    job = queue.enqueue(bodies.flaky, ["value", "value", ""])
    assert (job.wait(10).state, asked) == ("succeeded", [])
