"""Bar 13: five schedulers, one of them killed with -9 each second, a schedule of one second."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from datetime import timedelta

from bars import HUEY, POSTGRES, REDIS, SQLITE, Trial, bar
from report import Figure, at_least, at_most, equals, none

from penstock.job.models import JobQuery
from penstock.testing import mould
from penstock.testing.harness import environment, wait_until

SCHEDULERS = 5


@bar(
    13, "five schedulers, one killed each second",
    small={"seconds": 60}, full={"seconds": 600},
    places=((HUEY, SQLITE),), full_places=((HUEY, SQLITE), (HUEY, REDIS), (HUEY, POSTGRES)),
)  # fmt: skip
def schedulers(trial: Trial) -> list[Figure]:
    wanted, rand = trial.size["seconds"], random.Random(trial.seed)
    with trial.arena() as arena:
        queue = arena.queue
        keep = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        environ = {**keep, **environment(queue.config)}

        def start() -> mould.Started:
            return mould.start(["scheduler"], cwd=arena.folder, environ=environ, output=arena.folder / "schedulers.log")

        command = queue.command(["true"])
        queue.schedule(command, name="first", every="100ms", max_fires=1)
        running = [start() for _ in range(SCHEDULERS)]
        kills = 0
        try:
            wait_until(lambda: queue.schedules.get("first").counts, 60, "a scheduler is at work")
            made = queue.schedule(command, name="each second", cron="* * * * * *", overlap="allow")
            last_at = made.next_at + timedelta(seconds=wanted - 1)
            while queue.now() < last_at:
                time.sleep(1)
                at = rand.randrange(SCHEDULERS)
                running[at].kill()
                running[at].wait(30)
                running[at] = start()
                kills += 1
            wait_until(lambda: queue.schedules.get("each second").cursor_at >= last_at, 60, "the last fire time")
        finally:
            for scheduler in running:
                scheduler.kill()
                scheduler.wait(30)
        rows = [
            job
            for job in _all(queue)
            if job.metadata["penstock.schedule"] == "each second"
            and job.metadata["penstock.fire_at"] <= last_at.isoformat()
        ]
        fired = Counter(job.metadata["penstock.fire_at"] for job in rows)
        expected = {(made.next_at + timedelta(seconds=n)).isoformat() for n in range(wanted)}
        late_s = sorted((job.created_at.timestamp() - _fire_s(job)) for job in rows)
        return [
            equals("fire times", len(expected), wanted),
            equals("jobs", len(rows), wanted),
            none("missing", sorted(expected - set(fired))),
            none("twice", [at for at, count in fired.items() if count > 1]),
            at_least("kills", kills, wanted // 3),
            at_most("lateness p99", late_s[int(len(late_s) * 0.99) - 1], 1.0, " s"),
        ]


def _fire_s(job: object) -> float:
    from datetime import datetime

    return datetime.fromisoformat(job.metadata["penstock.fire_at"]).timestamp()  # type: ignore[attr-defined]


def _all(queue: object) -> list:
    found, before = [], None
    while page := queue.ledger.find(JobQuery(limit=500, before=before)):  # type: ignore[attr-defined]
        found += page
        before = page[-1].id
    return found
