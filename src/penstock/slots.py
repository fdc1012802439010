"""Concurrency keys: at most so many jobs that name a key run at once, over all workers, engines and hosts.

A key has one record: the attempts that hold its slots. Whoever finds no slot free is held, and leaves a record of
itself beside it, by the time it was made; who gives a slot back lets the longest waiting go on. An attempt that the
ledger no longer has as running holds nothing: a dead worker's slots are free when its lease is over.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec

from penstock.body import Ended
from penstock.core.exceptions import InvalidJobError, JobNotFoundError, LedgerError
from penstock.core.records import Change
from penstock.job import lifecycle
from penstock.job.lifecycle import State
from penstock.job.models import ErrorInfo, Job
from penstock.job.slots import FIELD, slots_of
from penstock.readable import read, readable

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.core.records import Record

logger = logging.getLogger("penstock.slots")

HOLDERS = "slots"
"""What kind of record a key's holders are; ``slots:KEY`` are those who wait for it."""
WAITS = "waits for a slot of "
"""How the reason of a job begins that waits for one."""
_TRIES = 200
_LONGEST_PAUSE_S = 0.02
_LOOKS, _SOON_S, _SPARE = 5, 0.02, 8


class Holder(msgspec.Struct, frozen=True, array_like=True):
    """One attempt that holds a slot."""

    job_id: str
    attempt: int


class Held(msgspec.Struct, frozen=True):
    """Who holds the slots of a key, and how many there were to be when it was last asked."""

    most: int
    holders: tuple[Holder, ...] = ()


def waits_for(key: str, most: int) -> str:
    """What a job tells that waits for a slot of a key."""
    return f"{WAITS}{key!r} (at most {most} at once)"


_decoder = msgspec.json.Decoder(Held)
_encode = msgspec.json.Encoder().encode


