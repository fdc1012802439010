"""What a job may ask of the ledger beyond a key: uniqueness by a rule of its own, a way out, an end, being held."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from itertools import count
from threading import Barrier, Thread

import pytest
from ledger_oracle import GRACE_S, KINDS, Clock, open_kind

from penstock.core.base import Ledger
from penstock.core.exceptions import DuplicateJobError, QueueFullError
from penstock.job import lifecycle
from penstock.job.models import ErrorInfo, Intent, JobQuery, Outcome

CREATED, KEPT, REPLACED = Outcome.CREATED, Outcome.KEPT, Outcome.REPLACED
numbers = count(1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def ledger(request, tmp_path, clock) -> Iterator[Ledger]:
    ledger = open_kind(request.param, tmp_path, clock)
    yield ledger
    ledger.close()


def intent(**fields) -> Intent:
    return Intent(**{"id": f"rule-{next(numbers):05}", "kind": "task", "name": "t", "spec": b"{}", **fields})


def add(ledger, *intents, **more):
    return ledger.insert(intents, grace_s=GRACE_S, **more)


def outcomes(submissions):
    return [s.outcome for s in submissions]


def start(ledger, job_id):
    return ledger.apply(lifecycle.claim(job_id, owner="w", lease_s=60.0))


def test_of_two_jobs_of_one_unique_key_the_second_is_kept_out(ledger):
    first, second = add(ledger, intent(unique_key="u"), intent(unique_key="u"))
    assert (first.outcome, second.outcome, second.job.id) == (CREATED, KEPT, first.job.id)


def test_the_states_of_the_rule_say_what_stands_in_the_way(ledger):
    first = add(ledger, intent(unique_key="u"))[0].job
    start(ledger, first.id)
    assert outcomes(add(ledger, intent(unique_key="u", unique_states=("queued",)))) == [CREATED]


def test_within_its_period_a_job_that_has_succeeded_still_counts(ledger, clock):
    rule = {"unique_key": "u", "unique_states": ("queued", "running", "succeeded"), "unique_period_s": 60.0}
    first = add(ledger, intent(**rule))[0].job
    start(ledger, first.id)
    ledger.apply(lifecycle.succeed(first.id, attempt=1))
    clock.now += 59
    assert outcomes(add(ledger, intent(**rule))) == [KEPT]
    clock.now += 2
    assert outcomes(add(ledger, intent(**rule))) == [CREATED]


@pytest.mark.parametrize("key", [{"key": "k"}, {"unique_key": "k"}])
def test_a_job_that_waits_gives_way_and_is_cancelled(ledger, key):
    old = add(ledger, intent(**key))[0].job
    (new,) = add(ledger, intent(**key, on_conflict="replace"))
    assert (new.outcome, ledger.get(old.id).state, ledger.get(new.job.id).state) == (REPLACED, "cancelled", "queued")
    assert [e.reason for e in ledger.history(old.id)][-1] == "replaced"


@pytest.mark.parametrize("key", [{"key": "k"}, {"unique_key": "k"}])
def test_a_job_that_runs_is_asked_to_stop_and_loses_its_key(ledger, key):
    old = add(ledger, intent(**key))[0].job
    start(ledger, old.id)
    (new,) = add(ledger, intent(**key, on_conflict="replace"))
    then = ledger.get(old.id)
    assert (new.outcome, then.state, then.key, then.unique_key) == (REPLACED, "running", None, None)
    assert then.cancel_requested_at is not None
    assert add(ledger, intent(**key))[0].job.id == new.job.id


@pytest.mark.parametrize("key", [{"key": "k"}, {"unique_key": "k"}])
def test_who_wants_to_know_of_a_conflict_gets_an_error_and_writes_nothing(ledger, key):
    holder = add(ledger, intent(**key))[0].job
    before = ledger.counts()
    with pytest.raises(DuplicateJobError, match=holder.id) as caught:
        add(ledger, intent(), intent(**key, on_conflict="raise"), intent())
    assert (caught.value.job_id, ledger.counts()) == (holder.id, before)


def test_two_of_one_batch_may_be_in_each_others_way(ledger):
    with pytest.raises(DuplicateJobError):
        add(ledger, intent(key="k", on_conflict="raise"), intent(key="k", on_conflict="raise"))
    assert ledger.counts() == {}


def test_what_does_not_fit_its_queue_replaces_nothing(ledger):
    old = add(ledger, intent(key="k", queue="other"))[0].job
    add(ledger, intent())
    with pytest.raises(QueueFullError):
        add(ledger, intent(key="k", on_conflict="replace"), max_queued={"default": 1})
    assert (ledger.get(old.id).state, ledger.get(old.id).key) == ("queued", "k")


def test_a_full_queue_takes_a_job_that_replaces_one_there(ledger):
    add(ledger, intent(key="k"))
    assert outcomes(add(ledger, intent(key="k", on_conflict="replace"), max_queued={"default": 1})) == [REPLACED]


@pytest.mark.parametrize("key", [{"key": "k"}, {"unique_key": "k"}])
def test_of_many_who_replace_at_once_one_job_stays(ledger, key):
    barrier, errors = Barrier(4), []

    def submit():
        try:
            barrier.wait(10)
            for _ in range(5):
                add(ledger, intent(**key, on_conflict="replace"))
        except Exception as error:
            errors.append(error)

    threads = [Thread(target=submit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert ledger.counts() == {"queued": 1, "cancelled": 19}


def test_a_purged_job_leaves_its_unique_key_free(ledger, clock):
    rule = {"unique_key": "u", "unique_states": ("queued", "cancelled")}
    job = add(ledger, intent(**rule))[0].job
    ledger.apply(lifecycle.cancel(job.id))
    clock.now += 100
    assert ledger.purge(ledger.get(job.id).state, older_than_s=10, limit=10) == [job.id]
    assert outcomes(add(ledger, intent(**rule))) == [CREATED]


def test_a_job_that_did_not_begin_in_time_is_not_to_be_had(ledger, clock):
    job = add(ledger, intent(expires_s=30.0))[0].job
    clock.now += 31
    assert start(ledger, job.id) is None
    assert [late.id for late in ledger.expirable(10)] == [job.id]
    ledger.apply(lifecycle.expire(job.id, error=ErrorInfo("Expired", "late")))
    then = ledger.get(job.id)
    assert (then.state, then.reason, then.error.type) == ("failed", "expired", "Expired")
    assert ledger.expirable(10) == []


def test_a_time_to_begin_by_counts_from_when_the_job_is_due(ledger, clock):
    job = add(ledger, intent(delay_s=100.0, expires_s=30.0))[0].job
    assert job.expires_at == datetime.fromtimestamp(clock.now + 130, UTC)
    assert ledger.get(job.id).expires_at == job.expires_at


def test_a_job_may_also_have_to_begin_by_an_instant(ledger, clock):
    until = datetime.fromtimestamp(clock.now + 50, UTC)
    job = add(ledger, intent(expires_at=until))[0].job
    assert ledger.get(job.id).expires_at == until


def test_what_has_begun_in_time_may_be_tried_again_later(ledger, clock):
    job = add(ledger, intent(expires_s=30.0))[0].job
    start(ledger, job.id)
    clock.now += 40
    ledger.apply(lifecycle.release(job.id, attempt=1))
    assert start(ledger, job.id) is not None


def test_what_was_claimed_and_could_not_begin_has_still_to_begin_in_time(ledger, clock):
    job = add(ledger, intent(expires_s=30.0))[0].job
    start(ledger, job.id)
    clock.now += 40
    assert ledger.expirable(10) == []
    ledger.apply(lifecycle.release(job.id, attempt=1, note="no slot", begun=False))
    assert start(ledger, job.id) is None
    assert [late.id for late in ledger.expirable(10)] == [job.id]


def test_what_was_tried_before_may_wait_for_a_slot_as_long_as_it_takes(ledger, clock):
    job = add(ledger, intent(expires_s=30.0, max_attempts=2))[0].job
    ledger.apply(lifecycle.fail(start(ledger, job.id).job, error=ErrorInfo("E", "x"), wait_s=0.0))
    start(ledger, job.id)
    ledger.apply(lifecycle.release(job.id, attempt=2, note="no slot", begun=False))
    clock.now += 40
    assert ledger.expirable(10) == []
    assert start(ledger, job.id) is not None


def test_a_job_that_is_held_from_the_start_is_not_published(ledger):
    job = add(ledger, intent(held="struck"))[0].job
    assert (job.publishes, job.held, start(ledger, job.id), ledger.publishable(10)) == (0, "struck", None, [])
    assert ledger.counts() == {"blocked": 1}


def test_an_admitted_job_is_published_at_once(ledger):
    job = add(ledger, intent(held="struck"))[0].job
    ledger.apply(lifecycle.admit(job.id, why="struck"))
    assert [due.id for due in ledger.publishable(10)] == [job.id]


def test_an_admitted_job_for_later_waits_for_its_time(ledger, clock):
    job = add(ledger, intent(held="struck", delay_s=60.0))[0].job
    ledger.apply(lifecycle.admit(job.id, why="struck"))
    assert ledger.publishable(10) == []
    clock.now += 61
    assert [due.id for due in ledger.publishable(10)] == [job.id]


def test_a_job_is_admitted_only_by_who_knows_why_it_is_held(ledger):
    job = add(ledger, intent(held="struck"))[0].job
    assert ledger.apply(lifecycle.admit(job.id, why="paused")) is None


def test_a_job_that_waits_for_later_can_be_woken(ledger):
    job = add(ledger, intent(delay_s=600.0))[0].job
    ledger.apply(lifecycle.wake(job.id))
    assert [due.id for due in ledger.publishable(10)] == [job.id]
    assert start(ledger, job.id) is not None


def test_jobs_are_found_by_their_metadata(ledger):
    wanted = add(ledger, intent(metadata={"team": "etl", "it's": 'a "name"'}))[0].job
    add(ledger, intent(metadata={"team": "web"}), intent())
    found = [ledger.find(JobQuery(metadata=m)) for m in ({"team": "etl"}, {"team": "etl", "it's": 'a "name"'})]
    assert [[job.id for job in jobs] for jobs in found] == [[wanted.id]] * 2
    assert ledger.find(JobQuery(metadata={"team": "etl", "it's": "other"})) == []


def test_jobs_are_found_by_why_they_are_held(ledger):
    wanted = add(ledger, intent(held="paused: queue etl"), intent(held="struck"))[0].job
    assert [job.id for job in ledger.find(JobQuery(held="paused: queue etl"))] == [wanted.id]


def test_a_job_of_two_keys_takes_the_place_of_whoever_has_either(ledger):
    by_rule, by_key = (s.job for s in add(ledger, intent(unique_key="u"), intent(key="k")))
    (new,) = add(ledger, intent(unique_key="u", key="k", on_conflict="replace"))
    states = [ledger.get(job.id).state for job in (by_rule, by_key)]
    assert (new.outcome, states) == (REPLACED, ["cancelled", "cancelled"])


def test_a_job_of_two_keys_is_told_of_the_one_that_its_rule_names(ledger):
    by_rule, _by_key = (s.job for s in add(ledger, intent(unique_key="u"), intent(key="k")))
    (kept,) = add(ledger, intent(unique_key="u", key="k"))
    assert (kept.outcome, kept.job.id) == (KEPT, by_rule.id)
