"""What there is at one moment: how many jobs of each kind, what runs where, what comes next, who works."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import msgspec

from penstock.core.exceptions import BackendError, UnsupportedError
from penstock.core.secrets import mask_url
from penstock.job.lifecycle import SHOWN_STATES, shown_state
from penstock.job.models import JobQuery, WorkerInfo
from penstock.job.steering import Pause, Strike

if TYPE_CHECKING:
    from penstock.core.overview import Tally
    from penstock.job.models import Job
    from penstock.rooms import Rooms

_RUNNING = ("running", "cancelling", "overdue")
_BEGUN = (*_RUNNING, "retrying", "succeeded", "failed", "cancelled")
_LOOKED_AT = 200
"""How many of the newest jobs that have begun tell how late jobs begin."""


class Running(msgspec.Struct, frozen=True, kw_only=True):
    """A job that a worker holds."""

    id: str
    name: str
    queue: str
    state: str
    attempt: int
    worker: str
    since: datetime
    progress: float | None = None
    message: str | None = None


class Future(msgspec.Struct, frozen=True, kw_only=True):
    """A job that is not due yet."""

    id: str
    name: str
    queue: str
    state: str
    """``scheduled``, or ``retrying`` after a try."""
    at: datetime


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody has decided and what holds now: a strike, a pause."""

    kind: str
    subject: str
    told: str
    by: str = ""
    at: datetime | None = None
    why: str = ""


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """All of it. Counts are by shown state; a state without jobs is left out."""

    taken_at: datetime
    states: dict[str, int]
    queues: dict[str, dict[str, int]]
    tasks: dict[str, dict[str, int]]
    """By the name of what is run: a task, a pipeline, a command."""
    running: tuple[Running, ...]
    """The longest running first; of many only as many as were asked for. ``states`` counts all."""
    future: tuple[Future, ...]
    """The next one first; of many only as many as were asked for."""
    workers: tuple[WorkerInfo, ...]
    """Those that were seen lately, with what each can run."""
    decisions: tuple[Decision, ...] = ()
    """Strikes and pauses that hold."""

    @property
    def total(self) -> int:
        """How many jobs there are."""
        return sum(self.states.values())


class QueueState(msgspec.Struct, frozen=True, kw_only=True):
    """One queue: what waits and runs there, and who listens."""

    name: str
    waiting: int = 0
    """Due, and not begun."""
    scheduled: int = 0
    retrying: int = 0
    blocked: int = 0
    running: int = 0
    """Those asked to stop and those whose worker is silent included."""
    depth: int | None = None
    """Messages on the engine; None where it cannot say, or does not answer."""
    waiting_since: datetime | None = None
    """Since when the first that waits has been due."""
    late_p50_s: float | None = None
    late_max_s: float | None = None
    """How late jobs began that began lately: one in the middle, and the worst. None where none has."""
    listeners: tuple[str, ...] = ()
    """The workers that listen to it."""
    paused: Decision | None = None


def take(rooms: Rooms, *, limit: int = 100) -> Snapshot:
    """Look at everything once. Raises `LedgerError`."""
    ledger = rooms.ledger
    now = ledger.now()
    tallies = ledger.tally()
    running = ledger.find(JobQuery(states=_RUNNING, limit=limit))
    return Snapshot(
        taken_at=now,
        states=_ordered(_by(tallies, "").get("", {})),
        queues={name: _ordered(counts) for name, counts in sorted(_by(tallies, "queue").items())},
        tasks={name: _ordered(counts) for name, counts in sorted(_by(tallies, "name").items())},
        running=tuple(sorted((_running(job, now) for job in running), key=lambda one: one.since)),
        future=tuple(
            Future(id=job.id, name=job.name, queue=job.queue, state=shown_state(job, now), at=job.scheduled_at)
            for job in ledger.upcoming(limit)
        ),
        workers=tuple(workers(rooms)),
        decisions=decisions(rooms),
    )


