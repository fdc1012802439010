from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from penstock.job import lifecycle
from penstock.job.lifecycle import FINAL, SHOWN_STATES, TRANSITIONS, Event, Guard, Reason, State
from penstock.job.models import ErrorInfo, Job, RetryPolicy, new_job_id

NOW = datetime(2026, 11, 21, tzinfo=UTC)
ERROR = ErrorInfo("ValueError", "no", bases=("Exception",))

# By hand, from the protocol: what may start where, and where it leads.
ALLOWED = {
    Event.CLAIM: {("queued", "running")},
    Event.BEAT: {("running", "running")},
    Event.SUCCEED: {("running", "succeeded")},
    Event.RETRY: {("running", "queued"), ("running", "cancelled")},
    Event.FAIL: {("running", "failed"), ("running", "cancelled")},
    Event.RELEASE: {("running", "queued"), ("running", "cancelled")},
    Event.RESCUE: {("running", "queued"), ("running", "failed"), ("running", "cancelled")},
    Event.CRASH: {("running", "queued"), ("running", "failed"), ("running", "cancelled")},
    Event.PUBLISH: {("queued", "queued")},
    Event.CANCEL: {("queued", "cancelled")},
    Event.REQUEST_CANCEL: {("running", "running")},
    Event.STOP: {("running", "cancelled")},
    Event.HOLD: {("queued", "queued")},
    Event.ADMIT: {("queued", "queued")},
    Event.WAKE: {("queued", "queued")},
    Event.EXPIRE: {("queued", "failed")},
    Event.PURGE: set(),
    Event.ENQUEUE: set(),
}


def job(**fields) -> Job:
    given_fields = {"state": State.RUNNING, "attempt": 1, "created_at": NOW, "scheduled_at": NOW, **fields}
    return Job(id="j", kind="task", name="t", spec=b"{}", **given_fields)


def made(row: Job) -> list[lifecycle.Transition]:
    return [
        lifecycle.claim("j", owner="w", lease_s=60),
        lifecycle.beat("j", attempt=1, lease_s=60),
        lifecycle.succeed("j", attempt=1),
        lifecycle.fail(row, error=ERROR),
        lifecycle.release("j", attempt=1),
        lifecycle.rescue(row),
        lifecycle.rescue(row, by_parent=True),
        lifecycle.publish(row, grace_s=30, max_grace_s=600),
        lifecycle.cancel("j"),
        lifecycle.request_cancel("j"),
        lifecycle.stop("j", attempt=1),
        lifecycle.hold("j", why="paused"),
        lifecycle.admit("j", why="paused"),
        lifecycle.wake("j"),
        lifecycle.expire("j", error=ERROR),
    ]


jobs = st.builds(
    job,
    errors=st.integers(0, 4),
    crashes=st.integers(0, 4),
    max_attempts=st.integers(1, 4),
    max_crashes=st.integers(1, 4),
    publishes=st.integers(0, 9),
)


@pytest.mark.parametrize("event", Event)
@pytest.mark.parametrize("state", State)
def test_an_event_starts_and_leads_where_the_protocol_says(state, event):
    rule = TRANSITIONS[event]
    found = {(state.value, to.value) for to in rule.to} if state in rule.start else set()
    assert found == {step for step in ALLOWED[event] if step[0] == state}


def test_every_event_has_its_rule():
    assert set(TRANSITIONS) == set(Event)


@pytest.mark.parametrize("state", FINAL)
def test_nothing_but_the_purge_starts_from_a_final_state(state):
    assert {event for event, rule in TRANSITIONS.items() if state in rule.start} == {Event.PURGE}


@given(jobs)
def test_a_constructor_leads_only_where_its_event_may(row):
    for transition in made(row):
        targets = {transition.to, transition.to_if_cancelled} - {None}
        assert targets <= set(TRANSITIONS[transition.event].to)


@given(jobs)
def test_a_guard_that_compares_always_has_its_value(row):
    for transition in made(row):
        guards = TRANSITIONS[transition.event].guards
        assert (transition.attempt is not None) == (Guard.FENCE in guards)
        assert (transition.publishes is not None) == (Guard.SEEN in guards)
        assert transition.held is not None or Guard.HELD not in guards


