from __future__ import annotations

import itertools
from datetime import UTC, date, datetime, timedelta, timezone
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.core.triggers import At, Cron, Every, zone_of

ZONES = ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"]
MINUTE = timedelta(minutes=1)
NAIVE = datetime(2026, 1, 1)  # noqa: DTZ001 - what is to be refused


def utc(*parts: int) -> datetime:
    return datetime(*parts, tzinfo=UTC)


def fires(trigger, start: datetime, end: datetime) -> list[datetime]:
    found = []
    at = trigger.next_after(start)
    while at is not None and at <= end:
        found.append(at)
        at = trigger.next_after(at)
    return found


def changes(zone: str, first_year: int, last_year: int) -> list[datetime]:
    """Every hour within which the offset of the zone changes, by brute force."""
    tz = ZoneInfo(zone)
    hours = range(int((utc(last_year + 1, 1, 1) - utc(first_year, 1, 1)) / timedelta(hours=1)))
    instants = (utc(first_year, 1, 1) + timedelta(hours=h) for h in hours)
    pairs = itertools.pairwise(instants)
    return [b for a, b in pairs if a.astimezone(tz).utcoffset() != b.astimezone(tz).utcoffset()]


# -- cron: once per local day --------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expr", ["30 2 * * *", "30 1 * * *"])
def test_a_nightly_job_fires_exactly_once_on_each_local_day_that_exists(zone, expr):
    tz = ZoneInfo(zone)
    noons = (utc(2010, 1, 1, 12) + timedelta(days=n) for n in range(365 * 21 + 5))
    existing = [noon.astimezone(tz).date() for noon in noons]
    existing = list(dict.fromkeys(existing))
    start = datetime(2009, 12, 31, 23, 59, tzinfo=tz)
    fired = [
        at.astimezone(tz).date()
        for at in fires(Cron(expr, zone), start, utc(2031, 1, 3))
        if at.astimezone(tz).date() <= existing[-1]
    ]
    assert fired == [day for day in existing if day >= date(2010, 1, 1)]


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expr", ["30 2 * * *", "45 1 * * *", "*/30 * * * *", "0 */2 * * *", "*/7 2 * * *"])
def test_no_start_minute_around_a_change_of_clocks_is_answered_with_the_past(zone, expr):
    cron = Cron(expr, zone)
    for change in changes(zone, 2010, 2011)[:4]:
        for minute in range(-180, 180, 3):
            now = change + minute * MINUTE + timedelta(microseconds=1)
            assert cron.next_after(now) > now


@pytest.mark.parametrize("zone", ZONES)
@pytest.mark.parametrize("expr", ["30 2 * * *", "45 1 * * *", "0 * * * *", "*/20 * * * *"])
def test_asking_anew_at_every_minute_around_a_change_gives_the_same_fires_as_one_long_run(zone, expr):
    cron = Cron(expr, zone)
    for change in changes(zone, 2011, 2012)[:2]:
        start, end = change - timedelta(hours=4), change + timedelta(hours=8)
        long_run = set(fires(cron, start, end))
        asked = {cron.next_after(start + n * MINUTE) for n in range(12 * 60)}
        assert {at for at in asked if at <= end} == long_run


def test_a_scheduler_restarted_inside_the_folded_hour_waits_for_the_next_day():
    second_0210 = datetime(2026, 10, 25, 2, 10, fold=1, tzinfo=ZoneInfo("Europe/Berlin"))
    assert Cron("30 2 * * *", "Europe/Berlin").next_after(second_0210) == utc(2026, 10, 26, 1, 30)


def test_a_time_in_the_gap_fires_when_the_gap_ends():
    night = utc(2026, 3, 28, 12)
    assert Cron("30 2 * * *", "Europe/Berlin").next_after(night) == utc(2026, 3, 29, 1)


def test_a_time_that_comes_twice_fires_the_first_time():
    cron = Cron("30 1 * * *", "America/New_York")
    assert fires(cron, utc(2026, 11, 1), utc(2026, 11, 2)) == [utc(2026, 11, 1, 5, 30)]


