"""Between the hashes of the Redis ledger and the Structs. A field that is absent has its default."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import msgspec

from penstock.job.lifecycle import Event, State
from penstock.job.models import HistoryEntry, Intent, Job, LogLine, NodeRun, Progress, Report
from penstock.ledger import rows

_TEXTS = frozenset(
    {"id", "kind", "name", "queue", "isolation", "key", "tick_key", "parent_id", "reason", "owner", "held", "note",
     "unique_key", "message", "backoff", "tags", "metadata", "state", "error"}
)  # fmt: skip
_WHOLE = frozenset(
    {"priority", "max_attempts", "max_crashes", "attempt", "errors", "crashes", "publishes", "nodes_done",
     "nodes_total"}
)  # fmt: skip
_BYTES = frozenset({"spec", "result"})
_DEFAULTS: dict[str, Any] = {
    "queue": "default", "priority": 5, "isolation": "inline", "max_attempts": 1, "max_crashes": 3, "attempt": 0,
    "errors": 0, "crashes": 0, "publishes": 0,
}  # fmt: skip
# Numbers may stand for any number of columns; bytes and texts for their own.
_READ: dict[bytes, Callable[[bytes], Any]] = {
    name.encode(): bytes if name in _BYTES else bytes.decode if name in _TEXTS else int if name in _WHOLE else float
    for name in rows.COLUMNS
}
_NOTHING = dict.fromkeys(rows.COLUMNS) | _DEFAULTS
_line = msgspec.msgpack.Decoder(tuple[int, float, str, str, str, str | bool])
_node = msgspec.msgpack.Decoder(tuple[int, str, float | bool | None, float | bool | None, str | bool | None])
_entry = msgspec.msgpack.Decoder(tuple[str, str, str, str, int, str | bool, str | bool, str | bool])


def job_of(flat: Sequence[bytes]) -> Job:
    """Decode the answer of HGETALL: names and values in turn."""
    values = dict(_NOTHING)
    for at in range(0, len(flat), 2):
        name = flat[at]
        if name in _READ:  # what a newer release has added is not ours to know
            try:
                values[name.decode()] = _READ[name](flat[at + 1])
            except ValueError:
                values[name.decode()] = flat[at + 1]  # no bytes can be read there, so the row is a damaged one
    return rows.job_of(tuple(values.values()))


def fields_of(intent: Intent) -> list[str]:
    """Write what the submitter decides as names and values in turn, without what has its default.

    Raises:
        UnicodeError: a text is not valid Unicode.
    """
    values: dict[str, Any] = {
        name: value
        for name in rows.ASKED
        if (value := getattr(intent, name)) is not None and (name == "queue" or value != _DEFAULTS.get(name))
    }
    values["backoff"] = rows.backoff_text(intent.backoff)
    values["tags"] = rows.json_text(intent.tags)
    values["metadata"] = rows.json_text(intent.metadata)
    flat: list[str] = []
    for name, value in values.items():
        if value is not None:
            # Redis's MessagePack knows texts and no bytes; a spec is JSON.
            flat += (
                name,
                value.decode() if isinstance(value, bytes) else value if isinstance(value, str) else repr(value),
            )
    return flat


def packed_insert(intent: Intent) -> list[Any]:
    """Write an intent as the insert script reads it. Raises UnicodeError."""
    return [
        intent.id,
        False if intent.at is None else intent.at.timestamp(),
        intent.delay_s,
        intent.queue,
        intent.name,
        intent.key or False,
        intent.tick_key or False,
        intent.parent_id or False,
        fields_of(intent),
        intent.held or False,
        False if intent.expires_at is None else intent.expires_at.timestamp(),
        False if intent.expires_s is None else intent.expires_s,
        False if intent.unique_key is None else _unique(intent, intent.unique_key),
        intent.on_conflict,
    ]


def _unique(intent: Intent, key: str) -> list[Any]:
    period_s = False if intent.unique_period_s is None else intent.unique_period_s
    return [key, dict.fromkeys(intent.unique_states, True), period_s]


def packed_report(report: Report) -> list[Any]:
    """Write news as the report script reads it."""
    if isinstance(report, LogLine):
        node = False if report.node is None else rows.storable(report.node)
        line = [
            report.attempt, report.at.timestamp(), report.level, rows.storable(report.source),
            rows.storable(report.text), node,
        ]  # fmt: skip
        return ["log", report.job_id, report.attempt, line]
    if isinstance(report, NodeRun):
        return [
            "node", report.job_id, report.attempt, rows.storable(report.name), report.state,
            False if report.started_at is None else report.started_at.timestamp(),
            False if report.elapsed_s is None else report.elapsed_s,
            False if report.error is None else rows.storable(report.error),
        ]  # fmt: skip
    return ["progress", report.job_id, report.attempt, _progress(report)]


def _progress(news: Progress) -> list[str]:
    flat: list[str] = []
    for name in ("progress", "message", "nodes_done", "nodes_total"):
        value = getattr(news, name)
        if value is not None:
            flat += (name, rows.storable(value) if isinstance(value, str) else repr(value))
    return flat


def entry_of(job_id: str, packed: bytes) -> HistoryEntry:
    """Decode an entry of a history."""
    with rows.told_of(f"the history of job {job_id}"):
        at, event, start, to, attempt, worker, reason, error = _entry.decode(packed)
        return HistoryEntry(
            job_id=job_id,
            at=rows.instant(float(at)),
            event=Event(event),
            start=State(start),
            to=State(to),
            attempt=attempt,
            worker=cast("str", worker) or None,
            reason=cast("str", reason) or None,
            error=rows.error_of(cast("str", error) or None),
        )


def line_of(job_id: str, seq: int, packed: bytes) -> LogLine:
    """Decode a log line."""
    with rows.told_of(f"the log of job {job_id}"):
        attempt, at, level, source, text, node = _line.decode(packed)
        return LogLine(
            job_id=job_id,
            attempt=attempt,
            at=rows.instant(at),
            level=level,
            source=source,
            text=text,
            node=None if node is False else cast("str", node),
            seq=seq,
        )


def node_of(job_id: str, field: bytes, packed: bytes) -> tuple[int, NodeRun]:
    """Decode a node, with its number in the order that nodes were first told of."""
    attempt, _, name = field.decode().partition(":")
    no, state, started, elapsed_s, error = _node.decode(packed)
    return no, NodeRun(
        job_id=job_id,
        attempt=int(attempt),
        name=name,
        state=cast("Any", state),
        started_at=rows.instant(started) if started else None,
        elapsed_s=None if elapsed_s is False else elapsed_s,
        error=None if error is False else cast("str | None", error),
    )
