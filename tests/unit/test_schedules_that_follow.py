"""Schedules whose next run counts from the end of the last one: triggered, staggered, begun again."""

from __future__ import annotations

import threading
from datetime import timedelta

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.job.rules import After
from penstock.scheduler import decoder
from penstock.schedules import Did
from penstock.testing.harness import wait_until

STEP = timedelta(hours=1)


@pytest.fixture
def queue(tmp_path):
    with JobQueue(f"huey+sqlite:///{tmp_path}/queue.db", ledger=f"sqlite:///{tmp_path}/l.db", root=tmp_path) as queue:
        yield queue


def follow(queue, name="tidy", **options):
    @task(name=name)
    def tidy():
        return None

    queue.schedule(tidy, every=STEP, follows=True, start=queue.now() + STEP, **options)
    return name


def test_of_many_triggers_at_once_one_makes_a_job(queue):
    name = follow(queue)
    go = threading.Barrier(8)
    ids = []

    def press():
        go.wait()
        ids.append(queue.schedules.trigger(name).id)

    presses = [threading.Thread(target=press) for _ in range(8)]
    for press_ in presses:
        press_.start()
    for press_ in presses:
        press_.join()
    assert len(set(ids)) == 1
    assert len(ids) == 8
    assert len(queue.jobs()) == 1
    assert queue.schedules.get(name).counts == {"manual": 1}


def test_a_trigger_and_a_tick_of_the_same_moment_make_one_job(queue):
    name = follow(queue)
    queue.schedules.begin_at(name, queue.now())
    seen = queue.ledger.records.get("schedule", name)
    job = queue.schedules.trigger(name)
    # A scheduler that has read the schedule before the trigger goes on with what it has read.
    queue.scheduler._turn([(seen, decoder.decode(seen.body))], {})
    assert [handle.id for handle in queue.jobs()] == [job.id]
    assert queue.schedules.get(name).awaits == job.id


def test_each_run_by_hand_is_another_job(queue):
    name = follow(queue)
    ids = set()
    with queue.worker():
        for _ in range(3):
            job = queue.schedules.trigger(name)
            job.wait(20)
            wait_until(lambda: queue.schedules.get(name).awaits is None, timeout_s=20)
            ids.add(job.id)
    assert len(ids) == 3
    assert queue.schedules.get(name).runs == 3


def test_a_schedule_of_the_same_name_runs_though_an_older_one_had_runs(queue):
    name = follow(queue)
    first = queue.schedules.trigger(name)
    queue.unschedule(name)
    follow(queue)
    assert queue.schedules.trigger(name).id != first.id


def test_overdue_schedules_are_staggered_from_now_on(queue):
    names = [follow(queue, f"job {number}", soft_start=True) for number in range(3)]
    hard = follow(queue, "hard")
    for name in (*names, hard):
        queue.schedules.begin_at(name, queue.now() - STEP)
    before = queue.now()
    queue.schedules.stagger([*names, hard], 30.0)
    first, second, third = (queue.schedules.get(name).next_at for name in names)
    assert before <= first <= queue.now()
    assert (second - first, third - second) == (timedelta(seconds=30), timedelta(seconds=30))
    assert queue.schedules.get(hard).next_at < before


def test_an_instant_that_is_reckoned_anew_at_each_start_changes_nothing(queue):
    @task(name="tidy")
    def tidy():
        return None

    def declared():
        plan = queue.schedules.plan(_intent(queue, tidy), every=STEP, follows=True)
        rule = After(STEP.total_seconds(), queue.now() + STEP, follows=True)
        return queue.schedules.declare("app", {"tidy": msgspec.structs.replace(plan, rule=rule)})

    assert declared() == {"tidy": Did.CREATED}
    stands = queue.schedules.get("tidy")
    assert declared() == {"tidy": Did.KEPT}
    assert queue.schedules.get("tidy") == stands


def _intent(queue, found):
    from penstock.calls import intent_of

    return intent_of(queue.config, found.call())
