"""Durations as people write them, in seconds as the code uses them."""

from __future__ import annotations

import math
import re
from datetime import timedelta

import msgspec

_UNITS_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0, "w": 604_800.0}
_NUMBER = re.compile(r"\d+(\.\d+)?", re.ASCII)
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d|w)", re.ASCII)

Duration = float | int | str | timedelta


def parse_duration_s(value: Duration) -> float:
    """Turn ``90``, ``"90"``, ``"90s"``, ``"1h30m"``, ``"250ms"``, ``"PT1H"`` or a timedelta into seconds.

    Raises:
        ValueError: not a finite duration; the message shows the accepted forms.
    """
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value):
            return float(value)
    elif isinstance(value, str):
        text = value.strip()
        sign = -1.0 if text.startswith("-") else 1.0
        text = text[1:] if text[:1] in ("+", "-") else text
        parts = [(text, "s")] if _NUMBER.fullmatch(text) else _PART.findall(text)
        seconds = sum(float(n) * _UNITS_S[unit] for n, unit in parts)
        if parts and (_NUMBER.fullmatch(text) or _PART.sub("", text).strip() == "") and math.isfinite(seconds):
            return sign * seconds
        if text.startswith("P"):
            try:
                return sign * msgspec.convert(text, timedelta).total_seconds()
            except msgspec.ValidationError:
                pass  # told below, with the forms that are right
    raise ValueError(f"{value!r} is not a duration; write 90, '90s', '10m', '1h30m', '7d' or 'PT1H'")


def format_duration(seconds: float | None) -> str:
    """Write seconds for people: ``'12 ms'``, ``'6.1 s'``, ``'4 m 10 s'``, ``'2 h 5 m'``, ``'3 d 4 h'``."""
    if seconds is None:
        return "–"
    if seconds < 0:
        return f"-{format_duration(-seconds)}"
    if seconds < 0.9995:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    seconds = round(seconds)
    if seconds < 3600:
        return f"{int(seconds // 60)} m {int(seconds % 60)} s"
    if seconds < 86_400:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} m"
    return f"{int(seconds // 86_400)} d {int(seconds % 86_400 // 3600)} h"
