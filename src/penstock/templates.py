"""``{{ fire_at }}`` in the input of a scheduled job: what a fire time has to say to the job that it makes."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from penstock.core.exceptions import InvalidJobError, did_you_mean
from penstock.core.triggers import zone_of

_TEMPLATE = re.compile(r"\{\{\s*([A-Za-z_][\w.]*)\s*\}\}", re.ASCII)
_OURS = ("fire_at", "interval.", "schedule.")
_INSTANTS = ("fire_at", "interval.start", "interval.end")
_PARTS: dict[str, Callable[[datetime], str]] = {
    "": lambda at: at.isoformat(),
    ".date": lambda at: at.date().isoformat(),
    ".time": lambda at: at.time().isoformat("seconds"),
    ".year": lambda at: f"{at:%Y}",
    ".month": lambda at: f"{at:%m}",
    ".day": lambda at: f"{at:%d}",
    ".hour": lambda at: f"{at:%H}",
    ".utc": lambda at: at.astimezone(UTC).isoformat(),
    ".timestamp": lambda at: repr(at.timestamp()),
}
NAMES = ("schedule.name", *(f"{name}{part}" for name in _INSTANTS for part in _PARTS))
"""What may stand between the braces. Times are in the schedule's zone."""


def check(spec: str) -> None:
    """Refuse a template of ours that means nothing; what else stands in braces is somebody else's, and stays.

    Raises:
        InvalidJobError: names it, and says what there is.
    """
    for name in _TEMPLATE.findall(spec):
        if (name.startswith(_OURS) or name in ("interval", "schedule")) and name not in NAMES:
            known = ", ".join(("schedule.name", *_INSTANTS))
            raise InvalidJobError(
                f"there is no {{{{ {name} }}}}; there are: {known}, and of each time {', '.join(filter(None, _PARTS))}."
                f"{did_you_mean(name, NAMES)}"
            )


def filled(spec: str, *, schedule: str, fire_at: datetime, interval: tuple[datetime, datetime], timezone: str) -> bytes:
    """Return the input of one job: JSON, with the templates in its texts filled in."""
    if "{{" not in spec:
        return spec.encode()
    zone = zone_of(timezone)
    times = dict(zip(_INSTANTS, (fire_at, *interval), strict=True))
    values = _values({name: at.astimezone(zone) for name, at in times.items()}, schedule)
    return msgspec.json.encode(_fill(msgspec.json.decode(spec), values))


def sampled(value: Any) -> Any:
    """Return plain data with our templates filled in for some day: what a check of types is made with."""
    return _fill(value, _values(dict.fromkeys(_INSTANTS, datetime(2000, 1, 1, tzinfo=UTC)), "schedule"))


def _values(times: Mapping[str, datetime], schedule: str) -> dict[str, str]:
    written = {f"{name}{part}": write(at) for name, at in times.items() for part, write in _PARTS.items()}
    return {**written, "schedule.name": schedule}


def _fill(value: Any, values: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return _TEMPLATE.sub(lambda found: values.get(found[1], found[0]), value)
    if isinstance(value, list):
        return [_fill(one, values) for one in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {name: _fill(one, values) for name, one in cast("dict[str, Any]", value).items()}
    return value
