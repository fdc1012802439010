"""What happens to one job, as who follows it hears of it: each kind of news is a type of its own.

All of them have ``job_id``, ``at`` and ``attempt``; in JSON their ``type`` tells them apart.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Literal

import msgspec

from penstock.job.lifecycle import Event, State
from penstock.job.models import Attempt, ErrorInfo, HistoryEntry, Job, LogLine, NodeRun


class StateChange(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """A transition that happened. ``before`` is None for the first one."""

    job_id: str
    at: datetime
    attempt: int
    event: Event
    before: State | None
    state: State
    worker: str | None = None
    reason: str | None = None
    error: ErrorInfo | None = None


class ProgressChange(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far an attempt is, and what its body says of it: all that is known now, not only what is new.

    What a body tells in quick succession may be told as one; ``at`` is when it was seen, or the job ended.
    """

    job_id: str
    at: datetime
    attempt: int
    progress: float | None = None
    message: str | None = None
    nodes_done: int | None = None
    nodes_total: int | None = None


class NodeChange(msgspec.Struct, frozen=True, kw_only=True, tag="node"):
    """A pipeline node that began or ended."""

    job_id: str
    at: datetime
    attempt: int
    name: str
    state: Literal["running", "succeeded", "failed"]
    elapsed_s: float | None = None
    error: str | None = None


JobEvent = StateChange | ProgressChange | NodeChange | LogLine


def change_of(entry: HistoryEntry) -> StateChange:
    """Tell of an entry of a job's history."""
    return StateChange(
        job_id=entry.job_id, at=entry.at, attempt=entry.attempt, event=entry.event, before=entry.start, state=entry.to,
        worker=entry.worker, reason=entry.reason, error=entry.error,
    )  # fmt: skip


def progress_of(job: Job, at: datetime) -> ProgressChange | None:
    """Tell how far a job is; None where nothing is known."""
    known = (job.progress, job.message, job.nodes_done, job.nodes_total)
    if all(one is None for one in known):
        return None
    return ProgressChange(
        job_id=job.id, at=at, attempt=job.attempt, progress=job.progress, message=job.message,
        nodes_done=job.nodes_done, nodes_total=job.nodes_total,
    )  # fmt: skip


def node_change(node: NodeRun, seen_at: datetime) -> NodeChange:
    """Tell of the newest news of a node."""
    at = node.started_at
    if at is not None and node.elapsed_s is not None:
        at += timedelta(seconds=node.elapsed_s)
    return NodeChange(
        job_id=node.job_id, at=at or seen_at, attempt=node.attempt, name=node.name, state=node.state,
        elapsed_s=node.elapsed_s, error=node.error,
    )  # fmt: skip


def cut_off(node: NodeRun, attempt: Attempt | None) -> NodeRun:
    """Return a node as it stands after the end of its attempt: a process that died or was killed told no more of it."""
    if node.state != "running" or attempt is None or attempt.finished_at is None or attempt.outcome == "succeeded":
        return node
    why = attempt.error.type if attempt.error is not None else attempt.outcome
    started_at = node.started_at or attempt.started_at
    elapsed_s = max(0.0, (attempt.finished_at - started_at).total_seconds())
    return msgspec.structs.replace(node, state="failed", elapsed_s=elapsed_s, error=f"it was cut off: {why}")


def in_order(events: list[JobEvent]) -> list[JobEvent]:
    """Put news in the order in which they happened.

    What belongs to an attempt stands between its begin and its end, and its lines stay in their order, whatever the
    clocks of the hosts say.
    """
    keyed: list[tuple[tuple[int, int, datetime], JobEvent]] = []
    latest: dict[int, datetime] = {}
    for event in events:
        at = event.at
        if isinstance(event, LogLine):
            at = latest[event.attempt] = max(at, latest.get(event.attempt, at))
        keyed.append(((event.attempt, _rank(event), at), event))
    return [event for _, event in sorted(keyed, key=lambda pair: pair[0])]


def _rank(event: JobEvent) -> int:
    if not isinstance(event, StateChange) or (event.before is State.RUNNING and event.state is State.RUNNING):
        return 1
    if event.before is None or event.event is Event.CLAIM:
        return 0
    return 2 if event.before is State.RUNNING else 3
