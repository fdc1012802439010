"""Bar 9: jobs that kill their process again and again fail after their budget, and the others keep their pace."""

from __future__ import annotations

import time
from pathlib import Path

from arena import Arena
from bars import HUEY, SIX, SQLITE, Trial, bar
from report import Figure, at_most, equals, none, told

from penstock import JobQueue
from penstock.testing.harness import wait_until

BODIES = str(Path(__file__).with_name("crash_bodies.py"))
WAYS = ("crash.exit", "crash.segfault", "crash.memory")
LIMIT = "8GB"
BUDGET = 3
BODY_S = 0.1
CONCURRENCY = 16
SLOWER_PERCENT = 20.0


@bar(
    9, "jobs that kill their process, beside others",
    small={"others": 400, "loops": 3}, full={"others": 4000, "loops": 9}, places=((HUEY, SQLITE),), full_places=SIX,
)  # fmt: skip
def crash_loops(trial: Trial) -> list[Figure]:
    others, loops = trial.size["others"], trial.size["loops"]
    with trial.arena() as arena:
        arena.queue.close()
        arena.queue = JobQueue(config=arena.queue.config, root=trial.folder, tasks=(BODIES,))
        arena.start("--concurrency", str(CONCURRENCY)).wait_ready()
        _paced_s(arena, others // 4, [])  # warm
        alone_s = _paced_s(arena, others, [])
        guilty: list[str] = []
        beside_s = _paced_s(arena, others, guilty, loops)
        arena.wait_final(60)
        rows = arena.rows()
        loopers = [rows[job_id] for job_id in guilty]
        verdict = arena.verdict()
        innocent = [job_id for job_id in arena.acknowledged if job_id not in set(guilty)]
        last = f"last words of {BUDGET}"
        starts = {job_id: len(verdict.spans.get(job_id, ())) for job_id in guilty}
        return [
            none(
                "not crash_loop",
                [f"{row.id} {row.state} {row.reason}" for row in loopers if row.reason != "crash_loop"],
            ),
            none(
                f"not after {BUDGET} crashes",
                [row.id for row in loopers if (row.crashes, starts[row.id]) != (BUDGET, BUDGET)],
            ),
            none("without last words", [f"{row.name}: {row.error}" for row in loopers if last not in str(row.error)]),
            equals(
                "the others' commits",
                sum(rows[job_id].state.value == "succeeded" for job_id in innocent),
                len(innocent),
            ),
            none("others charged", [job_id for job_id in innocent if rows[job_id].crashes]),
            at_most("slower", max(0.0, 100 * (beside_s / alone_s - 1)), SLOWER_PERCENT, " %"),
            told("jobs a second", others / beside_s),
        ]


def _paced_s(arena: Arena, others: int, guilty: list[str], loops: int = 0) -> float:
    """Run so many sleeping jobs, with crash loops among them; return how long it took until those jobs had ended."""
    before = len(arena.lines("end"))
    began = time.monotonic()
    for number in range(loops):
        limit = {"max_memory": LIMIT} if WAYS[number % 3] == "crash.memory" else {}
        guilty += arena.submit(1, WAYS[number % 3], isolation="process", **limit)
    arena.submit(others, seconds=BODY_S)
    wait_until(lambda: len(arena.lines("end")) - before >= others, 120 + others / 10, "the others have ended")
    return max(line.at for line in arena.lines("end")) - began
