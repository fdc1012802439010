"""A real ledger beside the model, driven at random by workers, sweepers, cancels and a clock."""

from __future__ import annotations

import shutil
import tempfile
from itertools import count

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    invariant,
    multiple,
    precondition,
    rule,
    run_state_machine_as_test,
)
from ledger_oracle import KINDS, Clock, Pair, after, open_kind

from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import ErrorInfo, Intent, Job, Progress, RetryPolicy

LEASE_S = 60.0
quarters = st.integers(0, 80).map(lambda n: n / 4)
errors = st.sampled_from(
    [ErrorInfo("ValueError", "no"), ErrorInfo("KeyError", "ünd \U0001f4a5", "tb", ("LookupError",))]
)


# Few jobs, so that workers, sweepers and stale attempts meet on the same ones.
few = precondition(lambda machine: len(machine.pair.model.rows) < 3)


class LedgerMachine(RuleBasedStateMachine):
    """Rules are what anybody may try at any time; attempts and snapshots are remembered and used late."""

    kind = "memory"
    jobs = Bundle("jobs")
    attempts = Bundle("attempts")  # rows as claimed: what an owner, alive or given up, believes
    seen = Bundle("seen")  # rows as a sweeper read them

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.mkdtemp(prefix="ledger-")
        self.clock = Clock()
        self.pair = Pair(open_kind(self.kind, self.folder, self.clock), self.clock)
        self.numbers = count(1)

    def teardown(self) -> None:
        self.pair.ledger.close()
        shutil.rmtree(self.folder)

    def _intent(self, **fields) -> Intent:
        backoff = RetryPolicy(base_s=5.0, jitter=0.0)
        return Intent(id=f"job-{next(self.numbers):04}", kind="task", name="t", spec=b"{}", backoff=backoff, **fields)

    @few
    @rule(
        target=jobs,
        key=st.sampled_from([None, None, "a", "b"]),
        tick=st.sampled_from([None, None, None, "s@1", "s@2"]),
        delay_s=st.sampled_from([0.0, 0.0, 0.0, -5.0, 0.25, 90.0]),
        max_attempts=st.integers(1, 3),
        max_crashes=st.sampled_from([1, 2, 9, 9]),
    )
    def enqueue(self, key, tick, delay_s, max_attempts, max_crashes):
        intent = self._intent(
            key=key, tick_key=tick, delay_s=delay_s, max_attempts=max_attempts, max_crashes=max_crashes
        )
        self.pair.insert(intent)
        return intent.id

    @few
    @rule(target=jobs, key=st.sampled_from([None, "a", "b"]), in_s=st.sampled_from([-1.0, 0.0, 45.0]))
    def enqueue_two_at_once(self, key, in_s):
        first, second = (self._intent(key=key, at=after(self.clock, in_s)) for _ in range(2))
        self.pair.insert(first, second, first)
        return multiple(first.id, second.id)

    @rule(job=jobs)
    def submit_again_after_a_lost_reply(self, job):
        self.pair.insert(Intent(id=job, kind="task", name="t", spec=b"{}", key="other"))

    @rule(target=attempts, job=jobs, worker=st.sampled_from(["w1", "w2", "w3"]))
    def claim(self, job, worker):
        (row,) = self.pair.apply(lifecycle.claim(job, owner=worker, lease_s=LEASE_S))
        return multiple() if row is None else row

    @rule(job=jobs)
    def two_workers_get_the_same_message(self, job):
        self.pair.apply(*(lifecycle.claim(job, owner=worker, lease_s=LEASE_S) for worker in ("w1", "w2")))

    @rule(mine=attempts)
    def beat(self, mine: Job):
        self.pair.apply(lifecycle.beat(mine.id, attempt=mine.attempt, lease_s=LEASE_S))

    @rule(mine=attempts, result=st.sampled_from([None, b"\x00\xff"]))
    def succeed(self, mine: Job, result):
        self.pair.apply(lifecycle.succeed(mine.id, attempt=mine.attempt, result=result))

    @rule(mine=attempts, error=errors, reason=st.sampled_from(list(lifecycle.Reason)), retryable=st.booleans())
    def fail(self, mine: Job, error, reason, retryable):
        self.pair.apply(lifecycle.fail(mine, error=error, reason=reason, retryable=retryable))

    @rule(
        mine=attempts,
        delay_s=st.sampled_from([0.0, 30.0]),
        note=st.sampled_from([None, "no worker knows t"]),
        held=st.sampled_from([None, None, "paused"]),
        begun=st.booleans(),
    )
    def release(self, mine: Job, delay_s, note, held, begun):
        self.pair.apply(
            lifecycle.release(mine.id, attempt=mine.attempt, delay_s=delay_s, note=note, held=held, begun=begun)
        )

    @rule(mine=attempts)
    def stop(self, mine: Job):
        self.pair.apply(lifecycle.stop(mine.id, attempt=mine.attempt))

    @rule(mine=attempts, error=st.none() | errors)
    def the_child_dies(self, mine: Job, error):
        self.pair.apply(lifecycle.rescue(mine, error=error, by_parent=True))

    @rule(mine=attempts, done=st.integers(0, 9), message=st.sampled_from([None, "half"]))
    def progress(self, mine: Job, done, message):
        self.pair.report(Progress(job_id=mine.id, attempt=mine.attempt, nodes_done=done, message=message))

    @rule(target=seen)
    def a_sweeper_looks(self):
        return multiple(*self.pair.ledger.expired(5), *self.pair.ledger.publishable(5))

    @rule(target=seen, job=jobs)
    def somebody_looks_at_a_job(self, job):
        return self.pair.ledger.get(job) if job in self.pair.model.rows else multiple()

    @rule(row=seen | attempts, error=st.none() | errors)
    def rescue(self, row: Job, error):
        self.pair.apply(lifecycle.rescue(row, error=error))

    @rule(target=attempts, lost=attempts, claims_again=st.sampled_from(["w1", "w2"]))
    def an_owner_freezes_and_its_job_goes_on_elsewhere(self, lost: Job, claims_again):
        for _ in range(2):
            self.clock.now += LEASE_S + 0.25
            if lost.id in self.pair.model.rows:
                self.pair.apply(lifecycle.rescue(self.pair.ledger.get(lost.id)))
            (row,) = self.pair.apply(lifecycle.claim(lost.id, owner=claims_again, lease_s=LEASE_S))
        self.clock.now += LEASE_S + 0.25
        return multiple() if row is None else row

    @rule(row=seen)
    def publish(self, row: Job):
        self.pair.apply(lifecycle.publish(row, grace_s=30.0, max_grace_s=600.0))

    @rule(job=jobs)
    def cancel(self, job):
        self.pair.apply(lifecycle.cancel(job), lifecycle.request_cancel(job))

    @rule(job=jobs)
    def request_cancel(self, job):
        self.pair.apply(lifecycle.request_cancel(job))

    @rule(job=jobs, why=st.sampled_from(["paused", "struck"]))
    def hold(self, job, why):
        self.pair.apply(lifecycle.hold(job, why=why))

    @rule(job=jobs, why=st.sampled_from(["paused", "struck"]))
    def admit(self, job, why):
        self.pair.apply(lifecycle.admit(job, why=why))

    @rule(job=jobs)
    def wake(self, job):
        self.pair.apply(lifecycle.wake(job))

    @rule(job=jobs, error=errors)
    def expire(self, job, error):
        self.pair.apply(lifecycle.expire(job, error=error))

    @few
    @rule(
        target=jobs,
        key=st.sampled_from([None, "a"]),
        unique_key=st.sampled_from([None, "u", "u"]),
        states=st.sampled_from([("queued",), ("queued", "running"), ("queued", "running", "succeeded")]),
        period_s=st.sampled_from([None, 50.0]),
        on_conflict=st.sampled_from(["keep", "replace"]),
        held=st.sampled_from([None, None, "struck"]),
        expires_s=st.sampled_from([None, 30.0]),
    )
    def enqueue_with_rules(self, key, unique_key, states, period_s, on_conflict, held, expires_s):
        intent = self._intent(
            key=key, unique_key=unique_key, unique_states=states, unique_period_s=period_s, on_conflict=on_conflict,
            held=held, expires_s=expires_s,
        )  # fmt: skip
        self.pair.insert(intent)
        return intent.id

    @rule(state=st.sampled_from(list(State)), older_than_s=st.sampled_from([0.0, 50.0]), limit=st.integers(1, 3))
    def purge(self, state, older_than_s, limit):
        # Of jobs that ended at one instant any may go first: the clock sees to it that they did not.
        ended = [row["finished_at"] for row in self.pair.model.rows.values() if row["state"] == state]
        self.pair.purge(state, older_than_s, limit if len(set(ended)) == len(ended) else 1000)

    @rule(seconds=quarters | st.sampled_from([61.0, 700.0]))
    def time_passes(self, seconds):
        self.clock.now += seconds

    @invariant()
    def nothing_differs(self):
        self.pair.check()


@pytest.mark.parametrize("kind", KINDS)
def test_a_ledger_does_what_the_model_does(kind):
    machine = type("Machine", (LedgerMachine,), {"kind": kind})
    examples = {"memory": 150, "sqlite": 80, "redis": 60, "postgres": 40}[kind]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
