"""Bar 6: the ledger does what it was asked, and the reply is lost: on submit, claim, heartbeat and finish."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from typing import Any, cast

from bars import HUEY, POSTGRES, REDIS, Trial, bar
from report import Figure, at_least, equals, none, told

from penstock import JobQueue
from penstock.core.base import Applied, Ledger
from penstock.core.config import LeaseConfig
from penstock.job.lifecycle import Event, Transition
from penstock.job.models import Intent, Submission
from penstock.ledger import open_ledger
from penstock.testing.cutting_proxy import CuttingProxy
from penstock.testing.harness import CALM, filled, wait_until

LEASE = LeaseConfig(ttl="6s", heartbeat="100ms", fence_margin="1s", cancel_poll="1s")
BODY_S = 0.25
CUT = {Event.ENQUEUE: "submit", Event.CLAIM: "claim", Event.BEAT: "beat", Event.SUCCEED: "finish"}
RATE = 0.5
WAITING = 16


class Cutting:
    """A ledger behind a proxy, which is armed before every second call of the four kinds."""

    def __init__(self, ledger: Ledger, proxy: CuttingProxy, rand: random.Random) -> None:
        self._ledger = ledger
        self._proxy = proxy
        self._rand = rand
        self.armed: Counter[str] = Counter()
        self._lock = threading.Lock()
        self.calm = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ledger, name)

    def _arm(self, *events: Event) -> None:
        with self._lock:
            kinds = {CUT[event] for event in events if event in CUT}
            if kinds and not self.calm and self._rand.random() < RATE:
                self.armed.update(kinds)
                self._proxy.cut_next_reply()

    def insert(self, intents: Sequence[Intent], **options: Any) -> list[Submission]:
        self._arm(Event.ENQUEUE)
        return self._ledger.insert(intents, **options)

    def apply(self, transition: Transition) -> Applied | None:
        self._arm(transition.event)
        return self._ledger.apply(transition)

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        self._arm(*(transition.event for transition in transitions))
        return self._ledger.apply_many(transitions)


@bar(
    6, "the reply lost after the ledger had done it",
    small={"each": 10}, full={"each": 1000}, places=((HUEY, REDIS), (HUEY, POSTGRES)),
)  # fmt: skip
def replies(trial: Trial) -> list[Figure]:
    each = trial.size["each"]
    with (
        trial.arena(lease=LEASE, sweep=CALM) as arena,
        closing(CuttingProxy(filled(trial.ledger, trial.folder))) as proxy,
        closing(open_ledger(proxy.url, namespace=arena.queue.config.namespace)) as direct,
    ):
        cutting = Cutting(direct, proxy, arena.rng)
        arena.queue.close()
        queue = arena.queue = JobQueue(config=arena.queue.config, root=trial.folder, ledger=cast("Ledger", cutting))
        worker = queue.worker(concurrency=8)
        worker.start()
        try:
            while min(cutting.armed[kind] for kind in CUT.values()) < each:
                arena.submit(1, seconds=BODY_S)
                # Claims that are cut off and asked again are slower than submits: no backlog that nobody waits for.
                wait_until(lambda: len(arena.acknowledged) - len(arena.lines("end")) < WAITING, 60, "a body has ended")
            cutting.calm = True
            arena.wait_final(60)
        finally:
            worker.stop()
        rows = arena.rows().values()
        verdict = arena.verdict()
        counts = worker.counts()
        return [
            equals("commits", verdict.commits, len(arena.acknowledged)),
            none("lost", verdict.lost),
            none("duplicates", [*verdict.double, *verdict.second, *verdict.strange]),
            none("false failures", [f"{row.id} {row.state}" for row in rows if row.state.value != "succeeded"]),
            none("charged", [row.id for row in rows if (row.errors, row.crashes, row.attempt) != (0, 0, 1)]),
            equals("told as stale", counts.get("stale", 0) + counts.get("lost", 0), 0),
            *(at_least(kind, cutting.armed[kind], each) for kind in CUT.values()),
            at_least("connections cut", proxy.cuts, 2 * each),
            told("jobs", len(arena.acknowledged)),
        ]
