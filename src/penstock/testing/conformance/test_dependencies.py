"""What a task's parameters depend on is there on every engine, for both colours, in the worker and in a child."""

from __future__ import annotations

from collections.abc import Callable

from penstock.client import JobQueue
from penstock.core.config import WorkerConfig
from penstock.testing.conformance.dependent import MODULE, adepends, depends
from penstock.testing.conformance.waiting import all_final
from penstock.testing.harness import WorkerThread


def test_bodies_of_both_colours_get_what_they_depend_on_wherever_they_run(
    open_queue: Callable[..., JobQueue], start_worker: Callable[..., WorkerThread]
) -> None:
    queue = open_queue(tasks=(MODULE,))
    places = ["inline"] if queue.config.ledger.startswith("memory:") else ["inline", "process"]
    jobs = [queue.enqueue(body.options(isolation=where), where) for body in (depends, adepends) for where in places]
    start_worker(queue, concurrency=2)
    all_final(queue, jobs)
    assert [job.result() for job in jobs] == [
        [where, "opened", f"entered for {where}", True, name]
        for name in ("conformance.depends", "conformance.adepends")
        for where in places
    ]


def test_what_a_worker_depends_on_surrounds_bodies_of_both_colours_wherever_they_run(
    open_queue: Callable[..., JobQueue], start_worker: Callable[..., WorkerThread]
) -> None:
    queue = open_queue(tasks=(MODULE,), worker=WorkerConfig(dependencies=(f"{MODULE}:around",)))
    places = ["inline"] if queue.config.ledger.startswith("memory:") else ["inline", "process"]
    jobs = [queue.enqueue(body.options(isolation=where), where) for body in (depends, adepends) for where in places]
    start_worker(queue, concurrency=2)
    all_final(queue, jobs)
    assert [job.state for job in jobs] == ["succeeded"] * len(jobs)
    told = [[line.text for line in job.logs() if line.text.startswith(("before", "after"))] for job in jobs]
    assert told == [[f"before {where}", "after opened"] for _ in (depends, adepends) for where in places]
