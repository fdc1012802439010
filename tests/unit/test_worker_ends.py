"""Until when a worker works, how many of a task it runs at once, and when another process takes its place."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from penstock import JobQueue, RetryLater, Run, Snooze, task
from penstock.core.exceptions import InvalidJobError
from penstock.job.lifecycle import Event
from penstock.recycling import Recycling
from penstock.runners.memory import memory_bytes
from penstock.testing.harness import short_config, wait_until


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    config = short_config(backend="huey+sqlite:///queue.db", ledger="memory://")
    with JobQueue(config=config, root=tmp_path) as queue:
        yield queue


@task(name="ends.note")
def note(value: int = 0) -> int:
    return value


@task(name="ends.again", max_attempts=3)
def again(run: Run) -> int:
    if run.attempt < 3:
        raise RetryLater("50ms")
    return run.attempt


# -- begun ----------------------------------------------------------------------------------------------------------


def test_a_worker_that_has_begun_is_listed_also_where_a_sweep_was_just_telling_of_it(queue, monkeypatch):
    tell, telling, first = queue.ledger.tell_worker, threading.Event(), [True]
    start = queue.sweeper.start

    def slowly(info):
        if first and first.pop():
            telling.set()
            time.sleep(0.25)
        tell(info)

    def start_and_look(**about):
        start(**about)
        assert telling.wait(5)  # the sweep has begun to tell

    monkeypatch.setattr(queue.ledger, "tell_worker", slowly)
    monkeypatch.setattr(queue.sweeper, "start", start_and_look)
    with queue.worker():
        assert len(queue.workers()) == 1


# -- until finished -------------------------------------------------------------------------------------------------


def test_until_finished_waits_for_what_is_scheduled_and_what_is_retried(queue):
    queue.enqueue(note)
    queue.enqueue(note.options(delay="300ms").call())
    queue.enqueue(again)
    assert queue.worker().run_until_finished() == 0
    assert queue.counts() == {"succeeded": 3}


def test_a_burst_leaves_what_is_scheduled_for_later(queue):
    queue.enqueue(note.options(delay="1h").call())
    queue.worker(burst=True).run()
    assert queue.counts() == {"scheduled": 1}


def test_a_burst_publishes_nothing_again_that_has_been_taken_and_is_not_claimed_yet(queue, monkeypatch):
    apply = queue.ledger.apply

    def slowly(transition):
        if transition.event is Event.CLAIM:
            time.sleep(0.25)  # a busy machine
        return apply(transition)

    monkeypatch.setattr(queue.ledger, "apply", slowly)
    job = queue.enqueue(note)
    queue.worker(burst=True).run()
    assert (job.refresh().state, queue.ledger.get(job.id).publishes) == ("succeeded", 1)


def test_until_finished_runs_what_jobs_enqueue(queue):
    @task(name="ends.parent")
    def parent() -> None:
        queue.enqueue(note.options(delay="100ms").call())

    queue.enqueue(parent)
    queue.worker().run_until_finished()
    assert queue.counts() == {"succeeded": 2}


def test_until_finished_does_not_wait_for_a_task_that_it_does_not_have(queue):
    @task(name="ends.elsewhere")
    def elsewhere() -> None: ...

    from penstock.sources.decorators import TASKS

    job = queue.enqueue(elsewhere)
    TASKS.discard("ends.elsewhere")
    queue.worker().run_until_finished()
    assert job.state == "blocked"
    told = "the worker that took it knows no task 'ends.elsewhere'; the job waits for a worker that can run it"
    assert job.job.note == told


def test_until_finished_leaves_other_queues_alone(queue):
    queue.enqueue(note.options(queue="other").call())
    queue.worker(queues=["default"]).run_until_finished()
    assert queue.counts() == {"queued": 1}


def test_it_can_be_awaited(queue):
    queue.enqueue(note)
    assert asyncio.run(queue.worker().arun_until_finished()) == 0
    assert queue.counts() == {"succeeded": 1}


def test_a_cancel_of_the_waiting_drains_the_worker(queue):
    async def main() -> None:
        running = asyncio.ensure_future(queue.worker().arun_forever())
        job = await queue.aenqueue(note, 1)
        assert await job.aresult(10) == 1
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(main())
    assert queue.workers() == []


def test_a_run_in_another_thread_ends_when_it_is_stopped(queue):
    worker = queue.worker(burst=True)
    codes: list[int] = []
    thread = threading.Thread(target=lambda: codes.append(worker.run_forever()))
    thread.start()
    assert queue.enqueue(note, 3).result(10) == 3
    worker.stop()
    thread.join(10)
    assert codes == [0]


# -- at most --------------------------------------------------------------------------------------------------------


def perpetual(queue: JobQueue, *, delay: str) -> list[int]:
    ran: list[int] = []

    @task(name="ends.perpetual")
    def again_and_again(number: int = 1) -> None:
        ran.append(number)
        queue.enqueue(again_and_again.options(delay=delay, tags=["next"]).call(number + 1))

    queue.enqueue(again_and_again)
    return ran


@pytest.mark.parametrize("delay", ["0s", "20ms", "1h"])
def test_a_job_that_makes_its_own_successor_runs_as_often_as_it_may(queue, delay):
    ran = perpetual(queue, delay=delay)
    most = 1 if delay == "1h" else 3
    queue.enqueue(note)
    assert queue.worker().run_at_most({"ends.perpetual": most}) == 0
    assert ran == list(range(1, most + 1))
    assert queue.counts() == {"succeeded": most + 1, "cancelled": 1}


def test_a_key_is_bound_as_a_name_is(queue):
    queue.enqueue(note.options(key="k").call())
    queue.worker().run_at_most({"k": 0})
    assert queue.counts() == {"cancelled": 1}


def test_the_tries_of_a_job_count_once(queue):
    job = queue.enqueue(again)
    queue.worker().run_at_most({"ends.again": 1})
    assert job.result() == 3


def test_a_bound_holds_for_that_run_alone(queue):
    worker = queue.worker()
    worker.run_at_most({"ends.note": 0})
    queue.enqueue(note)
    worker.run_until_finished()
    assert queue.counts() == {"succeeded": 1}


def test_a_bound_is_a_number(queue):
    with pytest.raises(InvalidJobError, match="at most '3' jobs of 'a'"):
        queue.worker().run_at_most({"a": "3"})


# -- how many at once -----------------------------------------------------------------------------------------------


class Crowd:
    def __init__(self) -> None:
        self.now = self.most = 0
        self.two = threading.Event()
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            if self.now == 2:
                self.two.set()

    def __exit__(self, *_exc: object) -> None:
        with self._lock:
            self.now -= 1


@pytest.mark.parametrize("said", ["task", "config"])
def test_so_many_jobs_of_a_task_run_at_once_and_no_more(tmp_path, said):
    config = short_config(backend="huey+sqlite:///queue.db", ledger="memory://")
    if said == "config":
        config = replace(config, worker=replace(config.worker, task_concurrency={"ends.crowded": 2}))
    crowd = Crowd()

    @task(name="ends.crowded", concurrency=2 if said == "task" else 5)
    def crowded() -> None:
        with crowd:
            crowd.two.wait(20)
            time.sleep(0.01)

    with JobQueue(config=config, root=tmp_path) as queue:
        queue.enqueue_many([crowded.call() for _ in range(12)])
        queue.worker(concurrency=6).run_until_finished()
        assert (crowd.most, queue.counts()) == (2, {"succeeded": 12})


def test_those_that_wait_leave_room_for_others(queue):
    gate = threading.Event()

    @task(name="ends.slow", concurrency=1)
    def slow() -> None:
        gate.wait(20)

    with queue.worker(concurrency=2):
        queue.enqueue_many([slow.call() for _ in range(4)])
        wait_until(lambda: queue.counts().get("running") == 1)
        try:
            assert queue.enqueue(note, 7).result(10) == 7
            (waiting, *_) = queue.jobs(states=("blocked",))
            assert waiting.job.note == "1 of task ends.slow run at once in a worker, no more"
        finally:
            gate.set()
        wait_until(lambda: queue.counts().get("succeeded") == 5)


def test_a_job_that_waits_for_its_turn_spends_nothing(queue):
    @task(name="ends.turn", concurrency=1)
    def turn() -> None:
        time.sleep(0.05)

    jobs = queue.enqueue_many([turn.call() for _ in range(4)])
    queue.worker(concurrency=4).run_until_finished()
    assert [(job.refresh().errors, job.job.crashes) for job in jobs] == [(0, 0)] * 4


def test_a_snooze_gives_its_turn_away(queue):
    @task(name="ends.naps", concurrency=1)
    def naps(run: Run) -> None:
        if run.attempt == 1:
            raise Snooze("10ms")

    queue.enqueue_many([naps.call() for _ in range(3)])
    queue.worker(concurrency=3).run_until_finished()
    assert queue.counts() == {"succeeded": 3}


# -- another process in its place -----------------------------------------------------------------------------------


def test_a_process_that_has_grown_too_large_drains_and_ends(queue):
    queue.enqueue_many([note.call() for _ in range(3)])
    worker = queue.worker(max_memory="1MB")
    assert worker.run() == 0
    assert "of memory, over 1 MB" in worker.recycled
    assert "running" not in queue.counts()


def test_a_process_ends_after_its_number_of_jobs(tmp_path):
    config = short_config(backend="huey+sqlite:///queue.db", ledger="memory://")
    config = replace(config, worker=replace(config.worker, max_jobs_per_process=2))
    with JobQueue(config=config, root=tmp_path) as queue:
        queue.enqueue_many([note.call() for _ in range(2)])
        worker = queue.worker()
        assert (worker.run(), worker.recycled) == (0, "2 jobs")


def test_a_process_that_had_no_job_is_not_too_large():
    assert Recycling(max_memory_bytes=1).due(0) == ""
    assert memory_bytes() > 1_000_000


def test_a_process_takes_its_number_of_jobs_and_not_one_more(tmp_path):
    config = short_config(backend="huey+sqlite:///queue.db", ledger="memory://")
    config = replace(config, worker=replace(config.worker, max_jobs_per_process=2))
    with JobQueue(config=config, root=tmp_path) as queue:
        queue.enqueue_many([note.call() for _ in range(9)])
        assert queue.worker(concurrency=4).run() == 0
        assert queue.counts() == {"succeeded": 2, "queued": 7}