def test_six_fields_change_nothing_about_once_a_day():
    cron = Cron("0 30 2 * * *", "Europe/Berlin")
    assert fires(cron, utc(2026, 10, 24, 12), utc(2026, 10, 25, 12)) == [utc(2026, 10, 25, 0, 30)]


def test_a_day_that_does_not_exist_fires_nothing():
    fired = fires(Cron("30 2 * * *", "Pacific/Apia"), utc(2011, 12, 29), utc(2012, 1, 1))
    assert fired == [utc(2011, 12, 29, 12, 30), utc(2011, 12, 30, 12, 30), utc(2011, 12, 31, 12, 30)]


# -- cron: every real moment ---------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/New_York", "Pacific/Apia", "UTC"])
@pytest.mark.parametrize("year", [2011, 2026])
def test_an_hourly_job_fires_in_every_real_hour_of_the_year(zone, year):
    fired = fires(Cron("0 * * * *", zone), utc(year, 1, 1), utc(year + 1, 1, 1))
    assert fired == [utc(year, 1, 1) + timedelta(hours=h + 1) for h in range(365 * 24)]


@pytest.mark.parametrize("expr", ["0 * * * *", "*/30 * * * *", "0 */2 * * *", "15,45 */3 * * *"])
def test_a_change_by_half_an_hour_loses_no_matching_wall_time(expr):
    tz = ZoneInfo("Australia/Lord_Howe")
    minute, hour = expr.split()[:2]
    minutes = {"0": {0}, "*/30": {0, 30}, "15,45": {15, 45}}[minute]
    step = {"*": 1, "*/2": 2, "*/3": 3}[hour]
    for change in changes("Australia/Lord_Howe", 2026, 2026):
        start = change - timedelta(hours=6)
        walls = ((start + n * MINUTE) for n in range(1, 24 * 60))
        matching = [at for at in walls if at.astimezone(tz).minute in minutes and at.astimezone(tz).hour % step == 0]
        assert fires(Cron(expr, "Australia/Lord_Howe"), start, start + timedelta(hours=24) - MINUTE) == matching


def test_seconds_come_first_in_six_fields():
    fired = fires(Cron("*/20 5 * * * *"), utc(2026, 1, 1), utc(2026, 1, 1, 1))
    assert [(at.minute, at.second) for at in fired] == [(5, 0), (5, 20), (5, 40)]


@given(st.integers(0, 20 * 365 * 86_400), st.sampled_from(ZONES))
def test_the_answer_always_lies_ahead_and_in_utc(seconds, zone):
    now = utc(2010, 1, 1) + timedelta(seconds=seconds)
    for expr in ("30 2 * * *", "*/10 * * * *", "0 */5 * * *", "0 0 29 2 *", "0 12 L * *"):
        at = Cron(expr, zone).next_after(now)
        assert at is not None
        assert at > now
        assert at.tzinfo is UTC


# -- cron: what is refused, what is told ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expr", "told"),
    [
        ("61 * * * *", "bad minute '61'; it takes 0-59"),
        ("0 25 * * *", "bad hour '25'"),
        ("0 0 32 * *", "bad day-of-month '32'"),
        ("0 0 * 13 *", "bad month '13'"),
        ("0 0 * * 8", "bad day-of-week '8'"),
        ("0 0 * * 5-1", "bad day-of-week '5-1'"),
        ("99 0 0 * * *", "bad second '99'"),
        ("R 2 * * *", "bad minute 'R'"),
        ("0 0 31 2 *", "no such date ever comes"),
        ("* * *", "has 3 fields"),
        ("", "has 0 fields"),
        ("@fortnightly", "known are @hourly"),
    ],
)
def test_a_bad_expression_is_refused_by_naming_its_field(expr, told):
    with pytest.raises(ValueError, match=told.replace("*", r"\*")):
        Cron(expr)


def test_a_bad_expression_inside_data_is_a_validation_error():
    with pytest.raises(msgspec.ValidationError, match="bad minute"):
        msgspec.convert({"type": "cron", "expr": "61 * * * *"}, Cron)


def test_an_unknown_zone_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"no time zone 'Europe/Berln'\. Did you mean 'Europe/Berlin'"):
        Cron("@daily", "Europe/Berln")


