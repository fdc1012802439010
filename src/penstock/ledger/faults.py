"""Faults on demand at the one seam between a process and its ledger: for tests of what a crash leaves behind.

`PENSTOCK_FAIL` lists them, with commas between: ``WHERE[:HOW]``.

- WHERE is a transition's number and a side: ``T1.before``, ``T4.after``; ``any.before``, ``any.after`` are all of them.
  T1 is the insert, T12 the purge, every other what `Ledger.apply` writes. *After* means: written, answer not yet heard.
- HOW is when the process dies there, as by kill -9: ``3`` the third time, nothing the first time. Or how often a
  `LedgerUnavailableError` comes in place of the answer: ``error`` always, ``error=0.1`` one time in ten.
- ``seed=7`` makes the tenths the same in each run.

So ``T4.after:3`` dies when the third success has been written, and ``any.after:error=0.05,seed=7`` loses one answer in
twenty.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from penstock.core.exceptions import ConfigError, LedgerUnavailableError, did_you_mean
from penstock.job.lifecycle import TRANSITIONS, Event, State, Transition

if TYPE_CHECKING:
    from penstock.core.base import Applied, Ledger
    from penstock.job.models import Intent, Submission

VARIABLE = "PENSTOCK_FAIL"
EXIT_CODE = 137
"""What a shell tells of a process that SIGKILL has ended."""
_NUMBERS = tuple(dict.fromkeys(rule.number for rule in TRANSITIONS.values()))
_SIDES = ("before", "after")
POINTS = tuple(f"{number}.{side}" for number in (*_NUMBERS, "any") for side in _SIDES)


class Fault(NamedTuple):
    """What happens at one point: death at the ``nth`` time (0: never), or an error at a ``rate``."""

    nth: int
    rate: float


def read_faults(text: str) -> tuple[dict[str, Fault], int | None]:
    """Read what `VARIABLE` holds: the faults by point, and the seed.

    Raises:
        ConfigError: no such point, or a HOW that cannot be read; says what there is.
    """
    faults: dict[str, Fault] = {}
    seed: int | None = None
    for item in filter(None, (part.strip() for part in text.split(","))):
        point, _, how = item.partition(":")
        try:
            if point.startswith("seed="):
                seed = int(point.removeprefix("seed="))
                continue
            fault = _fault(how)
        except ValueError:
            raise ConfigError(
                f"{VARIABLE}: cannot read {item!r}; write T4.after, T4.after:3, T4.after:error=0.1 or seed=7"
            ) from None
        if point not in POINTS:
            raise ConfigError(
                f"{VARIABLE}: there is no point {point!r}; known: {', '.join(POINTS)}.{did_you_mean(point, POINTS)}"
            )
        faults[point] = fault
    return faults, seed


def _fault(how: str) -> Fault:
    if how == "error":
        return Fault(0, 1.0)
    if how.startswith("error="):
        rate = float(how.removeprefix("error="))
        if not 0 <= rate <= 1:
            raise ValueError(how)
        return Fault(0, rate)
    nth = int(how) if how else 1
    if nth < 1:
        raise ValueError(how)
    return Fault(nth, 0.0)


def with_faults(ledger: Ledger, text: str) -> Ledger:
    """Return the ledger behind the faults that ``text`` asks for. Raises as `read_faults`."""
    faults, seed = read_faults(text)
    return cast("Ledger", _FaultyLedger(ledger, faults, random.Random(seed)))  # noqa: S311 - tests, not secrets


class _FaultyLedger:
    """A ledger whose writes meet faults; everything else is passed on."""

    def __init__(self, ledger: Ledger, faults: dict[str, Fault], rand: random.Random) -> None:
        self._ledger = ledger
        self._faults = faults
        self._rand = rand
        self._met: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def insert(self, intents: Sequence[Intent], **options: Any) -> list[Submission]:
        self._pass(Event.ENQUEUE, "before", len(intents))
        inserted = self._ledger.insert(intents, **options)
        self._pass(Event.ENQUEUE, "after", len(intents))
        return inserted

    def apply(self, transition: Transition) -> Applied | None:
        self._pass(transition.event, "before")
        applied = self._ledger.apply(transition)
        self._pass(transition.event, "after")
        return applied

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        # One transaction: all of them are before it, and all are after it.
        for transition in transitions:
            self._pass(transition.event, "before")
        applied = self._ledger.apply_many(transitions)
        for transition in transitions:
            self._pass(transition.event, "after")
        return applied

    def purge(self, state: State, **options: Any) -> list[str]:
        self._pass(Event.PURGE, "before")
        purged = self._ledger.purge(state, **options)
        self._pass(Event.PURGE, "after")
        return purged

    def _pass(self, event: Event, side: str, times: int = 1) -> None:
        """Come by a point: die, raise, or go on."""
        for point in (f"{TRANSITIONS[event].number}.{side}", f"any.{side}"):
            fault = self._faults.get(point)
            if fault is None:
                continue
            with self._lock:
                self._met[point] += times
                dies = fault.nth and self._met[point] >= fault.nth
                errs = self._rand.random() < fault.rate
            if dies:
                os.write(2, f"{VARIABLE}: died at {point}\n".encode())
                os._exit(EXIT_CODE)
            if errs:
                raise LedgerUnavailableError(f"{VARIABLE}: no answer at {point}")
