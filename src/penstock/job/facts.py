"""What is known of a job that is to be explained, what is said of it, and in which words."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Literal

import msgspec

from penstock.core.durations import format_duration
from penstock.job.models import Attempt, ErrorInfo, Job, WorkerInfo

Level = Literal["ok", "warning", "error"]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know. ``hint`` says what to do about it; empty when there is nothing to do."""

    name: str
    level: Level
    told: str
    hint: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is: what it does or waits for, then what stands in its way."""

    job_id: str
    name: str
    queue: str
    state: str
    at: datetime
    points: tuple[Point, ...]

    @property
    def told(self) -> str:
        """The most telling of them: the first that is wrong, else the first."""
        order = ("error", "warning", "ok")
        return min(self.points, key=lambda point: order.index(point.level)).told


AHEAD_MAX = 1_000
"""More jobs than this are not counted."""


class Slot(msgspec.Struct, frozen=True):
    """A concurrency key of a job: at most so many at once, and the jobs that have its slots now."""

    key: str
    most: int
    held_by: tuple[str, ...] = ()


class Decided(msgspec.Struct, frozen=True):
    """A strike or a pause that a job meets: in a sentence, and the command that takes it back."""

    told: str
    ends: str


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job and of what it needs."""

    now: datetime
    job: Job
    engine: str
    """The engine's URL, without secrets."""
    in_process: bool = False
    """Jobs run in the process that submits them, and nowhere else."""
    attempts: tuple[Attempt, ...] = ()
    workers: tuple[WorkerInfo, ...] = ()
    """Those that live."""
    depth: int | None = None
    engine_trouble: str = ""
    ahead: int = 0
    """How many older jobs of its queue are due and not begun, up to `AHEAD_MAX`."""
    signature: str = ""
    """Why a worker with this configuration would refuse it; empty when it would not."""
    decided: tuple[Decided, ...] = ()
    """The strikes and pauses that hold it back, each of them."""
    resting: frozenset[str] = frozenset()
    """The workers that are paused, by their ids."""
    slots: tuple[Slot, ...] = ()
    """The concurrency keys that it needs a slot of."""
    called_off: str = ""
    """What the ledger says of why it was cancelled: ``struck``, ``replaced``, ``dropped: ...``; empty for an ordinary
    cancel."""
    asked: tuple[str, ...] = ()
    """What people did to it, each in a line, the newest first."""
    retries: tuple[tuple[str, str], ...] = ()
    """The jobs that were made of it again, the newest first: id and shown state."""
    grace_s: float = 30.0
    """For how long a message that nobody takes is waited for before it is published again."""
    lease_s: float = 60.0


# -- words -----------------------------------------------------------------------------------------------------------


def worker(job: Job) -> str:
    """Name who runs a job, at the begin of a sentence."""
    return f"Worker {job.owner}" if job.owner else "A worker"


def progress(job: Job) -> str:
    """Tell how far a job is, behind a sentence; empty where nothing is known."""
    parts = [
        f"{job.progress:.0%}" if job.progress is not None else "",
        f"{job.nodes_done or 0} of {job.nodes_total} nodes" if job.nodes_total else "",
        job.message or "",
    ]
    told = ", ".join(part for part in parts if part)
    return f": {told}" if told else ""


def error(error: ErrorInfo | None) -> str:
    """Write an error in a line."""
    if error is None:
        return "no error was told"
    first = (error.message.strip().splitlines() or [""])[0].removesuffix(":")  # what follows is not in this line
    node = f"node {error.node}: " if error.node else ""
    return f"{node}{error.type}: {first}" if first else f"{node}{error.type}"


def some(names: Sequence[str]) -> str:
    """Name the first few."""
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")


def number(count: int, what: str) -> str:
    """Count things."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def instant(at: datetime) -> str:
    """Write an instant."""
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def ahead(facts: Facts, at: datetime) -> str:
    """Write how long it is until an instant."""
    left_s = (at - facts.now).total_seconds()
    return f"in {format_duration(left_s)}" if left_s > 0 else "now"


def ago(facts: Facts, at: datetime | None, until: datetime | None = None) -> str:
    """Write how long it was from an instant to now, or to another one."""
    end = facts.now if until is None else until
    return "an unknown time" if at is None else format_duration(max(0.0, (end - at).total_seconds()))


def when(facts: Facts, at: datetime | None) -> str:
    """Write how long ago an instant was, behind a verb."""
    return "" if at is None else f" {ago(facts, at)} ago"
