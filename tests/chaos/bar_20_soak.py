"""Bar 20: all faults at random for a while, two releases on one ledger; ``SOAK_S`` says how long (60 s, an hour)."""

from __future__ import annotations

import contextlib
import itertools
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
from arena import Arena, WorkerOf
from bars import REDIS, RQ, Trial, bar
from judge import Verdict
from report import Figure, at_least, at_most, equals, none, told

from penstock.core.config import HistoryConfig, seconds
from penstock.core.exceptions import JobNotFoundError, LedgerError
from penstock.gateway import message_for
from penstock.job.models import JobQuery
from penstock.testing import services
from penstock.testing.harness import wait_until
from penstock.testing.server import Server, outage

SOAK_S = float(os.environ.get("SOAK_S", "60"))
BODY_S = 0.05
ARGUMENTS = ("--concurrency", "4", "--connect-timeout", "2m")
"""A Redis that reads its file again and again on a busy machine may take longer than 30 s to answer."""
WAITING = 60
"""So many jobs are waiting at any time."""
GROWTH = 0.05
KEPT_S = 180
HISTORY = HistoryConfig(keep_succeeded=KEPT_S, keep_failed=KEPT_S)
PURGED_S = 660
"""How much longer a row may stay: a purge comes each ten minutes."""
LONG_S = 600
"""A soak under this is too short for a limit on growth: a process needs a while to reach its size."""
NEXT_RELEASE = """
from penstock.ledger import redis_server, sqlite_schema, postgres_schema
import penstock
penstock.__version__ += ".next"
redis_server.SCHEMA += 1
_ADDS = "ALTER TABLE jobs ADD COLUMN of_the_next_release TEXT DEFAULT 'x'"
for _schema in (sqlite_schema, postgres_schema):
    _schema.MIGRATIONS = (*_schema.MIGRATIONS, lambda: (_ADDS,))
"""
"""What Python runs at the start of a worker of the release after this one: its schema is one higher."""


@bar(
    20, "soak: all faults at random, two releases", small={"kinds": 6}, full={"kinds": 6}, places=(),
    full_places=((RQ, REDIS),),
)  # fmt: skip
def soak(trial: Trial) -> list[Figure]:
    with services.new_redis() as server:
        place = {"ledger": server.url, "engine": trial.engine.replace(REDIS, server.url)}
        with trial._replace(**place).arena(history=HISTORY) as arena:
            return _Soak(arena, server).run(SOAK_S)


