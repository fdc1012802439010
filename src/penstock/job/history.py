"""Attempts, derived from the history of transitions: nothing is written twice."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec

from penstock.job.lifecycle import Event, Reason, State
from penstock.job.models import Attempt, HistoryEntry


def _outcome(
    entry: HistoryEntry,
) -> Literal["succeeded", "error", "timeout", "released", "crashed", "cancelled"]:
    if entry.event is Event.SUCCEED:
        return "succeeded"
    if entry.event in (Event.RESCUE, Event.CRASH):
        return "crashed"
    if entry.event in (Event.RETRY, Event.FAIL):
        return "timeout" if entry.reason == Reason.TIMEOUT else "error"
    return "cancelled" if entry.to is State.CANCELLED else "released"


def attempts_of(history: Iterable[HistoryEntry]) -> list[Attempt]:
    """Fold a job's history, oldest first, into its attempts."""
    attempts: dict[int, Attempt] = {}
    for entry in history:
        if entry.event is Event.CLAIM:
            attempts[entry.attempt] = Attempt(
                job_id=entry.job_id, number=entry.attempt, worker=entry.worker, started_at=entry.at
            )
        elif entry.start is State.RUNNING and entry.to is not State.RUNNING and entry.attempt in attempts:
            attempts[entry.attempt] = msgspec.structs.replace(
                attempts[entry.attempt], finished_at=entry.at, outcome=_outcome(entry), error=entry.error
            )
    return list(attempts.values())
