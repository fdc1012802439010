"""When a schedule fires: `Cron`, `Every`, `At`. Pure: an instant goes in, the next comes out, both aware UTC.

Cron matches wall-clock time, so a change of clocks needs a rule (the one of Debian's cron):

- An expression that names its minute and hour (``30 2 * * *``) fires once for each local day that exists. A
  time that the clocks jump over fires at the end of the gap; a time that comes twice fires the first time.
- All others (``0 * * * *``, ``*/15 * * * *``) fire at each real moment whose wall clock matches.

cronsim finds the matching wall-clock times; the mapping to instants is done here because cronsim 2.8 answers
a time in the past when asked from inside the second of two equal hours, fires twice on the day after one that
does not exist (Apia, 30 December 2011), and misses times where clocks change by half an hour (Lord Howe).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, tzinfo

import msgspec
from cronsim import CronSim, CronSimError

from penstock.core.durations import Duration, parse_duration_s

_NAMED = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_FIELDS = {
    "second": "0-59",
    "minute": "0-59",
    "hour": "0-23",
    "day-of-month": "1-31, L or LW",
    "month": "1-12 or JAN-DEC",
    "day-of-week": "0-7 or SUN-SAT, 5#2 or 5L",
}
_SECOND = timedelta(seconds=1)
_DAY = timedelta(days=1)
_SOME_DATE = datetime(2000, 1, 1)  # noqa: DTZ001 - only parses; nothing is asked of it


class Cron(msgspec.Struct, frozen=True, tag="cron"):
    """Fires at wall-clock times of an IANA zone.

    ``expr`` has five fields, or six with the seconds first, or is ``@hourly``, ``@daily``, ``@midnight``,
    ``@weekly``, ``@monthly``, ``@yearly`` or ``@annually``. Raises ValueError on construction: a bad
    expression (names the field), an unknown zone.
    """

    expr: str
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        zone_of(self.timezone)
        _check(self.expr)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first fire time after ``instant``; None when there is none (a date that never comes)."""
        after = _utc(instant)
        zone = zone_of(self.timezone)
        expr = _expanded(self.expr)
        try:
            fires = _once_a_day(expr, after, zone) if _names_a_time(expr) else _each_match(expr, after, zone)
            return next((at for at in fires if at > after), None)
        except OverflowError:  # the calendar ends with the year 9999
            return None

    def explain(self) -> str:
        """Say the expression in words, as in ``At 02:30 every day (Europe/Berlin)``."""
        return f"{CronSim(_expanded(self.expr), _SOME_DATE).explain()} ({self.timezone})"


class Every(msgspec.Struct, frozen=True, tag="every"):
    """Fires at ``anchor`` and then in steps of elapsed time: no drift, no effect of clock changes.

    Raises ValueError on construction: an interval under a millisecond, a naive anchor.
    """

    seconds: float
    anchor: datetime

    def __post_init__(self) -> None:
        if not self.seconds >= 0.001:
            raise ValueError(f"an interval must be at least 1 ms, not {self.seconds!r} s")
        _utc(self.anchor)

    @classmethod
    def parse(cls, interval: Duration, anchor: datetime) -> Every:
        """Read ``"15m"``, ``"PT1H"``, ``90``. Raises ValueError."""
        return cls(parse_duration_s(interval), anchor)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first fire time after ``instant``."""
        after, anchor = _utc(instant), _utc(self.anchor)
        if after < anchor:
            return anchor
        try:
            step = timedelta(seconds=self.seconds)
            return anchor + ((after - anchor) // step + 1) * step
        except OverflowError:
            return None

    def explain(self) -> str:
        """Say the interval in words, as in ``Every 1h30m``."""
        return f"Every {_in_words(self.seconds)}"


class At(msgspec.Struct, frozen=True, tag="at"):
    """Fires once. Raises ValueError on construction: a naive instant."""

    instant: datetime

    def __post_init__(self) -> None:
        _utc(self.instant)

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the instant while it lies ahead, None from then on."""
        at = _utc(self.instant)
        return at if at > _utc(instant) else None

    def explain(self) -> str:
        """Say the instant, as in ``Once at 2026-11-21 02:00:00 UTC``."""
        return f"Once at {_utc(self.instant):%Y-%m-%d %H:%M:%S} UTC"


Trigger = Cron | Every | At


@functools.lru_cache(maxsize=64)
def zone_of(name: str) -> tzinfo:
    """Return an IANA zone. Raises ValueError when there is no such zone."""
    if name == "UTC":  # also where the machine has no time zone database, as small containers
        return UTC
    from zoneinfo import ZoneInfo, available_timezones

    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):  # OSError: a folder of the database, such as "Europe"
        pass
    known = available_timezones()
    if not known:
        raise ValueError(f"time zone {name!r}: this machine has no time zone database. Run: pip install tzdata")
    from penstock.core.exceptions import did_you_mean

    hint = did_you_mean(name, known) or " Write an IANA name such as 'Europe/Berlin' or 'UTC'."
    raise ValueError(f"there is no time zone {name!r}.{hint}")


