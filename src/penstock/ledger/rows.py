"""Between the ledger's stored values and the Structs; what all ledgers agree on about a new row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec

from penstock.core.exceptions import LedgerError, UnsupportedError, did_you_mean
from penstock.core.records import Change, Record
from penstock.job.lifecycle import SHOWN_STATES, Event, State
from penstock.job.models import (
    ErrorInfo,
    HistoryEntry,
    Intent,
    Job,
    LogLine,
    NodeRun,
    RetryPolicy,
    Submission,
    WorkerInfo,
)
from penstock.ledger import records_sql
from penstock.ledger.damage import UNREADABLE, check_types, damaged_job

T = TypeVar("T", bound=msgspec.Struct)

COLUMNS: tuple[str, ...] = Job.__struct_fields__
"""A job's row has a column for each field of `Job`, by the same name and in the same order."""

UNTOLD = frozenset({Event.BEAT, Event.PUBLISH})
"""Events that leave no history: there would be one every few seconds."""

STAYING = frozenset({Event.PUBLISH, Event.HOLD, Event.ADMIT, Event.WAKE})
"""Events of a job that waits and goes on waiting: each says itself what becomes of its times."""

ANSWERED_WHOLE = frozenset({Event.CLAIM, Event.PUBLISH})
"""Events whose writer needs the whole row."""

ASKED: tuple[str, ...] = tuple(f for f in Intent.__struct_fields__ if f in COLUMNS and f not in ("held", "expires_at"))
"""What a submitter decides and a row keeps as it is."""
_INSTANTS = tuple(name for name in COLUMNS if name.endswith(("_at", "_until")))
LAST_INSTANT = 253_402_300_799.0  # the end of the year 9999: datetime knows no later one
_FIRST_INSTANT = -62_135_596_800.0  # the beginning of the year 1
_DEFAULT_BACKOFF = RetryPolicy()
_policy = msgspec.json.Decoder(RetryPolicy)
_error = msgspec.json.Decoder(ErrorInfo)
_tags = msgspec.json.Decoder(tuple[str, ...])
_metadata = msgspec.json.Decoder(dict[str, str])
_worker = msgspec.json.Decoder(WorkerInfo)
_check_types = check_types(COLUMNS)
_READERS: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(_INSTANTS, lambda seconds: instant(seconds)), "state": State, "backoff": _policy.decode,
    "tags": _tags.decode, "metadata": _metadata.decode, "error": _error.decode,
}  # fmt: skip


def check_shown(states: Sequence[str]) -> None:
    """Refuse a word that is no shown state. Raises ValueError; the message says which there are."""
    for state in states:
        if state not in SHOWN_STATES:
            raise ValueError(
                f"no state {state!r}; there are: {', '.join(SHOWN_STATES)}.{did_you_mean(state, SHOWN_STATES)}"
            )


def cannot_join(ledger: str, hint: str = "") -> UnsupportedError:
    """Say that a ledger does not take part in the caller's transaction."""
    return UnsupportedError(
        f"ledger {ledger}",
        "connection",
        hint or " Enqueue after your commit, or keep the ledger in the database of your data (postgres://, sqlite://).",
    )


def instant(seconds: float) -> datetime:
    """Turn the ledger's seconds since 1970 into an aware instant; beyond the calendar it is the first or the last."""
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return datetime.fromtimestamp(LAST_INSTANT if seconds > 0 else _FIRST_INSTANT, UTC)


def later(now: float, delay_s: float) -> float:
    """Add a delay; one that would leave the calendar ends with it, so that the row stays readable."""
    return min(now + delay_s, LAST_INSTANT)


def storable(text: str) -> str:
    r"""Write half surrogates (bytes of a body's output that were no UTF-8) as ``\udcff``; no store takes them."""
    if text.isascii():
        return text
    return text.encode("utf-8", "backslashreplace").decode()


def storable_error(error: ErrorInfo) -> ErrorInfo:
    """Do the same for what an exception says of itself."""
    return msgspec.structs.replace(error, message=storable(error.message), traceback=storable(error.traceback))


def queued(intent: Intent, *, now: float, grace_s: float, pushed: bool = True) -> Job:
    """Build the row that T1 inserts; not ``pushed``: the caller leaves its first publish to a sweep."""
    due = later(now, intent.delay_s) if intent.at is None else intent.at.timestamp()
    at = instant(now)
    asked = {name: getattr(intent, name) for name in ASKED}
    asked |= {"held": intent.held, "expires_at": expiry(intent, max(due, now))}
    if due > now or not pushed or intent.held is not None:
        due_at = instant(max(due, now))
        return Job(**asked, state=State.QUEUED, created_at=at, scheduled_at=due_at, publish_due_at=due_at)
    return Job(
        **asked,
        state=State.QUEUED,
        created_at=at,
        scheduled_at=at,
        published_at=at,
        publishes=1,
        publish_due_at=instant(later(now, grace_s)),
    )


def expiry(intent: Intent, due: float) -> datetime | None:
    """Say by when a job that is due at ``due`` must have begun."""
    if intent.expires_s is not None:
        return instant(later(due, intent.expires_s))
    return intent.expires_at


