"""What a worker promises beside what each engine's conformance shows."""

from __future__ import annotations

import threading
from pathlib import Path

from penstock import JobQueue, task
from penstock.job import lifecycle
from penstock.rooms import Rooms
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
