"""A sliding window as data: who began when, and who was told to come at which instant. Pure; instants are in ms.

Who finds no room is promised the next free instant, and so comes back when there is room, once. Promises bear no
name: whoever comes back takes the oldest that is due. That keeps a record small. Nobody waits for those who do not
come when they were to (they were cancelled, or their messages stand behind many others): a moment later whoever asks
next takes the place, and who comes after all is promised another.
"""

from __future__ import annotations

import math

import msgspec

_EXACT = 256
"""Up to this limit instants are kept as they are; above, in steps of a 128th of the span, rounded up."""
_PROMISED_MAX = 256
_STALE_MS = 5_000
_EARLY_MS = 20
_LATE_MS = 40
"""Who comes later than this finds his place taken, if others ask meanwhile: a rate is to be kept up, too."""
_NEAR_MS = 50
"""Who may begin so soon waits for it: to go and come back takes longer."""

_APART_MS = 25
"""Promises are that far apart, or as far as the rate allows: who comes at one instant with many others begins late."""

Counted = list[tuple[int, int]]
"""(instant, how many), ascending."""


class Window(msgspec.Struct):
    """One key's window."""

    began: Counted = []
    promised: Counted = []
    beyond: int = 0
    """Until when those were sent away who could not be promised anything."""


class Turn(msgspec.Struct, frozen=True):
    """When somebody may begin: in ``wait`` ms. ``stays``: he waits that long; else he is to come back then."""

    wait: int
    stays: bool


def take(window: Window, now: int, *, limit: int, per: int, returning: bool) -> Turn:
    """Note that somebody asks to begin now, and say when he may."""
    grain = 1 if limit <= _EXACT else max(1, per // 128)
    window.began = [(at, n) for at, n in window.began if at > now - per]
    window.promised = [(at, n) for at, n in window.promised if at > now - _STALE_MS]
    if window.promised and window.promised[0][0] <= now + (_EARLY_MS if returning else -_LATE_MS):
        _drop_first(window.promised)
        free = _free_at(window.began, now, limit, per)
    else:
        free = _free_at(window.began + window.promised, now, limit, per)
    if free <= now + _NEAR_MS:
        _add(window.began, _up(free, grain))
        return Turn(free - now, stays=True)
    if sum(n for _, n in window.promised) < max(_PROMISED_MAX, 2 * limit):
        if window.promised:
            apart = min(per // limit, _APART_MS)
            free = max(free, window.promised[-1][0] + (apart if apart >= grain else 0))
        free = _up(free, grain)
        _add(window.promised, free)
        return Turn(free - now, stays=False)
    window.beyond = max(window.beyond, window.promised[-1][0]) + math.ceil(per / limit)
    return Turn(window.beyond - now, stays=False)


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
