"""What every ledger promises: one module, run over each of them, with a clock of its own."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from itertools import count

import pytest
from msgspec.structs import asdict, replace

from penstock.core.base import Patience
from penstock.core.exceptions import ConfigError, JobNotFoundError, LedgerError
from penstock.job import lifecycle
from penstock.job.lifecycle import Event, Reason, State
from penstock.job.models import (
    ErrorInfo,
    Intent,
    JobQuery,
    LogLine,
    NodeRun,
    Outcome,
    Progress,
    RetryPolicy,
    WorkerInfo,
)
from penstock.ledger import open_ledger

GRACE_S = 30.0
LEASE_S = 60.0
ERROR = ErrorInfo("ValueError", "no", "Traceback ...", ("Exception",), "load")
numbers = count(1)


class Clock:
    def __init__(self):
        self.now = 1_700_000_000.0

    def __call__(self):
        return self.now

    def at(self, seconds=0.0):
        return datetime.fromtimestamp(self.now + seconds, UTC)


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture(params=["memory", "sqlite", "redis", "postgres"])
def ledger(request, tmp_path, clock):
    urls = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/ledger.db"}
    url = urls.get(request.param) or request.getfixturevalue(f"{request.param}_url")
    ledger = open_ledger(url, namespace=f"t{uuid.uuid4().hex[:12]}", clock=clock)
    yield ledger
    ledger.close()


def intent(**fields):
    return Intent(**{"id": f"job-{next(numbers):05}", "kind": "task", "name": "t", "spec": b"{}", **fields})


def add(ledger, **fields):
    return ledger.insert([intent(**fields)], grace_s=GRACE_S)[0].job


def start(ledger, job=None, **fields):
    job = job or add(ledger, **fields)
    return ledger.apply(lifecycle.claim(job.id, owner="w1", lease_s=LEASE_S)).job


def finish(ledger, **fields):
    job = start(ledger, **fields)
    ledger.apply(lifecycle.succeed(job.id, attempt=1))
    return ledger.get(job.id)


def ids(jobs):
    return [job.id for job in jobs]


# -- T1 -----------------------------------------------------------------------------------------------------


def test_a_job_comes_back_as_it_was_submitted(ledger):
    wanted = intent(
        spec=b'{"args": ["\xc3\xa9", 1]}', kind="of_the_future", queue="etl", priority=9, isolation="process",
        timeout_s=1.5, max_attempts=4, max_crashes=2, backoff=RetryPolicy(base_s=1, retry_on=("KeyError",)), key="k",
        tick_key="s@1", parent_id="p", tags=("a", "b'c"), metadata={"by": "Ada \U0001f600"},
    )  # fmt: skip
    ledger.insert([wanted], grace_s=GRACE_S)
    job = ledger.get(wanted.id)
    kept = asdict(job)
    assert {name: value for name, value in asdict(wanted).items() if name in kept}.items() <= kept.items()


def test_the_answer_to_a_submit_is_the_row(ledger, clock):
    submission = ledger.insert([intent(delay_s=1 / 3)], grace_s=GRACE_S)[0]
    assert ledger.get(submission.job.id) == submission.job


def test_a_job_that_is_due_counts_as_published_once(ledger, clock):
    job = add(ledger)
    assert (job.publishes, job.published_at, job.publish_due_at) == (1, clock.at(), clock.at(GRACE_S))


@pytest.mark.parametrize("when", [{"delay_s": 90.0}, {"at": 90.0}])
def test_a_job_for_later_is_published_when_its_time_comes(ledger, clock, when):
    job = add(ledger, **({"at": clock.at(90)} if "at" in when else when))
    assert (job.publishes, job.published_at, job.publish_due_at, job.scheduled_at) == (
        0, None, clock.at(90), clock.at(90)
    )  # fmt: skip


@pytest.mark.parametrize("when", [{"delay_s": -5.0}, {"at": -5.0}])
def test_a_time_that_has_passed_counts_as_now(ledger, clock, when):
    job = add(ledger, **({"at": clock.at(-5)} if "at" in when else when))
    assert (job.scheduled_at, job.publishes) == (clock.at(), 1)


def test_a_delay_beyond_the_calendar_ends_with_it(ledger):
    job = add(ledger, delay_s=1e12)
    assert ledger.get(job.id).scheduled_at.year == 9999


@pytest.mark.parametrize("shared", [{"id": "same"}, {"key": "k"}, {"tick_key": "s@1"}])
def test_a_job_that_stands_in_the_way_is_kept(ledger, shared):
    first = add(ledger, **shared)
    (second,) = ledger.insert([intent(**shared, queue="other")], grace_s=GRACE_S)
    assert (second.outcome, second.job, len(ledger.find(JobQuery()))) == (Outcome.KEPT, first, 1)


@pytest.mark.parametrize("shared", [{"id": "same"}, {"key": "k"}, {"tick_key": "s@1"}])
def test_of_two_in_one_batch_the_first_is_created(ledger, shared):
    first, second = ledger.insert([intent(**shared), intent(**shared)], grace_s=GRACE_S)
    assert (first.outcome, second.outcome, second.job) == (Outcome.CREATED, Outcome.KEPT, first.job)


def test_a_key_is_free_again_when_its_job_is_over(ledger):
    finish(ledger, key="k")
    assert ledger.insert([intent(key="k")], grace_s=GRACE_S)[0].outcome is Outcome.CREATED


@pytest.mark.parametrize("shared", [{"id": "same"}, {"tick_key": "s@1"}])
def test_an_id_and_a_tick_are_never_free_again(ledger, shared):
    finish(ledger, **shared)
    assert ledger.insert([intent(**shared)], grace_s=GRACE_S)[0].outcome is Outcome.KEPT


def test_a_submit_of_nothing_answers_nothing(ledger):
    assert ledger.insert([], grace_s=GRACE_S) == []


# -- T2 -----------------------------------------------------------------------------------------------------


def test_a_claim_gives_the_attempt_its_owner_and_lease(ledger, clock):
    job = add(ledger)
    clock.now += 5
    applied = ledger.apply(lifecycle.claim(job.id, owner="w1", lease_s=LEASE_S))
    row = applied.job
    assert (row.state, row.attempt, row.owner, row.started_at, row.lease_until) == (
        State.RUNNING, 1, "w1", clock.at(), clock.at(LEASE_S)
    )  # fmt: skip
    assert row == ledger.get(job.id)


def test_a_job_is_claimed_once(ledger):
    job = start(ledger)
    assert ledger.apply(lifecycle.claim(job.id, owner="w2", lease_s=LEASE_S)) is None


def test_a_job_is_not_claimed_before_its_time(ledger, clock):
    job = add(ledger, delay_s=10)
    clock.now += 9.75
    assert ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)) is None
    clock.now += 0.25
    assert ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)) is not None


def test_a_cancelled_job_is_never_claimed(ledger):
    job = add(ledger)
    ledger.apply(lifecycle.cancel(job.id))
    assert ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S)) is None


def test_an_unknown_job_is_not_claimed(ledger):
    assert ledger.apply(lifecycle.claim("nobody", owner="w", lease_s=LEASE_S)) is None


def test_a_claim_clears_what_the_last_attempt_reported(ledger):
    job = start(ledger)
    ledger.report([Progress(job_id=job.id, attempt=1, progress=0.5, message="half", nodes_done=1, nodes_total=2)])
    ledger.apply(lifecycle.release(job.id, attempt=1, note="shutdown"))
    again = start(ledger, ledger.get(job.id))
    assert (again.progress, again.message, again.nodes_done, again.nodes_total, again.note) == (None,) * 5


# -- T3 -----------------------------------------------------------------------------------------------------


def test_a_beat_renews_the_lease(ledger, clock):
    job = start(ledger)
    clock.now += 15
    ledger.apply(lifecycle.beat(job.id, attempt=1, lease_s=LEASE_S))
    assert ledger.get(job.id).lease_until == clock.at(LEASE_S)


def test_a_beat_is_answered_with_a_request_to_cancel(ledger):
    job = start(ledger)
    assert ledger.apply(lifecycle.beat(job.id, attempt=1, lease_s=LEASE_S)).cancel_requested is False
    ledger.apply(lifecycle.request_cancel(job.id))
    assert ledger.apply(lifecycle.beat(job.id, attempt=1, lease_s=LEASE_S)).cancel_requested is True


# -- T3 to T6 and T11: only the owner -------------------------------------------------------------------------


def owners_steps(row):
    return {
        "beat": lifecycle.beat(row.id, attempt=row.attempt, lease_s=LEASE_S),
        "succeed": lifecycle.succeed(row.id, attempt=row.attempt),
        "retry": lifecycle.fail(row, error=ERROR),
        "fail": lifecycle.fail(row, error=ERROR, retryable=False),
        "release": lifecycle.release(row.id, attempt=row.attempt),
        "stop": lifecycle.stop(row.id, attempt=row.attempt),
        "crash": lifecycle.rescue(row, by_parent=True),
    }


OWNERS = ["beat", "succeed", "retry", "fail", "release", "stop", "crash"]


@pytest.mark.parametrize("step", OWNERS)
def test_an_attempt_that_was_given_up_writes_nothing(ledger, step):
    stale = start(ledger, max_attempts=3)
    ledger.apply(lifecycle.release(stale.id, attempt=1))
    current = start(ledger, ledger.get(stale.id))
    ledger.apply(lifecycle.request_cancel(current.id))
    before = ledger.get(current.id)
    assert ledger.apply(owners_steps(stale)[step]) is None
    assert ledger.get(current.id) == before


@pytest.mark.parametrize("step", [*OWNERS, "rescue", "claim", "cancel", "request_cancel", "publish"])
@pytest.mark.parametrize("final", ["succeed", "fail", "stop"])
def test_a_final_state_never_changes(ledger, clock, final, step):
    row = start(ledger)
    ledger.apply(lifecycle.request_cancel(row.id))
    ledger.apply(owners_steps(row)[final])
    clock.now += 1000
    before, told = ledger.get(row.id), ledger.history(row.id)
    steps = {
        **owners_steps(row),
        "rescue": lifecycle.rescue(row),
        "claim": lifecycle.claim(row.id, owner="w2", lease_s=LEASE_S),
        "cancel": lifecycle.cancel(row.id),
        "request_cancel": lifecycle.request_cancel(row.id),
        "publish": lifecycle.publish(row, grace_s=30, max_grace_s=600),
    }
    assert before.state.final
    assert ledger.apply(steps[step]) is None
    assert (ledger.get(row.id), ledger.history(row.id)) == (before, told)


def test_a_job_that_succeeded_keeps_its_result_and_end(ledger, clock):
    job = start(ledger)
    clock.now += 2
    ledger.apply(lifecycle.succeed(job.id, attempt=1, result=b"\x00\xffdata"))
    row = ledger.get(job.id)
    assert (row.state, row.result, row.finished_at) == (State.SUCCEEDED, b"\x00\xffdata", clock.at())


def test_a_job_that_succeeds_after_an_error_has_no_reason_to_have_failed(ledger, clock):
    job = start(ledger, max_attempts=2, backoff=RetryPolicy(base_s=0))
    ledger.apply(lifecycle.fail(job, error=ERROR))
    start(ledger, ledger.get(job.id))
    ledger.apply(lifecycle.succeed(job.id, attempt=2))
    assert (ledger.get(job.id).state, ledger.get(job.id).reason) == (State.SUCCEEDED, None)


def test_a_failed_try_waits_for_its_backoff(ledger, clock):
    job = start(ledger, max_attempts=2, backoff=RetryPolicy(base_s=10, jitter=0))
    ledger.apply(lifecycle.fail(job, error=ERROR))
    row = ledger.get(job.id)
    assert (row.state, row.errors, row.error, row.scheduled_at, row.publish_due_at, row.published_at) == (
        State.QUEUED, 1, ERROR, clock.at(10), clock.at(10), None
    )  # fmt: skip


def test_a_job_fails_with_its_error_and_reason(ledger, clock):
    job = start(ledger)
    ledger.apply(lifecycle.fail(job, error=ERROR, reason=Reason.TIMEOUT))
    row = ledger.get(job.id)
    assert (row.state, row.reason, row.error, row.finished_at, row.errors) == (
        State.FAILED, "timeout", ERROR, clock.at(), 1
    )  # fmt: skip


def test_a_job_that_is_handed_back_spends_no_budget(ledger, clock):
    job = start(ledger)
    ledger.apply(lifecycle.release(job.id, attempt=1, delay_s=5, note="no worker knows it"))
    row = ledger.get(job.id)
    assert (row.state, row.errors, row.crashes, row.attempt, row.scheduled_at, row.note) == (
        State.QUEUED, 0, 0, 1, clock.at(5), "no worker knows it"
    )  # fmt: skip


@pytest.mark.parametrize("step", ["retry", "fail", "release", "crash", "stop"])
def test_a_cancel_that_was_asked_for_wins_over_all_but_success(ledger, clock, step):
    job = start(ledger, max_attempts=3)
    ledger.apply(lifecycle.request_cancel(job.id))
    applied = ledger.apply(owners_steps(job)[step])
    row = ledger.get(job.id)
    assert (applied.state, row.state, row.finished_at, row.reason) == (
        State.CANCELLED, State.CANCELLED, clock.at(), None
    )  # fmt: skip


def test_a_body_that_finished_first_has_succeeded(ledger):
    job = start(ledger)
    ledger.apply(lifecycle.request_cancel(job.id))
    assert ledger.apply(lifecycle.succeed(job.id, attempt=1)).state is State.SUCCEEDED


def test_a_running_job_is_stopped_only_if_that_was_asked(ledger):
    job = start(ledger)
    assert ledger.apply(lifecycle.stop(job.id, attempt=1)) is None


# -- T7 -----------------------------------------------------------------------------------------------------


def test_a_job_is_rescued_only_when_its_lease_is_over(ledger, clock):
    job = start(ledger)
    clock.now += LEASE_S
    assert ledger.apply(lifecycle.rescue(job)) is None
    clock.now += 0.25
    assert ledger.apply(lifecycle.rescue(job)).state is State.QUEUED


def test_a_sweeper_that_saw_an_older_attempt_rescues_nothing(ledger, clock):
    seen = start(ledger)
    ledger.apply(lifecycle.release(seen.id, attempt=1))
    start(ledger, ledger.get(seen.id))
    clock.now += LEASE_S + 1
    assert ledger.apply(lifecycle.rescue(seen)) is None


def test_a_rescued_job_is_due_at_once_and_has_spent_a_crash(ledger, clock):
    job = start(ledger)
    clock.now += LEASE_S + 1
    ledger.apply(lifecycle.rescue(job, error=ERROR))
    row = ledger.get(job.id)
    assert (row.crashes, row.errors, row.error, row.scheduled_at, row.publish_due_at, row.published_at) == (
        1, 0, ERROR, clock.at(), clock.at(), None
    )  # fmt: skip


def test_the_last_crash_fails_the_job_as_a_crash_loop(ledger):
    job = start(ledger, max_crashes=1)
    ledger.apply(lifecycle.rescue(job, by_parent=True))
    assert (ledger.get(job.id).state, ledger.get(job.id).reason) == (State.FAILED, "crash_loop")


def test_the_parent_of_a_dead_child_does_not_wait_for_the_lease(ledger):
    assert ledger.apply(lifecycle.rescue(start(ledger), by_parent=True)).state is State.QUEUED


# -- T8 to T10 ------------------------------------------------------------------------------------------------


def test_of_two_sweepers_that_saw_the_same_one_publishes(ledger, clock):
    seen = add(ledger)
    again = lifecycle.publish(seen, grace_s=GRACE_S, max_grace_s=600)
    row = ledger.apply(again).job
    assert (row.publishes, row.published_at, row.publish_due_at) == (2, clock.at(), clock.at(60))
    assert ledger.apply(again) is None


def test_a_job_for_later_is_not_published(ledger):
    job = add(ledger, delay_s=10)
    assert ledger.apply(lifecycle.publish(job, grace_s=GRACE_S, max_grace_s=600)) is None


def test_a_running_job_is_not_published(ledger):
    job = start(ledger)
    assert ledger.apply(lifecycle.publish(job, grace_s=GRACE_S, max_grace_s=600)) is None


def test_a_queued_job_is_cancelled_at_once(ledger, clock):
    job = add(ledger)
    assert ledger.apply(lifecycle.cancel(job.id)).state is State.CANCELLED
    assert ledger.get(job.id).finished_at == clock.at()


def test_a_running_job_is_not_cancelled_behind_its_owners_back(ledger):
    job = start(ledger)
    assert ledger.apply(lifecycle.cancel(job.id)) is None


def test_a_queued_job_is_not_asked_to_stop(ledger):
    assert ledger.apply(lifecycle.request_cancel(add(ledger).id)) is None


def test_the_first_request_to_cancel_counts(ledger, clock):
    job = start(ledger)
    ledger.apply(lifecycle.request_cancel(job.id))
    asked_at = clock.at()
    clock.now += 5
    ledger.apply(lifecycle.request_cancel(job.id))
    assert ledger.get(job.id).cancel_requested_at == asked_at


def test_an_owner_is_told_which_of_its_jobs_to_cancel(ledger):
    mine, _, _ = start(ledger), start(ledger), add(ledger)
    ledger.apply(lifecycle.request_cancel(mine.id))
    assert ledger.cancel_requests("w1") == [(mine.id, 1)]
    assert ledger.cancel_requests("w2") == []


# -- T12 -----------------------------------------------------------------------------------------------------


def test_a_purge_takes_what_is_old_and_all_that_belongs_to_it(ledger, clock):
    old = finish(ledger)
    line = LogLine(job_id=old.id, attempt=1, at=clock.at(), level="INFO", source="x", text="y")
    ledger.report([line, NodeRun(job_id=old.id, attempt=1, name="n", state="succeeded")])
    clock.now += 100
    young = finish(ledger)
    clock.now += 50
    assert ledger.purge(State.SUCCEEDED, older_than_s=100, limit=10) == [old.id]
    assert ids(ledger.find(JobQuery())) == [young.id]
    assert (ledger.history(old.id), ledger.logs(old.id), ledger.nodes(old.id)) == ([], [], [])


def test_a_purge_leaves_other_states_alone(ledger, clock):
    finish(ledger), add(ledger), start(ledger)
    clock.now += 1000
    for state in (State.FAILED, State.CANCELLED, State.QUEUED, State.RUNNING):
        assert ledger.purge(state, older_than_s=0, limit=10) == []


def test_a_purge_takes_the_oldest_up_to_its_limit(ledger, clock):
    jobs = []
    for _ in range(4):
        jobs.append(finish(ledger))
        clock.now += 1
    assert sorted(ledger.purge(State.SUCCEEDED, older_than_s=0, limit=3)) == ids(jobs[:3])


def test_a_tick_is_free_again_when_its_job_is_purged(ledger, clock):
    finish(ledger, tick_key="s@1", key="k")
    clock.now += 1
    ledger.purge(State.SUCCEEDED, older_than_s=0, limit=1)
    assert ledger.insert([intent(tick_key="s@1")], grace_s=GRACE_S)[0].outcome is Outcome.CREATED


# -- several at once ------------------------------------------------------------------------------------------


def test_of_several_transitions_each_is_answered_by_itself(ledger):
    one, other = add(ledger), add(ledger)
    answers = ledger.apply_many([
        lifecycle.claim(one.id, owner="w", lease_s=LEASE_S),
        lifecycle.claim(one.id, owner="v", lease_s=LEASE_S),
        lifecycle.cancel("nobody"),
        lifecycle.cancel(other.id),
        lifecycle.succeed(one.id, attempt=1),
    ])  # fmt: skip
    assert [a and a.state for a in answers] == [State.RUNNING, None, None, State.CANCELLED, State.SUCCEEDED]


def test_a_settlement_whose_reply_was_lost_finds_its_own_mark(ledger):
    job = start(ledger)
    settle = lifecycle.succeed(job.id, attempt=job.attempt, result=b"1")
    ledger.apply(settle)
    assert ledger.apply(settle) is None
    row = ledger.get(job.id)
    assert (row.state, row.attempt, row.owner) == (State.SUCCEEDED, job.attempt, "w1")


# -- history --------------------------------------------------------------------------------------------------


def test_the_history_tells_every_change_of_state(ledger, clock):
    job = start(ledger, max_attempts=2, backoff=RetryPolicy(base_s=0))
    ledger.apply(lifecycle.beat(job.id, attempt=1, lease_s=LEASE_S))
    ledger.apply(lifecycle.fail(job, error=ERROR, reason=Reason.TIMEOUT))
    ledger.apply(lifecycle.publish(ledger.get(job.id), grace_s=GRACE_S, max_grace_s=600))
    start(ledger, ledger.get(job.id))
    ledger.apply(lifecycle.request_cancel(job.id))
    ledger.apply(lifecycle.succeed(job.id, attempt=2))
    told = [(e.event, e.start, e.to, e.attempt, e.worker, e.reason, e.error) for e in ledger.history(job.id)]
    assert told == [
        (Event.ENQUEUE, None, State.QUEUED, 0, None, None, None),
        (Event.CLAIM, State.QUEUED, State.RUNNING, 1, "w1", None, None),
        (Event.RETRY, State.RUNNING, State.QUEUED, 1, "w1", "timeout", ERROR),
        (Event.CLAIM, State.QUEUED, State.RUNNING, 2, "w1", None, None),
        (Event.REQUEST_CANCEL, State.RUNNING, State.RUNNING, 2, "w1", None, None),
        (Event.SUCCEED, State.RUNNING, State.SUCCEEDED, 2, "w1", None, None),
    ]


def test_an_old_error_is_not_told_again_of_a_later_crash(ledger):
    job = start(ledger, max_attempts=2, backoff=RetryPolicy(base_s=0))
    ledger.apply(lifecycle.fail(job, error=ERROR))
    again = start(ledger, ledger.get(job.id))
    ledger.apply(lifecycle.rescue(again, by_parent=True))
    assert ledger.get(job.id).error == ERROR
    assert ledger.history(job.id)[-1].error is None


def test_attempts_are_told_with_their_outcome(ledger):
    job = start(ledger, max_attempts=3, backoff=RetryPolicy(base_s=0))
    ledger.apply(lifecycle.fail(job, error=ERROR, reason=Reason.TIMEOUT))
    again = start(ledger, ledger.get(job.id))
    ledger.apply(lifecycle.request_cancel(job.id))
    ledger.apply(lifecycle.fail(again, error=ERROR, reason=Reason.TIMEOUT))
    assert [(a.number, a.outcome, a.worker) for a in ledger.attempts(job.id)] == [
        (1, "timeout", "w1"), (2, "timeout", "w1")
    ]  # fmt: skip


def test_an_unknown_job_has_no_history(ledger):
    assert (ledger.history("nobody"), ledger.attempts("nobody")) == ([], [])


# -- reading --------------------------------------------------------------------------------------------------


def test_an_unknown_job_is_not_found(ledger):
    with pytest.raises(JobNotFoundError, match="nobody"):
        ledger.get("nobody")


def one_of_each(ledger, clock):
    made = {}
    made["overdue"] = start(ledger)
    clock.now += LEASE_S + 1
    made["cancelling"] = start(ledger)
    ledger.apply(lifecycle.request_cancel(made["cancelling"].id))
    made["running"] = start(ledger)
    made["queued"] = add(ledger)
    made["scheduled"] = add(ledger, delay_s=10)
    made["retrying"] = start(ledger, max_attempts=2)
    ledger.apply(lifecycle.fail(made["retrying"], error=ERROR, rand=lambda: 1.0))
    made["blocked"] = start(ledger)
    ledger.apply(lifecycle.release(made["blocked"].id, attempt=1, note="no worker knows it"))
    made["succeeded"] = finish(ledger)
    made["failed"] = start(ledger)
    ledger.apply(lifecycle.fail(made["failed"], error=ERROR))
    made["cancelled"] = add(ledger)
    ledger.apply(lifecycle.cancel(made["cancelled"].id))
    return made


@pytest.mark.parametrize("state", lifecycle.SHOWN_STATES)
def test_jobs_are_listed_by_the_state_that_is_shown(ledger, clock, state):
    made = one_of_each(ledger, clock)
    assert ids(ledger.find(JobQuery(states=(state,)))) == [made[state].id]


def test_jobs_of_several_states_are_listed_newest_first(ledger, clock):
    made = one_of_each(ledger, clock)
    wanted = sorted((made[state].id for state in ("failed", "queued", "overdue")), reverse=True)
    assert ids(ledger.find(JobQuery(states=("failed", "queued", "overdue", "queued")))) == wanted


def test_jobs_are_counted_by_the_state_that_is_shown(ledger, clock):
    one_of_each(ledger, clock)
    assert ledger.counts() == dict.fromkeys(lifecycle.SHOWN_STATES, 1)


def test_states_without_jobs_are_not_counted(ledger):
    assert ledger.counts() == {}


def test_all_jobs_are_tallied_by_queue_name_and_shown_state(ledger, clock):
    one_of_each(ledger, clock)
    add(ledger, queue="etl"), add(ledger, queue="etl", name="u"), add(ledger, queue="etl", name="u")
    tallied = {(t.queue, t.name, t.state): t.count for t in ledger.tally()}
    usual = {("default", "t", state): 1 for state in lifecycle.SHOWN_STATES}
    assert tallied == usual | {("etl", "t", "queued"): 1, ("etl", "u", "queued"): 2}
    live = {(t.queue, t.name, t.state): t.count for t in ledger.tally(live=True)}
    assert live == {key: count for key, count in tallied.items() if key[2] not in lifecycle.FINAL}


def test_a_tally_tells_since_when_the_first_waits_or_runs(ledger, clock):
    add(ledger, queue="wait"), start(ledger, queue="run"), add(ledger, queue="later", delay_s=90)
    add(ledger, queue="later", delay_s=60), finish(ledger, queue="done")
    first = clock.at()
    clock.now += 5
    add(ledger, queue="wait"), start(ledger, queue="run")
    told = {t.queue: t.first_at for t in ledger.tally()}
    assert told == {"wait": first, "run": first, "later": clock.at(55), "done": None}


def test_a_tally_counts_more_jobs_than_one_page_holds(ledger):
    ledger.insert([intent() for _ in range(2_345)], grace_s=GRACE_S)
    assert [t.count for t in ledger.tally()] == [2_345]


def test_an_empty_ledger_has_nothing_to_tally(ledger):
    assert (ledger.tally(), ledger.upcoming(5)) == ([], [])


def test_what_comes_next_is_listed_in_the_order_of_its_time(ledger, clock):
    made = one_of_each(ledger, clock)  # its retry is due in 10 s, and so is what it scheduled
    later, sooner = add(ledger, delay_s=90, queue="etl"), add(ledger, delay_s=1, queue="etl")
    both = sorted((made["scheduled"].id, made["retrying"].id))
    assert ids(ledger.upcoming(10)) == [sooner.id, *both, later.id]
    assert ids(ledger.upcoming(1)) == [sooner.id]


def test_a_word_that_is_no_state_is_refused(ledger):
    with pytest.raises(ValueError, match="Did you mean 'failed'"):
        ledger.find(JobQuery(states=("faild",)))


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("shop.*", {"shop.sell", "shop.buy"}), ("shop.?uy", {"shop.buy"}), ("shop.sell", {"shop.sell"}), ("shop", set()),
     ("a[b]", {"a[b]"}), ("a[b*", {"a[b]"}), ("*", {"shop.sell", "shop.buy", "a[b]", "ab"}), ("SHOP.*", set())],
)  # fmt: skip
def test_a_name_may_hold_wildcards(ledger, pattern, found):
    for name in ("shop.sell", "shop.buy", "a[b]", "ab"):
        add(ledger, name=name)
    assert {job.name for job in ledger.find(JobQuery(name=pattern))} == found


@pytest.mark.parametrize("field", ["queue", "kind", "key", "parent_id"])
def test_jobs_are_listed_by_a_field(ledger, field):
    wanted = add(ledger, **{field: "wanted"})
    add(ledger, **{field: "other"})
    assert ids(ledger.find(JobQuery(**{field: "wanted"}))) == [wanted.id]


def test_jobs_are_listed_by_a_tag(ledger):
    wanted = add(ledger, tags=("x", 'q"uote'))
    add(ledger, tags=("y",))
    assert ids(ledger.find(JobQuery(tag='q"uote'))) == [wanted.id]


def test_jobs_are_listed_by_the_beginning_of_their_id(ledger):
    add(ledger, id="abc-1"), add(ledger, id="abd-1"), add(ledger, id="abc_2")
    assert ids(ledger.find(JobQuery(id_prefix="abc"))) == ["abc_2", "abc-1"]


def test_jobs_are_listed_by_many_ids_at_once(ledger):
    made = [add(ledger).id for _ in range(5)]
    finish(ledger, id="over")
    wanted = (made[3], made[1], "over", "nobody", 'no"body')
    assert ids(ledger.find(JobQuery(ids=wanted))) == ["over", made[3], made[1]]
    assert ids(ledger.find(JobQuery(ids=wanted, states=("succeeded", "failed")))) == ["over"]
    assert ids(ledger.find(JobQuery(ids=wanted, before=made[2], queue="default"))) == [made[1]]
    assert ledger.find(JobQuery(ids=())) == []


def test_jobs_are_listed_since_an_instant(ledger, clock):
    add(ledger)
    clock.now += 10
    young = add(ledger)
    assert ids(ledger.find(JobQuery(since=clock.at(-5)))) == [young.id]


def test_pages_follow_each_other_without_gap_or_repeat(ledger):
    made = [add(ledger).id for _ in range(7)]
    pages, before = [], None
    while page := ids(ledger.find(JobQuery(limit=3, before=before))):
        pages.append(page)
        before = page[-1]
    assert pages == [made[:3:-1], made[3:0:-1], made[:1]]


def test_the_backlog_is_what_is_due_and_what_runs(ledger):
    add(ledger, queue="a"), add(ledger, queue="b"), add(ledger, queue="a", delay_s=10), start(ledger, queue="a")
    assert (ledger.backlog(), ledger.backlog(["a"]), ledger.backlog(["a", "b"]), ledger.backlog(["c"])) == (
        (2, 1), (1, 1), (2, 1), (0, 0)
    )  # fmt: skip


def test_what_is_to_be_published_comes_longest_due_first(ledger, clock):
    late, early, _ = add(ledger), add(ledger, delay_s=10), add(ledger, delay_s=90)
    assert ledger.publishable(10) == []
    clock.now += GRACE_S
    assert ids(ledger.publishable(10)) == [early.id, late.id]
    assert ids(ledger.publishable(1)) == [early.id]


def test_a_running_job_is_not_to_be_published(ledger, clock):
    start(ledger)
    clock.now += 1000
    assert ledger.publishable(10) == []


def test_running_jobs_whose_lease_is_over_are_listed(ledger, clock):
    job = start(ledger)
    clock.now += LEASE_S
    assert ledger.expired(10) == []
    clock.now += 0.25
    assert ledger.expired(10) == [ledger.get(job.id)]


# -- what belongs to a job --------------------------------------------------------------------------------------


def line(job, text, attempt=1, at=datetime(2026, 11, 21, tzinfo=UTC)):
    return LogLine(job_id=job.id, attempt=attempt, at=at, level="INFO", source="stdout", text=text, node="n")


def test_log_lines_come_back_in_order_with_growing_numbers(ledger):
    job, other = start(ledger), start(ledger)
    ledger.report([line(job, "one"), line(other, "else"), line(job, "two")])
    ledger.report([line(job, "three")])
    lines = ledger.logs(job.id)
    assert [x.text for x in lines] == ["one", "two", "three"]
    assert [replace(x, seq=0) for x in lines] == [line(job, x.text) for x in lines]
    assert [x.seq for x in lines] == sorted({x.seq for x in lines} - {0})


def test_log_lines_can_be_followed(ledger):
    job = start(ledger)
    ledger.report([line(job, str(n)) for n in range(5)])
    first = ledger.logs(job.id, limit=2)
    assert [x.text for x in ledger.logs(job.id, after_seq=first[-1].seq)] == ["2", "3", "4"]


def test_log_lines_are_listed_by_attempt(ledger):
    job = start(ledger)
    ledger.report([line(job, "one"), line(job, "two", attempt=2)])
    assert [x.text for x in ledger.logs(job.id, attempt=2)] == ["two"]


@pytest.mark.parametrize("text", ["", "nul \0 inside", "é \U0001f600", "half \udcff"])
def test_any_text_can_be_logged(ledger, text):
    job = start(ledger)
    ledger.report([line(job, text)])
    assert [x.text for x in ledger.logs(job.id)] == [text.replace("\udcff", "\\udcff")]


def test_an_error_may_hold_any_text(ledger):
    job = start(ledger)
    ledger.apply(lifecycle.fail(job, error=ErrorInfo("E", "half \udcff", "nul \0")))
    assert ledger.get(job.id).error == ErrorInfo("E", "half \\udcff", "nul \0")


def test_news_of_a_purged_job_is_dropped(ledger, clock):
    job = start(ledger)
    ledger.report([line(replace(job, id="gone"), "x"), NodeRun(job_id="gone", attempt=1, name="n", state="running")])
    ledger.report([Progress(job_id="gone", attempt=1, progress=0.5), line(job, "kept")])
    assert ([x.text for x in ledger.logs(job.id)], ledger.logs("gone"), ledger.nodes("gone")) == (["kept"], [], [])


def test_the_newest_news_of_a_node_is_kept(ledger, clock):
    job = start(ledger)

    def node(name, state, **fields):
        return NodeRun(job_id=job.id, attempt=1, name=name, state=state, **fields)

    ledger.report([node("b", "running", started_at=clock.at(1)), node("a", "running", started_at=clock.at(2))])
    ledger.report([node("b", "failed", elapsed_s=0.5, error="no")])
    assert ledger.nodes(job.id) == [
        node("b", "failed", started_at=clock.at(1), elapsed_s=0.5, error="no"),
        node("a", "running", started_at=clock.at(2)),
    ]


def test_nodes_are_those_of_the_newest_attempt_with_any(ledger):
    job = start(ledger)
    ledger.report([NodeRun(job_id=job.id, attempt=n, name=f"n{n}", state="running") for n in (1, 2)])
    assert [n.name for n in ledger.nodes(job.id)] == ["n2"]
    assert [n.name for n in ledger.nodes(job.id, attempt=1)] == ["n1"]


def test_progress_changes_only_what_it_tells(ledger):
    job = start(ledger)
    ledger.report([Progress(job_id=job.id, attempt=1, progress=0.5, nodes_total=4)])
    ledger.report([Progress(job_id=job.id, attempt=1, message="half", nodes_done=2)])
    row = ledger.get(job.id)
    assert (row.progress, row.message, row.nodes_done, row.nodes_total) == (0.5, "half", 2, 4)


def test_progress_of_a_stale_attempt_is_dropped(ledger):
    job = start(ledger)
    ledger.apply(lifecycle.release(job.id, attempt=1))
    start(ledger, ledger.get(job.id))
    ledger.report([Progress(job_id=job.id, attempt=1, progress=0.9)])
    assert ledger.get(job.id).progress is None


def test_progress_makes_no_history(ledger):
    job = start(ledger)
    ledger.report([Progress(job_id=job.id, attempt=1, progress=0.9)])
    assert [e.event for e in ledger.history(job.id)] == [Event.ENQUEUE, Event.CLAIM]


# -- workers and the end ----------------------------------------------------------------------------------------


def worker(clock, name="w1", **fields):
    return WorkerInfo(
        id=name, host="h", pid=1, backend="inline", queues=("a", "b"), concurrency=2, started_at=clock.at(),
        seen_at=clock.at(-500), **fields,
    )  # fmt: skip


def test_a_worker_is_seen_when_the_ledger_heard_of_it(ledger, clock):
    ledger.tell_worker(worker(clock))
    ledger.tell_worker(worker(clock, running=2))
    assert ledger.workers() == [replace(worker(clock, running=2), seen_at=clock.at())]


def test_a_worker_that_fell_silent_is_not_listed(ledger, clock):
    ledger.tell_worker(worker(clock))
    clock.now += 61
    ledger.tell_worker(worker(clock, "w2"))
    assert ([w.id for w in ledger.workers()], [w.id for w in ledger.workers(seen_within_s=100)]) == (
        ["w2"], ["w1", "w2"]
    )  # fmt: skip


def test_a_worker_that_left_is_struck_off(ledger, clock):
    ledger.tell_worker(worker(clock))
    ledger.forget_worker("w1")
    ledger.forget_worker("nobody")
    assert ledger.workers() == []


def test_the_ledger_has_its_own_time(ledger, clock):
    assert (ledger.now(), ledger.now().utcoffset()) == (clock.at(), timedelta(0))


def test_a_closed_ledger_says_so(ledger):
    ledger.close()
    ledger.close()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.counts()
    with pytest.raises(LedgerError, match="is closed"):
        ledger.apply(lifecycle.cancel("x"))


# -- open_ledger ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "told"),
    [("sqlit:///x.db", "Did you mean 'sqlite'"), ("mysql://u:secret@h/db", "no ledger for 'mysql://'"),
     ("ledger.db", "sqlite:///ledger.db"), ("sqlite://x.db", "names no file"), ("sqlite:///", "names no file"),
     ("sqlite:///:memory:", "memory://"), ("memory://x", "no name")],
)  # fmt: skip
def test_a_url_that_names_no_ledger_is_refused(url, told):
    with pytest.raises(ConfigError, match=told) as caught:
        open_ledger(url)
    assert "secret" not in str(caught.value)


def test_an_unknown_durability_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'normal' nor 'full'"):
        open_ledger(f"sqlite:///{tmp_path}/x.db", durability="fast")


# -- postponed publishes ------------------------------------------------------------------------------------


PATIENCE = Patience(grace_s=GRACE_S, max_grace_s=600.0, trusted_s=3600.0)


def test_a_publish_that_is_due_is_postponed_for_twice_what_was_waited(ledger, clock):
    job = add(ledger)
    waits = []
    for _ in range(5):
        row = ledger.get(job.id)
        clock.now = row.publish_due_at.timestamp()
        assert ledger.postpone(["default"], PATIENCE, 10) == 1
        after = ledger.get(job.id)
        waits.append((after.publish_due_at - clock.at()).total_seconds())
        assert replace(after, publish_due_at=row.publish_due_at) == row
        assert ledger.publishable(10) == []
    assert waits == [60.0, 180.0, 540.0, 600.0, 600.0]


def test_only_what_was_published_and_is_due_in_these_queues_is_postponed(ledger, clock):
    add(ledger, queue="other")
    add(ledger, delay_s=GRACE_S)  # its first publish is due
    running = start(ledger)
    due = add(ledger)
    clock.now += GRACE_S
    add(ledger)
    assert ledger.postpone(["default", "third"], PATIENCE, 10) == 1
    assert ledger.get(due.id).publish_due_at > clock.at()
    assert ledger.get(running.id) == running
    assert len(ledger.publishable(10)) == 2


def test_who_has_waited_too_long_waits_no_more(ledger, clock):
    job = add(ledger)
    postponed = []
    for _ in range(3):
        clock.now = ledger.get(job.id).publish_due_at.timestamp()
        postponed.append(ledger.postpone(["default"], replace(PATIENCE, trusted_s=100.0), 10))
    assert postponed == [1, 1, 0]
    assert len(ledger.publishable(10)) == 1


def test_the_longest_due_are_postponed_first(ledger, clock):
    jobs = []
    for _ in range(5):
        jobs.append(add(ledger))
        clock.now += 1
    clock.now += GRACE_S
    assert ledger.postpone(["default"], PATIENCE, 3) == 3
    assert ids(ledger.publishable(10)) == ids(jobs[3:])
