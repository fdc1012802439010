"""What a worker promises beside what each engine's conformance shows."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from penstock import JobQueue, Run, task
from penstock.admission import Admission
from penstock.core.exceptions import LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.models import Job
from penstock.rooms import Rooms
from penstock.sources.decorators import TASKS
from penstock.testing.harness import short_config


@task(name="worker_noop")
def noop() -> None:
    """Do nothing."""


def test_a_worker_claims_exactly_as_many_jobs_as_it_may(tmp_path: Path) -> None:
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        queue.enqueue_many([noop.call() for _ in range(50)])
        worker = queue.worker(concurrency=8, max_jobs=20)
        worker.run()
        assert queue.counts() == {"succeeded": 20, "queued": 30}


def test_what_came_after_the_limit_is_published_again_at_once(tmp_path: Path) -> None:
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        queue.enqueue_many([noop.call() for _ in range(50)])
        queue.worker(concurrency=8, max_jobs=20).run()
        assert queue.gateway.depth("default") == 30


def test_a_burst_does_not_end_before_what_it_claimed_and_lost_has_run(tmp_path: Path) -> None:
    config = short_config(backend="huey+sqlite:///queue.db", ledger="sqlite:///ledger.db")
    with JobQueue(config=config, root=tmp_path) as queue:
        job = queue.enqueue(noop)
        # As after a claim whose answer did not come, or an attempt that stopped because its lease was running out.
        assert queue.ledger.apply(lifecycle.claim(job.id, owner=queue.owner, lease_s=0.3))
        queue.worker(burst=True).run()
        assert job.state == "succeeded"


def test_a_burst_does_not_wait_for_what_others_run(tmp_path: Path) -> None:
    config = short_config(backend="huey+sqlite:///queue.db", ledger="sqlite:///ledger.db")
    with JobQueue(config=config, root=tmp_path) as queue:
        job = queue.enqueue(noop)
        assert queue.ledger.apply(lifecycle.claim(job.id, owner="somebody else", lease_s=3600))
        queue.worker(burst=True).run()
        assert job.state == "running"


def test_a_ledger_that_goes_away_while_a_worker_begins_starts_one_engine_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        declared, away = queue.schedules.declare, [LedgerUnavailableError("it went away")]

        def declare(*args: Any, **kwargs: Any) -> Any:
            if away:
                raise away.pop()
            return declared(*args, **kwargs)

        monkeypatch.setattr(queue.schedules, "declare", declare)
        with queue.worker(connect_timeout="30s"):
            assert [thread.name for thread in threading.enumerate()].count("penstock-worker") == 1


def test_a_room_is_opened_once_however_many_threads_ask(tmp_path: Path) -> None:
    with JobQueue("inline://", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        ready = threading.Barrier(8)
        seen: list[object] = []

        def ask(rooms: Rooms) -> None:
            ready.wait()
            seen.append(rooms.ledger)

        threads = [threading.Thread(target=ask, args=(queue,)) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(seen) == 8
        assert len(set(map(id, seen))) == 1


class Freeze:
    """A gate that stands still for longer than the lease, as a process does that was frozen behind its claim."""

    def __init__(self, queue: JobQueue) -> None:
        self.queue = queue
        self.froze = 0

    def concerns(self, job: Job) -> bool:
        return not self.froze

    def enter(self, job: Job) -> None:
        self.froze += 1
        owned = self.queue.execution.heart.owned[job.id, job.attempt]
        owned.renewed -= 3600

    def leave(self, job: Job) -> None:
        pass


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_body_does_not_begin_whose_lease_is_over(tmp_path: Path, colour: str) -> None:
    began: list[int] = []

    def late(run: Run) -> None:
        began.append(run.attempt)

    async def alate(run: Run) -> None:
        began.append(run.attempt)

    chosen = task(name="late")(late if colour == "sync" else alate)
    try:
        with JobQueue("huey+sqlite:///q.db", ledger="memory://", root=tmp_path) as queue:
            queue.execution.admission = Admission([gate := Freeze(queue)])
            job = queue.enqueue(chosen)
            queue.worker(burst=True).run()
            assert (gate.froze, began, job.state) == (1, [2], "succeeded")
            assert [attempt.outcome for attempt in job.attempts()] == ["released", "succeeded"]
    finally:
        TASKS.discard("late")
