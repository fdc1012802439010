"""A sliding window as data: who began when, and who was told to come at which instant. Pure; instants are in ms.

Who finds no room is promised the next free instant, and so comes back when there is room, once. Promises bear no
name: whoever comes back takes the oldest that is due. That keeps a record small, and a job that never comes back
(it was cancelled) costs one place in one window.
"""

from __future__ import annotations

import math

import msgspec

_EXACT = 256
"""Up to this limit instants are kept as they are; above, in steps of a 128th of the span, rounded up."""
_PROMISED_MAX = 256
_STALE_MS = 5_000
_EARLY_MS = 20

Counted = list[tuple[int, int]]
"""(instant, how many), ascending."""


class Window(msgspec.Struct):
    """One key's window."""

    began: Counted = []
    promised: Counted = []
    beyond: int = 0
    """Until when those were sent away who could not be promised anything."""


def take(window: Window, now: int, *, limit: int, per: int, returning: bool) -> int:
    """Note that somebody asks to begin now; return 0, or in how many ms he is to come back."""
    grain = 1 if limit <= _EXACT else max(1, per // 128)
    window.began = [(at, n) for at, n in window.began if at > now - per]
    window.promised = [(at, n) for at, n in window.promised if at > now - _STALE_MS]
    if returning and window.promised and window.promised[0][0] <= now + _EARLY_MS:
        _drop_first(window.promised)
        free = _free_at(window.began, now, limit, per)
    else:
        free = _free_at(window.began + window.promised, now, limit, per)
    if free <= now:
        _add(window.began, _up(now, grain))
        return 0
    if sum(n for _, n in window.promised) < max(_PROMISED_MAX, 2 * limit):
        free = _up(free, grain)
        _add(window.promised, free)
        return free - now
    window.beyond = max(window.beyond, window.promised[-1][0]) + math.ceil(per / limit)
    return window.beyond - now


def _free_at(taken: Counted, now: int, limit: int, per: int) -> int:
    """Return the first instant, from now, in whose window there is room behind all that is taken."""
    left = limit
    for at, n in reversed(taken):
        left -= n
        if left <= 0:
            return max(now, at + per)
    return now


def _add(counted: Counted, at: int) -> None:
    index = len(counted)
    while index and counted[index - 1][0] > at:
        index -= 1
    if index and counted[index - 1][0] == at:
        counted[index - 1] = (at, counted[index - 1][1] + 1)
    else:
        counted.insert(index, (at, 1))


def _drop_first(counted: Counted) -> None:
    at, n = counted[0]
    if n > 1:
        counted[0] = (at, n - 1)
    else:
        del counted[0]


def _up(at: int, grain: int) -> int:
    return -(-at // grain) * grain
