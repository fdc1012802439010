"""Whether a job is one that a query asks for, for ledgers whose store cannot tell."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime

from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Job, JobQuery


def glob(name: str) -> re.Pattern[str]:
    """Compile the ``*`` and ``?`` of a `JobQuery.name`; everything else stands for itself."""
    return re.compile(re.escape(name).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def fits(job: Job, query: JobQuery, name: re.Pattern[str] | None, now: datetime) -> bool:
    """Whether a row is one that a query asks for; ``name`` is its `glob`. Its ids and its limit are for the caller."""
    return (
        (not query.states or shown_state(job, now) in query.states)
        and (name is None or name.fullmatch(job.name) is not None)
        and (query.queue is None or job.queue == query.queue)
        and (query.kind is None or job.kind == query.kind)
        and (query.id_prefix is None or job.id.startswith(query.id_prefix))
        and (query.key is None or job.key == query.key)
        and (query.parent_id is None or job.parent_id == query.parent_id)
        and (query.tag is None or query.tag in job.tags)
        and query.metadata.items() <= job.metadata.items()
        and (query.held is None or job.held == query.held)
        and (query.since is None or job.created_at >= query.since)
        and (query.before is None or job.id < query.before)
    )


_SHOWN_AS: Mapping[State, frozenset[str]] = {
    State.QUEUED: frozenset({"scheduled", "queued", "blocked", "retrying"}),
    State.RUNNING: frozenset({"running", "cancelling", "overdue"}),
    **{state: frozenset({state.value}) for state in (State.SUCCEEDED, State.FAILED, State.CANCELLED)},
}


def stored(shown: Sequence[str]) -> set[State]:
    """Return the stored states of jobs that are shown in these."""
    return {state for state, as_shown in _SHOWN_AS.items() if not as_shown.isdisjoint(shown)}
