"""Instants and lengths of time as the views write them."""

from __future__ import annotations

from datetime import date, datetime, timedelta, tzinfo

_UNITS = (("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1))


def moment(at: datetime, now: datetime, zone: tzinfo) -> str:
    """Write an instant for a clock in ``zone``: ``14:05``, ``tomorrow at 02:00``, ``2026-11-21 14:05``."""
    local, today = at.astimezone(zone), now.astimezone(zone).date()
    clock = f"{local:%H:%M}"
    match _days_between(today, local.date()):
        case 0:
            return clock
        case -1:
            return f"yesterday at {clock}"
        case 1:
            return f"tomorrow at {clock}"
        case _:
            return f"{local:%Y-%m-%d} {clock}"


def _days_between(one: date, other: date) -> int:
    return (other - one).days


def length(duration: timedelta) -> str:
    """Write a length of time: ``1 minute 5 seconds``; clocks that were set back make none that is negative."""
    left = int(duration.total_seconds())
    if left < 1:
        return "less than a second"
    parts: list[str] = []
    for unit, size in _UNITS:
        count, left = divmod(left, size)
        if count:
            parts.append(f"{count} {unit}" if count == 1 else f"{count} {unit}s")
    return " ".join(parts)
