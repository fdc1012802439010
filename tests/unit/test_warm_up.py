"""When a lease that is over tells of a dead owner, by times alone."""

from __future__ import annotations

from penstock.sweeper import WarmUp

LEASE_S = 60.0


def asked(warm_up: WarmUp, *times_s: float) -> WarmUp:
    for at in times_s:
        warm_up.answered(at)
    return warm_up


def each(first_s: float, last_s: float, step_s: float = 3.0) -> list[float]:
    return [first_s + step_s * n for n in range(int((last_s - first_s) / step_s) + 1)]


def test_a_sweeper_that_has_just_been_started_counts_no_lease() -> None:
    assert not WarmUp(LEASE_S).over(0)
    assert not asked(WarmUp(LEASE_S), 0).over(0)


def test_after_half_a_lease_of_answers_leases_count() -> None:
    warm_up = asked(WarmUp(LEASE_S), *each(0, 30))
    assert not asked(WarmUp(LEASE_S), *each(0, 27)).over(29.9)
    assert warm_up.over(30)


def test_after_an_outage_leases_count_from_its_end() -> None:
    warm_up = asked(WarmUp(LEASE_S), *each(0, 60), *each(240, 267))
    assert not warm_up.over(269)
    assert asked(warm_up, 270).over(270)


def test_an_outage_too_short_for_a_lease_to_end_changes_nothing() -> None:
    assert asked(WarmUp(LEASE_S), *each(0, 60), 74).over(74)


def test_no_lease_counts_while_the_ledger_is_away() -> None:
    assert not asked(WarmUp(LEASE_S), *each(0, 60)).over(80)


def test_a_dead_worker_that_is_back_at_once_is_rescued_when_its_lease_ends() -> None:
    died, back = 100.0, 102.0
    warm_up = asked(WarmUp(LEASE_S), *each(back, died + LEASE_S))
    assert warm_up.over(died + LEASE_S)
