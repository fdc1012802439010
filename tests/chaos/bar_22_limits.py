"""Bar 22: a concurrency key of 3 over 4 workers on 2 engines, two of which are killed over and over."""

from __future__ import annotations

import itertools
import math
import time

import msgspec
from bars import HUEY, RQ, SAQ, Trial, bar
from bars import REDIS as ON_REDIS
from judge import Verdict
from report import Figure, at_least, at_most, equals, none

from penstock import JobQueue
from penstock.core.config import seconds
from penstock.testing.harness import filled

SLOTS = 3
BODY_S = 0.05
SLACK_S = 1.5
"""Beyond the lease: a sweep that finds the dead, one that finds who waits, a worker that starts."""


@bar(
    22, "a concurrency key of 3 over 2 engines, workers killed",
    small={"jobs": 120, "kills": 4}, full={"jobs": 1500, "kills": 40}, places=((RQ, ON_REDIS),),
    full_places=((RQ, ON_REDIS), (SAQ, ON_REDIS)),
)  # fmt: skip
def limits(trial: Trial) -> list[Figure]:
    jobs, number = trial.size["jobs"], trial.size["kills"]
    with trial.arena() as arena:
        other = filled(HUEY, arena.folder).replace("queue.db", "other.db")
        config = msgspec.structs.replace(arena.queue.config, backend=other)
        with JobQueue(config=config, root=arena.folder) as second:
            call = arena.call(seconds=BODY_S, limits={"warehouse": SLOTS})
            for queue in (arena.queue, second):
                arena.acknowledged += [handle.id for handle in queue.enqueue_many([call] * (jobs // 2))]
            on = [{}, {"PENSTOCK_BACKEND": other}] * 2
            workers = [arena.start("--concurrency", "4", **environ) for environ in on]
            for worker in workers:
                worker.wait_ready()
            for _ in range(number):
                time.sleep(arena.rng.uniform(0.2, 0.8))  # the moment of the kill, not a wait
                victim = arena.rng.choice(arena.wait_busy(5))
                place = workers.index(victim)
                victim.kill()
                # Four of them all the time: a standstill is to be the key's doing, not that of a worker's start.
                workers[place] = arena.start("--concurrency", "4", **on[place])
                workers[place].wait_ready()
            arena.wait_final(120 + jobs / 5)
            verdict = arena.verdict()
            lease_s = seconds(arena.queue.config.lease.ttl)
            left = arena.queue.slots.holders()
    return [
        equals("commits", verdict.commits, jobs),
        none("lost", verdict.lost),
        none("two owners", verdict.double),
        at_most("bodies at once", _most_at_once(verdict), SLOTS),
        at_most("longest standstill", _standstill_s(verdict), lease_s + SLACK_S, " s"),
        at_least("bodies cut off", verdict.cut_off, number // 4),
        none("slots that nobody gave back", [key for key, held in left.items() if held.holders]),
    ]


def _most_at_once(verdict: Verdict) -> int:
    """Count bodies that were alive at one instant; one that died lived until its process did."""
    steps = sorted(
        step
        for spans in verdict.spans.values()
        for span in spans
        for step in ((span.began, 1), (span.until, -1))
        if not math.isinf(step[0])
    )
    return max(itertools.accumulate(change for _, change in steps))


def _standstill_s(verdict: Verdict) -> float:
    """Return the longest time for which no body lived, from the first start to the last end."""
    spans = sorted((span.began, span.until) for of_job in verdict.spans.values() for span in of_job)
    longest, until = 0.0, spans[0][1]
    for began, ended in spans:
        longest = max(longest, began - until)
        until = max(until, ended)
    return longest
