"""What who follows a job hears: all of it, once, in order, until the job is final."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import JobQueue, LogLine, NodeChange, ProgressChange, Run, StateChange, task
from penstock.core.exceptions import JobNotFoundError, LedgerUnavailableError, ResultTimeoutError
from penstock.events import News
from penstock.handle import JobHandle
from penstock.job import lifecycle
from penstock.job.events import in_order
from penstock.job.lifecycle import Event, State
from penstock.job.models import ErrorInfo, Intent, Job, NodeRun, Progress, new_job_id

NOW = datetime(2026, 11, 21, tzinfo=UTC)
DIED = ErrorInfo(type="ProcessDied", message="gone")


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    # An engine with workers, of which none runs: the tests write what a worker would.
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        yield queue


def submit(queue: JobQueue, **fields: Any) -> JobHandle:
    intent = Intent(id=new_job_id(), kind="task", name="t", spec=b"{}", **fields)
    return JobHandle(queue, queue.ledger.insert([intent], grace_s=30)[0].job)


def claim(queue: JobQueue, handle: JobHandle) -> Job:
    applied = queue.ledger.apply(lifecycle.claim(handle.id, owner="w1", lease_s=60))
    assert applied is not None
    assert applied.job is not None
    return applied.job


def line(handle: JobHandle, text: str, *, attempt: int = 1, at: datetime | None = None) -> LogLine:
    return LogLine(
        job_id=handle.id, attempt=attempt, at=at or datetime.now(UTC), level="INFO", source="body", text=text
    )


def told(events: Any) -> list[str]:
    """Write each piece of news as a word or two."""
    words: list[str] = []
    for event in events:
        match event:
            case StateChange():
                words.append(str(event.event))
            case LogLine():
                words.append(event.text)
            case ProgressChange():
                words.append(f"{event.progress} {event.message}")
            case NodeChange():
                words.append(f"{event.name} {event.state}")
    return words


def test_what_there_is_is_told_without_waiting(queue: JobQueue) -> None:
    job = submit(queue)
    claim(queue, job)
    queue.ledger.report([line(job, "one"), Progress(job_id=job.id, attempt=1, progress=0.5, message="half")])
    assert told(job.events(follow=False)) == ["enqueue", "claim", "one", "0.5 half"]


def test_a_final_job_tells_all_and_ends(queue: JobQueue) -> None:
    job = submit(queue, max_attempts=2)
    queue.ledger.report([line(job, "first")])
    queue.ledger.apply(lifecycle.fail(claim(queue, job), error=ErrorInfo("E", "no"), rand=lambda: 0.0, wait_s=0))
    queue.ledger.report([line(job, "late")])  # the flush of the first attempt came behind its end
    claim(queue, job)
    queue.ledger.report([line(job, "second", attempt=2)])
    queue.ledger.apply(lifecycle.succeed(job.id, attempt=2))
    assert told(job.events()) == [
        "enqueue", "claim", "first", "late", "retry", "claim", "second", "succeed",
    ]  # fmt: skip


def test_news_are_told_as_they_come_and_the_last_line_before_the_end(queue: JobQueue) -> None:
    job = submit(queue)
    heard = iter(job.events())
    assert told([next(heard)]) == ["enqueue"]
    claim(queue, job)
    assert told([next(heard)]) == ["claim"]
    queue.ledger.report([line(job, "one"), line(job, "two")])
    assert told([next(heard), next(heard)]) == ["one", "two"]
    queue.ledger.report([Progress(job_id=job.id, attempt=1, progress=0.25, message="slow")])
    assert told([next(heard)]) == ["0.25 slow"]
    queue.ledger.report([line(job, "three")])
    queue.ledger.apply(lifecycle.succeed(job.id, attempt=1))
    assert told(heard) == ["three", "succeed"]


def test_a_request_to_cancel_is_news(queue: JobQueue) -> None:
    job = submit(queue)
    claim(queue, job)
    heard = iter(job.events())
    assert told([next(heard), next(heard)]) == ["enqueue", "claim"]
    job.cancel()
    assert told([next(heard)]) == ["request_cancel"]
    queue.ledger.apply(lifecycle.stop(job.id, attempt=1))
    assert told(heard) == ["stop"]


def test_nodes_of_a_pipeline_are_news(queue: JobQueue) -> None:
    job = submit(queue, max_attempts=1)
    claim(queue, job)
    node = NodeRun(job_id=job.id, attempt=1, name="load", state="running", started_at=NOW)
    queue.ledger.report([Progress(job_id=job.id, attempt=1, nodes_done=0, nodes_total=2), node])
    heard = iter(job.events())
    assert sorted(told([next(heard) for _ in range(4)])) == ["None None", "claim", "enqueue", "load running"]
    queue.ledger.report([msgspec.structs.replace(node, state="succeeded", elapsed_s=2.0)])
    (change,) = [next(heard)]
    assert isinstance(change, NodeChange)
    assert (change.name, change.state, change.at) == ("load", "succeeded", NOW + timedelta(seconds=2))


@pytest.mark.parametrize(
    ("end", "why"),
    [
        (lambda job: lifecycle.rescue(job, error=DIED, by_parent=True), "ProcessDied"),
        (lambda job: lifecycle.release(job.id, attempt=1), "released"),
    ],
    ids=["its process died", "it was handed back"],
)  # fmt: skip
def test_no_node_runs_on_when_its_attempt_is_over(queue: JobQueue, end: Any, why: str) -> None:
    job = submit(queue, max_crashes=1)
    running = claim(queue, job)
    assert running.started_at is not None
    node = NodeRun(job_id=job.id, attempt=1, name="load", state="running", started_at=running.started_at)
    done = msgspec.structs.replace(node, name="first", state="succeeded", elapsed_s=0.5)
    queue.ledger.report([Progress(job_id=job.id, attempt=1, nodes_done=1, nodes_total=2), done, node])
    assert {one.name: one.state for one in job.nodes()} == {"first": "succeeded", "load": "running"}
    queue.ledger.apply(end(running))
    (attempt,) = job.attempts()
    assert attempt.finished_at is not None
    took_s = (attempt.finished_at - running.started_at).total_seconds()
    by_name = {one.name: one for one in job.nodes()}
    assert by_name["first"] == done
    cut = by_name["load"]
    assert (cut.state, cut.elapsed_s, cut.error) == ("failed", pytest.approx(took_s), f"it was cut off: {why}")
    assert "load failed" in told(job.events(follow=False))


def test_two_who_follow_hear_the_same(queue: JobQueue) -> None:
    job = submit(queue)
    one, other = iter(job.events()), iter(queue.job(job.id).events())
    assert told([next(one)]) == told([next(other)])
    claim(queue, job)
    queue.ledger.apply(lifecycle.succeed(job.id, attempt=1))
    assert told(one) == told(other) == ["claim", "succeed"]


def test_following_ends_with_its_time(queue: JobQueue) -> None:
    job = submit(queue)
    heard = iter(job.events(timeout=0.05))
    assert told([next(heard)]) == ["enqueue"]
    with pytest.raises(ResultTimeoutError, match="still queued"):
        next(heard)


def test_a_job_that_is_purged_meanwhile_is_said_to_be_gone(queue: JobQueue) -> None:
    job = submit(queue)
    heard = iter(job.events())
    next(heard)
    queue.ledger.apply(lifecycle.cancel(job.id))
    queue.ledger.purge(State.CANCELLED, older_than_s=-1, limit=10)
    with pytest.raises(JobNotFoundError):
        next(heard)


def test_an_async_caller_hears_the_same_and_its_loop_goes_on(queue: JobQueue) -> None:
    job = submit(queue)

    async def follow() -> tuple[list[str], int]:
        words: list[str] = []
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0.01)

        turning = asyncio.create_task(turn())
        async for event in job.events():
            words += told([event])
            if words == ["enqueue"]:
                claim(queue, job)
            elif words[-1] == "claim":
                queue.ledger.apply(lifecycle.succeed(job.id, attempt=1))
        turning.cancel()
        return words, turns

    words, turns = asyncio.run(follow())
    assert words == ["enqueue", "claim", "succeed"]
    assert turns > 3


def test_where_jobs_run_in_the_caller_s_process_following_runs_them(job_queue: JobQueue) -> None:
    @task(name="events_greet", max_attempts=2, backoff="10ms")
    def greet(run: Run) -> str:
        run.message = f"try {run.attempt}"
        if run.attempt == 1:
            raise ValueError
        return "hello"

    job = job_queue.enqueue(greet)
    words = told(job.events(timeout=20))
    assert [word for word in words if " " not in word] == ["enqueue", "claim", "retry", "claim", "succeed"]
    assert job.result(0) == "hello"


def test_a_ledger_that_fails_half_way_through_a_look_loses_no_news(queue: JobQueue) -> None:
    job = submit(queue)
    claim(queue, job)
    queue.ledger.report([line(job, "one")])
    news, away = News(job.id), _Away(queue)
    with pytest.raises(LedgerUnavailableError):
        news.look(away)  # type: ignore[arg-type]
    assert told(news.look(queue.ledger)) == ["enqueue", "claim", "one"]
    assert news.look(queue.ledger) == []


class _Away:
    """The ledger, gone when the log is asked for."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue

    def __getattr__(self, verb: str) -> Any:
        if verb == "logs":
            raise LedgerUnavailableError("away")
        return getattr(self._queue.ledger, verb)


