"""What an enqueue does about a job that is there already, told by its outcome; and jobs that may come too late."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from penstock import DuplicateJobError, JobQueue, UniquePolicy, task
from penstock.core.exceptions import ConfigError, InvalidJobError, InvalidScheduleError
from penstock.sources.decorators import TASKS


@pytest.fixture
def queue(tmp_path):
    with JobQueue("huey+sqlite:///q.db", ledger="memory://", root=tmp_path) as queue:
        yield queue


@pytest.fixture
def report():
    @task(name="report")
    def report(customer: str, day: str = "today") -> str:
        return customer + day

    yield report
    TASKS.discard("report")


def outcome(handle) -> str:
    return str(handle.outcome)


def test_jobs_with_the_same_arguments_are_alike(queue, report):
    handles = [queue.enqueue(report, customer, unique=True) for customer in ("a", "b", "a")]
    assert [outcome(handle) for handle in handles] == ["created", "created", "kept"]
    assert handles[2].id == handles[0].id


def test_how_an_argument_was_passed_makes_no_difference(queue, report):
    calls = [report.call("a"), report.call(customer="a"), report.call("a", "today"), report.call("a", day="today")]
    assert [outcome(queue.enqueue(call, unique=True)) for call in calls] == ["created", "kept", "kept", "kept"]


def test_only_the_named_arguments_count(queue, report):
    rule = UniquePolicy(by=("customer",))
    handles = [queue.enqueue(report, "a", day, unique=rule) for day in ("mon", "tue")]
    assert [outcome(handle) for handle in handles] == ["created", "kept"]


def test_a_rule_may_stand_at_the_task(queue):
    @task(name="once", unique={"by": "customer"})
    def once(customer: str, n: int) -> None: ...

    try:
        assert [outcome(queue.enqueue(once, "a", n)) for n in (1, 2)] == ["created", "kept"]
    finally:
        TASKS.discard("once")


def test_pipelines_are_alike_by_their_inputs(queue, tmp_path):
    (tmp_path / "nothing.py").write_text("def x(region: str) -> str:\n    return region\n")

    def call(region, day):
        return queue.pipeline("sales", modules=["nothing"], inputs={"region": region, "day": day}, final_vars=["x"])

    rule = UniquePolicy(by=("region",))
    calls = [call("eu", 1), call("eu", 2), call("us", 1)]
    assert [outcome(queue.enqueue(c, unique=rule)) for c in calls] == ["created", "kept", "created"]


def test_commands_are_alike_by_all_that_they_are(queue):
    calls = [queue.command(["echo", text]) for text in ("a", "a", "b")]
    assert [outcome(queue.enqueue(call, unique=True)) for call in calls] == ["created", "kept", "created"]


def test_replace_puts_a_job_in_the_place_of_another(queue, report):
    old = queue.enqueue(report, "a", key="k")
    new = queue.replace(report, "b", key="k")
    assert (outcome(new), old.state, new.state) == ("replaced", "cancelled", "queued")


def test_replace_without_one_there_makes_one(queue, report):
    assert outcome(queue.replace(report, "b", key="k")) == "created"


def test_what_is_replaced_needs_a_key(queue, report):
    with pytest.raises(InvalidJobError, match="needs a key"):
        queue.replace(report, "b")
    assert queue.counts() == {}


def test_a_conflict_may_be_an_error_that_names_the_job(queue, report):
    there = queue.enqueue(report, "a", key="k")
    with pytest.raises(DuplicateJobError, match=there.id):
        queue.enqueue(report, "b", key="k", on_conflict="raise")


def test_each_of_many_has_an_outcome_of_its_own(queue, report):
    queue.enqueue(report, "a", key="k")
    calls = [
        report.options(key="new").call("x"),
        report.options(key="k").call("x"),
        report.options(key="k", on_conflict="replace").call("x"),
    ]
    assert [outcome(handle) for handle in queue.enqueue_many(calls)] == ["created", "kept", "replaced"]


@pytest.mark.parametrize(
    ("rule", "told"),
    [
        ({"by": ("nobody",)}, "no argument 'nobody'"),
        ({"states": ("scheduled",)}, "is not a stored state"),
        ({"period": "soon"}, "soon"),
        ({"period": 0}, "positive"),
        ({"key": ""}, "not a key"),
        ({"key": "k", "by": ("customer",)}, "choose one"),
        ({"on_conflict": "fight"}, "fight"),
        ({"until": 3}, "no part of the rule"),
        (3, "is not a rule"),
    ],
)
def test_a_rule_that_means_nothing_is_refused_before_anything_is_stored(queue, report, rule, told):
    with pytest.raises(InvalidJobError, match=told):
        queue.enqueue(report, "a", unique=rule)
    assert queue.counts() == {}


def test_a_retry_of_a_job_that_was_the_only_one_is_a_job(queue, report):
    first = queue.enqueue(report, "a", unique=True, expires="1h")
    first.cancel()
    again = first.retry()
    assert (outcome(again), again.job.expires_at) == ("created", None)


def test_a_job_that_comes_too_late_fails_and_says_so(queue, report):
    job = queue.enqueue(report, "a", expires=0.001)
    assert _expired(queue, job)
    assert (job.state, job.job.reason, job.job.error.type) == ("failed", "expired", "Expired")


def _expired(queue, job) -> bool:
    while queue.now() <= job.job.expires_at:
        pass
    return queue.sweeper.expire() == 1


def test_an_expiry_may_be_an_instant(queue, report):
    until = datetime.now(UTC) + timedelta(hours=1)
    assert queue.enqueue(report, "a", expires=until).job.expires_at == until


@pytest.mark.parametrize("expires", [0, -5, "later", datetime(2026, 1, 1), []])  # noqa: DTZ001 - has no zone
def test_an_expiry_that_means_nothing_is_refused(queue, report, expires):
    with pytest.raises(InvalidJobError, match="expires"):
        queue.enqueue(report, "a", expires=expires)


def test_who_waits_for_an_expired_job_is_told_why(queue, report):
    job = queue.enqueue(report, "a", expires=0.001)
    _expired(queue, job)
    with pytest.raises(Exception, match="to begin by"):
        job.result(1)


def test_a_schedule_has_no_rule_of_uniqueness(queue, report):
    with pytest.raises(InvalidScheduleError, match="overlap"):
        queue.schedule(report, every="1h", inputs={"customer": "a"}, unique=True)


def test_the_jobs_of_a_schedule_do_not_expire_at_one_instant(queue, report):
    with pytest.raises(InvalidScheduleError, match=r"^expires takes a duration here"):
        queue.schedule(report, every="1h", inputs={"customer": "a"}, expires="2026-12-01T00:00Z")
    made = queue.schedule(report, every="1h", inputs={"customer": "a"})
    with pytest.raises(InvalidScheduleError, match=r"^expires takes a duration here"):
        queue.schedules.update(made.name, expires="2026-12-01T00:00Z")


def test_an_expiry_that_is_no_time_is_told_what_one_is(queue, report):
    with pytest.raises(InvalidJobError, match="expires: 'soon' is not an ISO 8601 time; write '1h' for an hour"):
        queue.enqueue(report, "a", expires="soon")


def test_the_jobs_of_a_schedule_may_expire(queue, report):
    made = queue.schedule(report, every="1h", inputs={"customer": "a"}, expires="10m")
    assert made.plan.template.expires_s == 600


@pytest.mark.parametrize("limits", [{"k": 0}, {"": 1}, {"k": "1"}, ["k"], {"k": True}])
def test_a_limit_that_means_nothing_is_refused(queue, report, limits):
    with pytest.raises(InvalidJobError, match="limits"):
        queue.enqueue(report, "a", limits=limits)


def test_a_key_belongs_to_one_job():
    with pytest.raises(ConfigError, match="on_conflict"):
        task(name="never", on_conflict="keep")(lambda: None)
