"""Bar 19: a backlog that nobody works off for long: submits stay fast, nothing is published over and over."""

from __future__ import annotations

import time

from arena import Arena
from bars import HUEY, POSTGRES, REDIS, RQ, SAQ, SQLITE, Trial, bar
from report import Figure, at_most, equals, none, told

from penstock.core.config import SweepConfig

SINGLE = 300
SUBMIT_S = 0.010
REPUBLISHES = 2
SLOWER_PERCENT = 10.0
WORKERS, CONCURRENCY = 2, 4
SHORT = SweepConfig(interval="2s", due_interval="100ms", publish_grace="2s", max_publish_grace="60s")


@bar(
    19, "a backlog without workers",
    small={"jobs": 2000, "wait_s": 5}, full={"jobs": 100_000, "wait_s": 600},
    places=((HUEY, SQLITE),), full_places=((HUEY, SQLITE), (RQ, REDIS), (SAQ, POSTGRES)),
)  # fmt: skip
def backlog(trial: Trial) -> list[Figure]:
    jobs, wait_s = trial.size["jobs"], trial.size["wait_s"]
    full = jobs >= 100_000
    with trial.arena(sweep=SweepConfig() if full else SHORT) as arena:
        # It works on another queue, and sweeps for all.
        arena.start("--queues", "elsewhere").wait_ready()
        arena.submit(jobs)
        fresh_s = _drained_s(arena, 0)
        arena.submit(jobs)
        single_s = _single_s(arena)
        time.sleep(wait_s)  # nobody is there
        republished = [row.publishes - 1 for row in arena.rows().values() if row.state.value == "queued"]
        old_s = _drained_s(arena, jobs)
        rows = arena.rows().values()
        verdict = arena.verdict()
        number = len(arena.acknowledged)
        slower = 100 * (old_s / (jobs + SINGLE) * jobs / fresh_s - 1)
        p99_s = single_s[int(0.99 * len(single_s))]
        return [
            equals("commits", verdict.commits, number),
            none("lost", verdict.lost),
            none("second bodies", [*verdict.double, *verdict.second, *verdict.strange]),
            equals("waited", len(republished), jobs + SINGLE),
            at_most("republishes of a job", max(republished), REPUBLISHES),
            at_most("messages too many", 100 * sum(row.publishes - 1 for row in rows) / number, SLOWER_PERCENT, " %"),
            # On a machine that does other things meanwhile a short run measures those.
            at_most("submit p99", 1000 * p99_s, 1000 * SUBMIT_S, " ms")
            if full and trial.ledger != POSTGRES
            else told("submit p99", 1000 * p99_s, " ms"),
            at_most("drained slower", slower, SLOWER_PERCENT, " %") if full else told("drained slower", slower, " %"),
            told("jobs a second", jobs / old_s),
        ]


def _drained_s(arena: Arena, ended_before: int) -> float:
    """Work off what is there with new workers; return how long it took from the first start to the last end."""
    workers = [arena.start("--concurrency", str(CONCURRENCY)) for _ in range(WORKERS)]
    arena.wait_final(120 + len(arena.acknowledged) / 50)
    for worker in workers:
        worker.stop()
    starts, ends = (sorted(line.at for line in arena.lines(event))[ended_before:] for event in ("start", "end"))
    return ends[-1] - starts[0]


def _single_s(arena: Arena) -> list[float]:
    took: list[float] = []
    for _ in range(SINGLE):
        began = time.perf_counter()
        arena.submit(1)
        took.append(time.perf_counter() - began)
    return sorted(took)
