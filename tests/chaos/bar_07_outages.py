"""Bar 7: the Redis restarted under load; then a ledger that is away for three leases, with bodies at work."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

from bars import ARQ, DRAMATIQ, HUEY, HUEY_REDIS, POSTGRES, REDIS, RQ, SAQ, SQLITE, TASKIQ, Place, Trial, bar
from report import Figure, at_least, at_most, equals, none

from penstock.core.config import LeaseConfig, SweepConfig, seconds
from penstock.testing import services
from penstock.testing.harness import wait_until
from penstock.testing.server import Server, locked, outage

LEASES_AWAY = 3
BODY_S = 0.03
TTL = "1500ms"
SWEEP = SweepConfig(interval="200ms", due_interval="50ms", publish_grace="1s", max_publish_grace="2s")
ON_REDIS: tuple[Place, ...] = tuple((engine, REDIS) for engine in (HUEY_REDIS, RQ, SAQ, ARQ, TASKIQ, DRAMATIQ))


class There(NamedTuple):
    trial: Trial
    away: Callable[[], AbstractContextManager[None]]
    server: Server | None


@contextlib.contextmanager
def _private(trial: Trial) -> Iterator[There]:
    """Yield the trial with servers of its own, and what takes its ledger away."""
    if trial.ledger == SQLITE:
        yield There(trial, lambda: locked(trial.folder / "ledger.db"), None)
        return
    new = services.new_redis() if trial.ledger == REDIS else services.new_postgres()
    with new as server:
        place = {"ledger": server.url, "engine": trial.engine.replace(trial.ledger, server.url)}
        yield There(trial._replace(**place), lambda: outage(server), server)


@bar(
    7, "the ledger restarted under load, and away for three leases",
    small={"jobs": 100, "restarts": 2, "bodies": 10}, full={"jobs": 2000, "restarts": 20, "bodies": 50},
    places=((RQ, REDIS),), full_places=(*ON_REDIS, (HUEY, SQLITE), (HUEY, POSTGRES)),
)  # fmt: skip
def outages(trial: Trial) -> list[Figure]:
    figures: list[Figure] = []
    if trial.ledger == REDIS:
        figures += _restarted(trial)
    return [*figures, *_away(trial, "finish_fenced"), *_away(trial, "stop")]


def _restarted(trial: Trial) -> list[Figure]:
    jobs, restarts = trial.size["jobs"], trial.size["restarts"]
    with _private(_in_folder(trial, "restarted")) as there, there.trial.arena(sweep=SWEEP) as arena:
        assert there.server is not None
        for worker in [arena.start("--concurrency", "4") for _ in range(2)]:
            worker.wait_ready()
        portion = jobs // restarts
        for _ in range(restarts):
            arena.submit(portion, seconds=BODY_S)
            time.sleep(arena.rng.uniform(0.1, 0.5))  # the moment of the restart
            with outage(there.server):
                pass
        arena.submit(jobs - portion * restarts, seconds=BODY_S)
        arena.wait_final(120 + jobs / 10)
        verdict = arena.verdict()
        return [
            equals("restarts", restarts, restarts),
            equals("commits", verdict.commits, jobs),
            none("lost", verdict.lost),
            none("two owners", verdict.double),
            none("told otherwise", arena.lies(verdict)),
        ]


def _away(trial: Trial, on_lost: Any) -> list[Figure]:
    bodies = trial.size["bodies"]
    lease = LeaseConfig(
        ttl=TTL, heartbeat="300ms", fence_margin="300ms", cancel_poll="200ms", cancel_grace="500ms", on_lost=on_lost
    )
    away_s = LEASES_AWAY * seconds(TTL)
    # What is to finish ends some time after the outage.
    body_s = away_s + (2 if on_lost == "finish_fenced" else 0)
    with _private(_in_folder(trial, on_lost)) as there, there.trial.arena(lease=lease, sweep=SWEEP) as arena:
        first = arena.start("--concurrency", str(bodies))
        first.wait_ready()
        arena.submit(bodies, seconds=body_s)
        wait_until(lambda: len(arena.lines("start")) == bodies, 60, "every body runs")
        with there.away():
            began = time.monotonic()
            time.sleep(away_s)  # the outage itself
        arena.start("--concurrency", str(bodies))  # has seen nothing of it
        arena.wait_final(60 + 4 * body_s)
        rows = arena.rows().values()
        verdict = arena.verdict()
        stopped = [line.at - began for line in arena.lines("stopped")]
        figures = [
            equals(f"{on_lost}: commits", verdict.commits, bodies),
            none("lost", verdict.lost),
            none("two owners", verdict.double),
            none("charged", [row.id for row in rows if row.crashes or row.errors]),
        ]
        if on_lost == "stop":
            return [
                *figures,
                at_least("clean stops", len(stopped), bodies),
                at_most("stopped after, p100", max(stopped, default=away_s), seconds(TTL), " s"),
            ]
        return [*figures, none("rescues of live jobs", [row.id for row in rows if row.attempt != 1])]


def _in_folder(trial: Trial, name: str) -> Trial:
    folder = trial.folder / name
    folder.mkdir()
    return trial._replace(folder=folder)
