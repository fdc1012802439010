"""Bar 23: the shape of Docket's own chaos, with more asserted: producers, kills, restarts, toxic tasks, strikes.

Docket (chrisguidry/docket, ``chaos/driver.py``) ends when every key ran at least once. Here nothing may be lost or have
two owners, states and histories must be true, and a struck job may not begin before it is restored.
"""

from __future__ import annotations

import math
import threading
import time

from arena import Arena, WorkerOf
from bars import HUEY, RQ, SAQ, SQLITE, Place, Trial, bar
from bars import REDIS as ON_REDIS
from report import Figure, at_least, equals, none, told

from penstock import JobHandle, JobQueue
from penstock.core.exceptions import LedgerError
from penstock.job.lifecycle import FINAL
from penstock.sources.decorators import TASKS, Call
from penstock.testing import services
from penstock.testing.harness import wait_until
from penstock.testing.server import Server, outage

PRODUCERS = 5
BATCH = 20
JITTER_S = 2.0
STRUCK = ("day", "between", [3, 4])
PLACES: tuple[Place, ...] = ((SAQ, ON_REDIS), (RQ, ON_REDIS), (HUEY, SQLITE))


@bar(
    23, "Docket's chaos: producers, kills, restarts, toxic tasks, strikes",
    small={"jobs": 2000, "workers": 4, "kills": 6}, full={"jobs": 20_000, "workers": 10, "kills": 100},
    places=((HUEY, SQLITE),), full_places=PLACES,
)  # fmt: skip
def docket(trial: Trial) -> list[Figure]:
    if "{redis}" not in trial.engine:
        with trial.arena() as arena:
            return _Chaos(arena, trial.size, None).run()
    with services.new_redis() as server:
        place = {"ledger": server.url, "engine": trial.engine.replace("{redis}", server.url)}
        with trial._replace(**place).arena() as arena:
            return _Chaos(arena, trial.size, server).run()


