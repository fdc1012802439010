"""Bar 25: a strike reaches every worker at once; what it holds runs after it is taken back."""

from __future__ import annotations

import time

from bars import HUEY, RQ, SAQ, SQLITE, Trial, bar
from bars import REDIS as ON_REDIS
from report import Figure, at_least, at_most, equals, none

from penstock.testing.harness import wait_until

WITHIN_S = 1.0
WORKERS = 4
BODY_S = 0.02


@bar(
    25, "a strike reaches every worker within a second",
    small={"strikes": 2}, full={"strikes": 20}, places=((HUEY, SQLITE),),
    full_places=((SAQ, ON_REDIS), (RQ, ON_REDIS), (HUEY, SQLITE)),
)  # fmt: skip
def strikes(trial: Trial) -> list[Figure]:
    with trial.arena() as arena:
        for worker in [arena.start("--concurrency", "2") for _ in range(WORKERS)]:
            worker.wait_ready()
        latest, held = 0.0, 0
        for _ in range(trial.size["strikes"]):
            arena.submit(400, seconds=BODY_S)
            begun = len(arena.lines("start"))
            wait_until(lambda begun=begun: len(arena.lines("start")) > begun + 20, 60)
            arena.queue.ledger.records  # noqa: B018 - opened before the clock runs
            struck_at = time.monotonic()
            arena.queue.strike("chaos.work")
            # Those that a worker took before it heard of the strike end by themselves.
            time.sleep(3 * WITHIN_S)
            starts = [line.at for line in arena.lines("start") if line.at > struck_at]
            latest = max([latest, *(at - struck_at for at in starts)])
            held += arena.queue.counts().get("blocked", 0)
            arena.queue.restore("chaos.work")
            arena.wait_final(120)
        verdict = arena.verdict()
    return [
        equals("commits", verdict.commits, len(arena.acknowledged)),
        none("lost", verdict.lost),
        none("second bodies", verdict.second),
        at_most("latest start after a strike", latest, WITHIN_S, " s"),
        at_least("jobs that were held", held, trial.size["strikes"]),
    ]
