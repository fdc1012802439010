"""The SQL that relational ledgers share: every guarded write is derived from `lifecycle.TRANSITIONS`.

Instants are seconds since 1970, parameters are named; nothing here knows a driver.
"""

# ruff: noqa: S608 - statements are put together from our own constants; values travel as parameters

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from penstock.job.lifecycle import FINAL, TRANSITIONS, Event, Guard, State
from penstock.job.models import JobQuery
from penstock.ledger.rows import ANSWERED_WHOLE, COLUMNS, STAYING, UNTOLD, check_shown, json_text

GUARD_SQL: Mapping[Guard, str] = {
    Guard.DUE: "scheduled_at <= :now",
    Guard.ADMITTED: "held IS NULL",
    Guard.FENCE: "attempt = :attempt",
    Guard.LEASE_OVER: "lease_until < :now",
    Guard.CANCEL_ASKED: "cancel_requested_at IS NOT NULL",
    Guard.SEEN: "publishes = :publishes",
    Guard.OLD: "finished_at < :now - :older_than_s",
    Guard.HELD: "held = :held",
    Guard.FRESH: "(expires_at IS NULL OR expires_at >= :now)",
    Guard.STALE: "expires_at < :now",
}

JOB = ", ".join(COLUMNS)

# Only final rows have finished_at; saying so lets the partial indexes over the live and over the final be used.
QUEUED = "state = 'queued' AND finished_at IS NULL"
RUNNING = "state = 'running' AND finished_at IS NULL"
_FREE = f"{QUEUED} AND held IS NULL AND note IS NULL"
_UNASKED = f"{RUNNING} AND cancel_requested_at IS NULL"

SHOWN_SQL: Mapping[str, str] = {
    "scheduled": f"{_FREE} AND scheduled_at > :now AND attempt = 0",
    "queued": f"{_FREE} AND scheduled_at <= :now",
    "blocked": f"{QUEUED} AND (held IS NOT NULL OR note IS NOT NULL)",
    "running": f"{_UNASKED} AND lease_until >= :now",
    "retrying": f"{_FREE} AND scheduled_at > :now AND attempt > 0",
    "cancelling": f"{RUNNING} AND cancel_requested_at IS NOT NULL",
    "overdue": f"{_UNASKED} AND lease_until < :now",
    "succeeded": "state = 'succeeded'",
    "failed": "state = 'failed'",
    "cancelled": "state = 'cancelled'",
}
"""`lifecycle.shown_state` as conditions, of which exactly one holds for any row."""


def once(condition: str) -> str:
    """Write a condition for a look at many rows: Postgres would work the time out anew for each."""
    return condition.replace(":now", "(SELECT :now)")


_WAITING, _ACTIVE = (
    tuple(shown for shown, condition in SHOWN_SQL.items() if condition.startswith(live)) for live in (QUEUED, RUNNING)
)
_ENDED = tuple(shown for shown in SHOWN_SQL if shown in FINAL)


def _counted(live: str, among: Sequence[str]) -> str:
    columns = ", ".join(f"count(*) FILTER (WHERE {once(SHOWN_SQL[shown])}) AS {shown}" for shown in among)
    return f"(SELECT {columns} FROM jobs WHERE {live})"


# What waits is read once for all the states that it is shown in: in a long backlog each further look is a long one.
COUNTS = (
    f"SELECT {', '.join((*_WAITING, *_ACTIVE))}, "
    + ", ".join(f"(SELECT count(*) FROM jobs WHERE {SHOWN_SQL[end]} AND finished_at IS NOT NULL)" for end in _ENDED)
    + f" FROM {_counted(QUEUED, _WAITING)} AS waiting, {_counted(RUNNING, _ACTIVE)} AS active"
)


def counts_of(found: Sequence[Sequence[Any]]) -> dict[str, int]:
    """Decode the row of `COUNTS`; a state that no job is in is left out."""
    ((*counts,),) = found
    return {shown: count for shown, count in zip((*_WAITING, *_ACTIVE, *_ENDED), counts, strict=True) if count}


