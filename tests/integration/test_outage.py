"""The ledger is away for longer than a lease: whose body lives keeps its job, and who cannot renew stops in time."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import pytest

from penstock import JobQueue, Run, task
from penstock.core.config import LeaseConfig, SweepConfig, WorkerConfig
from penstock.job.lifecycle import State
from penstock.leaving import ENDING_S
from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.record import Record, write
from penstock.testing.harness import WorkerProcess, WorkerThread, short_config, wait_until
from penstock.testing.server import locked, outage

TTL_S = 2.5
AWAY_S = 2 * TTL_S


@task(name="outage.hold", max_attempts=1)
def hold(file: str, gate: str, run: Run) -> int:
    write(file, "start", "", run.job_id, run.attempt)
    try:
        while not Path(gate).exists():
            time.sleep(0.01)
    except BaseException:
        write(file, "stopped", "", run.job_id, run.attempt)
        raise
    write(file, "end", "", run.job_id, run.attempt)
    return run.attempt


class Place(NamedTuple):
    ledger: str
    away: Callable[[], AbstractContextManager[None]]


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def place(request: Any, tmp_path: Path) -> Iterator[Place]:
    if request.param == "sqlite":
        file = tmp_path / "ledger.db"
        yield Place(f"sqlite:///{file}", lambda: locked(file))
        return
    if (why_not := services.available(request.param)) is not None:
        pytest.skip(why_not)
    new = {"redis": services.new_redis, "postgres": services.new_postgres}[request.param]
    with new().start() as server:
        yield Place(server.url, lambda: outage(server))


@pytest.fixture
def started(tmp_path: Path) -> Iterator[list[WorkerThread]]:
    workers: list[WorkerThread] = []
    yield workers
    (tmp_path / "gate").touch()
    for worker in workers:
        worker.stop()


def open_queue(place: Place, folder: Path, on_lost: Any) -> JobQueue:
    lease = LeaseConfig(ttl=f"{TTL_S}s", heartbeat="300ms", fence_margin="300ms", cancel_poll="100ms", on_lost=on_lost)
    sweep = SweepConfig(interval="100ms", due_interval="50ms", publish_grace="1s", max_publish_grace="1s")
    config = short_config(
        backend="huey+sqlite:///queue.db", ledger=place.ledger, namespace="outage", lease=lease, sweep=sweep
    )
    return JobQueue(config=config, root=folder)


def test_a_body_that_may_finish_keeps_its_job_although_its_lease_has_ended(
    place: Place, tmp_path: Path, started: list[WorkerThread]
) -> None:
    record, gate = Record(tmp_path), tmp_path / "gate"
    with open_queue(place, tmp_path, "finish_fenced") as queue:
        job = queue.enqueue(hold, file=record.file, gate=str(gate))
        started.append(WorkerThread(queue))
        record.wait_started()
        with place.away():
            time.sleep(AWAY_S)  # the outage itself
        started.append(WorkerThread(queue))  # its sweeper has seen nothing of it
        wait_until(lambda: queue.ledger.get(job.id).lease_until > queue.now(), 20, "the lease is renewed")
        gate.touch()
        assert job.result(20) == 1
        row = queue.ledger.get(job.id)
        assert (row.attempt, row.crashes, len(record.starts())) == (1, 0, 1)


def test_a_body_that_must_stop_has_stopped_before_its_lease_ends_and_spends_no_budget(
    place: Place, tmp_path: Path, started: list[WorkerThread]
) -> None:
    record, gate = Record(tmp_path), tmp_path / "gate"
    with open_queue(place, tmp_path, "stop") as queue:
        job = queue.enqueue(hold, file=record.file, gate=str(gate))
        started.append(WorkerThread(queue))
        record.wait_started()
        lease_until = wait_until(lambda: queue.ledger.get(job.id).lease_until, what="the job is claimed")
        with place.away():
            began = time.monotonic()
            (stopped,) = wait_until(lambda: record.entries("stopped"), 20, "the body is stopped")
            time.sleep(max(0.0, AWAY_S - (time.monotonic() - began)))  # the rest of the outage
        assert stopped.at_s - began <= TTL_S
        assert lease_until is not None
        gate.touch()
        started.append(WorkerThread(queue))
        assert job.result(20) == 2
        row = queue.ledger.get(job.id)
        assert (row.state, row.errors, row.crashes) == (State.SUCCEEDED, 0, 0)
        assert [attempt.outcome for attempt in job.attempts()] == ["released", "succeeded"]


def test_what_ended_during_an_outage_counts(place: Place, tmp_path: Path, started: list[WorkerThread]) -> None:
    record, gate = Record(tmp_path), tmp_path / "gate"
    with open_queue(place, tmp_path, "finish_fenced") as queue:
        job = queue.enqueue(hold, file=record.file, gate=str(gate))
        started.append(WorkerThread(queue))
        record.wait_started()
        with place.away():
            gate.touch()
            wait_until(record.ends, 20, "the body ends")
            time.sleep(AWAY_S)  # the outage itself
        started.append(WorkerThread(queue))
        assert job.result(20) == 1
        assert queue.ledger.get(job.id).crashes == 0


@pytest.mark.parametrize("signals", [1, 2])
def test_a_worker_leaves_in_time_although_its_ledger_does_not_answer(
    place: Place, tmp_path: Path, signals: int
) -> None:
    record, gate = Record(tmp_path), tmp_path / "gate"
    with open_queue(place, tmp_path, "finish_fenced") as queue:
        queue.config = msgspec.structs.replace(queue.config, tasks=(bodies.MODULE,), worker=WorkerConfig(grace="1s"))
        job = queue.enqueue(bodies.hold, file=record.file, gate=str(gate))
        worker = WorkerProcess(queue)
        record.wait_started()
        with place.away():
            time.sleep(AWAY_S)  # the outage itself: by now every thread of the worker that asks the ledger waits
            began = time.monotonic()
            for _ in range(signals):
                worker.process.send_signal(signal.SIGTERM)
                time.sleep(0.1)  # of two that come at once the kernel delivers one
            worker.wait(20)
            took_s = time.monotonic() - began
        assert took_s < (2.5 if signals == 2 else 1 + ENDING_S + 2)
        assert queue.ledger.get(job.id).errors == 0
