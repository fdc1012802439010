"""Bar 15: many processes submit the same key at the same moment."""

from __future__ import annotations

import importlib
import json
import multiprocessing
import os
import subprocess
import sys
import threading
from collections import defaultdict
from multiprocessing.synchronize import Barrier
from pathlib import Path

from bars import HUEY, HUEY_REDIS, POSTGRES, REDIS, SAQ, SQLITE, Trial, bar
from report import Figure, equals, none

from penstock import JobQueue
from penstock.testing.harness import environment

PATIENCE_S = 60.0


def _submit_all(record: str, rounds: int, barrier: Barrier) -> None:
    from chaos_bodies import work

    with JobQueue.from_config(Path.cwd()) as queue:
        queue.counts()  # all is open before the first round
        for number in range(rounds):
            call = work.options(key=f"round-{number}").call(file=record, seconds=0.0)
            barrier.wait(PATIENCE_S)
            handle = queue.enqueue(call)
            line = f"{number} {handle.outcome} {handle.id}\n".encode()
            descriptor = os.open(f"{record}.submits", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.write(descriptor, line)
            os.close(descriptor)


def _crowd(record: str, processes: int, rounds: int) -> int:
    """Fork the submitters. This process opens nothing: they could not share it."""
    queue = JobQueue.from_config(Path.cwd())  # opens nothing, but imports the engine: once, and not in each of them
    importlib.import_module(f"penstock.ledger.{queue.config.ledger.partition(':')[0]}")
    context = multiprocessing.get_context("fork")
    barrier = context.Barrier(processes)
    crowd = [context.Process(target=_submit_all, args=(record, rounds, barrier)) for _ in range(processes)]
    for one in crowd:
        one.start()
    for one in crowd:
        one.join()
    return max(abs(one.exitcode or 0) for one in crowd)


@bar(
    15, "many processes submit one key at once",
    small={"processes": 12, "rounds": 15}, full={"processes": 50, "rounds": 200},
    places=((HUEY, SQLITE), (HUEY_REDIS, REDIS), (SAQ, POSTGRES)),
)  # fmt: skip
def keys(trial: Trial) -> list[Figure]:
    processes, rounds = trial.size["processes"], trial.size["rounds"]
    with trial.arena() as arena:
        config = json.dumps(environment(arena.queue.config))
        done = subprocess.run(
            [sys.executable, __file__, str(arena.record), str(processes), str(rounds), config],
            cwd=arena.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-2000:]
        outcomes: dict[str, list[tuple[str, str]]] = defaultdict(list)
        for line in Path(f"{arena.record}.submits").read_text().splitlines():
            number, outcome, job_id = line.split()
            outcomes[number].append((outcome, job_id))
        wrong = [
            f"round {number}: {answers}"
            for number, answers in outcomes.items()
            if sorted(outcome for outcome, _ in answers) != ["created"] + ["kept"] * (processes - 1)
            or len({job_id for _, job_id in answers}) != 1
        ]
        arena.acknowledged = [answers[0][1] for answers in outcomes.values()]
        arena.start("--concurrency", "4")
        arena.wait_final(60)
        verdict = arena.verdict()
        return [
            equals("rounds", len(outcomes), rounds),
            equals("answers", sum(map(len, outcomes.values())), processes * rounds),
            none("rounds with two jobs or two ids", wrong),
            equals("jobs that ran", verdict.commits, rounds),
            none("second bodies", [*verdict.double, *verdict.second, *verdict.strange]),
        ]


if __name__ == "__main__":
    os.environ.update(json.loads(sys.argv[4]))
    assert threading.active_count() == 1
    sys.exit(_crowd(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
