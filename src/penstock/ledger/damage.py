"""Rows that somebody has written past penstock, or a disk has spoilt: what can be read of them, and what cannot.

One such row is to be in nobody's way: it is listed, and its job fails when a worker gets it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec

from penstock import readable
from penstock.job.lifecycle import State
from penstock.job.models import DamagedJob, Job

UNREADABLE = (*readable.UNREADABLE, OSError)
"""What the reading of a row raises that no release of penstock has written; OSError: an instant out of all range."""

_WHOLE = ("priority", "max_attempts", "max_crashes", "attempt", "errors", "crashes", "publishes")
_NUMBER = (float, int)
"""SQLite returns a whole number as an int, also from a column of floats, where a statement has just written it."""
_Kind = type | tuple[type, ...]
_NEEDED: dict[str, _Kind] = {
    **dict.fromkeys(("id", "kind", "name", "queue", "isolation", "state"), str), **dict.fromkeys(_WHOLE, int),
    "spec": bytes,
}  # fmt: skip
_OPTIONAL: dict[str, _Kind] = {
    **dict.fromkeys(("key", "tick_key", "unique_key", "parent_id", "reason", "owner", "held", "note", "message"), str),
    **dict.fromkeys(("nodes_done", "nodes_total"), int), **dict.fromkeys(("timeout_s", "progress"), _NUMBER),
    "result": bytes,
}  # fmt: skip
_DEFAULTS: dict[str, Any] = {
    **{field.name: field.default for field in msgspec.structs.fields(Job) if not field.required},
    "id": "?", "kind": "task", "name": "?", "spec": b"", "state": State.FAILED, "tags": (), "metadata": {},
    "created_at": datetime.fromtimestamp(0, UTC), "scheduled_at": datetime.fromtimestamp(0, UTC),
}  # fmt: skip
_SHOWN = 40


def check_types(names: tuple[str, ...]) -> Callable[[Sequence[Any]], None]:
    """Make what raises TypeError for a row whose values are not of their columns' types: SQLite takes any."""
    needed = [(names.index(name), kind) for name, kind in _NEEDED.items()]
    optional = [(names.index(name), kind) for name, kind in _OPTIONAL.items()]

    def check(row: Sequence[Any]) -> None:
        for at, kind in needed:
            if not isinstance(row[at], kind):
                raise TypeError(f"not of {kind}")
        for at, kind in optional:
            if row[at] is not None and not isinstance(row[at], kind):
                raise TypeError(f"not of {kind}")

    return check


def damaged_job(values: Mapping[str, Any], readers: Mapping[str, Callable[[Any], Any]]) -> DamagedJob:
    """Return the job of a row that cannot be read, with defaults in the place of what cannot."""
    read: dict[str, Any] = {}
    bad: list[str] = []
    for name, value in values.items():
        try:
            kind = _NEEDED.get(name) or (None if value is None else _OPTIONAL.get(name))
            if kind is not None and not isinstance(value, kind):
                raise TypeError(name)
            read[name] = _DEFAULTS[name] if value is None else readers[name](value) if name in readers else value
        except UNREADABLE:
            read[name] = _DEFAULTS[name]
            bad.append(f"{name} ({repr(value)[:_SHOWN]})")
    return DamagedJob(**read, damage=f"its row in the ledger is damaged, by hand or by a disk: {', '.join(bad)}")
