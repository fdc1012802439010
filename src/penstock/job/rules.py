"""The rules of schedules, and how people write them."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from penstock.core.durations import Duration, format_duration, parse_duration_s
from penstock.core.triggers import At, Cron, Every, zone_of
from penstock.job.models import Instant

FORMS = "'*/5 * * * *', '@daily', 'every 10m', '2026-11-22T02:00', 'R/2026-11-22T00:00Z/PT1H' or 'PT1H'"
_REPEATS = re.compile(r"R(\d*)/", re.ASCII)


class After(msgspec.Struct, frozen=True, tag="after"):
    """Fires ``seconds`` after the end of the last run; the first time at once, or when ``first_at`` comes.

    With ``follows`` the run itself may say when the next one is, by what it returns (see `next_by_return`).
    """

    seconds: float
    first_at: Instant | None = None
    follows: bool = False

    def __post_init__(self) -> None:
        if not self.seconds >= 0.001:
            raise ValueError(f"an interval must be at least 1 ms, not {self.seconds!r} s")

    def explain(self) -> str:
        """Say the rule in words, as in ``5 m 0 s after the end of each run``."""
        said = ", unless the run says when" if self.follows else ""
        return f"{format_duration(self.seconds)} after the end of each run{said}"


Rule = Cron | Every | At | After


class Written(msgspec.Struct, frozen=True):
    """A rule that was read, and what its text says beside it."""

    rule: Rule
    max_fires: int | None = None


def parse_rule(text: str, *, timezone: str, now: datetime) -> Written:
    """Read a rule as people write it in one line: see `FORMS`. An interval begins one interval from now.

    Raises:
        ValueError: it is none of them; says what is wrong, or shows the forms.
    """
    text = text.strip()
    if repeats := _REPEATS.match(text):
        return _repeating(text, text[repeats.end() :], repeats[1], timezone)
    if text.lower().startswith("every "):
        return Written(interval(text[6:], now=now))
    if text.startswith("@") or len(text.split()) in (5, 6):
        return Written(Cron(text, timezone))
    if text[:4].isdigit() and len(text) > 4 and text[4] in "-0123456789":
        return Written(At(parse_instant(text, timezone)))
    if text.startswith("P"):
        return Written(interval(text, now=now))
    raise ValueError(f"{text!r} is no schedule; write {FORMS}")


def interval(value: Duration, *, now: datetime, anchor: datetime | None = None) -> Every:
    """Read an interval; it fires first one interval from now, or at its ``anchor``. Raises ValueError."""
    seconds = parse_duration_s(value)
    if anchor is None:
        if not seconds >= 0.001:
            raise ValueError(f"an interval must be at least 1 ms, not {value!r}")
        anchor = now + timedelta(seconds=seconds)
    return Every(seconds, anchor)


def parse_instant(value: Any, timezone: str) -> datetime:
    """Read an ISO 8601 time or a datetime; without a zone it is of ``timezone``. Raises ValueError."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(
                f"{value!r} is not an ISO 8601 time, such as 2026-11-22T02:00 or 2026-11-22T02:00Z"
            ) from None
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is not a time")  # noqa: TRY004 - one error class for bad options
    return (value if value.utcoffset() is not None else value.replace(tzinfo=zone_of(timezone))).astimezone(UTC)


def _repeating(text: str, rest: str, count: str, timezone: str) -> Written:
    """Read an ISO 8601 repeating interval: ``R5/2026-11-22T00:00Z/PT1H`` fires five times, ``R/...`` for ever."""
    start, _, step = rest.partition("/")
    if not step.startswith("P"):
        raise ValueError(f"{text!r}: write a start and an interval, such as R/2026-11-22T00:00Z/PT1H")
    if count and int(count) < 1:
        raise ValueError(f"{text!r} never fires; write R1/... for once, R/... for ever")
    try:
        seconds = parse_duration_s(step)
    except ValueError:
        raise ValueError(
            f"{text!r}: {step!r} has no fixed length; write weeks, days, hours, minutes or seconds, for months a cron"
        ) from None
    return Written(Every(seconds, parse_instant(start, timezone)), int(count) if count else None)


__all__ = ["FORMS", "After", "At", "Cron", "Every", "Rule", "Written", "interval", "parse_instant", "parse_rule"]
