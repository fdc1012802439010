"""T1 where more stands in a job's way than an index tells: a rule of its own for uniqueness, or another way out.

A ledger calls it within one transaction, with which nobody else's enqueue of the same keys can interleave.
"""

# ruff: noqa: S608 - statements are put together from our own constants; values travel as parameters

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from penstock.core.exceptions import DuplicateJobError, LedgerError
from penstock.job import lifecycle
from penstock.job.lifecycle import State, Transition
from penstock.job.models import Intent, Job, Outcome, Submission
from penstock.ledger import rows, sql

REPLACED = "replaced"
"""What the history says of a job that has given way to another one."""
_GIVE_WAY = "UPDATE jobs SET key = NULL, unique_key = NULL WHERE id = :id"
_LOOKS = 5
_LIVE = f"SELECT {sql.JOB} FROM jobs WHERE key = :key AND state IN ('queued', 'running')"


class Tools(NamedTuple):
    """What the careful way needs of a ledger's open transaction."""

    holder: Callable[[Intent], Job | None]
    """Finds the job that stands in the way by a key."""
    step: Callable[[Transition], bool]
    """Writes a transition; tells whether it was written."""
    give_way: Callable[[Job], None]
    """Takes its keys from a job."""
    insert: Callable[[Intent], Submission]
    """The plain way, which knows conflicts of ids, ticks and live keys."""


def insert(intent: Intent, tools: Tools) -> Submission:
    """Submit one job with regard to all of its rules.

    Raises:
        DuplicateJobError: another job stands in its way, and it was to raise then.
    """
    replaced = False
    for _ in range(_LOOKS):
        holder = tools.holder(intent)
        if holder is None or holder.id == intent.id:
            submission = tools.insert(intent)
            if submission.outcome is Outcome.CREATED and replaced:
                return msgspec.structs.replace(submission, outcome=Outcome.REPLACED)
            if submission.outcome is not Outcome.KEPT or not _by_key(intent, submission.job):
                return submission
            holder = submission.job  # made between the look and the insert
        if intent.on_conflict == "keep":
            return Submission(holder, Outcome.KEPT)
        if intent.on_conflict == "raise":
            raise DuplicateJobError(intent.key or intent.unique_key or "", holder.id, holder.state)
        if not tools.step(lifecycle.cancel(holder.id, reason=REPLACED)):
            tools.step(lifecycle.request_cancel(holder.id, reason=REPLACED))
        tools.give_way(holder)
        replaced = True
    raise LedgerError(f"job {intent.id} was refused again and again by jobs that come and go with its key")


def relational(
    ask: Callable[[str, dict[str, Any]], Sequence[Sequence[Any]]],
    step: Callable[[Transition], bool],
    insert: Callable[[Intent], Submission],
) -> Tools:
    """Return the tools of a relational ledger. ``ask`` executes a statement, and adds the time to its values."""

    def holder(intent: Intent) -> Job | None:
        if intent.unique_key is not None:
            for row in ask(*_taken(intent)):
                return rows.job_of(row)
        if intent.key is not None:
            for row in ask(_LIVE, {"key": intent.key}):
                return rows.job_of(row)
        return None

    def give_way(job: Job) -> None:
        ask(_GIVE_WAY, {"id": job.id})

    return Tools(holder, step, give_way, insert)


def _taken(intent: Intent) -> tuple[str, dict[str, Any]]:
    states = ", ".join(f"'{State(state)}'" for state in intent.unique_states)
    statement = f"SELECT {sql.JOB} FROM jobs WHERE unique_key = :key AND state IN ({states})"
    values: dict[str, Any] = {"key": intent.unique_key}
    if intent.unique_period_s is not None:
        statement += " AND created_at > :now - :older_than_s"
        values["older_than_s"] = intent.unique_period_s
    return f"{statement} ORDER BY id DESC LIMIT 1", values


def _by_key(intent: Intent, holder: Job) -> bool:
    return holder.id != intent.id and intent.key is not None and holder.key == intent.key
