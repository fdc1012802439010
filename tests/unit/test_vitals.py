"""What a worker process tells of its own health, from the signs that reached it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from penstock import JobQueue, task
from penstock.testing.harness import CALM, short_config, wait_until
from penstock.vitals import Health, Vitals, family_health, member

PATIENCE_S = 0.2


@task(name="vitals.noop")
def noop() -> None:
    """Do nothing."""


@pytest.fixture
def vitals() -> Vitals:
    """Of a worker that works."""
    made = Vitals(owner="w", queues=("default",), concurrency=2, patience_s=PATIENCE_S)
    made.phase = "working"
    made.turn()
    made.contact()
    made.ledger_answered()
    return made


def trouble(vitals: Vitals) -> set[str]:
    return {sign.name for sign in vitals.health().signs if not sign.ok}


def test_a_worker_that_works_is_live_and_ready(vitals):
    health = vitals.health()
    assert (health.live, health.ready, health.trouble) == (True, True, "")


@pytest.mark.parametrize("phase", ["starting", "draining"])
def test_a_worker_that_starts_or_drains_is_live_and_not_ready(vitals, phase):
    vitals.phase = phase
    assert (vitals.health().live, vitals.health().ready) == (True, False)


def test_a_main_thread_that_does_not_turn_is_not_live(vitals):
    wait_until(lambda: not vitals.health().live, 5)
    assert "the main thread has not turned" in vitals.health().trouble


def test_an_engine_s_loop_that_does_not_turn_is_not_live(vitals):
    vitals.loop_turned()
    wait_until(lambda: vitals.turn() or not vitals.health().live, 5)
    assert "the engine's loop has not turned" in vitals.health().trouble


def test_an_engine_s_worker_that_has_ended_is_not_live(vitals):
    vitals.phase = "ended"
    assert not vitals.health().live


def rest_long(vitals):
    """Rest for longer than the patience, while the main thread and the ledger are well."""
    vitals.loop_turned()
    vitals.rest()
    until = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < until:
        vitals.turn()
        vitals.ledger_answered()


def test_a_worker_that_somebody_has_paused_is_live_and_not_ill(vitals):
    rest_long(vitals)
    health = vitals.health()
    assert (health.phase, health.live, health.ready, health.trouble) == ("paused", True, False, "")


def test_a_worker_that_goes_on_is_well_before_its_engine_has_answered(vitals):
    rest_long(vitals)
    vitals.wake()
    assert (vitals.health().ready, vitals.health().trouble) == (True, "")


def test_a_broker_that_answers_nobody_is_an_engine_in_trouble_and_the_process_lives(vitals):
    wait_until(lambda: vitals.turn() or trouble(vitals) >= {"engine"}, 5)
    assert (vitals.health().live, vitals.health().ready) == (True, False)


def test_a_worker_that_is_full_need_not_have_asked_its_broker(vitals):
    vitals.join(running=lambda: 2, counts={})
    until = time.monotonic() + 2 * PATIENCE_S
    while time.monotonic() < until:
        vitals.turn()
        assert "engine" not in trouble(vitals)


def test_a_worker_that_drains_does_not_ask_its_broker(vitals):
    vitals.phase = "draining"
    time.sleep(1.5 * PATIENCE_S)  # the silence itself
    assert "engine" not in trouble(vitals)


def test_an_engine_that_never_tells_of_contact_is_not_blamed_for_silence():
    vitals = Vitals(owner="w", queues=("default",), concurrency=2, patience_s=0.01)
    vitals.phase = "working"
    time.sleep(0.05)
    assert "engine" not in trouble(vitals)


def test_a_ledger_that_failed_is_told_with_its_error_and_no_password(vitals):
    vitals.ledger_failed(RuntimeError("postgres://ada:secret@host/db does not answer"))
    assert "does not answer" in vitals.health().trouble
    assert "secret" not in vitals.health().trouble


def test_a_main_thread_that_waits_for_a_ledger_which_takes_no_write_is_no_reason_for_a_restart(vitals):
    vitals.ledger_written(taken=False)
    wait_until(lambda: vitals.ledger_answered() or "ledger" in trouble(vitals), 5)
    assert "has taken no write for" in vitals.health().trouble
    time.sleep(2 * PATIENCE_S)  # the main thread itself
    vitals.ledger_answered()
    assert (vitals.health().live, vitals.health().ready) == (True, False)
    vitals.ledger_written(taken=True)
    assert trouble(vitals) == {"loop", "engine"}


def test_a_worker_that_takes_nothing_although_messages_wait_is_not_ready(tmp_path: Path):
    config = short_config(backend="huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", sweep=CALM)
    with JobQueue(config=config, root=tmp_path) as queue:
        queue.enqueue(noop)
        vitals = Vitals(owner="w", queues=("default",), concurrency=2, patience_s=PATIENCE_S)
        vitals.phase = "working"
        vitals.watch(queue.ledger, queue.gateway)
        wait_until(lambda: vitals.turn() or "claims" in trouble(vitals), 5)
        assert "1 messages wait and none is taken; last claim: nothing yet" in vitals.health().trouble
        vitals.join(running=lambda: 0, counts={"claimed": 1})
        vitals.turn()
        assert "claims" not in trouble(vitals)
        vitals.close()


def test_a_worker_that_is_watched_knows_at_once_that_its_broker_refuses(tmp_path: Path):
    config = short_config(backend="huey+redis://127.0.0.1:1", ledger="sqlite:///ledger.db")
    with JobQueue(config=config, root=tmp_path) as queue:
        vitals = Vitals(owner="w", queues=("default",), concurrency=2, patience_s=60)
        vitals.watch(queue.ledger, queue.gateway)
        vitals.phase = "working"
        wait_until(lambda: "engine" in trouble(vitals), 5)
        vitals.close()


def test_several_are_ready_when_each_is_and_live_when_none_is_stuck(vitals):
    well: Health = vitals.health()
    good = member(1, well, silent_s=0, patience_s=1)
    assert family_health([good, good], turns=True, phase="working").ready
    dying = family_health([good, member(None)], turns=True, phase="working")
    assert (dying.live, dying.ready) == (True, False)
    silent = family_health([good, member(2, well, silent_s=2, patience_s=1)], turns=True, phase="working")
    assert (silent.live, silent.ready) == (False, False)
    assert not family_health([good], turns=False, phase="working").live
