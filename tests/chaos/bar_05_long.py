"""Bar 5: a body that takes longer than every limit that an engine has for itself runs once.

Left to their defaults, SAQ ends a job after 10 s, RQ after 180, ARQ after 300, Dramatiq after 600, and TaskIQ's streams
hand it out once more after 600: none of that may be left. In the small size it is SAQ's limit only; what the others
would do is tried with limits that are scaled down, in ``tests/integration/test_backend_*.py`` ("outlives").
"""

from __future__ import annotations

from bars import SAQ, SIX, SQLITE, Trial, bar
from report import Figure, equals, none, told


@bar(
    5, "a body that outlives every limit of the engine", small={"seconds": 12}, full={"seconds": 1200},
    places=((SAQ, SQLITE),), full_places=SIX,
)  # fmt: skip
def long(trial: Trial) -> list[Figure]:
    seconds = trial.size["seconds"]
    with trial.arena() as arena:
        for worker in [arena.start("--concurrency", "4") for _ in range(2)]:
            worker.wait_ready()
        for task in ("chaos.work", "chaos.awork"):
            arena.submit(2, task, seconds=seconds)
        arena.wait_final(seconds + 60)
        verdict = arena.verdict()
        return [
            equals("commits", verdict.commits, 4),
            equals("bodies", verdict.bodies, 4),
            none("lost", verdict.lost),
            none("told otherwise", arena.lies(verdict)),
            none("further attempts", [row.id for row in arena.rows().values() if row.attempt > 1]),
            told("each took", float(seconds), " s"),
        ]