@given(jobs)
def test_a_job_is_tried_again_exactly_while_its_error_budget_lasts(row):
    assert (lifecycle.fail(row, error=ERROR).to is State.QUEUED) == (row.errors + 1 < row.max_attempts)


@given(jobs)
def test_a_rescue_fails_the_job_exactly_when_its_crash_budget_is_spent(row):
    transition = lifecycle.rescue(row)
    assert (transition.to is State.FAILED) == (row.crashes + 1 >= row.max_crashes)
    assert (transition.reason == Reason.CRASH_LOOP) == (transition.to is State.FAILED)


@given(jobs)
def test_what_goes_back_to_the_queue_is_cancelled_instead_if_that_was_asked(row):
    for transition in made(row):
        if transition.to is State.QUEUED and State.QUEUED not in TRANSITIONS[transition.event].start:
            assert transition.to_if_cancelled is State.CANCELLED


def test_success_beats_a_request_to_cancel():
    assert lifecycle.succeed("j", attempt=1).to_if_cancelled is None


def test_an_error_that_another_try_cannot_mend_fails_at_once():
    assert lifecycle.fail(job(max_attempts=9), error=ERROR, retryable=False).to is State.FAILED


def test_an_error_that_the_policy_discards_fails_at_once():
    row = job(max_attempts=9, backoff=RetryPolicy(discard_on=("Exception",)))
    assert lifecycle.fail(row, error=ERROR).to is State.FAILED


@given(st.integers(0, 3), st.floats(0, 1))
def test_the_wait_before_the_next_try_stays_within_the_policy(errors, random):
    row = job(errors=errors, max_attempts=9, backoff=RetryPolicy(base_s=10, cap_s=40, jitter=0.5))
    delay_s = lifecycle.fail(row, error=ERROR, rand=lambda: random).delay_s
    whole = (10, 20, 40, 40)[errors]
    assert whole / 2 <= delay_s <= whole


@pytest.mark.parametrize(("waited_s", "next_s"), [(30, 60), (60, 120), (300, 600), (600, 600), (1, 30)])
def test_the_wait_between_publishes_doubles_up_to_its_cap(waited_s, next_s):
    row = job(state=State.QUEUED, published_at=NOW, publish_due_at=NOW + timedelta(seconds=waited_s))
    assert lifecycle.publish(row, grace_s=30, max_grace_s=600).delay_s == next_s


def test_the_first_publish_of_a_delayed_job_waits_no_longer_than_the_grace():
    row = job(state=State.QUEUED, publish_due_at=NOW)
    assert lifecycle.publish(row, grace_s=30, max_grace_s=600).delay_s == 30


SHOWN = {
    "queued": job(state=State.QUEUED, attempt=0),
    "scheduled": job(state=State.QUEUED, attempt=0, scheduled_at=NOW + timedelta(seconds=1)),
    "retrying": job(state=State.QUEUED, scheduled_at=NOW + timedelta(seconds=1)),
    "blocked": job(state=State.QUEUED, held="paused", scheduled_at=NOW + timedelta(seconds=1)),
    "running": job(lease_until=NOW),
    "overdue": job(lease_until=NOW - timedelta(seconds=1)),
    "cancelling": job(lease_until=NOW - timedelta(seconds=1), cancel_requested_at=NOW),
    "succeeded": job(state=State.SUCCEEDED, cancel_requested_at=NOW),
    "failed": job(state=State.FAILED),
    "cancelled": job(state=State.CANCELLED),
}


@pytest.mark.parametrize("shown", SHOWN_STATES)
def test_a_row_is_shown_as(shown):
    assert lifecycle.shown_state(SHOWN[shown], NOW) == shown


def test_a_note_shows_a_job_as_blocked():
    assert lifecycle.shown_state(replace(SHOWN["queued"], note="no worker knows it"), NOW) == "blocked"


def test_the_diagram_draws_every_step_of_the_table():
    drawn = lifecycle.mermaid().splitlines()[1:]
    assert len(drawn) == sum(len(rule.start or "x") * len(rule.to or "x") for rule in TRANSITIONS.values())


def test_ids_made_one_after_the_other_sort_so():
    made = [new_job_id() for _ in range(5000)]
    assert made == sorted(made)
    assert len(set(made)) == 5000


def test_an_id_is_a_uuid_of_version_7():
    assert uuid.UUID(new_job_id()).version == 7
