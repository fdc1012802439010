"""Bar 21: ten thousand schedules, of which some fire in each second: what a tick costs, and how late fire times are."""

from __future__ import annotations

import random
import time
from datetime import datetime, timedelta

import msgspec
from bars import HUEY, POSTGRES, REDIS, SQLITE, Trial, bar
from report import Figure, at_most, equals, told

from penstock import scheduler
from penstock.core.triggers import Every
from penstock.job.models import JobQuery
from penstock.job.schedules import Schedule
from penstock.testing.harness import wait_until

STEP_S = 3600.0
TICK_MS = 50.0


@bar(
    21, "ten thousand schedules",
    small={"schedules": 10_000, "seconds": 10}, full={"schedules": 10_000, "seconds": 60},
    places=((HUEY, SQLITE),), full_places=((HUEY, SQLITE), (HUEY, REDIS), (HUEY, POSTGRES)),
)  # fmt: skip
def many_schedules(trial: Trial) -> list[Figure]:
    count, seconds = trial.size["schedules"], trial.size["seconds"]
    with trial.arena() as arena:
        queue, rand = arena.queue, random.Random(trial.seed)
        plan = queue.schedule(queue.command(["true"]), name="first", every="1d").plan
        now = queue.now()
        changes = []
        for number in range(count - 1):
            # Each fires once an hour, at a moment of its own; none while they are being made.
            at = now + timedelta(seconds=20 + rand.random() * STEP_S)
            made = msgspec.structs.replace(plan, rule=Every(STEP_S, at))
            one = Schedule(name=f"s{number}", plan=made, made_at=now, changed_at=now, next_at=at)
            changes.append(scheduler.change_of(None, one, now))
        for start in range(0, len(changes), 500):
            queue.ledger.records.write(changes[start : start + 500])
        ticks: list[float] = []
        tick = queue.scheduler.tick

        def timed() -> int:
            began = time.perf_counter()
            try:
                return tick()
            finally:
                ticks.append(1000 * (time.perf_counter() - began))

        queue.scheduler.tick = timed  # type: ignore[method-assign]
        first = now + timedelta(seconds=20)
        last = first + timedelta(seconds=seconds)
        queue.scheduler.start()
        wait_until(lambda: queue.now() > last + timedelta(seconds=2), seconds + 120, "the time is over")
        queue.scheduler.stop()
        wanted = {change.name for change in changes if change.due_at is not None and change.due_at <= last}
        jobs, before = [], None
        while page := queue.ledger.find(JobQuery(limit=500, before=before)):
            jobs += page
            before = page[-1].id
        made_of = {job.metadata["penstock.schedule"] for job in jobs}
        late_s = sorted(
            (job.created_at - datetime.fromisoformat(job.metadata["penstock.fire_at"])).total_seconds() for job in jobs
        )
        ticks.sort()
        return [
            told("fire times", len(wanted)),
            equals("of them made", len(wanted & made_of), len(wanted)),
            at_most("tick p50", ticks[len(ticks) // 2], TICK_MS, " ms"),
            at_most("tick p99", ticks[int(len(ticks) * 0.99) - 1], TICK_MS, " ms"),
            at_most("lateness p99", late_s[int(len(late_s) * 0.99) - 1], 1.0, " s"),
        ]
