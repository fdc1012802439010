"""What penstock gives to the tests of whoever uses it: jobs are looked for, and run here and now."""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime, timedelta

import pytest

from penstock import JobQueue, RetryLater, Run, Snooze, task
from penstock.core.exceptions import ArgumentsError
from penstock.testing import adrain
from penstock.testing import assert_enqueued as enqueued_on
from penstock.testing import drain as drain_of


@task(name="kit.greet", queue="mail")
def greet(name: str, day: date | None = None, loud: bool = False) -> str:
    return f"Hello {name}"


@task(name="kit.broken")
def broken() -> None:
    raise ValueError("broken")


# -- what was enqueued ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "said"),
    [
        ((), {}),
        (("Ada",), {}),
        ((), {"name": "Ada"}),
        ((), {"day": date(2026, 1, 2)}),
        ((), {"day": "2026-01-02"}),
        ((), {"loud": False}),
        ((), {"queue": "mail", "delay": "10m", "key": "k", "priority": 7, "tags": "a"}),
        ((), {"tags": ["a", "b"], "metadata": {"team": "x"}, "state": "scheduled"}),
        (("Ada",), {"count": 1}),
    ],
)
def test_a_job_is_found_by_what_is_said_of_it(waiting_queue, assert_enqueued, args, said):
    options = {"delay": "10m", "key": "k", "tags": ["a", "b"], "metadata": {"team": "x", "n": "1"}}
    job = waiting_queue.enqueue(greet, "Ada", day=date(2026, 1, 2), priority=7, **options)
    assert [found.id for found in assert_enqueued(greet, *args, **said)] == [job.id]
    assert_enqueued("kit.greet", *args, **said)


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("Bob",), {}),
        ((), {"loud": True}),
        ((), {"queue": "default"}),
        ((), {"delay": "1h"}),
        ((), {"tags": "b"}),
        ((), {"state": "failed"}),
        ((), {"count": 2}),
        ((), {"count": 0}),
    ],
)
def test_a_job_that_does_not_fit_is_not_found_and_what_there_is_is_shown(waiting_queue, assert_enqueued, args, said):
    waiting_queue.enqueue(greet, "Ada", tags=["a"])
    with pytest.raises(AssertionError, match=r"(?s)expected .*kit\.greet.*kit\.greet\('Ada'\)  queued, queue mail"):
        assert_enqueued(greet, *args, **said)


def test_nothing_enqueued_is_told_as_such(waiting_queue, assert_enqueued):
    with pytest.raises(AssertionError, match="expected a job of any task, found 0; no job was enqueued"):
        assert_enqueued()


def test_an_argument_that_the_task_does_not_take_is_no_failed_assertion(waiting_queue, assert_enqueued):
    with pytest.raises(ArgumentsError, match=r"kit\.greet"):
        assert_enqueued(greet, nmae="Ada")


def test_a_mistyped_option_is_told_with_the_nearest(waiting_queue, assert_not_enqueued):
    with pytest.raises(ArgumentsError, match=r"'quue' is no option either\. Did you mean 'queue'\?"):
        assert_not_enqueued(greet, quue="mail")


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"state": "succeded"}, "'succeded' is not a state; .* Did you mean 'succeeded'"),
        ({"delay": "soon"}, "'soon' is not a duration"),
        ({"timeout": "x"}, "'x' is not a duration"),
        ({"metadata": "team"}, "metadata is a table"),
    ],
)
def test_what_no_job_can_be_is_refused_and_not_found_missing(waiting_queue, assert_not_enqueued, said, told):
    with pytest.raises((ValueError, TypeError), match=told):
        assert_not_enqueued(greet, **said)


def test_who_leaves_out_the_queue_is_told():
    with pytest.raises(TypeError, match="first the queue, or None for the default one, then the task"):
        enqueued_on(greet, "Ada")


def test_what_was_not_enqueued(waiting_queue, assert_not_enqueued):
    assert_not_enqueued()
    waiting_queue.enqueue(greet, "Ada")
    assert_not_enqueued(greet, "Bob")
    assert_not_enqueued(broken)
    with pytest.raises(AssertionError, match=r"expected no job kit\.greet\('Ada'\), found 1"):
        assert_not_enqueued(greet, "Ada")


def test_a_job_that_has_run_was_enqueued_all_the_same(job_queue, assert_enqueued):
    greet.enqueue("Ada")
    assert_enqueued(greet, "Ada", state="succeeded")


def test_a_time_is_looked_for_too(waiting_queue, assert_enqueued):
    at = datetime.now(UTC) + timedelta(days=1)
    waiting_queue.enqueue(greet, "Ada", at=at)
    assert_enqueued(greet, at=at)


def test_commands_and_secret_names_are_found_by_their_words(waiting_queue, assert_enqueued):
    waiting_queue.enqueue_command(["rsync", "-a", "x"])
    assert_enqueued("rsync", "rsync", "-a")


