"""Bar 3: every message delivered three times, one in ten never."""

from __future__ import annotations

import time

import msgspec
from arena import Arena
from bars import SIX, Trial, bar
from report import Figure, equals, none, told

from penstock import calls
from penstock.core.config import SweepConfig, seconds
from penstock.core.exceptions import UnsupportedError
from penstock.gateway import message_for
from penstock.testing.harness import wait_until

COPIES = 3
CALM_S = 1.0


def _depth(arena: Arena) -> int:
    try:
        return arena.queue.gateway.depth("default")
    except UnsupportedError:
        return 0


def _calm(arena: Arena) -> None:
    """Wait until the engine has held no message for a while: then the last copy has been refused."""
    empty_since = time.monotonic()

    def calm() -> bool:
        nonlocal empty_since
        if _depth(arena) > 0:
            empty_since = time.monotonic()
        return time.monotonic() - empty_since > CALM_S

    wait_until(calm, 60, "the engine is empty")


@bar(3, "each message delivered 3 times, 10 % never", small={"jobs": 200}, full={"jobs": 2000}, places=SIX)
def deliveries(trial: Trial) -> list[Figure]:
    jobs = trial.size["jobs"]
    sweep = SweepConfig(interval="500ms", due_interval="50ms", publish_grace=3 + jobs / 100)
    with trial.arena(sweep=sweep) as arena:
        workers = [arena.start("--concurrency", "4", "--json") for _ in range(2)]
        for worker in workers:
            worker.wait_ready()
        queue = arena.queue
        intents = [calls.intent_of(queue.config, arena.call(seconds=0.01)) for _ in range(jobs)]
        rows = [made.job for made in queue.ledger.insert(intents, grace_s=seconds(sweep.publish_grace))]
        arena.acknowledged = [row.id for row in rows]
        never = set(arena.rng.sample(arena.acknowledged, jobs // 10))
        messages = [
            # Under ids of their own: some engines drop a message whose id they know.
            msgspec.structs.replace(message_for(row), id=f"{row.id}_{900 + copy}")
            for row in rows
            if row.id not in never
            for copy in range(COPIES)
        ]
        arena.rng.shuffle(messages)
        for start in range(0, len(messages), 100):
            queue.gateway.publish(messages[start : start + 100])
        arena.wait_final(120)
        _calm(arena)
        verdict = arena.verdict()
        counts = [msgspec.json.decode(worker.told.splitlines()[-1])["counts"] for worker in workers]
        refused, again = (sum(c.get(name, 0) for c in counts) for name in ("refused", "published_again"))
        return [
            equals("commits", verdict.commits, jobs),
            none("lost", verdict.lost),
            none("second bodies", [*verdict.double, *verdict.second, *verdict.strange]),
            told("never delivered", len(never)),
            told("swept up", again),
            equals("refused of the copies", refused, len(messages) + again - jobs),
        ]
