"""Concurrency keys: never more at once than a key allows, nobody waits for ever, and the dead hold nothing."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import count

import pytest
from ledger_oracle import GRACE_S, KINDS, Clock, open_kind

from penstock import JobQueue, task
from penstock.core.base import Ledger
from penstock.core.config import Config
from penstock.job import lifecycle
from penstock.job.lifecycle import Event
from penstock.job.models import Intent, JobQuery
from penstock.job.slots import slots_entry
from penstock.slots import HOLDERS, Slots
from penstock.sources.decorators import TASKS
from penstock.testing.harness import CALM, wait_until

LEASE_S = 60.0
numbers = count(1)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(params=KINDS)
def ledger(request, tmp_path, clock) -> Iterator[Ledger]:
    ledger = open_kind(request.param, tmp_path, clock)
    yield ledger
    ledger.close()


class Hands:
    """A worker by hand: claims jobs, asks for their slots, and settles."""

    def __init__(self, ledger: Ledger, clock: Clock) -> None:
        self.ledger = ledger
        self.clock = clock
        self.published: list[str] = []
        self.slots = Slots(ledger, publish=lambda jobs: self.published.extend(job.id for job in jobs))

    def enqueue(self, **limits: int) -> str:
        intent = Intent(id=f"slot-{next(numbers):05}", kind="task", name="t", spec=b"{}", metadata=slots_entry(limits))
        self.clock.now += 0.25
        return self.ledger.insert([intent], grace_s=GRACE_S)[0].job.id

    def begin(self, job_id: str) -> bool:
        """Claim a job; let its body begin, or settle that it may not."""
        job = self.ledger.apply(lifecycle.claim(job_id, owner="w", lease_s=LEASE_S)).job
        ended = self.slots.enter(job)
        if ended is not None:
            self.ledger.apply(lifecycle.release(job.id, attempt=job.attempt, held=ended.held))
        return ended is None

    def end(self, job_id: str) -> None:
        job = self.ledger.get(job_id)
        self.slots.leave(job)
        self.ledger.apply(lifecycle.succeed(job.id, attempt=job.attempt))


class Death(BaseException):
    """Ends a worker by hand where it stands."""


def dies_at(event: Event, apply):
    def deadly(transition):
        if transition.event is event:
            raise Death
        return apply(transition)

    return deadly


@pytest.fixture
def hands(ledger, clock) -> Hands:
    return Hands(ledger, clock)


def test_no_more_begin_than_there_are_slots(hands):
    jobs = [hands.enqueue(k=2) for _ in range(4)]
    assert [hands.begin(job) for job in jobs] == [True, True, False, False]


def test_who_waits_says_what_for(hands, ledger):
    first, second = hands.enqueue(k=1), hands.enqueue(k=1)
    hands.begin(first), hands.begin(second)
    assert ledger.get(second).held == "waits for a slot of 'k' (at most 1 at once)"
    assert ledger.counts()["blocked"] == 1


def test_a_slot_that_is_given_back_lets_the_oldest_go_on(hands, ledger):
    jobs = [hands.enqueue(k=1) for _ in range(3)]
    for job in jobs:
        hands.begin(job)
    hands.end(jobs[0])
    assert (hands.published, [ledger.get(job).held is None for job in jobs]) == ([jobs[1]], [True, True, False])
    assert hands.begin(jobs[1])


def test_all_slots_of_a_job_are_taken_or_none(hands):
    first, both, second = hands.enqueue(b=1), hands.enqueue(a=1, b=1), hands.enqueue(a=1)
    assert [hands.begin(job) for job in (first, both, second)] == [True, False, True]


def test_jobs_without_a_common_key_do_not_wait_for_each_other(hands):
    assert [hands.begin(hands.enqueue(**{key: 1})) for key in "abc"] == [True] * 3


def test_a_dead_holder_holds_nothing_once_its_lease_is_over(hands, ledger, clock):
    dead, waits = hands.enqueue(k=1), hands.enqueue(k=1)
    hands.begin(dead), hands.begin(waits)
    clock.now += LEASE_S + 1
    assert hands.slots.reconcile() == 0  # nobody has rescued it: it might live
    ledger.apply(lifecycle.rescue(ledger.get(dead)))
    assert hands.slots.reconcile() == 1
    assert hands.published == [waits]


def test_who_finds_only_the_dead_takes_their_slot_at_once(hands, ledger, clock):
    dead = hands.enqueue(k=1)
    hands.begin(dead)
    clock.now += LEASE_S + 1
    ledger.apply(lifecycle.rescue(ledger.get(dead)))
    assert hands.begin(hands.enqueue(k=1))


def test_who_was_cancelled_while_it_waited_is_in_nobodys_way(hands, ledger):
    jobs = [hands.enqueue(k=1) for _ in range(3)]
    for job in jobs:
        hands.begin(job)
    ledger.apply(lifecycle.cancel(jobs[1]))
    hands.end(jobs[0])
    assert hands.published == [jobs[2]]


def test_who_is_on_its_way_to_wait_is_woken_by_the_next_look(hands, ledger):
    first, second = hands.enqueue(k=1), hands.enqueue(k=1)
    hands.begin(first)
    job = ledger.apply(lifecycle.claim(second, owner="w", lease_s=LEASE_S)).job
    ended = hands.slots.enter(job)
    hands.end(first)  # the other one's wait is not written yet
    ledger.apply(lifecycle.release(second, attempt=1, held=ended.held))
    assert hands.slots.reconcile() == 1
    assert hands.published == [second]


def test_who_is_let_go_on_by_one_who_dies_meanwhile_is_found_by_the_next_look(hands, ledger, monkeypatch):
    first, second = hands.enqueue(k=1), hands.enqueue(k=1)
    hands.begin(first), hands.begin(second)
    with monkeypatch.context() as dying:
        dying.setattr(ledger, "apply", dies_at(Event.ADMIT, ledger.apply))
        with pytest.raises(Death):
            hands.slots.leave(ledger.get(first))
    ledger.apply(lifecycle.succeed(first, attempt=1))
    assert hands.slots.reconcile() == 1
    assert hands.published == [second]


def test_who_waits_again_before_he_is_forgotten_is_woken_again(hands, ledger, monkeypatch):
    first, second, third = hands.enqueue(k=1), hands.enqueue(k=1), hands.enqueue(k=1)
    hands.begin(first), hands.begin(second)
    apply = ledger.apply

    def overtaken(transition):
        applied = apply(transition)
        if transition.event is Event.ADMIT:
            assert (hands.begin(third), hands.begin(second)) == (True, False)
        return applied

    with monkeypatch.context() as slow:
        slow.setattr(ledger, "apply", overtaken)
        hands.end(first)
    hands.published.clear()
    hands.end(third)
    assert hands.published == [second]


def test_a_key_that_nobody_uses_leaves_nothing_behind(hands, ledger):
    jobs = [hands.enqueue(k=1) for _ in range(2)]
    for job in jobs:
        hands.begin(job)
    hands.end(jobs[0])
    hands.begin(jobs[1])
    hands.end(jobs[1])
    hands.slots.reconcile()
    assert (ledger.records.all(HOLDERS), ledger.records.all(f"{HOLDERS}:k")) == ([], [])


def test_many_at_once_never_hold_more_than_there_are(ledger, clock):
    hands = [Hands(ledger, clock) for _ in range(4)]
    jobs = [hands[0].enqueue(k=3) for _ in range(24)]
    inside, most, lock, errors = 0, 0, threading.Lock(), []

    def work(mine: Hands) -> None:
        nonlocal inside, most
        try:
            until = time.monotonic() + 60
            while time.monotonic() < until:
                mine.slots.reconcile()
                waiting = ledger.find(JobQuery(states=("queued",), limit=5))
                if not waiting and ledger.counts().get("succeeded") == len(jobs):
                    return
                for job in waiting:
                    claimed = ledger.apply(lifecycle.claim(job.id, owner="w", lease_s=LEASE_S))
                    if claimed is None:
                        continue
                    ended = mine.slots.enter(claimed.job)
                    if ended is not None:
                        ledger.apply(lifecycle.release(job.id, attempt=claimed.job.attempt, held=ended.held))
                        continue
                    with lock:
                        inside += 1
                        most = max(most, inside)
                    time.sleep(0.002)
                    with lock:
                        inside -= 1
                    mine.end(job.id)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in hands]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (errors, ledger.counts()) == ([], {"succeeded": len(jobs)})
    assert most <= 3


# -- through a worker -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("colour", ["sync", "async"])
def test_a_worker_keeps_to_the_limit_and_runs_all(tmp_path, colour):
    inside, most, lock = 0, [0], threading.Lock()

    def enter(step: int) -> None:
        nonlocal inside
        with lock:
            inside += step
            most[0] = max(most[0], inside)

    @task(name="load", limits={"db": 2})
    def load(number: int) -> None:
        enter(1)
        time.sleep(0.01)
        enter(-1)

    async def aload(number: int) -> None:
        import asyncio

        enter(1)
        await asyncio.sleep(0.01)
        enter(-1)

    chosen = load if colour == "sync" else task(name="aload", limits={"db": 2})(aload)
    try:
        with JobQueue("huey+sqlite:///q.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
            jobs = queue.enqueue_many([chosen.call(number) for number in range(20)])
            queue.worker(concurrency=6, burst=True).run()
            assert [job.state for job in jobs] == ["succeeded"] * 20
        assert most[0] == 2
    finally:
        TASKS.discard("load")
        TASKS.discard("aload")


def test_who_waits_too_long_for_a_slot_has_expired(tmp_path):
    let_go = threading.Event()

    @task(name="hog", limits={"db": 1})
    def hog() -> None:
        let_go.wait(20)

    config = Config(backend="huey+sqlite:///q.db", ledger="sqlite:///ledger.db", sweep=CALM)
    try:
        with JobQueue(config=config, root=tmp_path) as queue, queue.worker(concurrency=2):
            first = queue.enqueue(hog)
            wait_until(lambda: first.state == "running")
            second = queue.enqueue(hog.options(expires="500ms").call())
            try:
                assert second.wait(20).reason == "expired"
            finally:
                let_go.set()
            assert first.wait(20).state == "succeeded"
    finally:
        TASKS.discard("hog")


def test_a_failing_body_gives_its_slot_back_while_it_waits_to_be_tried_again(tmp_path):
    @task(name="fail", limits={"db": 1}, max_attempts=2, backoff="1h")
    def fail(number: int) -> None:
        raise ValueError(number)

    try:
        with JobQueue("huey+sqlite:///q.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
            jobs = queue.enqueue_many([fail.call(number) for number in range(2)])
            queue.worker(concurrency=2, burst=True).run()
            assert [job.state for job in jobs] == ["retrying"] * 2
    finally:
        TASKS.discard("fail")
