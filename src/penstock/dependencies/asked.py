"""The answer of each kind of limit: what it remembers, and when a job has to wait."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Protocol

import msgspec

from penstock.core.durations import format_duration
from penstock.core.exceptions import JobNotFoundError
from penstock.core.secrets import is_secret_name
from penstock.dependencies import rates
from penstock.dependencies.base import Admission, AdmissionBlocked, Dependency
from penstock.dependencies.kept import Kept, ms_of, short
from penstock.dependencies.limits import ConcurrencyLimit, Cooldown, Debounce, Limit, RateLimit
from penstock.dependencies.rates import Turn, Window
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.body import Ended
    from penstock.core.base import Ledger
    from penstock.job.models import Job

logger = logging.getLogger("penstock.dependencies")

_ORDER = (Admission, ConcurrencyLimit, Cooldown, Debounce, RateLimit)
"""What gives back goes first, what spends last."""


class Slots(Protocol):
    """What gives at most so many at once; see `penstock.slots`."""

    def take(self, job: Job, wanted: Mapping[str, int]) -> Ended | None:
        """Take a slot of each key, or none and say what is waited for."""
        ...

    def give(self, job: Job, taken: Mapping[str, int]) -> None:
        """Give slots back. Never raises."""
        ...


class _Cooled(msgspec.Struct):
    began: int = 0
    job_id: str = ""


class _Settling(msgspec.Struct):
    winner: str = ""
    seen: int = 0


class Asked:
    """The limits as this process asks them."""

    def __init__(self, ledger: Callable[[], Ledger], slots: Callable[[], Slots]) -> None:
        self._ledger = ledger
        self._slots = slots
        self._inside: dict[tuple[str, int], dict[str, int]] = {}
        self._rates = Kept(ledger, "limit.rate", Window)
        self._cooling = Kept(ledger, "limit.cooldown", _Cooled)
        self._settling = Kept(ledger, "limit.debounce", _Settling)

    def order(self, needed: Dependency[Any]) -> int:
        """Which of several is asked first."""
        return next((at for at, kind in enumerate(_ORDER) if isinstance(needed, kind)), len(_ORDER))

    def ask(
        self, needed: Dependency[Any], job: Job, name: str | None, argument: Any, arguments: dict[str, Any]
    ) -> Ended | None:
        """Return None, or how the attempt ends. Raises `LedgerError`, and what a user's admission raises."""
        try:
            if isinstance(needed, Admission):
                needed.admit(job, argument)
                return None
            return self._limit(needed, job, name, arguments) if isinstance(needed, Limit) else None
        except AdmissionBlocked as blocked:
            return blocked.ended

    def _limit(self, needed: Limit, job: Job, name: str | None, arguments: dict[str, Any]) -> Ended | None:
        by = needed.argument or name
        counted = key_of(needed, TASKS[job.name].name, by, arguments.get(by) if by else None)
        match needed:
            case ConcurrencyLimit():
                return self._concurrency(needed, job, counted)
            case RateLimit():
                self._rate(needed, job, counted)
            case Cooldown():
                self._cooldown(needed, job, counted)
            case Debounce():
                self._debounce(needed, job, counted)
            case _:
                pass
        return None

    def leave(self, job: Job) -> None:
        """Give back what the job holds."""
        if taken := self._inside.pop((job.id, job.attempt), None):
            self._slots().give(job, taken)

    def _concurrency(self, limit: ConcurrencyLimit, job: Job, key: str) -> Ended | None:
        wanted = {key: limit.max_concurrent}
        ended = self._slots().take(job, wanted)
        if ended is None:
            self._inside[job.id, job.attempt] = wanted
        return ended

    def _rate(self, limit: RateLimit, job: Job, key: str) -> None:
        per = max(1, round(limit.per / timedelta(milliseconds=1)))
        # A job that was released, not tried, has been here before.
        returning = job.attempt - 1 - job.errors - job.crashes > 0
        asked = (limit.limit, per, limit.drop, returning)
        turn = self._rates.ask(f"{key} {per} ms", asked, _begins, lambda _window: 2 * per + 60_000)
        if turn.stays:
            time.sleep(turn.wait / 1000)
            return
        told = f"{limit.limit} in {format_duration(limit.per.total_seconds())} on {key}"
        if limit.drop:
            raise AdmissionBlocked(f"dropped: no more than {told}", reschedule=False)
        raise AdmissionBlocked(f"waits for its turn: no more than {told}", retry_delay=turn.wait / 1000)

    def _cooldown(self, limit: Cooldown, job: Job, key: str) -> None:
        window = max(1, round(limit.window / timedelta(milliseconds=1)))
        if not self._cooling.ask(key, (job.id, window), _is_cool, lambda _state: window + 60_000):
            told = format_duration(limit.window.total_seconds())
            raise AdmissionBlocked(f"dropped: another began less than {told} ago on {key}", reschedule=False)

    def _debounce(self, limit: Debounce, job: Job, key: str) -> None:
        settle = max(1, round(limit.settle / timedelta(milliseconds=1)))
        if job.errors or job.crashes:
            return  # it has begun before, and is tried again
        wait_ms = self._settling.ask(
            key, (job.id, settle), self._settles, lambda state: settle + 3_600_000 if state.winner else 0
        )
        if wait_ms < 0:
            raise AdmissionBlocked(f"dropped: another job waits to run for it on {key}", reschedule=False)
        if wait_ms:
            told = format_duration(limit.settle.total_seconds())
            raise AdmissionBlocked(f"waits until nothing more has come for {told} on {key}", retry_delay=wait_ms / 1000)

    def _settles(self, state: _Settling, now: datetime, asked: tuple[str, int]) -> int:
        """Return how long to wait in ms; 0: begin; -1: another waits already."""
        job_id, settle = asked
        at = ms_of(now)
        if state.winner == job_id:
            left = state.seen + settle - at
            if left <= 0:
                state.winner = ""
            return max(0, left)
        state.seen = at
        if state.winner and self._waits(state.winner):
            return -1
        state.winner = job_id
        return settle

    def _waits(self, job_id: str) -> bool:
        try:
            return not self._ledger().get(job_id).state.final
        except JobNotFoundError:
            return False


def _begins(window: Window, now: datetime, asked: tuple[int, int, bool, bool]) -> Turn:
    limit, per, drop, returning = asked
    before = list(window.began), list(window.promised), window.beyond
    turn = rates.take(window, ms_of(now), limit=limit, per=per, returning=returning and not drop)
    if drop and not turn.stays:
        window.began, window.promised, window.beyond = before
    return turn


def _is_cool(state: _Cooled, now: datetime, asked: tuple[str, int]) -> bool:
    job_id, window = asked
    at = ms_of(now)
    if state.job_id != job_id:
        if at < state.began + window:
            return False
        state.began, state.job_id = at, job_id
    return True


def key_of(limit: Limit, task: str, by: str | None, value: Any) -> str:
    """Name what a limit counts: its scope or task, and the value of the argument that it counts by."""
    if by is None:
        return short(limit.scope or task)
    told = json.dumps(value, sort_keys=True, default=str)
    if is_secret_name(by):
        import hashlib

        told = hashlib.sha256(told.encode()).hexdigest()[:16]
    return short(f"{limit.scope or task}:{by}:{told}")


__all__ = ["Asked", "key_of"]
