"""Bar 1: kill -9 a random worker, over and over, under load."""

from __future__ import annotations

import itertools
import time

from bars import CROSS, SIX, Trial, bar
from report import Figure, at_least, at_most, equals, none

BODY_S = 0.03
WORKERS = 2
CONCURRENCY = 4


@bar(
    1, "kill -9 a random worker under load",
    small={"jobs": 200, "kills": 5}, full={"jobs": 2000, "kills": 50}, places=SIX, full_places=CROSS,
)  # fmt: skip
def kills(trial: Trial) -> list[Figure]:
    jobs, number = trial.size["jobs"], trial.size["kills"]
    with trial.arena() as arena:
        # The jobs come in portions, so that the last kill finds as much to do as the first.
        portion = jobs // (number + 1) + 1
        tasks = itertools.cycle(["chaos.work", "chaos.awork"])
        submitted = len(arena.submit(portion, next(tasks), seconds=BODY_S))
        for worker in [arena.start("--concurrency", str(CONCURRENCY)) for _ in range(WORKERS)]:
            worker.wait_ready()
        for _ in range(number):
            submitted += len(arena.submit(min(portion, jobs - submitted), next(tasks), seconds=BODY_S))
            time.sleep(arena.rng.uniform(0, 0.1))  # the moment of the kill, not a wait
            arena.rng.choice(arena.wait_busy(5)).kill()
            arena.start("--concurrency", str(CONCURRENCY))
        arena.wait_final(60 + jobs / 20)
        verdict = arena.verdict()
        again = sum(verdict.attempts.values()) - len(verdict.attempts)
        return [
            equals("commits", verdict.commits, jobs),
            none("lost", verdict.lost),
            none("two owners", verdict.double),
            none("second bodies", verdict.second),
            none("unexplained", verdict.strange),
            none("told otherwise", arena.lies(verdict)),
            # A thread may have taken its next job while the end of its last one is still being written.
            at_most("tried again", again, number * CONCURRENCY * 2),
            at_least("bodies cut off", verdict.cut_off, number // 2),
        ]
