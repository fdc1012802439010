"""Bar 10: a child process is killed, and a whole host: worker, children and all."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from datetime import UTC, datetime

from arena import Arena
from bars import HUEY, SIX, SQLITE, Trial, bar
from report import Figure, at_most, equals, none, told

from penstock.core.config import seconds
from penstock.job.lifecycle import Event
from penstock.testing.harness import wait_until

CHILD_DIES_S = 1.0
HOST_SLACK_S = 1.0
LONG_S = 600.0
AT_ONCE = 4


@bar(
    10, "a child process, and a whole host, killed",
    small={"children": 4, "hosts": 1}, full={"children": 100, "hosts": 25}, places=((HUEY, SQLITE),), full_places=SIX,
)  # fmt: skip
def deaths(trial: Trial) -> list[Figure]:
    children, hosts = trial.size["children"], trial.size["hosts"]
    with trial.arena() as arena:
        lease, sweep = arena.queue.config.lease, arena.queue.config.sweep
        host_s = seconds(lease.ttl) + 1.2 * seconds(sweep.interval) + HOST_SLACK_S
        arena.submit(AT_ONCE, "chaos.beat", seconds=LONG_S, isolation="process")
        worker = arena.start("--concurrency", str(AT_ONCE))
        for _ in range(children):
            _kill(arena, [arena.rng.choice(_running(arena))])
        _running(arena)
        of_child = _rescued_after_s(arena, Event.CRASH)
        arena.start("another-queue", "--concurrency", "1").wait_ready()  # lives on, takes nothing, and sweeps
        for _ in range(hosts):
            running = _running(arena)
            worker.signal(signal.SIGKILL)
            _kill(arena, running)
            worker.ended()
            worker = arena.start("--concurrency", str(AT_ONCE))
        _running(arena)
        of_host = _rescued_after_s(arena, Event.RESCUE)
        for handle in arena.queue.jobs():
            handle.cancel()
        wait_until(lambda: set(arena.queue.counts()) == {"cancelled"}, 30, "all are cancelled")
        verdict = arena.verdict()
        return [
            equals("children killed", len(of_child), children),
            at_most("rescued, p100", max(of_child), CHILD_DIES_S, " s"),
            told("p50", sorted(of_child)[len(of_child) // 2], " s"),
            equals("jobs of killed hosts", len(of_host), hosts * AT_ONCE),
            at_most("rescued, p100", max(of_host), host_s, " s"),
            none("two owners", verdict.double),
        ]


def _running(arena: Arena) -> list[int]:
    """Wait until every job has a live body, and return their processes."""
    found: dict[str, int] = {}

    def all_run() -> bool:
        found.clear()
        for line in arena.lines():
            if line.event == "start":
                found[line.job_id] = line.pid
        return len(found) == AT_ONCE and not set(found.values()) & set(arena.deaths)

    wait_until(all_run, 60, "every job has a live body")
    return list(found.values())


def _kill(arena: Arena, pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # its worker is dead, and it had seen that
            os.kill(pid, signal.SIGKILL)
        arena.deaths[pid] = time.monotonic()


def _rescued_after_s(arena: Arena, event: Event) -> list[float]:
    """How long after the death of its process each attempt was taken from its owner.

    The ledger's clock is this machine's here, in each of its kinds.
    """
    skew_s = datetime.now(UTC).timestamp() - time.monotonic()
    bodies = {(line.job_id, line.attempt): line.pid for line in arena.lines() if line.event == "start"}
    return [
        entry.at.timestamp() - skew_s - arena.deaths[bodies[job_id, entry.attempt]]
        for job_id in arena.acknowledged
        for entry in arena.queue.job(job_id).history()
        if entry.event is event
    ]
