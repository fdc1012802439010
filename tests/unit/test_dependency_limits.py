"""What may keep a job waiting, per task or per argument: asked in the worker, remembered in the ledger."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from uncalled_for import get_annotation_dependencies

from penstock import Cooldown, Debounce, JobQueue, RateLimit, Retry, task
from penstock.core.exceptions import ConfigError
from penstock.dependencies import Admission, AdmissionBlocked, ConcurrencyLimit
from penstock.dependencies.kept import Kept
from penstock.dependencies.rates import Window, take
from penstock.job.models import Job
from penstock.testing.harness import wait_until


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    with closing(JobQueue("inline://", ledger="memory://", root=tmp_path)) as opened:
        yield opened


asked: list[Any] = []


class Members(Admission):
    def admit(self, job: Job, argument: Any) -> None:
        asked.append(argument)
        if argument != "ada":
            raise AdmissionBlocked(f"{argument} is no member", reschedule=False)


# -- the window alone -------------------------------------------------------------------------------------------


class _Crowd:
    """Jobs that ask, come back when they were told to, and begin; the instants at which they did."""

    def __init__(self, limit: int, per: int) -> None:
        self.limit, self.per = limit, per
        self.window = Window()
        self.began: list[int] = []
        self.asked = 0

    def run(self, arrivals: list[int]) -> None:
        waiting = sorted((at, False) for at in arrivals)
        while waiting:
            at, returning = waiting.pop(0)
            self.asked += 1
            turn = take(self.window, at, limit=self.limit, per=self.per, returning=returning)
            if turn.stays:
                self.began.append(at + turn.wait)
            else:
                waiting.append((at + turn.wait, True))
                waiting.sort()


@settings(max_examples=60, deadline=None)
@given(
    limit=st.integers(1, 20),
    per=st.sampled_from([10, 1_000, 60_000]),
    arrivals=st.lists(st.integers(1_000_000, 1_100_000), max_size=80),
)
def test_no_span_has_more_than_the_limit_and_nobody_is_left_out(limit: int, per: int, arrivals: list[int]):
    crowd = _Crowd(limit, per)
    crowd.run(arrivals)
    began = sorted(crowd.began)
    assert len(began) == len(arrivals)
    assert all(later - sooner >= per for sooner, later in zip(began, began[limit:], strict=False))


@pytest.mark.parametrize("limit", [50, 1_000])
def test_a_backlog_is_worked_off_at_the_full_rate_and_asks_little(limit: int):
    crowd = _Crowd(limit, 1_000)
    crowd.run([0] * (limit * 4))
    assert max(crowd.began) <= 4_000
    assert crowd.asked <= 3 * limit * 4
    assert len(crowd.window.promised) <= 2 * limit


def test_a_place_whose_holder_is_late_is_taken_by_who_asks_next():
    window = Window()
    asks = {"limit": 1, "per": 1_000}
    assert take(window, 0, **asks, returning=False).stays
    assert take(window, 0, **asks, returning=False).wait == 1_000
    assert take(window, 1_020, **asks, returning=False).wait == 980  # its holder may be on his way
    assert take(window, 1_050, **asks, returning=False).stays
    assert take(window, 1_060, **asks, returning=True).wait > 1_900  # he came after all, and is promised another


# -- a rate -----------------------------------------------------------------------------------------------------


def test_what_is_over_a_rate_waits_without_spending_a_try(queue):
    @task
    def limited(_: RateLimit = RateLimit(2, per="300ms")) -> None: ...

    jobs = [queue.enqueue(limited) for _ in range(5)]
    claimed = sorted(job.wait(30).started_at for job in jobs)
    near = timedelta(milliseconds=60)  # who is that near to his turn waits for it in the worker
    assert claimed[2] - claimed[0] >= timedelta(milliseconds=300) - near
    assert claimed[4] - claimed[2] >= timedelta(milliseconds=300) - near
    assert {job.job.errors for job in jobs} == {0}


def test_a_job_that_waits_for_its_turn_is_shown_as_blocked_and_says_why(queue):
    @task
    def limited(_: RateLimit = RateLimit(1, per="1h")) -> None: ...

    queue.enqueue(limited)
    waits = queue.enqueue(limited)
    assert waits.state == "blocked"
    assert waits.job.note == "waits for its turn: no more than 1 in 1 h 0 m on limited"


def test_a_rate_may_drop_what_is_too_much(queue):
    @task
    def limited(_: RateLimit = RateLimit(2, per="1h", drop=True)) -> None: ...

    assert [queue.enqueue(limited).wait(10).state for _ in range(3)] == ["succeeded", "succeeded", "cancelled"]


def test_each_value_of_an_argument_counts_for_itself(queue):
    @task
    def limited(customer: Annotated[str, RateLimit(1, per="1h", drop=True)]) -> None: ...

    states = [queue.enqueue(limited, who).wait(10).state for who in ("ada", "bob", "ada")]
    assert states == ["succeeded", "succeeded", "cancelled"]


def test_tasks_with_one_scope_count_together(queue):
    @task
    def one(_: RateLimit = RateLimit(1, per="1h", drop=True, scope="api")) -> None: ...

    @task
    def other(_: RateLimit = RateLimit(1, per="1h", drop=True, scope="api")) -> None: ...

    assert [queue.enqueue(which).wait(10).state for which in (one, other)] == ["succeeded", "cancelled"]


# -- cooldown and debounce --------------------------------------------------------------------------------------


def test_a_cooldown_runs_the_first_and_drops_the_rest_of_its_window(queue):
    @task
    def hooked(customer: Annotated[int, Cooldown("1h")]) -> None: ...

    jobs = [queue.enqueue(hooked, n) for n in (1, 1, 2)]
    assert [job.wait(10).state for job in jobs] == ["succeeded", "cancelled", "succeeded"]
    assert "before it began" in queue.explain(jobs[1]).told
    assert "It was dropped: another began less than 1 h 0 m ago" in queue.explain(jobs[1]).told


def test_a_job_that_is_tried_again_is_not_dropped_by_its_own_cooldown(queue):
    @task
    def flaky(retry: Retry = Retry(2), _: Cooldown = Cooldown("1h")) -> int:
        if retry.attempt == 1:
            raise ValueError
        return retry.attempt

    assert queue.enqueue(flaky).result(20) == 2


def test_a_debounce_runs_once_when_nothing_more_has_come(queue):
    @task
    def syncs(customer: Annotated[str, Debounce("100ms")], n: int) -> int:
        return n

    jobs = [queue.enqueue(syncs, "ada", n) for n in range(3)]
    assert jobs[0].result(20) == 0
    assert [job.wait(10).state for job in jobs[1:]] == ["cancelled", "cancelled"]


def test_a_debounced_job_that_was_cancelled_is_waited_for_by_nobody(queue):
    @task
    def syncs(_: Debounce = Debounce("50ms")) -> str:
        return "ran"

    first = queue.enqueue(syncs)
    first.cancel()
    assert queue.enqueue(syncs).result(20) == "ran"


# -- a user's own, and what is refused --------------------------------------------------------------------------


def test_an_admission_of_ones_own_is_asked_with_the_argument_and_before_the_body(queue):
    asked.clear()

    @task
    def enters(name: Annotated[str, Members()] = "bob") -> None: ...

    assert queue.enqueue(enters, "ada").wait(10).state == "succeeded"
    assert queue.enqueue(enters).wait(10).state == "cancelled"
    assert asked == ["ada", "bob"]


def test_an_annotation_that_cannot_be_read_is_told_of_and_harms_no_other():
    class Local(Admission):
        """Known to this function alone, where annotations are texts."""

    with pytest.warns(UserWarning, match="'name'.*Local"):

        @task
        def enters(name: Annotated[str, Local()], customer: Annotated[str, Members()]) -> None: ...

    assert list(get_annotation_dependencies(enters.fn)) == ["customer"]


def test_an_admission_that_fails_is_the_error_of_its_job(queue):
    class Broken(Admission):
        def admit(self, job: Job, argument: Any) -> None:
            raise LookupError("no list of members")

    @task
    def enters(_: Any = Broken()) -> None: ...

    assert queue.enqueue(enters).wait(10).error.type == "LookupError"


def test_a_limit_by_an_argument_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match="'customer'"):

        @task
        def process(name: str, _: ConcurrencyLimit = ConcurrencyLimit("customer", 1)) -> None: ...


def test_what_limits_remember_is_forgotten_when_it_is_old(queue):
    kept = Kept(lambda: queue.ledger, "limit.rate", Window)

    def count(state: Window, _now: Any, _asked: Any) -> bool:
        state.beyond += 1
        return True

    kept.ask("old", None, count, lambda _state: 1)
    wait_until(lambda: queue.ledger.records.due("limit.rate", 1))
    kept._purge_at = 0.0
    kept.ask("new", None, count, lambda _state: 60_000)
    assert [record.name for record in queue.ledger.records.all("limit.rate")] == ["new"]


# -- how many at once -------------------------------------------------------------------------------------------


def test_no_more_run_at_once_than_a_limit_says_and_the_rest_is_woken(tmp_path):
    here: list[int] = []
    seen: list[int] = []

    @task
    def busy(customer: Annotated[str, ConcurrencyLimit(1)]) -> None:
        here.append(1)
        seen.append(len(here))
        time.sleep(0.03)
        here.pop()

    url = f"huey+sqlite:///{tmp_path}/queue.db"
    with closing(JobQueue(url, ledger=f"sqlite:///{tmp_path}/ledger.db", root=tmp_path)) as queue:
        jobs = [queue.enqueue(busy, "ada") for _ in range(5)]
        with queue.worker(concurrency=3):
            assert [job.wait(30).state for job in jobs] == ["succeeded"] * 5
    assert set(seen) == {1}
