"""What a schedule fills into the inputs of its jobs, and what is said of it before."""

from __future__ import annotations

from datetime import UTC, date, datetime

import pytest

from penstock import task
from penstock.core.exceptions import ArgumentsError, InvalidJobError
from penstock.templates import check, filled

AT = datetime(2026, 3, 29, 0, 30, tzinfo=UTC)


def test_times_are_written_in_the_zone_of_the_schedule():
    spec = '{"a": "{{ fire_at }}", "b": ["{{ interval.start.date }}"], "c": "{{ fire_at.utc }} of {{ schedule.name }}"}'
    told = filled(spec, schedule="nightly", fire_at=AT, interval=(AT, AT), timezone="Asia/Tokyo")
    assert told == (b'{"a":"2026-03-29T09:30:00+09:00","b":["2026-03-29"],"c":"2026-03-29T00:30:00+00:00 of nightly"}')


def test_a_template_that_means_nothing_is_refused_and_what_is_not_ours_stays():
    with pytest.raises(InvalidJobError, match=r"Did you mean 'interval\.start'"):
        check('"{{ interval.strat }}"')
    check('"{{ user.name }}"')


@pytest.mark.parametrize("value", ["{{ fire_at.date }}", "{{ interval.start.date }}"])
def test_a_template_fits_a_parameter_whose_type_it_will_have(value):
    @task
    def report(day: date, days: list[date]) -> None: ...

    report.call(value, [value])


def test_a_template_of_another_type_is_refused_when_the_call_is_made():
    @task
    def report(day: date) -> None: ...

    with pytest.raises(ArgumentsError, match="day"):
        report.call("{{ schedule.name }}")