@pytest.mark.parametrize("name", ["Europe", "", "../../etc/passwd", "/etc/passwd"])
def test_what_is_no_zone_at_all_is_refused(name):
    with pytest.raises(ValueError, match="there is no time zone"):
        zone_of(name)


@pytest.mark.parametrize(
    ("name", "expr"),
    [
        ("@hourly", "0 * * * *"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@weekly", "0 0 * * 0"),
        ("@monthly", "0 0 1 * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@Daily", "0 0 * * *"),
    ],
)
def test_a_named_expression_fires_as_the_one_it_stands_for(name, expr):
    now = utc(2026, 5, 7, 8, 9)
    assert Cron(name).next_after(now) == Cron(expr).next_after(now)


def test_an_expression_explains_itself_with_its_zone():
    assert Cron("30 2 * * *", "Europe/Berlin").explain() == "At 02:30 every day (Europe/Berlin)"


# -- intervals and single times ------------------------------------------------------------------------------


def test_an_interval_stays_on_its_anchor_over_a_hundred_thousand_steps():
    every = Every(0.1, utc(2026, 1, 1))
    assert every.next_after(utc(2026, 1, 1) + timedelta(seconds=10_000)) == utc(2026, 1, 1, 2, 46, 40, 100_000)


@given(st.integers(0, 365 * 86_400))
def test_an_interval_asked_late_does_not_drift(seconds):
    anchor, now = utc(2026, 1, 1, 0, 7), utc(2026, 1, 1) + timedelta(seconds=seconds)
    at = Every(5400, anchor).next_after(now)
    assert at > now
    assert (at - anchor) % timedelta(seconds=5400) == timedelta()
    assert at - now <= timedelta(seconds=5400) or at == anchor


def test_an_interval_begins_with_its_anchor():
    assert Every(60, utc(2026, 1, 2)).next_after(utc(2026, 1, 1)) == utc(2026, 1, 2)


def test_an_interval_knows_nothing_of_clock_changes():
    anchor = datetime(2026, 3, 28, 12, tzinfo=ZoneInfo("Europe/Berlin"))
    assert Every(86_400, anchor).next_after(anchor) == utc(2026, 3, 29, 11)


@pytest.mark.parametrize("seconds", [0, -1, 0.0001, float("nan")])
def test_an_interval_of_nothing_is_refused(seconds):
    with pytest.raises(ValueError, match="at least 1 ms"):
        Every(seconds, utc(2026, 1, 1))


def test_an_interval_is_read_from_words_and_told_in_words():
    assert Every.parse("PT1H30M", utc(2026, 1, 1)).explain() == "Every 1h30m"


def test_a_single_time_fires_once():
    at = At(utc(2026, 1, 1))
    assert at.next_after(utc(2025, 1, 1)) == utc(2026, 1, 1)
    assert at.next_after(utc(2026, 1, 1)) is None


@pytest.mark.parametrize(
    "trigger", [Cron("@daily"), Every(60, utc(2026, 1, 1)), At(utc(2026, 1, 1))], ids=["cron", "every", "at"]
)
def test_a_naive_instant_is_refused(trigger):
    with pytest.raises(ValueError, match="has no time zone"):
        trigger.next_after(NAIVE)


def test_a_naive_anchor_is_refused():
    with pytest.raises(ValueError, match="has no time zone"):
        Every(60, NAIVE)


def test_an_instant_of_any_zone_is_answered_in_utc():
    two_ahead = datetime(2026, 1, 1, 2, tzinfo=timezone(timedelta(hours=2)))
    assert At(two_ahead).next_after(utc(2025, 1, 1)).tzinfo is UTC


def test_triggers_survive_a_round_trip_through_json():
    for trigger in (Cron("@daily", "Europe/Berlin"), Every(60, utc(2026, 1, 1)), At(utc(2026, 1, 1))):
        assert msgspec.json.decode(msgspec.json.encode(trigger), type=Cron | Every | At) == trigger


def test_the_end_of_the_calendar_is_no_crash():
    assert Cron("0 0 1 1 *", "Europe/Berlin").next_after(utc(9999, 12, 31, 23)) is None
