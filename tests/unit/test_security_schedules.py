"""With signing keys jobs are made only of schedules that somebody with a key has made: who makes jobs signs them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.core.config import Config, SecurityConfig
from penstock.core.exceptions import InvalidScheduleError
from penstock.core.records import Change
from penstock.declared import declare
from penstock.job.models import JobQuery
from penstock.job.schedules import KIND
from penstock.ledger.memory import MemoryLedger
from penstock.scheduler import decoder
from penstock.testing.frozen import VirtualClock

OLD, NEW, OTHER = "old-key-0123456789", "new-key-0123456789", "other-key-0123456789"
START = datetime(2026, 11, 22, tzinfo=UTC)


@pytest.fixture
def clock():
    return VirtualClock(START)


@pytest.fixture
def ledger(clock):
    return MemoryLedger(clock=clock)


@pytest.fixture
def open_queue(ledger, tmp_path):
    opened = []

    def make(*keys, **changes):
        config = Config(
            backend=f"huey+sqlite:///{tmp_path}/queue.db", security=SecurityConfig(signing_keys=keys), **changes
        )
        opened.append(JobQueue(config=config, root=tmp_path, ledger=ledger))
        return opened[-1]

    yield make
    for queue in opened:
        queue.close()


@pytest.fixture
def sales():
    @task(name="sales")
    def sales(region: str = "eu") -> None:
        """Do nothing."""

    return sales


def tamper(ledger, name, **plan):
    """Change a schedule in the ledger as somebody without a key would."""
    record = ledger.records.get(KIND, name)
    schedule = decoder.decode(record.body)
    schedule = msgspec.structs.replace(schedule, plan=msgspec.structs.replace(schedule.plan, **plan))
    change = Change(kind=KIND, name=name, seen=record.version, body=msgspec.json.encode(schedule), due_at=record.due_at)
    assert ledger.records.write([change]) != [0]


def other_input(ledger):
    template = decoder.decode(ledger.records.get(KIND, "sales").body).plan.template
    tamper(ledger, "sales", template=msgspec.structs.replace(template, spec='{"kwargs":{"region":"mine"}}'))


def an_hour_later(clock, queue):
    clock.seconds += 3600
    return queue.scheduler.tick()


def test_a_schedule_that_was_made_with_a_key_makes_jobs_that_are_signed(open_queue, clock, sales):
    queue = open_queue(NEW)
    queue.schedule(sales, every="1h", inputs={"region": "us"})
    assert an_hour_later(clock, queue) == 1
    (job,) = queue.ledger.find(JobQuery())
    assert queue.signer.problem(job) is None


@pytest.mark.parametrize("change", ["unsigned", "input", "option"])
def test_a_schedule_that_nobody_with_a_key_has_made_makes_no_jobs_and_is_told_once(
    open_queue, clock, sales, ledger, change, caplog
):
    open_queue(*([] if change == "unsigned" else [NEW])).schedule(sales, every="1h")
    queue = open_queue(NEW)
    queue.schedule(sales, every="1h", name="good", overlap="allow")
    if change == "input":
        other_input(ledger)
    elif change == "option":
        tamper(ledger, "sales", overlap="allow")
    assert an_hour_later(clock, queue) == 1
    assert an_hour_later(clock, queue) == 1
    assert {job.metadata["penstock.schedule"] for job in queue.ledger.find(JobQuery())} == {"good"}
    assert caplog.text.count("schedule sales makes no jobs here") == 1


@pytest.mark.parametrize("verb", ["trigger", "update", "backfill"])
def test_no_verb_signs_what_was_tampered_with(open_queue, sales, ledger, verb):
    queue = open_queue(NEW)
    queue.schedule(sales, every="1h")
    other_input(ledger)
    verbs = {
        "trigger": lambda: queue.schedules.trigger("sales"),
        "update": lambda: queue.schedules.update("sales", every="2h"),
        "backfill": lambda: queue.backfill("sales", start="2026-11-20", end="2026-11-20"),
    }
    with pytest.raises(InvalidScheduleError, match="does not fit"):
        verbs[verb]()
    assert queue.counts() == {}


def test_a_change_by_who_has_a_key_is_signed(open_queue, clock, sales):
    queue = open_queue(NEW)
    queue.schedule(sales, every="1h")
    queue.schedules.update("sales", tags=["night"])
    queue.schedules.pause("sales")
    queue.schedules.resume("sales")
    assert an_hour_later(clock, queue) == 1


def test_what_the_configuration_declares_is_put_right_and_signed_by_the_next_worker(open_queue, clock, sales, ledger):
    tables = {"sales": {"task": "sales", "every": "1h", "overlap": "allow"}}
    declare(open_queue(schedules=tables))  # before there were keys
    queue = open_queue(NEW, schedules=tables)
    declare(queue)
    assert an_hour_later(clock, queue) == 1
    other_input(ledger)
    declare(queue)
    assert an_hour_later(clock, queue) == 1
    assert [b"mine" in job.spec for job in queue.ledger.find(JobQuery())] == [False, False]


def test_while_keys_change_schedules_of_the_old_one_go_on_and_are_left_as_they_are(open_queue, clock, sales):
    tables = {"sales": {"task": "sales", "every": "1h", "overlap": "allow"}}
    declare(open_queue(OLD, schedules=tables))
    queue = open_queue(NEW, OLD, schedules=tables)
    assert declare(queue) == {"sales": "kept"}
    assert an_hour_later(clock, queue) == 1


def test_a_schedule_of_a_key_that_is_not_known_here_is_left_to_others(open_queue, clock, sales):
    theirs, queue = open_queue(OTHER), open_queue(NEW)
    theirs.schedule(sales, every="1h")
    assert an_hour_later(clock, queue) == 0
    assert theirs.scheduler.tick() == 1


def test_without_keys_signatures_are_not_looked_at(open_queue, clock, sales, ledger):
    queue = open_queue()
    queue.schedule(sales, every="1h")
    other_input(ledger)
    assert an_hour_later(clock, queue) == 1
    assert queue.schedules.get("sales").signature is None
    assert queue.schedules.get("sales").next_at == START + timedelta(hours=2)
