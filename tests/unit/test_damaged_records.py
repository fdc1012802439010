"""A record that somebody has written past penstock is in nobody's way: not of workers, nor of jobs, nor of screens."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest

from penstock import JobQueue, audit, health, task
from penstock.audit import KIND as AUDIT
from penstock.core.config import Config
from penstock.core.exceptions import LedgerError
from penstock.core.records import Change
from penstock.declared import declare
from penstock.job.lifecycle import State
from penstock.job.models import Ref, WorkerInfo
from penstock.job.scans import SCAN, SCAN_ERROR
from penstock.job.schedules import KIND as SCHEDULE
from penstock.job.steering import KIND as STEERING
from penstock.job.steering import Strike
from penstock.ledger.memory import MemoryLedger
from penstock.ledger.rows import worker_of
from penstock.slots import HOLDERS
from penstock.testing.frozen import VirtualClock

GARBAGE = b'{"type": "strike", "truncated'
NAIVE = "2026-11-22T00:00:00"


@pytest.fixture
def clock():
    return VirtualClock(datetime(2026, 11, 22, tzinfo=UTC))


@pytest.fixture
def queue(clock, tmp_path):
    config = Config(ledger="memory://", schedules={"declared": {"task": "sales", "every": "1h", "overlap": "allow"}})
    with JobQueue("inline://", ledger=MemoryLedger(clock=clock), config=config, root=tmp_path) as opened:
        yield opened


@pytest.fixture
def sales():
    @task(name="sales")
    def sales(amount: int = 1) -> int:
        return amount

    return sales


def write(queue: JobQueue, kind: str, name: str, body: bytes = GARBAGE, *, due: bool = False) -> None:
    there = queue.ledger.records.get(kind, name)
    seen = there.version if there else 0
    due_at = queue.now() if due else None
    assert queue.ledger.records.write([Change(kind=kind, name=name, seen=seen, body=body, due_at=due_at)])[0]


def changed(queue: JobQueue, name: str, **state: Any) -> bytes:
    """Return the body of a schedule as somebody without penstock would change it."""
    record = queue.ledger.records.get(SCHEDULE, name)
    assert record is not None
    return msgspec.json.encode({**msgspec.json.decode(record.body), **state})


def told(queue: JobQueue) -> dict[str, str]:
    return {check.name: check.level for check in health.checks(queue)}


def test_jobs_run_beside_a_damaged_strike_which_the_doctor_tells(queue, sales):
    write(queue, STEERING, "pause queue x")
    assert queue.enqueue(sales, 3).wait(5).state is State.SUCCEEDED
    assert queue.rules() == []
    assert told(queue)["record steering pause queue x"] == "error"


def test_a_strike_that_makes_no_sense_meets_nothing(queue, sales):
    write(queue, STEERING, "x", msgspec.json.encode(Strike(parameter="amount", operator="between", value=[])))
    write(queue, STEERING, "y", msgspec.json.encode(Strike(parameter="amount", operator="between", value={"a": 1})))
    assert queue.enqueue(sales, 3).wait(5).state is State.SUCCEEDED


def test_a_gate_that_fails_in_a_way_nobody_foresaw_hands_its_job_back(queue, sales, clock, monkeypatch):
    monkeypatch.setattr(type(queue.slots), "concerns", lambda self, job: True)
    monkeypatch.setattr(type(queue.slots), "enter", lambda self, job: {}["here"])
    job = queue.enqueue(sales)
    assert (job.state, job.job.errors, queue.execution.running) == ("blocked", 0, [])
    assert "KeyError" in (job.job.note or "")
    clock.seconds += 10
    monkeypatch.undo()
    assert job.wait(5).state is State.SUCCEEDED


def test_schedules_go_on_beside_a_damaged_one_which_can_be_removed(queue, sales, clock):
    queue.schedule(sales, every="1h", name="good", overlap="allow")
    write(queue, SCHEDULE, "bad", due=True)
    clock.seconds += 3600
    assert queue.scheduler.tick() == 1
    assert [schedule.name for schedule in queue.schedules.list()] == ["good"]
    assert told(queue)["record schedule bad"] == "error"
    with pytest.raises(LedgerError, match="schedule bad cannot be read"):
        queue.schedules.get("bad")
    queue.schedules.remove("bad")
    assert queue.ledger.records.get(SCHEDULE, "bad") is None


def test_what_files_declare_is_made_anew_in_the_place_of_what_is_damaged(queue, sales, clock):
    write(queue, SCHEDULE, "declared", due=True)
    declare(queue)
    clock.seconds += 3600
    assert queue.scheduler.tick() == 1


def test_the_copy_of_a_schedule_under_another_name_is_none(queue, sales, clock):
    queue.schedule(sales, every="1h", name="good", overlap="allow")
    write(queue, SCHEDULE, "copy", changed(queue, "good"), due=True)
    clock.seconds += 3600
    assert queue.scheduler.tick() == 1
    assert [schedule.name for schedule in queue.schedules.list()] == ["good"]


@pytest.mark.parametrize(
    "state",
    [
        {"next_at": NAIVE},
        {"cursor_at": NAIVE},
        {"next_at": "0001-01-01T00:00:00Z", "cursor_at": "0001-01-01T00:00:00Z"},
        {"next_at": "9999-12-31T23:59:59Z", "cursor_at": "9999-12-31T23:59:59Z"},
        {"waiting": ["0001-01-01T00:00:00Z"], "last_job": "nobody"},
    ],
    ids=repr,
)
def test_where_one_schedule_stands_is_in_no_others_way(queue, sales, clock, state):
    queue.schedule(sales, every="1h", name="good", overlap="allow")
    queue.schedule(sales, every="1h", name="odd", overlap="allow", jitter="1s")
    write(queue, SCHEDULE, "odd", changed(queue, "odd", **state), due=True)
    clock.seconds += 3600
    queue.scheduler.tick()
    assert "good" in {handle.job.metadata["penstock.schedule"] for handle in queue.jobs()}


def test_a_scheduler_loads_nothing_that_a_result_names(queue, sales, tmp_path):
    (tmp_path / "file").write_bytes(b"text")
    digest = hashlib.sha256(b"text").hexdigest()
    ref = Ref(uri=(tmp_path / "file").as_uri(), format="txt", size_bytes=4, sha256=digest, kind="str")
    job = msgspec.structs.replace(queue.enqueue(sales).wait(5), result=msgspec.msgpack.encode(ref))
    assert queue.results.decode(job.result) == "text"
    assert queue.scheduler._value_of(job) != "text"


def test_what_a_run_has_said_of_the_next_one_and_cannot_be_read_is_the_default(queue, sales, clock, monkeypatch):
    queue.schedule(sales, every="1h", name="chain", follows=True, start=queue.now())
    queue.scheduler.tick()
    (job,) = queue.jobs()
    ended_at = job.wait(5).finished_at
    monkeypatch.setattr(queue.results, "describe", lambda _: queue.results.decode(b"\xc1"))
    clock.seconds += 1
    queue.scheduler.tick()
    assert queue.schedules.get("chain").next_at == ended_at + timedelta(hours=1)


def test_a_damaged_entry_of_the_audit_is_left_out(queue, sales):
    write(queue, AUDIT, "zzz")
    queue.enqueue(sales, delay="1h").cancel(why="a test")
    assert [entry.verb for entry in audit.entries(queue)] == ["cancel"]
    queue.explain(next(iter(queue.jobs())).id)


def test_a_key_whose_holders_are_damaged_is_begun_anew(queue, sales):
    write(queue, HOLDERS, "db")
    assert queue.enqueue(sales, limits={"db": 1}).wait(5).state is State.SUCCEEDED
    write(queue, HOLDERS, "other")
    queue.slots.reconcile()
    assert queue.slots.holders() == {}
    assert queue.ledger.records.get(HOLDERS, "other") is None


def test_a_dead_letter_is_requeued_although_it_is_not_known_what_became_of_it(queue, clock):
    @task(name="fails")
    def fails() -> None:
        raise ValueError("no")

    failed = queue.enqueue(fails)
    write(queue, "requeued", failed.id)
    assert queue.requeue(failed.id).job.parent_id == failed.id


def test_damaged_findings_of_a_scan_are_left_out_and_taken_away(queue):
    write(queue, SCAN_ERROR, "x.py")
    write(queue, SCAN, "/srv")
    assert (queue.discovery.errors(), queue.discovery.last()) == ([], None)
    queue.discovery.scan()
    assert queue.ledger.records.get(SCAN_ERROR, "x.py") is None


def test_a_worker_that_tells_times_without_a_zone_is_none(queue):
    now = queue.now()
    info = WorkerInfo(
        id="a", host="h", pid=1, backend="b", queues=("q",), concurrency=1, started_at=now, seen_at=now, claimed_at=now
    )
    told = msgspec.to_builtins(info)
    assert len(list(worker_of(msgspec.json.encode(told)))) == 1
    assert list(worker_of(msgspec.json.encode({**told, "claimed_at": NAIVE}))) == []