class Dialect(msgspec.Struct, frozen=True):
    """Where the relational ledgers' words differ."""

    like: str
    """A name that fits the pattern ``:name``."""
    pattern: Callable[[str], str]
    """Writes ``*`` and ``?`` as ``like`` reads them."""
    tagged: str
    """A job with ``:tag`` among its tags."""
    among_ids: str
    """A job with one of ``:ids``."""
    ids_of: Callable[[Sequence[str]], Any]
    """Writes ids as ``among_ids`` reads them."""
    described: str
    """A job whose metadata has all entries of ``:entries``, which are JSON."""


SQLITE = Dialect(
    # The plus keeps the index over names out: it would fetch all that match and sort them for the newest few.
    like="+name GLOB :name",
    pattern=lambda name: name.replace("[", "[[]"),
    tagged="EXISTS (SELECT 1 FROM json_each(tags) WHERE value = :tag)",
    among_ids="id IN (SELECT value FROM json_each(:ids))",
    ids_of=lambda ids: msgspec.json.encode(ids).decode(),
    described=(
        "NOT EXISTS (SELECT 1 FROM json_each(:entries) AS wanted WHERE NOT EXISTS (SELECT 1 FROM json_each(metadata) "
        "AS entry WHERE entry.key = wanted.key AND entry.value = wanted.value))"
    ),
)


def may_start(event: Event) -> str:
    """Return the whole guard of an event: its start states and the guards of its rule."""
    rule = TRANSITIONS[event]
    states = ", ".join(f"'{state}'" for state in rule.start)
    return " AND ".join([f"state IN ({states})", *(GUARD_SQL[guard] for guard in rule.guards)])


def transition(event: Event, to: State, to_if_cancelled: State | None) -> str:
    """Write the one statement of a transition; it answers the row if it was written.

    Raises:
        ValueError: the table knows no such step.
    """
    rule = TRANSITIONS[event]
    for state in (to, to_if_cancelled):
        if state is not None and state not in rule.to:
            raise ValueError(f"{event} does not lead to {state}")
    changes = _effects(event, to)
    if to_if_cancelled is not None:
        # Decided inside the write: a cancel that was asked for a moment ago still counts.
        otherwise = _effects(event, to_if_cancelled)
        changes = {
            column: _choose(otherwise.get(column, column), changes.get(column, column))
            for column in (changes | otherwise)
        }
    elif rule.start == (to,):
        del changes["state"]  # it stays, and naming it would touch every partial index over it
    if event not in UNTOLD:
        changes |= {
            "event": f"'{event}'",
            "event_no": "event_no + 1",
            "event_at": ":now",
            "event_reason": ":reason",
            "event_told_error": ":error IS NOT NULL",
        }
    assignments = ", ".join(f"{column} = {value}" for column, value in changes.items())
    answer = JOB if event in ANSWERED_WHOLE else "state, cancel_requested_at IS NOT NULL"
    return f"UPDATE jobs SET {assignments} WHERE id = :id AND {may_start(event)} RETURNING {answer}"


def _choose(if_cancelled: str, otherwise: str) -> str:
    if if_cancelled == otherwise:
        return otherwise
    return f"CASE WHEN cancel_requested_at IS NOT NULL THEN {if_cancelled} ELSE {otherwise} END"


_CLAIMED = {
    "attempt": "attempt + 1",
    "owner": ":owner",
    "lease_until": ":lease_until",
    "started_at": ":now",
    "note": "NULL",
    "progress": "NULL",
    "message": "NULL",
    "nodes_done": "NULL",
    "nodes_total": "NULL",
}
_WHEN_DUE = "CASE WHEN scheduled_at > :now THEN scheduled_at ELSE :now END"
_ERRED = {"errors": "errors + 1", "error": ":error", "reason": ":reason"}
_CRASHED = {"crashes": "crashes + 1", "error": "coalesce(:error, error)", "reason": ":reason"}
_EFFECTS: Mapping[Event, Mapping[str, str]] = {
    Event.CLAIM: _CLAIMED,
    Event.BEAT: {"lease_until": ":lease_until"},
    Event.SUCCEED: {"result": ":result", "reason": "NULL"},
    Event.RETRY: _ERRED,
    Event.FAIL: _ERRED,
    Event.RELEASE: {},
    Event.RESCUE: _CRASHED,
    Event.CRASH: _CRASHED,
    Event.PUBLISH: {"published_at": ":now", "publishes": "publishes + 1", "publish_due_at": ":due_at"},
    Event.CANCEL: {},
    Event.REQUEST_CANCEL: {"cancel_requested_at": "coalesce(cancel_requested_at, :now)"},
    Event.STOP: {},
    Event.HOLD: {"held": ":held"},
    Event.ADMIT: {"held": "NULL", "published_at": "NULL", "publish_due_at": _WHEN_DUE},
    Event.WAKE: {"scheduled_at": ":now", "publish_due_at": ":now", "published_at": "NULL", "note": "NULL"},
    Event.EXPIRE: {"error": ":error", "reason": ":reason"},
}