class _Chaos:
    def __init__(self, arena: Arena, size: dict[str, int], server: Server | None) -> None:
        self.arena, self.size, self.server = arena, size, server
        self.toxic: list[str] = []
        self.struck: set[str] = set()
        self.due: dict[str, float] = {}
        self.errors: list[Exception] = []
        self.lock = threading.Lock()

    def run(self) -> list[Figure]:
        arena, jobs = self.arena, self.size["jobs"]
        arena.call()  # loads the bodies, once, before threads ask for them
        arena.queue.strike("chaos.day", *STRUCK)
        struck_at = time.monotonic()
        workers = [arena.start("--concurrency", "4") for _ in range(self.size["workers"])]
        for worker in workers:
            worker.wait_ready()
        producers = [
            threading.Thread(target=self._produce, args=(jobs // PRODUCERS,), daemon=True) for _ in range(PRODUCERS)
        ]
        for producer in producers:
            producer.start()
        self._harm(workers)
        for producer in producers:
            producer.join()
        assert not self.errors, self.errors
        in_time = self._wait(len(arena.acknowledged) + len(self.toxic) - len(self.struck), 120 + jobs / 20)
        restored_at = time.monotonic()
        arena.queue.restore("chaos.day", *STRUCK)
        self._wait(len(arena.acknowledged) + len(self.toxic), 60 + jobs / 20)
        rows = arena.rows()
        verdict = arena.verdict()
        bad = set(self.toxic)
        early = [
            f"{job_id} began {span.began - struck_at:.1f} s after the strike"
            for job_id in self.struck
            for span in verdict.spans.get(job_id, [])
            if span.began < restored_at
        ]
        late = sorted(
            spans[0].began - self.due[job_id] for job_id, spans in verdict.spans.items() if job_id in self.due
        )
        states = [rows[job_id].state.value if job_id in rows else "gone" for job_id in bad]
        lies = [
            f"{job_id}: {row.state}" for job_id, row in rows.items() if job_id not in bad and row.state != "succeeded"
        ]
        return [
            equals("commits", verdict.commits, jobs),
            none("lost", verdict.lost),
            none("two owners", verdict.double),
            none("second bodies", verdict.second),
            none("told otherwise", lies),
            none("histories that do not add up", self._histories(rows)),
            none("toxic jobs without an end", [state for state in states if state not in {s.value for s in FINAL}]),
            none("struck jobs that began", early),
            at_least("struck jobs", len(self.struck), 1),
            at_least("bodies cut off", verdict.cut_off, 1),
            told("all but the struck ended in time", float(in_time)),
            told("toxic jobs", len(bad)),
            told("lateness p99", late[int(0.99 * (len(late) - 1))] if late else math.nan, " s"),
        ]

    def _wait(self, count: int, timeout_s: float) -> bool:
        self.arena.wait_final(timeout_s, count)
        return sum(self.arena.queue.counts().get(state.value, 0) for state in FINAL) >= count

    def _produce(self, count: int) -> None:
        """Submit jobs with times around now, in calls of some; tries again while the ledger is away."""
        arena = self.arena
        try:
            with JobQueue(config=arena.queue.config, root=arena.folder) as queue:
                for start in range(0, count, BATCH):
                    calls: list[Call] = []
                    dues: list[float] = []
                    for number in range(start, min(count, start + BATCH)):
                        delay_s = max(0.0, arena.rng.uniform(-JITTER_S, JITTER_S))
                        dues.append(delay_s)
                        calls.append(self._call(number, delay_s))
                    self._submit(queue, calls, dues)
        except Exception as error:
            self.errors.append(error)

    def _call(self, number: int, delay_s: float) -> Call:
        day = TASKS["chaos.day"].options(delay=delay_s)
        return day.call(file=str(self.arena.record), day=number % 100)

    def _submit(self, queue: JobQueue, calls: list[Call], dues: list[float]) -> None:
        # A call that is refused for an outage is made again: as it is known to have written nothing, or all.
        handles: list[JobHandle] = []

        def tried() -> bool:
            try:
                handles.extend(queue.enqueue_many(calls))
            except LedgerError:
                return False
            return True

        wait_until(tried, 60)
        now = time.monotonic()
        with self.lock:
            for handle, delay_s in zip(handles, dues, strict=True):
                self.arena.acknowledged.append(handle.id)
                if handle.outcome == "blocked":
                    self.struck.add(handle.id)
                else:
                    self.due[handle.id] = now + delay_s

    def _harm(self, workers: list[WorkerOf]) -> None:
        arena = self.arena
        for number in range(self.size["kills"]):
            time.sleep(arena.rng.uniform(0.1, 0.7))  # the moment of the harm, not a wait
            if number % 3 == 2:
                kind = arena.rng.choice(["exit", "raise", "sleep"])
                self.toxic.append(arena.queue.enqueue("chaos.toxic", kind=kind).id)
            if self.server is not None and number % 10 == 5:
                with outage(self.server):
                    pass
                wait_until(self._answers, 60)
            busy = [worker for worker in arena.wait_busy(2) if worker in workers]  # or no kill may ever hit a body
            place = workers.index(arena.rng.choice(busy or workers))
            workers[place].kill()
            workers[place] = arena.start("--concurrency", "4")

    def _answers(self) -> bool:
        try:
            self.arena.queue.counts()
        except LedgerError:
            return False
        return True

    def _histories(self, rows: dict) -> list[str]:
        """Of some jobs: does the history lead to the row, attempt by attempt?"""
        wrong: list[str] = []
        for job_id in self.arena.rng.sample(sorted(rows), min(200, len(rows))):
            entries = self.arena.queue.ledger.history(job_id)
            claims = [entry.attempt for entry in entries if entry.event == "claim"]
            if claims != list(range(1, rows[job_id].attempt + 1)) or entries[-1].to != rows[job_id].state:
                wrong.append(f"{job_id}: claims {claims}, attempt {rows[job_id].attempt}, {entries[-1]}")
        return wrong