class _Soak:
    def __init__(self, arena: Arena, server: Server) -> None:
        self.arena, self.server = arena, server
        self.frozen: list[tuple[int, float, float]] = []
        self.faults = 0
        self.next_release = 0
        (arena.folder / "next").mkdir()
        (arena.folder / "next" / "sitecustomize.py").write_text(NEXT_RELEASE)

    def run(self, soak_s: float) -> list[Figure]:
        arena = self.arena
        steady = self._worker()
        steady.wait_ready()
        others = [self._worker() for _ in range(2)]
        kinds: list[Callable[[WorkerOf], bool]] = [self._kill, self._freeze, self._drain, self._restart, self._copies]
        began = time.monotonic()
        sizes: list[tuple[float, int, int]] = []
        while (elapsed := time.monotonic() - began) < soak_s:
            if (missing := WAITING - arena.queue.counts().get("queued", 0)) > 0:
                arena.submit(missing, seconds=BODY_S)
            victim = arena.rng.randrange(len(others))
            self.faults += 1
            if arena.rng.choice(kinds)(others[victim]):
                others[victim] = self._worker()
            sizes.append((elapsed, *_size(steady.pid)))
            time.sleep(arena.rng.uniform(0.2, 1.5))  # the moment of the next fault, not a wait
        with contextlib.suppress(TimeoutError):
            wait_until(lambda: self._live() == 0, 120)
        rows = sum(arena.queue.counts().values())
        verdict = arena.verdict()
        rss, fds = (growth([(size[0] / soak_s, size[n]) for size in sizes]) for n in (1, 2))
        grown = (lambda name, by: at_most(name, by, GROWTH)) if soak_s >= LONG_S else told
        return [
            equals("commits", verdict.commits, len(arena.acknowledged)),
            none("lost", [f"{lost}: {self._story(lost.split()[0])}" for lost in verdict.lost]),
            none("two owners", self._double(verdict)),
            at_least("faults", self.faults, int(soak_s / 10)),
            at_least("workers of the next release", self.next_release, 1),
            grown("RSS grown by", rss),
            grown("descriptors grown by", fds),
            at_most("rows kept", rows, int(len(arena.acknowledged) / soak_s * (KEPT_S + PURGED_S))),
            told("soaked", int(soak_s), " s"),
        ]

    def _live(self) -> int:
        counts = self.arena.queue.counts()
        return counts.get("queued", 0) + counts.get("running", 0)

    def _story(self, job_id: str) -> str:
        """What the ledger and the file have of a job, for whoever looks into it."""
        try:
            handle = self.arena.queue.job(job_id)
        except JobNotFoundError:
            return "purged: it was final"
        entries = [
            f"{entry.event} #{entry.attempt} {entry.reason or ''} {entry.error or ''}" for entry in handle.history()
        ]
        lines = [f"{line.event} #{line.attempt} {line.pid}" for line in self.arena.lines() if line.job_id == job_id]
        return f"{handle.state}; {'; '.join(entries)}; {', '.join(lines)}"

    def _worker(self) -> WorkerOf:
        """Start a worker, every second one of the next release."""
        if len(self.arena.started) % 2 == 0:
            return self.arena.start(*ARGUMENTS)
        self.next_release += 1
        here = str(Path(__file__).parent)
        paths = [str(self.arena.folder / "next"), here, *filter(None, [os.environ.get("PYTHONPATH")])]
        return self.arena.start(*ARGUMENTS, PYTHONPATH=os.pathsep.join(paths))

    # -- faults: each answers whether its victim is gone ----------------------------------------------------------

    def _kill(self, victim: WorkerOf) -> bool:
        victim.kill()
        return True

    def _freeze(self, victim: WorkerOf) -> bool:
        since = time.monotonic()
        victim.freeze()
        time.sleep(1.5 * seconds(self.arena.queue.config.lease.ttl))  # past its lease
        victim.wake()
        self.frozen.append((victim.pid, since, time.monotonic()))
        return False

    def _drain(self, victim: WorkerOf) -> bool:
        victim.stop()
        return True

    def _restart(self, _victim: WorkerOf) -> bool:
        with outage(self.server):
            pass
        wait_until(self._answers, 60, "Redis has read its file again")
        return False

    def _answers(self) -> bool:
        try:
            self.arena.queue.counts()
        except LedgerError:
            return False
        return True

    def _copies(self, _victim: WorkerOf) -> bool:
        """Deliver what waits once more, under other ids."""
        jobs = self.arena.queue.ledger.find(JobQuery(states=("queued",), limit=20))
        copies = [msgspec.structs.replace(message_for(job), id=f"{job.id}_{900 + self.faults}") for job in jobs]
        if copies:
            self.arena.queue.gateway.publish(copies)
        return False

    def _double(self, verdict: Verdict) -> list[str]:
        """Two bodies alive at once. One that was frozen and is stopped within a second of waking did not live."""
        return [
            f"{one} and {other}"
            for spans in verdict.spans.values()
            for one, other in itertools.pairwise(spans)
            if one.until > other.began
            and not any(pid == one.pid and since < other.began < until + 1 for pid, since, until in self.frozen)
        ]


def growth(sizes: Sequence[tuple[float, int]]) -> float:
    """Return by what part sizes have grown, given when (0 to 1) each was seen.

    Compared are medians of a tenth of the time each: one look may come upon a socket that is just being opened.
    """
    first, last = ([size for at, size in sizes if since <= at < since + 0.1] for since in (0.2, 0.9))
    return max(0.0, statistics.median(last) / statistics.median(first) - 1) if first and last else 0.0


def _size(pid: int) -> tuple[int, int]:
    """Return the resident pages and the open descriptors of a process."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]), len(list(Path(f"/proc/{pid}/fd").iterdir()))