def _utc(instant: datetime) -> datetime:
    if instant.tzinfo is None or instant.utcoffset() is None:
        raise ValueError(f"{instant.isoformat()} has no time zone; give an aware datetime, such as datetime.now(UTC)")
    return instant.astimezone(UTC)


def _expanded(expr: str) -> str:
    text = expr.strip()
    return _NAMED.get(text.lower(), text)


@functools.lru_cache(maxsize=256)
def _check(expr: str) -> None:
    text = _expanded(expr)
    if text.startswith("@"):
        raise ValueError(f"cron {expr!r}: there is no such name; known are {', '.join(_NAMED)}")
    parts = text.split()
    if len(parts) not in (5, 6):
        raise ValueError(
            f"cron {expr!r} has {len(parts)} fields; write five "
            "(minute hour day-of-month month day-of-week), or six with the second first"
        )
    try:
        sim = CronSim(text, _SOME_DATE)
    except CronSimError as error:
        field = str(error).removeprefix("Bad ")
        value = (["0", *parts] if len(parts) == 5 else parts)[list(_FIELDS).index(field)]
        if field == "day-of-month" and _stands_alone(value):
            raise ValueError(f"cron {expr!r}: no such date ever comes") from None
        raise ValueError(f"cron {expr!r}: bad {field} {value!r}; it takes {_FIELDS[field]}") from None
    if next(sim, None) is None:
        raise ValueError(f"cron {expr!r}: no such date ever comes")


def _stands_alone(day_of_month: str) -> bool:
    """Whether a day is right by itself: cronsim blames the day for a month that never has it."""
    try:
        CronSim(f"0 0 {day_of_month} * *", _SOME_DATE)
    except CronSimError:
        return False
    return True


def _names_a_time(expr: str) -> bool:
    *_, minute, hour, _day, _month, _weekday = expr.split()
    return not minute.startswith("*") and not hour.startswith("*")


def _once_a_day(expr: str, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield an instant for each matching wall-clock time, in order; may begin with some that are over."""
    local = after.astimezone(zone).replace(tzinfo=None)
    for wall in CronSim(expr, local):
        first = wall.replace(tzinfo=zone, fold=0).astimezone(UTC)
        if first.astimezone(zone).replace(tzinfo=None) == wall:
            yield first
            continue
        # In a gap, fold=0 reads the old offset and so lies after it; fold=1 the new one, before it (PEP 495).
        end = _change_between(zone, wall.replace(tzinfo=zone, fold=1).astimezone(UTC), first)
        day_before, day_after = (end - _SECOND).astimezone(zone).date(), end.astimezone(zone).date()
        if wall.date() in (day_before, day_after):
            yield end
        # else the whole day does not exist: clocks crossed the date line


def _each_match(expr: str, after: datetime, zone: tzinfo) -> Iterator[datetime]:
    """Yield each instant whose wall clock matches.

    While the offset stays the same, wall time is plain arithmetic; each change of offset starts anew just
    before itself, reckoned with the new offset.
    """
    start, offset = after, _offset(zone, after)
    while True:
        wall = next(CronSim(expr, (start + offset).replace(tzinfo=None)), None)
        if wall is None:
            return
        found = wall.replace(tzinfo=UTC) - offset
        change = _first_change(zone, start, found, offset)
        if change is None:
            yield found
            start = found
        else:
            start, offset = change - _SECOND, _offset(zone, change)


def _offset(zone: tzinfo, instant: datetime) -> timedelta:
    return instant.astimezone(zone).utcoffset() or timedelta()


def _first_change(zone: tzinfo, start: datetime, end: datetime, offset: timedelta) -> datetime | None:
    """Return when the offset first stops being ``offset``, if it does in (start, end]. Looks once a day."""
    seen = start
    while seen < end:
        probe = min(seen + _DAY, end)
        if _offset(zone, probe) != offset:
            return _change_between(zone, max(seen, start), probe)
        seen = probe
    return None


def _change_between(zone: tzinfo, before: datetime, after: datetime) -> datetime:
    """Return the first second of the new offset: the one change that lies in (before, after]."""
    offset = _offset(zone, after)
    while after - before > _SECOND:
        middle = before + (after - before) // 2
        if _offset(zone, middle) == offset:
            after = middle
        else:
            before = middle
    return after.replace(microsecond=0)


def _in_words(seconds: float) -> str:
    whole = timedelta(seconds=seconds)
    parts = [(whole.days, "d"), (whole.seconds // 3600, "h"), (whole.seconds // 60 % 60, "m")]
    rest = whole.seconds % 60 + whole.microseconds / 1_000_000
    text = "".join(f"{n}{unit}" for n, unit in parts if n)
    return f"{text}{rest:g}s" if rest or not text else text
