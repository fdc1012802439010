"""Who did what by hand, when and why: each such action leaves an entry in the ledger.

The action comes first, its entry after it: an entry never tells of what was not done. An entry that cannot be written
is logged instead, and the action stands.
"""

from __future__ import annotations

import getpass
import logging
import os
from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from penstock.core.config import seconds
from penstock.core.exceptions import PenstockError
from penstock.core.records import Change
from penstock.core.secrets import mask_data, mask_text
from penstock.job.models import Instant, new_job_id
from penstock.readable import readable

if TYPE_CHECKING:
    from penstock.core.records import Record, Records
    from penstock.rooms import Rooms

logger = logging.getLogger("penstock.audit")

KIND = "audit"
ACTOR = "PENSTOCK_ACTOR"
"""The variable that names who acts, where the user of the machine says too little: in a container, behind an app."""

KEPT_MAX = 10_000
"""More entries than this are not kept; the oldest go first."""
_TEXT_MAX = 2_000
_PURGED_AT_ONCE = 500


class Entry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One action."""

    id: str
    at: Instant
    actor: str
    verb: str
    """What was done, as the command line names it: ``cancel``, ``retry``, ``schedules pause``."""
    subject: str
    """What it was done to: a job's id, the name of a schedule, ``queue etl``, ``task sales``."""
    why: str = ""
    details: dict[str, str] = {}
    """What else there is to say, such as the job's name and the outcome."""


_decoder = msgspec.json.Decoder(Entry)


def actor() -> str:
    """Name who acts: `ACTOR`, or ``user@host``."""
    if told := os.environ.get(ACTOR, "").strip():
        return told
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = f"uid {os.getuid()}"
    return f"{user}@{os.uname().nodename}"


def note(
    rooms: Rooms, verb: str, subject: str, *, why: str | None = None, by: str | None = None, **details: object
) -> None:
    """Write down what has just been done by hand; see `note_all`. Never raises what a ledger raises."""
    note_all(rooms, verb, {subject: details}, why=why, by=by)


def note_all(
    rooms: Rooms, verb: str, subjects: Mapping[str, Mapping[str, object]], *, why: str | None = None,
    by: str | None = None,
) -> None:  # fmt: skip
    """Write down one action on several subjects, an entry each, with what there is to say of each.

    Secrets are hidden as in a log. A detail that is None is left out.
    """
    entries: list[Entry] = []
    try:
        now, keep_s = rooms.ledger.now(), seconds(rooms.config.history.keep_audit)
        who = _text(by or actor())
        for subject, details in subjects.items():
            told = mask_data({name: str(value) for name, value in details.items() if value is not None})
            entries.append(
                Entry(
                    id=new_job_id(), at=now, actor=who, verb=verb, subject=_text(subject), why=_text(why or ""),
                    details={name: _text(value) for name, value in told.items()},
                )
            )  # fmt: skip
        changes = [
            Change(kind=KIND, name=e.id, seen=0, body=msgspec.json.encode(e), due_at=_later(now, keep_s))
            for e in entries
        ]
        rooms.ledger.records.write(changes)
    except PenstockError as error:
        told = ", ".join(subjects)
        logger.warning("%s of %s is done, and could not be written down for the audit: %s", verb, told, error)


def entries(
    rooms: Rooms,
    *,
    since: datetime | None = None,
    subject: str | None = None,
    verb: str | None = None,
    actor: str | None = None,
    limit: int = 100,
) -> list[Entry]:
    """List what was done by hand, newest first; every given word must fit, of a subject a beginning is enough.

    Raises:
        LedgerError: the ledger did not answer.
    """
    found = (entry for _, entry in readable(reversed(rooms.ledger.records.all(KIND)), _decoder))
    fitting = (
        one
        for one in found
        if (since is None or one.at >= since)
        and (subject is None or one.subject.startswith(subject))
        and (verb is None or one.verb == verb)
        and (actor is None or one.actor == actor)
    )
    return sorted(fitting, key=lambda one: (one.at, one.id), reverse=True)[:limit]


def purge(records: Records) -> int:
    """Drop entries whose time is over, and the oldest of too many; a bounded number at a time. Return how many went."""
    old = records.due(KIND, _PURGED_AT_ONCE)
    if not old:
        kept = records.all(KIND)
        old = kept[: min(len(kept) - KEPT_MAX, _PURGED_AT_ONCE)] if len(kept) > KEPT_MAX else []
    return _drop(records, old)


def _drop(records: Records, old: Iterable[Record]) -> int:
    changes = [Change(kind=KIND, name=one.name, seen=one.version, body=None) for one in old]
    return sum(1 for done in records.write(changes) if done) if changes else 0


def _text(text: str) -> str:
    hidden = mask_text(text).encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")
    return hidden if len(hidden) <= _TEXT_MAX else f"{hidden[: _TEXT_MAX - 1]}…"


def _later(now: datetime, keep_s: float) -> datetime | None:
    try:
        return now + timedelta(seconds=keep_s)
    except OverflowError:
        return None  # kept for ever
