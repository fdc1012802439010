"""What there is at one moment, and why one job is where it is: asked of a queue."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from penstock import JobQueue
from penstock.core.exceptions import JobNotFoundError
from penstock.core.secrets import mask_url
from penstock.job import lifecycle
from penstock.job.models import ErrorInfo, Intent, Job, Progress, WorkerInfo, new_job_id


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    # An engine with workers, of which none runs: the tests write what a worker would.
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        yield queue


def submit(jobs: JobQueue, name: str = "sales", **fields: Any) -> Job:
    intent = Intent(id=new_job_id(), kind="task", name=name, spec=b"{}", **fields)
    return jobs.ledger.insert([intent], grace_s=30)[0].job


def start(jobs: JobQueue, name: str = "sales", **fields: Any) -> Job:
    applied = jobs.ledger.apply(lifecycle.claim(submit(jobs, name, **fields).id, owner="w1", lease_s=60))
    assert applied is not None
    assert applied.job is not None
    return applied.job


def worker(queue: JobQueue, **fields: Any) -> WorkerInfo:
    now = queue.now()
    made = WorkerInfo(
        **{"id": "w1", "host": "h", "pid": 1, "backend": mask_url(queue.config.backend), "queues": ("etl",),
           "concurrency": 4, "started_at": now, "seen_at": now, "version": "0.1", "tasks": ("sales",), **fields}
    )  # fmt: skip
    queue.ledger.tell_worker(made)
    return made


def test_a_snapshot_counts_by_state_queue_and_task(queue: JobQueue) -> None:
    submit(queue), submit(queue, queue="etl"), submit(queue, "tax", queue="etl", delay_s=60)
    done = start(queue, "tax")
    queue.ledger.apply(lifecycle.succeed(done.id, attempt=1))
    taken = queue.snapshot()
    assert taken.states == {"scheduled": 1, "queued": 2, "succeeded": 1}
    assert taken.queues == {"default": {"queued": 1, "succeeded": 1}, "etl": {"scheduled": 1, "queued": 1}}
    assert taken.tasks == {"sales": {"queued": 2}, "tax": {"scheduled": 1, "succeeded": 1}}
    assert taken.total == 4


def test_a_snapshot_lists_what_runs_what_comes_and_who_works(queue: JobQueue) -> None:
    job = start(queue)
    queue.ledger.report([Progress(job_id=job.id, attempt=1, progress=0.5, message="half")])
    asked = start(queue)
    queue.job(asked.id).cancel()
    later, sooner = submit(queue, delay_s=90), submit(queue, delay_s=10)
    failed = start(queue, max_attempts=2)
    queue.ledger.apply(lifecycle.fail(failed, error=ErrorInfo("E", "no"), wait_s=20))
    worker(queue)
    taken = queue.snapshot()
    assert [(one.id, one.worker, one.state, one.progress, one.message) for one in taken.running] == [
        (job.id, "w1", "running", 0.5, "half"), (asked.id, "w1", "cancelling", None, None),
    ]  # fmt: skip
    assert [(one.id, one.state) for one in taken.future] == [
        (sooner.id, "scheduled"), (failed.id, "retrying"), (later.id, "scheduled"),
    ]  # fmt: skip
    assert [(one.id, one.version, one.tasks) for one in taken.workers] == [("w1", "0.1", ("sales",))]


def test_a_snapshot_lists_no_more_than_was_asked_for(queue: JobQueue) -> None:
    for _ in range(3):
        start(queue), submit(queue, delay_s=60)
    taken = queue.snapshot(limit=2)
    assert (len(taken.running), len(taken.future), taken.states) == (2, 2, {"scheduled": 3, "running": 3})


def test_a_snapshot_of_nothing_is_empty(queue: JobQueue) -> None:
    taken = queue.snapshot()
    assert (taken.total, taken.queues, taken.running, taken.future, taken.workers) == (0, {}, (), (), ())


def test_queues_tell_what_waits_since_when_and_who_listens(queue: JobQueue) -> None:
    first = submit(queue, queue="etl")
    submit(queue, queue="etl"), submit(queue, queue="etl", delay_s=60), start(queue, queue="etl")
    start(queue, queue="etl")
    worker(queue)
    found = {one.name: one for one in queue.queues()}
    etl = found["etl"]
    assert (etl.waiting, etl.scheduled, etl.running, etl.listeners, etl.waiting_since) == (
        2, 1, 2, ("w1",), first.scheduled_at,
    )  # fmt: skip
    assert etl.depth == 0  # the tests write the ledger, not the engine
    assert etl.late_max_s is not None
    assert 0 <= etl.late_max_s < 60
    assert found["default"].waiting == 0  # configured, though nothing is there
    assert found["default"].late_max_s is None


def test_what_somebody_has_decided_is_shown(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ACTOR", "ada")
    queue.strike("sales", "day", "==", "monday", why="bad feed")
    queue.pause(queue="etl")
    assert [(one.kind, one.by, one.why) for one in queue.snapshot().decisions] == [
        ("pause", "ada", ""), ("strike", "ada", "bad feed"),
    ]  # fmt: skip
    assert [(one.name, one.paused is not None) for one in queue.queues()] == [("default", False), ("etl", True)]


def test_an_engine_that_cannot_say_or_does_not_answer_leaves_the_depth_out(job_queue: JobQueue, tmp_path: Path) -> None:
    assert [one.depth for one in job_queue.queues()] == [None]
    with JobQueue("rq+redis://127.0.0.1:1/0", ledger="memory://", root=tmp_path) as away:
        assert [one.depth for one in away.queues()] == [None]


def test_a_job_is_explained_by_what_the_ledger_the_engine_and_the_workers_say(queue: JobQueue) -> None:
    older, job = submit(queue, queue="etl"), submit(queue, queue="etl")
    worker(queue, tasks=("other",))
    explained = queue.explain(job.id[:30])
    assert (explained.job_id, explained.state, explained.queue) == (job.id, "queued", "etl")
    assert "1 older job of queue etl waits too." in explained.points[0].told
    assert explained.told == "No worker of queue etl has the task sales."
    assert "No worker of queue etl has the task sales." in [point.told for point in explained.points]
    assert "is the first of queue etl" in queue.explain(queue.job(older.id)).points[0].told


def test_a_cancelled_job_is_explained_by_the_audit_trail(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ACTOR", "ada")
    job = queue.job(submit(queue).id)
    job.cancel(why="wrong day")
    told = " ".join(point.told for point in queue.explain(job).points)
    assert "By hand: cancel by ada" in told
    assert "(wrong day)" in told
    assert [one.actor for one in queue.audit(subject=job.id)] == ["ada"]


def test_a_retried_job_names_what_came_of_it(queue: JobQueue) -> None:
    job = queue.job(submit(queue).id)
    job.cancel()
    again = job.retry()
    assert f"It was submitted again as {again.id}, which is queued." in [p.told for p in queue.explain(job).points]


def test_a_struck_job_and_a_paused_queue_are_explained(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PENSTOCK_ACTOR", "ada")
    job, other = submit(queue, queue="etl"), submit(queue, "tax", queue="etl")
    queue.strike("sales", why="bad feed")
    explained = queue.explain(job.id)
    assert (explained.state, explained.told.startswith("Struck: sales, by ada")) == ("blocked", True)
    assert explained.told.endswith("ago: bad feed.")
    queue.pause(queue="etl")
    assert queue.explain(other.id).told.startswith("Queue etl is paused, by ada")


def test_a_job_that_is_struck_and_whose_queue_is_paused_is_told_of_both_and_how_each_ends(queue: JobQueue) -> None:
    queue.pause(queue="etl")
    queue.strike("sales", "day", "==", "a b")
    job = queue.ledger.insert(
        [Intent(id=new_job_id(), kind="task", name="sales", queue="etl", spec=b'{"kwargs":{"day":"a b"}}')], grace_s=30
    )[0].job
    points = [point for point in queue.explain(job.id).points if point.name == "decided"]
    assert [point.told.split(",")[0] for point in points] == ["Queue etl is paused", "Struck: sales"]
    assert [point.hint for point in points] == [
        "penstock resume queue etl", """penstock restore sales 'day == "a b"'"""
    ]  # fmt: skip


def test_who_has_the_slot_that_the_parameter_of_a_job_waits_for_is_told(queue: JobQueue) -> None:
    first, second = start(queue), start(queue)
    assert queue.slots.take(first, {"k": 1}) is None
    blocked = queue.slots.take(second, {"k": 1})
    assert blocked is not None
    assert blocked.held is not None
    waits = submit(queue)
    queue.ledger.apply(lifecycle.hold(waits.id, why=blocked.held))
    (slots,) = [point.told for point in queue.explain(waits.id).points if point.name == "slots"]
    assert slots == f"At most 1 with the key 'k' run at once; now: {first.id}."


def test_a_job_that_no_key_here_fits_is_explained(queue: JobQueue, tmp_path: Path) -> None:
    from msgspec.structs import replace

    security = replace(queue.config.security, signing_keys=("a key of sixteen letters",))
    job = submit(queue)
    with JobQueue(config=replace(queue.config, security=security), root=tmp_path) as signing:
        assert "Workers here would refuse it" in " ".join(p.told for p in signing.explain(job.id).points)


def test_a_job_behind_a_broker_that_is_away_is_explained(tmp_path: Path) -> None:
    with JobQueue("rq+redis://127.0.0.1:1/0", ledger="memory://", root=tmp_path) as away:
        found = {p.name: p for p in away.explain(submit(away).id).points}
        assert found["message"].level == "error"


def test_an_unknown_job_cannot_be_explained(queue: JobQueue) -> None:
    with pytest.raises(JobNotFoundError):
        queue.explain("nobody")