class Slots:
    """A `Gate`. Safe from any thread."""

    def __init__(self, ledger: Ledger, *, publish: Callable[[list[Job]], object]) -> None:
        """Take what publishes jobs that may go on."""
        self._ledger = ledger
        self._publish = publish

    def concerns(self, job: Job) -> bool:
        """See `Gate.concerns`."""
        return FIELD in job.metadata

    def enter(self, job: Job) -> Ended | None:
        """See `Gate.enter`."""
        try:
            wanted = slots_of(job)
        except InvalidJobError as error:
            return Ended(how="raised", error=ErrorInfo("InvalidJobError", str(error)), retryable=False)
        return self.take(job, wanted)

    def leave(self, job: Job) -> None:
        """See `Gate.leave`."""
        self.give(job, slots_of(job))

    def take(self, job: Job, wanted: Mapping[str, int]) -> Ended | None:
        """Take a slot of each key, or none and say what is waited for; keys in the same order for all."""
        taken: dict[str, int] = {}
        for key, most in wanted.items():
            if self._take(key, most, job) or self._wait(key, most, job):
                taken[key] = most
                continue
            self.give(job, taken)
            return Ended(how="blocked", held=waits_for(key, most))
        return None

    def give(self, job: Job, taken: Mapping[str, int]) -> None:
        """Give slots back, and let those go on who wait for them. Never raises: a sweep finds what stays behind."""
        for key in taken:
            try:
                self._change(key, lambda held: _without(held, Holder(job.id, job.attempt)))
                self._wake(key)
            except LedgerError as error:
                logger.warning("the slot of %r that job %s had is given back by a sweep: %s", key, job.id, error)

    def reconcile(self) -> int:
        """Free the slots of attempts that run no more, and let go on who waits for a free one; return how many do."""
        woken = 0
        for record in self._ledger.records.all(HOLDERS):
            held = read(record, _decoder)
            if held is None:
                self._drop(record.kind, record.name, record.version)  # whoever asks for the key begins it anew
                continue
            dead = {holder for holder in held.holders if not self._runs(holder)}
            if dead:
                self._change(record.name, lambda held, dead=dead: _only(held, lambda h: h not in dead))
            woken += self._wake(record.name)
        return woken

    def holders(self) -> dict[str, Held]:
        """Tell who holds the slots of each key that is in use."""
        return {record.name: held for record, held in readable(self._ledger.records.all(HOLDERS), _decoder)}

    # -- inside -----------------------------------------------------------------------------------------------

    def _take(self, key: str, most: int, job: Job) -> bool:
        me = Holder(job.id, job.attempt)
        granted = False

        def add(held: Held) -> Held | None:
            nonlocal granted
            holders = held.holders
            if me not in holders and len(holders) >= most:
                holders = tuple(holder for holder in holders if self._runs(holder))
            granted = me in holders or len(holders) < most
            if granted and me not in holders:
                holders = (*holders, me)
            return Held(most, holders)

        self._change(key, add)
        return granted

    def _wait(self, key: str, most: int, job: Job) -> bool:
        """Leave word of who waits; then look again: a slot that was given back in between woke nobody.

        The word is left anew by who comes a second time: somebody who has let him go on may be about to forget it.
        """
        kind = f"{HOLDERS}:{key}"
        while True:
            there = self._ledger.records.get(kind, job.id)
            seen = 0 if there is None else there.version
            word = Change(kind=kind, name=job.id, seen=seen, body=b"{}", due_at=job.created_at)
            if (version := self._ledger.records.write([word])[0]) > 0:
                break
        if not self._take(key, most, job):
            return False
        self._drop(kind, job.id, version)
        return True

    def _wake(self, key: str) -> int:
        """Let as many go on as there are free slots, the oldest jobs first."""
        kind = f"{HOLDERS}:{key}"
        record = self._ledger.records.get(HOLDERS, key)
        held = read(record, _decoder) or Held(1)
        free = held.most - len(held.holders)
        woken: list[Job] = []
        coming = False
        for number in range(_LOOKS):
            waiting = self._ledger.records.due(kind, free - len(woken) + _SPARE) if free > len(woken) else []
            for one in waiting:
                state, job = self._woken(one)
                coming = coming or state is State.RUNNING
                if job is not None:
                    woken.append(job)
                if len(woken) == free:
                    break
            if not waiting or len(woken) == free:
                break
            if coming:
                time.sleep(_SOON_S * number)  # they are about to be held, and nobody else may come by
        if woken:
            self._publish(woken)
        elif record is not None and not held.holders and not self._ledger.records.due(kind, 1):
            self._drop(record.kind, record.name, record.version)
        return len(woken)

    def _woken(self, waiting: Record) -> tuple[State | None, Job | None]:
        """Admit one who waits, and forget that he does; return his state, and his row where he may go on.

        He is forgotten last: for whoever dies in between, a sweep does the rest.
        """
        try:
            job = self._ledger.get(waiting.name)
        except JobNotFoundError:
            self._drop(waiting.kind, waiting.name, waiting.version)
            return None, None
        if job.state is State.RUNNING:
            return job.state, None  # he is on his way to be held, and stays on the list
        admitted = False
        if not job.state.final and job.held is not None and job.held.startswith(WAITS):
            admitted = self._ledger.apply(lifecycle.admit(job.id, why=job.held)) is not None
            if not admitted:
                return job.state, None  # another was quicker; the next look sees what became of him
        self._drop(waiting.kind, waiting.name, waiting.version)
        return job.state, self._ledger.get(job.id) if admitted else None

    def _runs(self, holder: Holder) -> bool:
        try:
            job = self._ledger.get(holder.job_id)
        except JobNotFoundError:
            return False
        return job.state is State.RUNNING and job.attempt == holder.attempt

    def _change(self, key: str, change: Callable[[Held], Held | None]) -> None:
        """Change a key's record as of its newest version; None leaves it as it is."""
        for number in range(_TRIES):
            record = self._ledger.records.get(HOLDERS, key)
            before = read(record, _decoder) or Held(0)
            after = change(before)
            if after is None or after == before:
                return
            seen = 0 if record is None else record.version
            if self._ledger.records.write([Change(kind=HOLDERS, name=key, seen=seen, body=_encode(after))])[0]:
                return
            time.sleep(random.uniform(0, min(0.001 * number, _LONGEST_PAUSE_S)))  # noqa: S311 - spreads load
        raise LedgerError(f"the slots of {key!r} change faster than they can be taken")

    def _drop(self, kind: str, name: str, version: int) -> None:
        self._ledger.records.write([Change(kind=kind, name=name, seen=version, body=None)])


def _only(held: Held, keep: Callable[[Holder], bool]) -> Held:
    return Held(held.most, tuple(filter(keep, held.holders)))


def _without(held: Held, holder: Holder) -> Held:
    return _only(held, lambda one: one != holder)