def _effects(event: Event, to: State) -> dict[str, str]:
    # Owner and lease stay when a job leaves `running`: the guards carry the weight, and the last owner is worth
    # showing.
    changes = {"state": f"'{to}'", **_EFFECTS[event]}
    if to is State.QUEUED and event not in STAYING:
        changes |= {"scheduled_at": ":due_at", "publish_due_at": ":due_at", "published_at": "NULL"}
        changes["expires_at"] = "NULL"  # it has begun
        if event is Event.RELEASE:
            kept = "CASE WHEN :begun THEN NULL ELSE expires_at END"
            changes |= {"note": ":note", "held": ":held", "expires_at": kept}
    if to.final:
        changes["finished_at"] = ":now"
    if to is State.CANCELLED:
        changes["reason"] = "NULL"
    return changes


def postpone(queues: str, *, least: str = "min", greatest: str = "max", lock: str = "") -> str:
    """Write the postponement of publishes that are due; ``queues`` is the condition for the queue, ``lock`` what keeps
    the rows as they were found.
    """  # noqa: D205 - one promise, two lines
    wait = f"{least}({greatest}(2 * (publish_due_at - published_at), :grace_s), :max_grace_s)"
    return (
        f"UPDATE jobs SET publish_due_at = :now + {wait} WHERE seq IN (SELECT seq FROM jobs WHERE {QUEUED} "
        "AND held IS NULL AND publish_due_at <= :now AND scheduled_at <= :now "
        f"AND publish_due_at - published_at < :trusted_s AND {queues} ORDER BY publish_due_at LIMIT :limit{lock})"
    )


def find(query: JobQuery, dialect: Dialect = SQLITE) -> tuple[str, dict[str, Any]]:
    """Write a listing, newest id first, and its parameters (``now`` is for the caller to add).

    Raises:
        ValueError: not a shown state; the message says which there are.
    """
    check_shown(query.states)
    terms: list[str] = []
    values: dict[str, Any] = {"limit": query.limit}
    for field in ("queue", "kind", "key", "parent_id", "held"):
        value = getattr(query, field)
        if value is not None:
            terms.append(f"{field} = :{field}")
            values[field] = value
    if query.name is not None:
        pattern = "*" in query.name or "?" in query.name
        terms.append(dialect.like if pattern else "name = :name")
        values["name"] = dialect.pattern(query.name) if pattern else query.name
    if query.id_prefix is not None:
        terms.append("id >= :id_prefix AND id < :id_end")
        values |= {"id_prefix": query.id_prefix, "id_end": query.id_prefix + "\U0010ffff"}
    if query.ids is not None:
        terms.append(dialect.among_ids)
        values["ids"] = dialect.ids_of(query.ids)
    if query.before is not None:
        terms.append("id < :before")
        values["before"] = query.before
    if query.since is not None:
        terms.append("created_at >= :since")
        values["since"] = query.since.timestamp()
    if query.tag is not None:
        terms.append(dialect.tagged)
        values["tag"] = query.tag
    if query.metadata:
        terms.append(dialect.described)
        values["entries"] = json_text(query.metadata)
    # One ordered walk for each state, merged: `state IN (...)` would fetch and sort all of them.
    parts = [" AND ".join([SHOWN_SQL[state], *terms]) for state in dict.fromkeys(query.states)]
    parts = parts or [" AND ".join(terms) or "TRUE"]
    selects = " UNION ALL ".join(f"SELECT {JOB} FROM jobs WHERE {part}" for part in parts)
    return f"{selects} ORDER BY id DESC LIMIT :limit", values
