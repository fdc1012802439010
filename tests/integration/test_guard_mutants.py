"""Every transition tried from every stage a job can be in; and any one guard taken away is noticed there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count

import pytest
from ledger_oracle import EVENTS_OF_A_ROW, KINDS, Clock, DivergenceError, Pair, open_kind
from msgspec.structs import replace

from penstock.job import lifecycle
from penstock.job.lifecycle import TRANSITIONS, Event, Reason, State, Transition
from penstock.job.models import ErrorInfo, Intent, Job
from penstock.ledger import memory, postgres_schema, redis_lua, sqlite_schema

UNIQUE = {"memory": memory, "sqlite": sqlite_schema, "redis": redis_lua, "postgres": postgres_schema}
LEASE_S = 60.0
ERROR = ErrorInfo("ValueError", "no")


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


@pytest.fixture
def pair(kind, tmp_path) -> Iterator[Pair]:
    clock = Clock()
    ledger = open_kind(kind, tmp_path, clock)
    yield Pair(ledger, clock)
    ledger.close()


class Stages:
    """Brings fresh jobs into every stage that the protocol knows."""

    def __init__(self, pair: Pair, max_crashes: int = 3) -> None:
        self.pair = pair
        self.max_crashes = max_crashes
        self.numbers = count(1)

    def _new(self, **fields) -> str:
        job_id = f"job-{self.max_crashes}-{next(self.numbers):04}"
        budgets = {"max_attempts": 5, "max_crashes": self.max_crashes}
        intent = Intent(id=job_id, kind="task", name="t", spec=b"{}", **budgets, **fields)
        self.pair.insert(intent)
        return intent.id

    def _claim(self, job_id: str) -> str:
        self.pair.apply(lifecycle.claim(job_id, owner="w1", lease_s=LEASE_S))
        return job_id

    def due(self) -> str:
        return self._new()

    def scheduled(self) -> str:
        return self._new(delay_s=1000.0)

    def held(self) -> str:
        job_id = self._new()
        self.pair.apply(lifecycle.hold(job_id, why="paused"))
        return job_id

    def held_from_the_start(self) -> str:
        return self._new(held="struck")

    def held_and_cancelled(self) -> str:
        job_id = self.held()
        self.pair.apply(lifecycle.cancel(job_id))
        return job_id

    def stale(self) -> str:
        job_id = self._new(expires_s=10.0)
        self.pair.clock.now += 10.25
        return job_id

    def stale_and_cancelled(self) -> str:
        job_id = self.stale()
        self.pair.apply(lifecycle.cancel(job_id))
        return job_id

    def begun_in_time(self) -> str:
        job_id = self._claim(self._new(expires_s=10.0))
        self.pair.clock.now += 10.25
        self.pair.apply(lifecycle.release(job_id, attempt=1))
        return job_id

    def published_again(self) -> str:
        job_id = self._new()
        self.pair.apply(lifecycle.publish(self.pair.ledger.get(job_id), grace_s=30.0, max_grace_s=600.0))
        return job_id

    def running(self) -> str:
        return self._claim(self._new())

    def overdue(self) -> str:
        job_id = self.running()
        self.pair.clock.now += LEASE_S + 0.25
        return job_id

    def cancelling(self) -> str:
        job_id = self.running()
        self.pair.apply(lifecycle.request_cancel(job_id))
        return job_id

    def cancelling_and_overdue(self) -> str:
        job_id = self.cancelling()
        self.pair.clock.now += LEASE_S + 0.25
        return job_id

    def released(self) -> str:
        job_id = self.running()
        self.pair.apply(lifecycle.release(job_id, attempt=1))
        return job_id

    def retrying(self) -> str:
        job_id = self.running()
        self.pair.apply(lifecycle.fail(self.pair.ledger.get(job_id), error=ERROR, rand=lambda: 1.0))
        return job_id

    def running_again(self) -> str:
        return self._claim(self.released())

    def running_again_and_cancelling(self) -> str:
        job_id = self.running_again()
        self.pair.apply(lifecycle.request_cancel(job_id))
        return job_id

    def running_again_and_overdue(self) -> str:
        job_id = self.running_again()
        self.pair.clock.now += LEASE_S + 0.25
        return job_id

    def succeeded(self) -> str:
        job_id = self.overdue()
        self.pair.apply(lifecycle.succeed(job_id, attempt=1, result=b"1"))
        return job_id

    def succeeded_although_asked_to_stop(self) -> str:
        job_id = self.cancelling_and_overdue()
        self.pair.apply(lifecycle.succeed(job_id, attempt=1))
        return job_id

    def failed(self) -> str:
        job_id = self.overdue()
        self.pair.apply(lifecycle.fail(self.pair.ledger.get(job_id), error=ERROR, retryable=False))
        return job_id

    def cancelled(self) -> str:
        job_id = self.cancelling_and_overdue()
        self.pair.apply(lifecycle.stop(job_id, attempt=1))
        return job_id

    def gone(self) -> str:
        return "job-0"

    def all(self) -> list[Callable[[], str]]:
        return [getattr(self, name) for name in vars(Stages) if not name.startswith("_") and name != "all"]


def _steps(job: Job) -> Iterator[Transition]:
    """Every transition that somebody who knows this row, or an older one, could ask for."""
    job_id = job.id
    yield lifecycle.claim(job_id, owner="w2", lease_s=LEASE_S)
    yield lifecycle.cancel(job_id)
    yield lifecycle.request_cancel(job_id)
    yield lifecycle.hold(job_id, why="struck")
    yield lifecycle.admit(job_id, why="paused")
    yield lifecycle.wake(job_id)
    yield lifecycle.expire(job_id, error=ERROR)
    for attempt in {job.attempt, 1}:
        row = replace(job, attempt=attempt)
        yield lifecycle.beat(job_id, attempt=attempt, lease_s=2 * LEASE_S)
        yield lifecycle.succeed(job_id, attempt=attempt, result=b"2")
        yield lifecycle.fail(row, error=ERROR, rand=lambda: 1.0)
        yield lifecycle.fail(row, error=ERROR, reason=Reason.TIMEOUT, retryable=False)
        yield lifecycle.release(job_id, attempt=attempt, note="shutdown")
        yield lifecycle.release(job_id, attempt=attempt, held="struck")
        yield lifecycle.stop(job_id, attempt=attempt)
        yield lifecycle.rescue(row, error=ERROR)
        yield lifecycle.rescue(row, by_parent=True)
    for publishes in {job.publishes, job.publishes + 1}:
        yield lifecycle.publish(replace(job, publishes=publishes), grace_s=30.0, max_grace_s=600.0)


def try_every_step_from_every_stage(pair: Pair, only: Event | None = None) -> set[Event]:
    """Drive the ledger beside the model, with the steps of one event or all; return the events that were tried."""
    tried = set[Event]()
    for max_crashes in (3, 1):
        for stage in Stages(pair, max_crashes).all():
            number, steps = 0, 1
            while number < steps:  # a fresh job for each step; all jobs of a stage know the same steps
                job_id = stage()
                row = pair.ledger.get(job_id) if job_id in pair.model.rows else _unknown(job_id)
                possible = [step for step in _steps(row) if only in (None, step.event)]
                if not possible:
                    break
                pair.apply(possible[number])
                tried.add(possible[number].event)
                number, steps = number + 1, len(possible)
    pair.check()
    return tried


def _unknown(job_id: str) -> Job:
    return Job(id=job_id, kind="task", name="t", spec=b"", state=State.QUEUED, created_at=None, scheduled_at=None)


def try_purges(pair: Pair) -> None:
    stages = Stages(pair)
    for stage in stages.all():
        stage()
        for state in State:
            pair.purge(state, older_than_s=50.0)
        pair.check()
        pair.clock.now += 25.0
    for state in State:
        pair.purge(state, older_than_s=0.0)
    pair.check()


def try_conflicts(pair: Pair) -> None:
    def intent(job_id: str, **fields) -> Intent:
        return Intent(id=job_id, kind="task", name="t", spec=b"{}", **fields)

    pair.insert(intent("a", key="k"), intent("b", tick_key="s@1"))
    pair.insert(intent("a"))
    pair.insert(intent("c", key="k"))
    pair.insert(intent("d", tick_key="s@1"))
    pair.insert(intent("e", key="k2"), intent("f", key="k2"), intent("e"))
    pair.apply(lifecycle.claim("a", owner="w1", lease_s=LEASE_S))
    pair.insert(intent("g", key="k"))
    pair.apply(lifecycle.succeed("a", attempt=1))
    pair.insert(intent("h", key="k"))
    pair.apply(lifecycle.cancel("b"))
    pair.insert(intent("i", tick_key="s@1"), intent("a"))
    pair.check()
    pair.insert(intent("l", key="k", on_conflict="replace"))
    pair.insert(intent("m", unique_key="u"), intent("n", unique_key="u", unique_period_s=20.0))
    pair.clock.now += 25.0
    pair.insert(intent("o", unique_key="u", unique_period_s=20.0, key="k3"))
    pair.apply(lifecycle.claim("o", owner="w1", lease_s=LEASE_S))
    pair.insert(intent("p", unique_key="u", unique_states=("queued",), on_conflict="replace"))
    pair.insert(intent("q", key="k3", on_conflict="replace", held="struck"))
    pair.insert(intent("r", unique_key="u", unique_states=("cancelled",)), intent("q"))
    pair.check()


EVERYTHING = (try_conflicts, try_purges, try_every_step_from_every_stage)


def test_every_event_is_tried(pair):
    assert try_every_step_from_every_stage(pair) == set(EVENTS_OF_A_ROW)


@pytest.mark.parametrize("scenario", EVERYTHING, ids=lambda scenario: scenario.__name__)
def test_the_ledger_agrees_with_the_model(pair, scenario):
    scenario(pair)


MUTANTS = [
    (event, guard)
    for event, rule in TRANSITIONS.items()
    for guard in (*(["state"] if rule.start else []), *(guard.value for guard in rule.guards))
]
EQUIVALENT = {
    (Event.PURGE, "state"): "a row has finished_at only in a final state, so its guard `old` implies the state",
}


def _without(event: Event, guard: str) -> lifecycle.Rule:
    rule = TRANSITIONS[event]
    if guard == "state":
        return _changed(rule, start=tuple(State))
    return _changed(rule, guards=tuple(kept for kept in rule.guards if kept.value != guard))


def _changed(rule: lifecycle.Rule, **fields) -> lifecycle.Rule:
    return replace(rule, **fields)


def _all_that_concerns(event: Event, kind: str, folder) -> None:
    """Try the one transition from every stage: a guard less of one changes nothing about the others."""
    clock = Clock()
    ledger = open_kind(kind, folder, clock)
    try:
        if event is Event.PURGE:
            try_purges(Pair(ledger, clock))
        else:
            try_every_step_from_every_stage(Pair(ledger, clock), event)
    finally:
        ledger.close()


def test_there_are_at_least_twelve_mutants():
    assert len(set(MUTANTS) - set(EQUIVALENT)) >= 12


@pytest.mark.parametrize(("event", "guard"), [m for m in MUTANTS if m not in EQUIVALENT])
def test_a_transition_without_one_of_its_guards_is_caught(kind, event, guard, tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSITIONS, event, _without(event, guard))
    with pytest.raises(DivergenceError):
        _all_that_concerns(event, kind, tmp_path)


@pytest.mark.parametrize("guard", ["id", "tick_key", "key"])
def test_an_insert_without_one_of_its_guards_is_caught(kind, guard, tmp_path, monkeypatch):
    module = UNIQUE[kind]
    # A copy: an entry that is taken out and put back comes last, and the order says whose conflict is told.
    monkeypatch.setattr(module, "UNIQUE", {name: rule for name, rule in module.UNIQUE.items() if name != guard})
    ledger = open_kind(kind, tmp_path, clock := Clock())
    try:
        with pytest.raises(DivergenceError):
            try_conflicts(Pair(ledger, clock))
    finally:
        ledger.close()


@pytest.mark.parametrize(("event", "guard"), EQUIVALENT)
def test_a_guard_that_another_implies_is_not_missed(kind, event, guard, tmp_path, monkeypatch):
    monkeypatch.setitem(TRANSITIONS, event, _without(event, guard))
    _all_that_concerns(event, kind, tmp_path)
