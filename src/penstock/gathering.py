"""Waiting for many jobs at once: one question to each ledger a look, however many they are."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any

from penstock.absence import LOOK_S, Absence
from penstock.bridge import Stream, in_thread
from penstock.core.exceptions import LedgerUnavailableError, PenstockError, ResultTimeoutError
from penstock.handle import JobHandle, newly_final

_SOON_S, _LATER_S = 0.01, 0.2
_SHARE = 4.0
"""How many times as long as the ledger took to answer it is left alone: many jobs are looked at more seldom."""
_GONE_EVERY_S = 5.0
_NAMED = 3


def as_completed(handles: Iterable[JobHandle], *, timeout: float | None = None) -> Stream[JobHandle]:
    """Yield jobs as they end, each once for each time it is given; for ``for`` and for ``async for``.

    Nothing is raised for a job that failed: ask it for its `result`. A job that was purged meanwhile is yielded too.
    A ledger that is away is waited for.

    Raises:
        ResultTimeoutError: after ``timeout`` seconds some are not final; they go on all the same.
        LedgerUnavailableError: a ledger is away when they are over.
    """
    return Stream(_Waiting(_checked(handles), timeout).look)


def gather(*handles: JobHandle, timeout: float | None = None, return_exceptions: bool = False) -> list[Any]:
    """Wait for all these jobs and return what they returned, in the order of the handles.

    The jobs of several queues may be mixed; a ledger that is away is waited for. With ``return_exceptions`` the errors
    stand among the results, each in its place; a job that is not final in time is a `ResultTimeoutError` there.

    Raises:
        JobFailedError: one failed, and so `JobCancelledError`, `ResultError`, `JobNotFoundError` (it was purged):
            of the first that ended so, at once; the others go on.
        ResultTimeoutError: after ``timeout`` seconds some are not final; they go on all the same.
    """
    answers: dict[int, Any] = {}
    try:
        for handle in as_completed(handles, timeout=timeout):
            answers[id(handle)] = _answer(handle, return_exceptions)
    except ResultTimeoutError:
        if not return_exceptions:
            raise
    return _in_order(handles, answers, timeout)


async def agather(*handles: JobHandle, timeout: float | None = None, return_exceptions: bool = False) -> list[Any]:
    """`gather`, awaited; no thread is held while it waits."""
    answers: dict[int, Any] = {}
    try:
        async for handle in as_completed(handles, timeout=timeout):
            answers[id(handle)] = await in_thread(_answer, handle, return_exceptions)
    except ResultTimeoutError:
        if not return_exceptions:
            raise
    return await in_thread(_in_order, handles, answers, timeout)


def _answer(handle: JobHandle, return_exceptions: bool) -> Any:
    try:
        return handle.result(0)
    except PenstockError as error:
        if not return_exceptions:
            raise
        return error


def _in_order(handles: Sequence[JobHandle], answers: dict[int, Any], timeout: float | None) -> list[Any]:
    for handle in handles:
        if id(handle) not in answers:
            answers[id(handle)] = ResultTimeoutError(handle.id, timeout or 0.0, handle.state)
    return [answers[id(handle)] for handle in handles]


def _checked(handles: Iterable[Any]) -> list[JobHandle]:
    several = list(handles)
    for one in several:
        if not isinstance(one, JobHandle):
            hint = "; write gather(*jobs)" if isinstance(one, list | tuple) else ""
            raise TypeError(f"{one!r:.200} is no job handle{hint}")
    return several


class _Waiting:
    """Those that have not ended, and when to look at them again."""

    def __init__(self, handles: Iterable[JobHandle], timeout_s: float | None) -> None:
        self._live = list(handles)
        self._number = len(self._live)
        self._timeout_s = timeout_s
        self._until: float | None = None
        self._pause_s = _SOON_S
        self._counted_at = time.monotonic()
        self._absence = Absence(f"the wait for {self._number} jobs goes on")

    def look(self) -> tuple[list[JobHandle], float | None]:
        """Return those that have ended since, and after how long to look again."""
        started = time.monotonic()
        if self._until is None and self._timeout_s is not None:
            self._until = started + self._timeout_s
        gone_too = started - self._counted_at >= _GONE_EVERY_S
        try:
            ended = newly_final(self._live, gone_too=gone_too)
        except LedgerUnavailableError as error:
            if self._until is not None and time.monotonic() >= self._until:
                raise
            self._absence.tell(error)
            self._pause_s = min(2 * self._pause_s, LOOK_S)
            return [], self._paused(time.monotonic())
        self._absence.over()
        now = time.monotonic()
        if gone_too:
            self._counted_at = now
        over = {id(handle) for handle in ended}
        self._live = [handle for handle in self._live if id(handle) not in over]
        if not self._live:
            return ended, None
        self._pause_s = max(_SOON_S if ended else min(2 * self._pause_s, _LATER_S), _SHARE * (now - started))
        if self._until is not None and now >= self._until and not ended:
            raise self._late()
        return ended, self._paused(now)

    def _paused(self, now: float) -> float:
        return self._pause_s if self._until is None else max(0.0, min(self._pause_s, self._until - now))

    def _late(self) -> ResultTimeoutError:
        first, timeout_s = self._live[0], self._timeout_s or 0.0
        error = ResultTimeoutError(first.id, timeout_s, first.state)
        if self._number > 1:
            named = ", ".join(handle.id for handle in self._live[:_NAMED])
            more = ", ..." if len(self._live) > _NAMED else ""
            error.args = (
                f"{len(self._live)} of {self._number} jobs are not final after {timeout_s:g} s: {named}{more}",
            )
        return error
