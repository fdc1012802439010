"""The faults themselves: they come where and when they were asked for, and a worker may meet them anywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
from arena import Arena

from penstock.core.exceptions import ConfigError, LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import Intent
from penstock.ledger import open_ledger
from penstock.ledger.faults import POINTS, with_faults
from penstock.ledger.memory import MemoryLedger

LEASE_S = 60.0


def _queued(ledger, job_id: str = "job-1") -> str:
    ledger.insert([Intent(id=job_id, kind="task", name="t", spec=b"{}")], grace_s=30.0)
    return job_id


def _die(points: str) -> tuple[int, list[str]]:
    """Claim three jobs in a process that has these faults; return its exit code and the claims that were answered."""
    program = f"""
from penstock.job import lifecycle
from penstock.job.models import Intent
from penstock.ledger.faults import with_faults
from penstock.ledger.memory import MemoryLedger
ledger = with_faults(MemoryLedger(), {points!r})
for job_id in "abc":
    ledger.insert([Intent(id=job_id, kind="task", name="t", spec=b"{{}}")], grace_s=30.0)
    ledger.apply(lifecycle.claim(job_id, owner="w", lease_s=60.0))
    print(job_id, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split()


@pytest.mark.parametrize(("points", "answered"), [("T2.before", []), ("T2.after:3", ["a", "b"]), ("T1.after:2", ["a"])])
def test_a_process_dies_at_the_point_and_the_time_that_was_named(points, answered):
    assert _die(points) == (137, answered)


def test_a_point_that_is_never_passed_harms_nobody():
    assert _die("T4.after,T2.after:4") == (0, ["a", "b", "c"])


def test_an_error_before_leaves_nothing_and_an_error_after_leaves_all():
    for side, state in (("before", State.QUEUED), ("after", State.RUNNING)):
        plain = MemoryLedger()
        job_id = _queued(plain)
        with pytest.raises(LedgerUnavailableError, match=rf"T2\.{side}"):
            with_faults(plain, f"T2.{side}:error").apply(lifecycle.claim(job_id, owner="w", lease_s=LEASE_S))
        assert plain.get(job_id).state is state


def test_the_same_seed_loses_the_same_answers():
    def lost(seed: int) -> list[int]:
        ledger = with_faults(MemoryLedger(), f"any.after:error=0.3,seed={seed}")
        missing = []
        for number in range(40):
            try:
                _queued(ledger, f"job-{number}")
            except LedgerUnavailableError:
                missing.append(number)
        return missing

    assert 0 < len(lost(7)) < 40
    assert lost(7) == lost(7) != lost(8)


@pytest.mark.parametrize("asked", ["T99.after", "T4", "t4.after", "T4.after:0", "T4.after:soon", "any.after:error=2"])
def test_a_fault_that_cannot_be_is_refused_with_what_there_is(asked):
    with pytest.raises(ConfigError, match=r"PENSTOCK_FAIL: .*T4\.after"):
        with_faults(MemoryLedger(), asked)


def test_each_transition_has_a_point_on_either_side():
    numbers = {rule.number for rule in lifecycle.TRANSITIONS.values()}
    assert {f"{number}.{side}" for number in numbers for side in ("before", "after")} < set(POINTS)


def test_a_ledger_without_faults_is_itself(monkeypatch):
    monkeypatch.delenv("PENSTOCK_FAIL", raising=False)
    assert type(open_ledger("memory://")) is MemoryLedger
    monkeypatch.setenv("PENSTOCK_FAIL", "T4.after")
    assert type(open_ledger("memory://")) is not MemoryLedger


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_a_worker_may_die_on_either_side_of_each_transition(tmp_path):
    deadly = [f"T{number}.{side}" for number in (2, 3, 4, 5, 7, 8) for side in ("before", "after")]
    with Arena("huey+sqlite:///{folder}/queue.db", "sqlite:///{folder}/ledger.db", tmp_path, seed=1) as arena:
        for point in deadly:
            arena.submit(2, seconds=0.6)
            arena.submit(2, task="chaos.flaky")
            worker = arena.start("--concurrency", "8", PENSTOCK_FAIL=point)
            assert worker.ended() == 137, worker.told
        arena.start("--concurrency", "8")
        arena.wait_final(60)
        verdict = arena.verdict()
        assert (verdict.lost, verdict.double, verdict.strange, arena.lies(verdict)) == ([], [], [], [])


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_ledger_that_loses_answers_costs_neither_a_job_nor_a_second_try(tmp_path):
    with Arena("huey+sqlite:///{folder}/queue.db", "sqlite:///{folder}/ledger.db", tmp_path, seed=1) as arena:
        arena.submit(60, seconds=0.02)
        for seed in (1, 2):
            arena.start(
                "--concurrency", "4", PENSTOCK_FAIL=f"any.before:error=0.05,any.after:error=0.05,seed={seed}"
            )  # fmt: skip
        arena.wait_final(60)
        verdict = arena.verdict()
        assert (verdict.commits, verdict.lost, verdict.double, verdict.second) == (60, [], [], [])
        assert arena.lies(verdict) == []
        assert sum(verdict.attempts.values()) == 60
