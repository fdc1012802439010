"""Bar 11: cancel at a random moment of a job's life."""

from __future__ import annotations

import time
from typing import NamedTuple

from arena import Arena
from bars import HUEY, POSTGRES, REDIS, RQ, SAQ, SIX, SQLITE, Trial, bar
from report import Figure, at_least, at_most, none, told

from penstock.core.config import seconds
from penstock.handle import CancelOutcome, JobHandle
from penstock.testing.harness import wait_until

LATE_S = 1.0
BODY_S = 0.4
AT_ONCE = 8
WAVE = 40
WAVE_S = 1.2
"""How long a wave takes that nobody cancels, about."""


class Cancel(NamedTuple):
    job_id: str
    outcome: CancelOutcome
    at: float
    """When the answer was there."""


@bar(
    11, "cancel at a random moment",
    small={"jobs": 120, "stubborn": 3}, full={"jobs": 1000, "stubborn": 25},
    places=((HUEY, SQLITE), (RQ, REDIS), (SAQ, POSTGRES)), full_places=SIX,
)  # fmt: skip
def cancels(trial: Trial) -> list[Figure]:
    jobs, deaf = trial.size["jobs"], trial.size["stubborn"]
    with trial.arena() as arena:
        lease = arena.queue.config.lease
        for worker in [arena.start("--concurrency", str(AT_ONCE)) for _ in range(2)]:
            worker.wait_ready()
        handles: list[JobHandle] = []
        cancelled: list[Cancel] = []
        finals: dict[str, tuple[object, ...]] = {}
        changed: list[str] = []
        while len(handles) < jobs - deaf:
            wave = _submit(arena, min(WAVE, jobs - deaf - len(handles)), "chaos.beat", seconds=BODY_S)
            handles += wave
            cancelled += _cancel_at_random(arena, wave)
            _look(arena, finals, changed)
        killed: list[Cancel] = []
        while len(killed) < deaf:
            some = _submit(
                arena, min(AT_ONCE, deaf - len(killed)), "chaos.stubborn", seconds=120.0, isolation="process"
            )
            ids = {handle.id for handle in some}
            wait_until(lambda ids=ids: ids <= {line.job_id for line in arena.lines("start")}, 60, "all have begun")
            killed += [_cancel(one) for one in some]
            arena.wait_final(60)
        arena.wait_final(120)
        _look(arena, finals, changed)
        for handle in arena.rng.sample(handles, min(50, len(handles))):
            handle.cancel()  # too late for all of them
        _look(arena, finals, changed)
        arena.stop_workers()
        lines = arena.lines()
        never = {c.job_id for c in cancelled if c.outcome is CancelOutcome.CANCELLED}
        late = [f"{line.job_id} began" for line in lines if line.event == "start" and line.job_id in never]
        stopped_s = _stops_after_s(arena, cancelled)
        silent_s = _stops_after_s(arena, killed)
        return [
            told("cancelled waiting", len(never)),
            told("at work", len(stopped_s)),
            told("too late", sum(c.outcome is CancelOutcome.FINISHED for c in cancelled)),
            none("began after the cancel", late),
            at_least("stopped at work", len(stopped_s), jobs // 20),
            at_most("stopped after, p100", max(stopped_s), seconds(lease.heartbeat) + LATE_S, " s"),
            at_most(
                f"{deaf} deaf ones killed after, p100",
                max(silent_s),
                seconds(lease.heartbeat) + seconds(lease.cancel_grace) + LATE_S,
                " s",
            ),
            none("final and changed", changed),
        ]


def _submit(arena: Arena, count: int, task: str, **options: object) -> list[JobHandle]:
    return [arena.queue.job(job_id) for job_id in arena.submit(count, task, **options)]


def _cancel_at_random(arena: Arena, wave: list[JobHandle]) -> list[Cancel]:
    began = time.monotonic()
    cancelled: list[Cancel] = []
    for after_s, handle in sorted(
        ((arena.rng.uniform(0, WAVE_S), handle) for handle in wave), key=lambda pair: pair[0]
    ):
        time.sleep(max(0.0, began + after_s - time.monotonic()))  # the moment of the cancel, not a wait
        cancelled.append(_cancel(handle))
    return cancelled


def _cancel(handle: JobHandle) -> Cancel:
    outcome = handle.cancel()
    return Cancel(handle.id, outcome, time.monotonic())


def _look(arena: Arena, finals: dict[str, tuple[object, ...]], changed: list[str]) -> None:
    """Note what is final; what was noted before must be the same."""
    for job_id, row in arena.rows().items():
        seen = (row.state, row.finished_at, row.attempt)
        if job_id in finals and finals[job_id] != seen:
            changed.append(f"{job_id}: {finals[job_id]}, then {seen}")
        if row.state.final:
            finals[job_id] = seen


def _stops_after_s(arena: Arena, cancelled: list[Cancel]) -> list[float]:
    """How long after the answer each body that was at work gave its last sign of life."""
    last = {line.job_id: line.at for line in arena.lines()}
    at_work = [c for c in cancelled if c.outcome is CancelOutcome.REQUESTED]
    return [max(0.0, last[c.job_id] - c.at) for c in at_work if c.job_id in last]
