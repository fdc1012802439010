"""What the feature table says is had: each feature is used, on a transport with workers and on the one without."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Callable
from typing import Any

import pytest

from penstock import JobQueue, Run, task
from penstock.core.capabilities import FEATURES, Support
from penstock.core.exceptions import UnsupportedError
from penstock.dependencies import Depends, Perpetual, RateLimit
from penstock.processes import refuse_unshared
from penstock.testing.harness import wait_until

PROOFS: dict[str, Callable[[JobQueue], Any]] = {}


def proof(name: str) -> Callable[[Callable[[JobQueue], Any]], Callable[[JobQueue], Any]]:
    def keep(function: Callable[[JobQueue], Any]) -> Callable[[JobQueue], Any]:
        PROOFS[name] = function
        return function

    return keep


@task(name="feature.same")
def same(value: int = 1) -> int:
    return value


@task(name="feature.again", max_attempts=2, backoff="10ms")
def again(run: Run) -> int:
    if run.attempt == 1:
        raise ValueError("not yet")
    run.progress = 0.5
    return run.attempt


@task(name="feature.coroutine")
async def coroutine() -> int:
    return 3


@task(name="feature.asking")
def asking(value: int = Depends(lambda: 4), rate: Any = RateLimit(5, per="1h")) -> int:
    return value


@task(name="feature.following")
def following(chain: Any = Perpetual(every="1h")) -> None: ...


@proof("delays")
def _(queue: JobQueue) -> None:
    job = queue.enqueue(same, delay="200ms")
    assert job.state == "scheduled"
    assert job.result(20) == 1


@proof("retries")
def _(queue: JobQueue) -> None:
    assert queue.enqueue(again).result(20) == 2


@proof("timeouts")
def _(queue: JobQueue) -> None:
    assert queue.enqueue_command(["sleep", "20"], timeout="200ms").wait(20).reason == "timeout"


@proof("cancel of a running job")
def _(queue: JobQueue) -> None:
    enqueued: list[Any] = []
    beside = threading.Thread(target=lambda: enqueued.append(queue.enqueue_command(["sleep", "20"])))
    beside.start()
    wait_until(lambda: queue.counts() == {"running": 1})
    queue.jobs()[0].cancel()
    beside.join()
    assert enqueued[0].wait(20).state.value == "cancelled"


@proof("`async def` bodies")
def _(queue: JobQueue) -> None:
    assert queue.enqueue(coroutine).result(20) == 3


@proof("bodies in processes of their own")
def _(queue: JobQueue) -> None:
    assert queue.enqueue(same.options(isolation="process").call(6)).result(30) == 6


@proof("results, logs, progress")
def _(queue: JobQueue) -> None:
    job = queue.enqueue(again)
    assert (job.result(20), job.job.progress) == (2, 0.5)
    told = queue.enqueue_command(["echo", "now"])
    told.wait(20)
    assert [line.text for line in told.logs()] == ["now"]


@proof("events")
def _(queue: JobQueue) -> None:
    assert next(iter(queue.enqueue(same).events())).state == "queued"


@proof("uniqueness")
def _(queue: JobQueue) -> None:
    assert [queue.enqueue(same, delay="1h", key="k").outcome for _ in range(2)] == ["created", "kept"]


@proof("expiry")
def _(queue: JobQueue) -> None:
    queue.pause(task="feature.same")
    job = queue.enqueue(same, expires="100ms")

    def expired() -> bool:
        if queue.gateway.in_process:
            queue.worker(burst=True).run()
        return job.refresh().reason == "expired"

    wait_until(expired)


@proof("concurrency keys")
def _(queue: JobQueue) -> None:
    assert queue.enqueue(same, limits={"db": 1}).result(20) == 1


@proof("rate limits")
@proof("dependencies as parameters")
def _(queue: JobQueue) -> None:
    assert queue.enqueue(asking).result(20) == 4


@proof("jobs that follow themselves")
def _(queue: JobQueue) -> None:
    queue.enqueue(following).wait(20)
    wait_until(lambda: queue.counts() == {"succeeded": 1, "scheduled": 1})


@proof("schedules and backfills")
def _(queue: JobQueue) -> None:
    queue.schedule(same, every="1d", name="daily")
    assert queue.schedules.trigger("daily").result(20) == 1
    assert queue.backfill(same, every="1d", start="2026-01-01", end="2026-01-02").succeeded == 2


@proof("strikes and pauses")
def _(queue: JobQueue) -> None:
    queue.strike(same, "value", ">", 3)
    queue.pause(queue="etl")
    jobs = [queue.enqueue(same, 4), queue.enqueue(same.options(queue="etl").call(1)), queue.enqueue(same, 2)]
    assert jobs[2].result(20) == 2
    assert [job.state for job in jobs] == ["blocked", "blocked", "succeeded"]


@proof("dead letters")
def _(queue: JobQueue) -> None:
    job = queue.enqueue(again.options(max_attempts=1).call())
    job.wait(20)
    assert [letter.id for letter in queue.dead_letters()] == [job.id]
    assert queue.requeue(job.id, max_attempts=2).result(20) == 2


@proof("snapshot, explanation, audit")
def _(queue: JobQueue) -> None:
    job = queue.enqueue(same, delay="1h")
    assert queue.snapshot().tasks == {"feature.same": {"scheduled": 1}}
    assert queue.explain(job).told.startswith("It is scheduled for")
    job.cancel(why="no")
    assert [entry.why for entry in queue.audit()] == ["no"]


@proof("a caller's own transaction")
def _(queue: JobQueue) -> None:
    path = queue.config.ledger.removeprefix("sqlite:///")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as connection:
        connection.execute("begin immediate")
        job = queue.enqueue(same, connection=connection)
        connection.execute("commit")
    assert job.result(20) == 1


@proof("several processes")
def _(queue: JobQueue) -> None:
    refuse_unshared(queue, 2)


@pytest.fixture(params=["inline://", "huey+sqlite:///{}/queue.db"], ids=["inline", "huey"])
def queue(request, tmp_path):
    with JobQueue(request.param.format(tmp_path), ledger=f"sqlite:///{tmp_path}/ledger.db", root=tmp_path) as queue:
        assert queue.counts() == {}
        if queue.gateway.in_process:
            yield queue
        else:
            with queue.worker(concurrency=2):
                yield queue


def test_every_feature_is_proved():
    assert list(PROOFS) == list(dict.fromkeys(PROOFS))
    assert set(PROOFS) == {feature.name for feature in FEATURES}


@pytest.mark.parametrize("feature", FEATURES, ids=lambda feature: feature.name)
def test_a_feature_is_had_where_the_table_says_so_and_refused_elsewhere(queue, feature):
    if feature.on(queue.gateway.capabilities) is Support.ABSENT:
        with pytest.raises(UnsupportedError, match=f"capability '{feature.needs}' is absent"):
            PROOFS[feature.name](queue)
    else:
        PROOFS[feature.name](queue)
