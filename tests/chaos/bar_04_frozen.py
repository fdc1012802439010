"""Bar 4: a worker is frozen past its lease, and woken: its results are refused, its bodies stopped at once."""

from __future__ import annotations

import time

from arena import Arena, WorkerOf
from bars import HUEY, SIX, SQLITE, Trial, bar
from report import Figure, at_least, at_most, equals, none

from penstock.core.config import LeaseConfig, seconds
from penstock.testing.harness import wait_until

LEASE = LeaseConfig(ttl="1500ms", heartbeat="300ms", fence_margin="300ms", cancel_poll="100ms", cancel_grace="500ms")
LEASES_FROZEN = 3
CONCURRENCY = 2
STOPPED_S = 1.0


@bar(
    4, "a worker frozen for three leases and woken",
    small={"freezes": 1}, full={"freezes": 100}, places=((HUEY, SQLITE),), full_places=SIX,
)  # fmt: skip
def frozen(trial: Trial) -> list[Figure]:
    number = trial.size["freezes"]
    frozen_s = LEASES_FROZEN * seconds(LEASE.ttl)
    stopped_after: list[float] = []
    with trial.arena(lease=LEASE) as arena:
        other = arena.start("--concurrency", "8")
        other.wait_ready()
        for _ in range(number):
            victim = arena.start("--concurrency", str(CONCURRENCY))
            bodies = _bodies_of(arena, victim, frozen_s)
            victim.freeze()
            time.sleep(frozen_s)  # the freeze itself
            woken_at = time.monotonic()
            victim.wake()
            stopped_after += _stopped_after_s(arena, bodies, woken_at)
            victim.stop()
        arena.wait_final(60)
        verdict = arena.verdict()
        of_victims = len(stopped_after)
        attempts = sum(len(of_job) - 1 for of_job in verdict.spans.values())
        return [
            equals("commits", verdict.commits, len(arena.acknowledged)),
            none("lost", verdict.lost),
            # A stale result would be told in the place of that of the body that ended last.
            none("stale results", arena.lies(verdict)),
            at_least("bodies frozen", of_victims, number),
            at_least("rescued", attempts, of_victims),
            at_most("stopped after waking, p100", max(stopped_after), STOPPED_S, " s"),
        ]


def _bodies_of(arena: Arena, victim: WorkerOf, frozen_s: float) -> list[tuple[str, int]]:
    """Submit jobs until the victim has a body in hand; return its bodies."""

    def has_one() -> bool:
        victim.wait_ready()
        arena.submit(CONCURRENCY, seconds=frozen_s + 3 * STOPPED_S)
        until = time.monotonic() + 2
        while not (mine := _running(arena, victim)) and time.monotonic() < until:
            time.sleep(0.02)
        return bool(mine)

    wait_until(has_one, 60, "a body runs in the worker to be frozen")
    return _running(arena, victim)


def _running(arena: Arena, worker: WorkerOf) -> list[tuple[str, int]]:
    found: dict[tuple[str, int], None] = {}
    for line in arena.lines():
        if line.pid == worker.pid:
            key = (line.job_id, line.attempt)
            if line.event == "start":
                found[key] = None
            else:
                found.pop(key, None)
    return list(found)


def _stopped_after_s(arena: Arena, bodies: list[tuple[str, int]], woken_at: float) -> list[float]:
    """Return how long after the waking each of these bodies fell silent; one that ended of itself counts as well."""

    def ends() -> list[float]:
        over = {(line.job_id, line.attempt): line.at for line in arena.lines() if line.event in ("stopped", "end")}
        return [over[body] - woken_at for body in bodies if body in over]

    wait_until(lambda: len(ends()) == len(bodies), 20, "every woken body is silent")
    return ends()