def test_a_task_that_was_renamed_is_found_by_its_old_name(waiting_queue, assert_enqueued):
    @task(name="kit.new", aliases=["kit.old"])
    def renamed() -> None: ...

    waiting_queue.enqueue("kit.old")
    assert_enqueued("kit.old")


# -- drain ----------------------------------------------------------------------------------------------------------


def test_a_drain_runs_what_is_due_and_tells_what_became_of_it(waiting_queue, drain):
    done = [waiting_queue.enqueue(greet, "Ada"), waiting_queue.enqueue(broken)]
    waiting_queue.enqueue(greet, "Bob", delay="1h")
    told = drain()
    assert (told.runs, told.succeeded, told.failed, told.left) == (2, 1, 1, {"scheduled": 1})
    assert told.failures == (f"kit.broken {done[1].id} failed (error): ValueError: broken",)
    assert str(told).startswith("2 runs: 1 succeeded, 1 failed, 1 scheduled\n  kit.broken")
    assert not drain()


def test_the_order_is_that_of_priority_then_time(waiting_queue, drain):
    ran: list[int] = []

    @task(name="kit.order")
    def order(number: int) -> None:
        ran.append(number)
        if number == 1:
            waiting_queue.enqueue(order, 4, priority=9)

    for number, priority in ((2, 5), (3, 5), (1, 9), (5, 0)):
        waiting_queue.enqueue(order, number, priority=priority)
    drain()
    assert ran == [1, 4, 2, 3, 5]


def test_what_is_for_later_runs_when_asked_for_in_its_order(waiting_queue, drain):
    ran: list[str] = []

    @task(name="kit.later", max_attempts=3)
    def later(name: str, run: Run) -> None:
        ran.append(f"{name}{run.attempt}")
        if name == "again" and run.attempt < 3:
            raise RetryLater("1h")
        if name == "naps" and run.attempt == 1:
            raise Snooze("10m", "no file yet")

    for name, delay in (("last", "3d"), ("again", "2h"), ("naps", "1h")):
        waiting_queue.enqueue(later, name, delay=delay)
    assert drain().runs == 0
    told = drain(with_scheduled=True)
    assert (told.succeeded, told.left) == (3, {})
    assert ran == ["naps1", "naps2", "again1", "again2", "again3", "last1"]


def test_a_job_with_an_id_of_its_own_is_not_overlooked(waiting_queue, drain):
    @task(name="kit.own_id")
    def own_id(more: bool) -> None:
        if more:
            waiting_queue.enqueue(own_id, False, job_id="0-older-than-all")

    waiting_queue.enqueue(own_id, True)
    assert drain().succeeded == 2


def test_a_job_without_end_is_told(waiting_queue, drain):
    @task(name="kit.endless")
    def endless() -> None:
        waiting_queue.enqueue(endless, delay="1h")

    waiting_queue.enqueue(endless)
    with pytest.raises(AssertionError, match=r"jobs go on after 20 runs, most of them: kit\.endless \(21\)"):
        drain(with_scheduled=True, max_runs=20)


def test_a_job_of_an_unknown_task_is_left(waiting_queue, drain):
    from penstock.sources.decorators import TASKS

    @task(name="kit.gone")
    def gone() -> None: ...

    waiting_queue.enqueue(gone)
    TASKS.discard("kit.gone")
    assert drain(with_scheduled=True).left == {"queued": 1}


async def wave(name: str) -> str:
    await asyncio.sleep(0)
    print("waving")
    return name


def test_a_drain_within_a_running_loop_runs_bodies_of_both_colours(waiting_queue, drain):
    waving = task(name="kit.wave")(wave)

    async def test() -> list[str]:
        job = waiting_queue.enqueue(waving, "Ada")
        waiting_queue.enqueue(greet, "Bob")
        assert (drain().succeeded, job.result()) == (2, "Ada")
        return [line.text for line in job.logs()]

    assert asyncio.run(test()) == ["waving"]


def test_what_a_drain_ran_is_not_run_again_by_a_worker(waiting_queue, drain):
    ran: list[int] = []

    @task(name="kit.once")
    def once() -> None:
        ran.append(1)

    job = waiting_queue.enqueue(once)
    drain()
    waiting_queue.worker(burst=True).run()
    assert (len(ran), job.state) == (1, "succeeded")


def test_the_helpers_take_a_queue_and_can_be_awaited(tmp_path):
    with JobQueue("huey+sqlite:///q.db", ledger="sqlite:///l.db", root=tmp_path) as queue:
        queue.enqueue(greet, "Ada")
        enqueued_on(queue, greet, "Ada")
        assert asyncio.run(adrain(queue)).succeeded == 1
        assert not drain_of(queue)
