"""Bar 17: hostile messages among real ones: none is run, no worker dies, each is refused and counted, at once."""

from __future__ import annotations

import re
import time

from bars import DRAMATIQ_AMQP, HUEY_REDIS, POSTGRES, SIX, SQLITE, TASKIQ_AMQP, TASKIQ_NATS, Trial, bar
from hostile import bodies, put
from report import Figure, at_most, equals, none, told

from penstock.testing.harness import CALM, wait_until

_COUNTED = re.compile(r"(\d+) (foreign|refused)")


@bar(
    17, "hostile messages",
    small={"messages": 150, "jobs": 20, "largest_bytes": 200_000},
    full={"messages": 1200, "jobs": 200, "largest_bytes": 10 * 1024 * 1024},
    places=SIX,
    full_places=(*SIX, (TASKIQ_NATS, SQLITE), (TASKIQ_AMQP, POSTGRES), (DRAMATIQ_AMQP, SQLITE), (HUEY_REDIS, SQLITE)),
)  # fmt: skip
def hostile(trial: Trial) -> list[Figure]:
    size = trial.size
    canary = trial.folder / "executed"
    # What waits behind so many is not to be sent again: a second message of a job is refused and counted, too.
    with trial.arena(sweep=CALM) as arena:
        if "sqlite" not in trial.engine:
            arena.start("--concurrency", "2", "--burst").ended()  # what a broker keeps queues in is there from now on
        sent = put(arena, bodies(arena.rng, canary, size["messages"], largest_bytes=size["largest_bytes"]))
        arena.submit(size["jobs"] // 2)
        worker = arena.start("--concurrency", "2", "-v")
        worker.wait_ready()
        began = time.monotonic()
        arena.submit(size["jobs"] - size["jobs"] // 2)
        arena.wait_final(120)
        wait_until(lambda: arena.queue.gateway.depth("default") == 0 or not worker.alive, 60, "the queue is empty")
        took_s = time.monotonic() - began
        deaths = [] if worker.alive else [worker.told]
        arena.stop_workers()
        for _ in range(5):  # what a worker had taken and not looked at when it was stopped is there again
            if arena.queue.gateway.depth("default") == 0:
                break
            arena.start("--concurrency", "2").wait_ready()
            wait_until(lambda: arena.queue.gateway.depth("default") == 0, 60, "the queue is empty")
            arena.stop_workers()
        counted = sum(
            int(number) for each in arena.started for number, _ in _COUNTED.findall(each.told.rpartition("worker")[2])
        )
        verdict = arena.verdict()
        executed = [str(path) for path in (canary, arena.folder / "executed") if path.exists()]
        return [
            none("executions", executed),
            none("deaths of workers", deaths),
            none("jobs of no client", verdict.strange),
            equals("jobs", verdict.commits, size["jobs"]),
            equals("refused and counted", counted, sent),
            told("sent", sent),
            at_most("each refused within", 1000 * took_s / sent, 50, " ms"),
        ]
