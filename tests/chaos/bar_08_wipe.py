"""Bar 8: the engine's store is wiped, with jobs waiting in it and with workers at work."""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

from bars import SIX, Trial, bar
from report import Figure, at_most, equals, none, told

from penstock.core.config import SweepConfig, seconds
from penstock.testing import services
from penstock.testing.harness import wait_until

BODY_S = 0.02
BUSY_S = 2.0
"""What a busy machine may take beside."""


@contextlib.contextmanager
def _private(trial: Trial) -> Iterator[tuple[Trial, Callable[[], None]]]:
    """Yield the trial with an engine of its own, and what wipes that engine."""
    if "{redis}" not in trial.engine:
        yield trial, lambda: _wipe_file(f"{trial.folder}/queue.db")
        return
    with services.new_redis() as server:
        parts = urlsplit(server.url)

        def wipe() -> None:
            import redis

            with redis.Redis(host=parts.hostname, port=parts.port or 0) as client:
                client.flushall()

        yield trial._replace(engine=trial.engine.replace("{redis}", server.url)), wipe


def _wipe_file(path: str) -> None:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        with connection:
            for table in tables:
                connection.execute(f"DELETE FROM {table}")


@bar(
    8, "the engine's store wiped, with all queued and at work",
    small={"jobs": 200, "grace_s": 1}, full={"jobs": 1000, "grace_s": 30}, places=SIX,
)  # fmt: skip
def wipe(trial: Trial) -> list[Figure]:
    jobs, grace_s = trial.size["jobs"], trial.size["grace_s"]
    sweep = SweepConfig(interval=grace_s / 2, due_interval="50ms", publish_grace=grace_s, max_publish_grace=grace_s)
    with _private(trial) as (at, wiped), at.arena(sweep=sweep) as arena:
        # Nobody is at work yet: a worker that is merely held still may hold the engine's file locked.
        arena.submit(jobs, seconds=BODY_S)
        wiped()
        for worker in [arena.start("--concurrency", "4") for _ in range(2)]:
            worker.wait_ready()
        ready_at = time.monotonic()
        wait_until(lambda: arena.lines("end"), 3 * grace_s + 20, "a body has ended")
        wait_until(lambda: len(arena.lines("end")) > jobs // 4, 60 + 3 * grace_s, "a quarter has ended")
        wiped()
        arena.wait_final(120 + 4 * grace_s)
        verdict = arena.verdict()
        began = min(of_job[0].began for of_job in verdict.spans.values())
        return [
            equals("commits", verdict.commits, jobs),
            none("lost", verdict.lost),
            none("second bodies", [*verdict.double, *verdict.second, *verdict.strange]),
            at_most(
                "first start, of ready workers, after",
                max(0.0, began - ready_at),
                grace_s + 1.5 * seconds(sweep.interval) + BUSY_S,
                " s",
            ),
            told("all ended after", max(of[-1].until for of in verdict.spans.values()) - ready_at, " s"),
        ]