def test_many_lines_are_told_once_each_while_they_are_written(queue: JobQueue) -> None:
    job = submit(queue)
    claim(queue, job)

    def write() -> None:
        for start in range(0, 600, 20):
            queue.ledger.report([line(job, f"line {number}") for number in range(start, start + 20)])
        queue.ledger.apply(lifecycle.succeed(job.id, attempt=1))

    writer = threading.Thread(target=write)
    writer.start()
    words = told(job.events(timeout=60))
    writer.join()
    assert [word for word in words if word.startswith("line")] == [f"line {number}" for number in range(600)]


def test_the_order_does_not_hang_on_the_clocks_of_hosts() -> None:
    def change(event: Event, before: State | None, state: State, at_s: float, attempt: int) -> StateChange:
        at = NOW + timedelta(seconds=at_s)
        return StateChange(job_id="j", at=at, attempt=attempt, event=event, before=before, state=state)

    def late(text: str, at_s: float, attempt: int) -> LogLine:
        at = NOW + timedelta(seconds=at_s)
        return LogLine(job_id="j", attempt=attempt, at=at, level="INFO", source="b", text=text)

    enqueue = change(Event.ENQUEUE, None, State.QUEUED, 0, 0)
    claims = [change(Event.CLAIM, State.QUEUED, State.RUNNING, at_s, n) for at_s, n in ((1, 1), (6, 2))]
    release = change(Event.RELEASE, State.RUNNING, State.QUEUED, 5, 1)
    cancel = change(Event.CANCEL, State.QUEUED, State.CANCELLED, 9, 2)
    lines = [late("a", 100, 1), late("b", -100, 1), late("c", -50, 2)]
    wanted = [enqueue, claims[0], lines[0], lines[1], release, claims[1], lines[2], cancel]
    assert in_order([*lines, cancel, release, *reversed(claims), enqueue]) == wanted


def test_an_event_says_in_json_what_it_is(queue: JobQueue) -> None:
    job = submit(queue)
    claim(queue, job)
    queue.ledger.report([line(job, "one"), Progress(job_id=job.id, attempt=1, progress=0.5)])
    kinds = [msgspec.json.decode(msgspec.json.encode(event))["type"] for event in job.events(follow=False)]
    assert kinds == ["state", "state", "log", "progress"]