def workers(rooms: Rooms, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
    """List the workers that were seen lately, with who has paused them. Raises `LedgerError`."""
    found = rooms.ledger.workers(seen_within_s=seen_within_s)
    pauses = [rule for rule in rooms.steering.read() if isinstance(rule, Pause) and rule.what == "worker"]
    told = {one.id: _paused(rule) for one in found for rule in pauses if rule.rests(one.id)}
    return [msgspec.structs.replace(one, paused=told[one.id]) if one.id in told else one for one in found]


def _paused(rule: Pause) -> str:
    return f"paused{f' by {rule.by}' if rule.by else ''}{f': {rule.why}' if rule.why else ''}"


def queues(rooms: Rooms) -> list[QueueState]:
    """Look at every queue that is configured, listened to, or paused, or has jobs that are not final, by name.

    Raises:
        LedgerError: the ledger did not answer. An engine that does not is no error: its ``depth`` is None.
    """
    ledger, engine = rooms.ledger, mask_url(rooms.config.backend)
    now = ledger.now()
    counts = _by(tallies := ledger.tally(live=True), "queue")
    here = [worker for worker in ledger.workers() if worker.backend == engine]
    listening = {name for worker in here for name in worker.queues}
    begun = ledger.find(JobQuery(states=_BEGUN, limit=_LOOKED_AT))
    found: list[QueueState] = []
    holding = decisions(rooms)
    paused = {decision.subject.removeprefix("queue "): decision for decision in holding if decision.kind == "pause"}
    paused = {name: decision for name, decision in paused.items() if decision.subject == f"queue {name}"}
    names = sorted({*rooms.config.worker.queues, *counts, *listening, *paused})
    depths = depths_of(rooms, names)
    for name in names:
        of = counts.get(name, {})
        late = [_late_s(job) for job in begun if job.queue == name]
        known = [late_s for late_s in late if late_s is not None]
        since = [t.first_at for t in tallies if (t.queue, t.state) == (name, "queued") and t.first_at is not None]
        found.append(
            QueueState(
                name=name,
                waiting=of.get("queued", 0),
                scheduled=of.get("scheduled", 0),
                retrying=of.get("retrying", 0),
                blocked=of.get("blocked", 0),
                running=sum(of.get(state, 0) for state in _RUNNING),
                depth=depths.get(name),
                waiting_since=min((at for at in since if at <= now), default=None),
                late_p50_s=sorted(known)[len(known) // 2] if known else None,
                late_max_s=max(known, default=None),
                listeners=tuple(worker.id for worker in here if name in worker.queues),
                paused=paused.get(name),
            )
        )
    return found


def decisions(rooms: Rooms) -> tuple[Decision, ...]:
    """Return the strikes and pauses that hold. Raises `LedgerError`."""
    return tuple(
        Decision(
            kind="pause" if isinstance(rule, Pause) else "strike",
            subject=f"task {rule}" if isinstance(rule, Strike) and rule.parameter is None else str(rule),
            told=rule.held,
            by=rule.by,
            at=rule.at,
            why=rule.why,
        )
        for rule in rooms.steering.read()
    )


def depths_of(rooms: Rooms, names: Sequence[str]) -> dict[str, int]:
    """Count the messages that wait on the engine, by queue; without those of which it cannot say, or does not."""
    found: dict[str, int] = {}
    if rooms.gateway.in_process:
        return found
    if any(finding.level == "error" for finding in rooms.gateway.inspect(names)):
        return found  # the engine's own client might wait for it for ever
    for name in names:
        with contextlib.suppress(BackendError, UnsupportedError):
            found[name] = rooms.gateway.depth(name)
    return found


def _by(tallies: Sequence[Tally], field: str) -> dict[str, dict[str, int]]:
    counts: dict[str, dict[str, int]] = {}
    for tally in tallies:
        of = counts.setdefault(getattr(tally, field) if field else "", {})
        of[tally.state] = of.get(tally.state, 0) + tally.count
    return counts


def _ordered(counts: dict[str, int]) -> dict[str, int]:
    return {state: counts[state] for state in SHOWN_STATES if state in counts}


def _running(job: Job, now: datetime) -> Running:
    return Running(
        id=job.id, name=job.name, queue=job.queue, state=shown_state(job, now), attempt=job.attempt,
        worker=job.owner or "", since=job.started_at or job.created_at, progress=job.progress, message=job.message,
    )  # fmt: skip


def _late_s(job: Job) -> float | None:
    """Return how late the newest attempt began; None where it is due again since."""
    if job.started_at is None or job.scheduled_at > job.started_at:
        return None
    return (job.started_at - job.scheduled_at).total_seconds()