def created_in(submissions: Iterable[Submission], queues: Mapping[str, int] | None) -> Counter[str]:
    """Count the jobs that came into those of the queues that have a limit."""
    return Counter(s.job.queue for s in submissions if s.outcome.made and queues is not None and s.job.queue in queues)


def enqueued(job: Job) -> HistoryEntry:
    """Derive the first entry of a job's history from its row."""
    return HistoryEntry(job_id=job.id, at=job.created_at, event=Event.ENQUEUE, start=None, to=State.QUEUED, attempt=0)


def entry_of(job_id: str, row: Sequence[Any]) -> HistoryEntry:
    """Decode a row of a job's history: at, event, start, to, attempt, worker, reason, error."""
    at, event, start, to, attempt, worker, reason, error = row
    with told_of(f"the history of job {job_id}"):
        entry = HistoryEntry(
            job_id=job_id,
            at=instant(at),
            event=Event(event),
            start=State(start),
            to=State(to),
            attempt=attempt,
            worker=worker,
            reason=reason,
            error=error_of(error),
        )
        return _checked(entry)


def line_of(job_id: str, row: Sequence[Any]) -> LogLine:
    """Decode a row of a job's log: attempt, at, level, source, text, node, seq."""
    attempt, at, level, source, text, node, seq = row
    with told_of(f"the log of job {job_id}"):
        line = LogLine(
            job_id=job_id, attempt=attempt, at=instant(at), level=level, source=source, text=text, node=node, seq=seq
        )
        return _checked(line)


def node_of(job_id: str, row: Sequence[Any]) -> NodeRun:
    """Decode a row of a job's nodes: attempt, name, state, started at, elapsed, error."""
    attempt, name, state, started, elapsed_s, error = row
    with told_of(f"a node of job {job_id}"):
        node = NodeRun(
            job_id=job_id, attempt=attempt, name=name, state=state, elapsed_s=elapsed_s, error=error,
            started_at=None if started is None else instant(started),
        )  # fmt: skip
        return _checked(node)


def _checked(value: T) -> T:
    """Refuse a Struct whose fields are not of their types: SQLite takes any."""
    return msgspec.convert(msgspec.structs.asdict(value), type(value))


@contextmanager
def told_of(what: str) -> Generator[None]:
    """Raise `LedgerError` for what lies in the ledger and cannot be read."""
    try:
        yield
    except UNREADABLE as error:
        raise LedgerError(f"{what} cannot be read, it is damaged in the ledger: {error}") from error


def worker_of(told: str | bytes, seen_at: float | None = None) -> Iterator[WorkerInfo]:
    """Decode what a worker has told of itself; nothing of what no worker has."""
    with suppress(*UNREADABLE):
        found = _worker.decode(told)
        yield found if seen_at is None else msgspec.structs.replace(found, seen_at=instant(seen_at))


def json_text(value: Any) -> str | None:
    """Encode for a column that is NULL when there is nothing to tell."""
    return msgspec.json.encode(value).decode() if value else None


def error_text(error: ErrorInfo | None) -> str | None:
    """Encode an error; ErrorInfo has no truth value of its own to go by."""
    return None if error is None else msgspec.json.encode(storable_error(error)).decode()


def error_of(text: str | None) -> ErrorInfo | None:
    """Decode an error."""
    return None if text is None else _error.decode(text)


def backoff_text(backoff: RetryPolicy) -> str | None:
    """Encode a policy; NULL is the default one."""
    return None if backoff == _DEFAULT_BACKOFF else msgspec.json.encode(backoff).decode()


def job_of(row: Sequence[Any]) -> Job:
    """Decode a row of `COLUMNS`; one that cannot be read is a `DamagedJob`."""
    try:
        return _job_of(row)
    except UNREADABLE:
        return damaged_job(dict(zip(COLUMNS, row, strict=True)), _READERS)


def _job_of(row: Sequence[Any]) -> Job:
    _check_types(row)
    values: dict[str, Any] = dict(zip(COLUMNS, row, strict=True))
    for name in _INSTANTS:
        seconds = values[name]
        if seconds is not None:
            values[name] = instant(seconds)
    values["state"] = State(values["state"])
    values["backoff"] = _DEFAULT_BACKOFF if values["backoff"] is None else _policy.decode(values["backoff"])
    values["tags"] = () if values["tags"] is None else _tags.decode(values["tags"])
    values["metadata"] = {} if values["metadata"] is None else _metadata.decode(values["metadata"])
    values["error"] = error_of(values["error"])
    return Job(**values)


def record_of(row: Sequence[Any]) -> Record:
    """Read a row of `records_sql`; of one whose values are of other types the body is empty, which is no JSON."""
    kind, name, version, body, due_at = row
    try:
        return Record(
            kind, str(name), int(version), bytes(memoryview(body)), None if due_at is None else instant(due_at)
        )
    except UNREADABLE:
        return Record(kind, str(name), 0, b"")


def record_step(change: Change) -> tuple[str, dict[str, Any]]:
    """Return the statement that writes a change, and its values but for the time."""
    written = records_sql.CHANGE if change.seen else records_sql.MAKE
    statement = records_sql.DROP if change.body is None else written
    due = None if change.due_at is None else change.due_at.timestamp()
    return statement, {
        "kind": change.kind, "name": change.name, "seen": change.seen, "body": change.body, "due": due,
    }  # fmt: skip
