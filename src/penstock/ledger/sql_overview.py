"""The SQL by which relational ledgers tell of all their jobs at once; see `Overview`."""

# ruff: noqa: S608 - statements are put together from our own constants; values travel as parameters

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from penstock.core.overview import Tally
from penstock.job.lifecycle import FINAL
from penstock.ledger import rows, sql

# The final states are the most, and the cheapest to tell: they are asked for first.
_SHOWN = " ".join(
    f"WHEN {sql.once(condition)} THEN '{shown}'"
    for shown, condition in sorted(sql.SHOWN_SQL.items(), key=lambda pair: pair[0] not in FINAL)
)
_TALLY = (
    f"SELECT queue, name, CASE {_SHOWN} END AS shown, count(*), "
    "min(CASE state WHEN 'queued' THEN scheduled_at WHEN 'running' THEN started_at END) "
    "FROM jobs {which}GROUP BY queue, name, shown"
)
TALLY, TALLY_LIVE = (_TALLY.format(which=which) for which in ("", "WHERE finished_at IS NULL "))

# The rows of the few are read after they have been chosen, from the index over what waits where there is one.
UPCOMING = (
    f"SELECT {sql.JOB} FROM jobs WHERE seq IN (SELECT seq FROM jobs WHERE {sql.QUEUED} AND held IS NULL "
    "AND note IS NULL AND scheduled_at > :now ORDER BY scheduled_at, seq LIMIT :limit) ORDER BY scheduled_at, id"
)


def tallies_of(found: Iterable[Sequence[Any]]) -> list[Tally]:
    """Decode the rows of `TALLY`."""
    return [
        Tally(
            queue=str(queue),
            name=str(name),
            state=state,
            count=count,
            first_at=rows.instant(at) if isinstance(at, int | float) else None,
        )
        for queue, name, state, count, at in found
    ]
