"""A claim whose answer is lost: its attempt is had all the same, once, and by whoever asked for it."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.claims import Claims
from penstock.core.config import Config, LeaseConfig
from penstock.core.exceptions import LedgerUnavailableError
from penstock.heart import Heart, Owned
from penstock.job import lifecycle
from penstock.job.lifecycle import Event, Transition
from penstock.job.models import Intent, new_job_id
from penstock.ledger.memory import MemoryLedger
from penstock.writer import Writer

LEASE_S = 2.0


class Deaf(MemoryLedger):
    """Does what it is asked to, and loses the next ``lost`` answers to claims."""

    lost = 0
    quietly = False
    """As a driver that has asked a second time by itself, and tells the second answer."""
    _repeats = 0

    @property
    def repeats(self) -> int:
        return self._repeats

    def apply(self, transition: Transition) -> Any:
        answer = super().apply(transition)
        if transition.event is Event.CLAIM and self.lost:
            self.lost -= 1
            if not self.quietly:
                raise LedgerUnavailableError("no answer")
            self._repeats += 1
            return super().apply(transition)
        return answer


class Bench:
    def __init__(self) -> None:
        self.ledger = Deaf()
        self.counts: Counter[str] = Counter()
        config = Config(lease=LeaseConfig(ttl=LEASE_S, heartbeat=0.5, fence_margin=0.3))
        self.heart = Heart(self.ledger, "me", config)
        self.writer = Writer(self.ledger)
        self.claims = self.made()

    def made(self, owner: str = "me") -> Claims:
        def count(name: str, number: int) -> None:
            self.counts[name] += number

        return Claims(self.ledger, self.writer, self.heart, owner=owner, lease_s=LEASE_S, count=count)

    def job(self) -> str:
        wanted = Intent(id=new_job_id(), kind="task", name="t", spec=b"{}")
        self.ledger.insert([wanted], grace_s=30)
        return wanted.id

    def take(self, job_id: str) -> Owned | None:
        return self.claims.take(job_id)

    def atake(self, job_id: str) -> Owned | None:
        return asyncio.run(self.claims.atake(job_id))


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.heart.close()
    made.writer.close()


@pytest.fixture(params=[Bench.take, Bench.atake], ids=["sync", "async"])
def take(request: Any, bench: Bench) -> Callable[[str], Owned | None]:
    return lambda job_id: request.param(bench, job_id)


@pytest.mark.parametrize("quietly", [False, True], ids=["told", "by a driver that asks twice"])
def test_a_claim_whose_answer_is_lost_is_had_in_the_same_attempt(bench: Bench, take: Any, quietly: bool) -> None:
    bench.ledger.lost, bench.ledger.quietly = 1, quietly
    job_id = bench.job()
    owned = take(job_id)
    assert owned is not None
    assert owned.key == (job_id, 1)
    assert bench.ledger.get(job_id).attempt == 1
    assert list(bench.heart.owned) == [(job_id, 1)]


def test_jobs_claimed_ahead_are_had_although_the_answer_is_lost(bench: Bench) -> None:
    from penstock.gateway import message_for

    ids = [bench.job() for _ in range(5)]
    bench.ledger.lost = 3
    bench.claims.ahead([message_for(bench.ledger.get(job_id)) for job_id in ids])
    taken = [bench.claims.take(job_id) for job_id in ids]
    assert [owned.key for owned in taken if owned is not None] == [(job_id, 1) for job_id in ids]


def test_a_second_message_does_not_get_what_the_first_has(bench: Bench, take: Any) -> None:
    job_id = bench.job()
    assert take(job_id) is not None
    bench.ledger.lost, bench.ledger.quietly = 1, True
    assert take(job_id) is None


def test_of_two_messages_at_once_one_gets_the_job(bench: Bench) -> None:
    job_id = bench.job()
    bench.ledger.lost = 3
    had: list[Owned | None] = []
    threads = [threading.Thread(target=lambda: had.append(bench.take(job_id))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [owned is not None for owned in had].count(True) == 1
    assert bench.ledger.get(job_id).attempt == 1


def test_what_runs_for_another_process_is_not_taken(bench: Bench) -> None:
    job_id = bench.job()
    bench.ledger.apply(lifecycle.claim(job_id, owner="another", lease_s=LEASE_S))
    bench.ledger.lost = 1
    assert bench.take(job_id) is None


def test_what_was_rescued_before_the_second_question_is_a_new_attempt(bench: Bench) -> None:
    job_id = bench.job()
    bench.ledger.apply(lifecycle.claim(job_id, owner="me", lease_s=LEASE_S))
    row = replace(bench.ledger.get(job_id))
    bench.ledger.apply(lifecycle.rescue(row, by_parent=True))
    owned = bench.take(job_id)
    assert owned is not None
    assert owned.key == (job_id, 2)


def test_an_attempt_whose_end_could_not_be_told_is_not_run_again(bench: Bench) -> None:
    job_id = bench.job()
    owned = bench.take(job_id)
    assert owned is not None
    bench.claims.gave_up(owned)
    bench.heart.owned.clear()
    bench.ledger.lost, bench.ledger.quietly = 1, True
    assert bench.take(job_id) is None


def test_who_asks_in_vain_gives_up_when_the_lease_would_be_over(bench: Bench) -> None:
    bench.ledger.lost = 1_000_000
    began = time.monotonic()
    assert bench.take(bench.job()) is None
    assert time.monotonic() - began >= LEASE_S
    assert bench.counts["unclaimed"] == 1


def test_a_drain_waits_for_no_answer(bench: Bench) -> None:
    bench.ledger.lost = 1_000_000
    bench.claims.stop()
    began = time.monotonic()
    assert bench.take(bench.job()) is None
    assert time.monotonic() - began < LEASE_S
