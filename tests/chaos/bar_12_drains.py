"""Bar 12: SIGTERM with eight running bodies, some of them deaf; then a second SIGTERM."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import msgspec
from arena import Arena, WorkerOf
from bars import SIX, Trial, bar
from report import Figure, at_most, equals, none

from penstock.job.lifecycle import State
from penstock.testing.harness import wait_until

SHORT, SHORT_S, LONG_S = 3, 0.5, 600.0
OVER_S = 2.0


@bar(
    12, "SIGTERM with 8 running bodies, and a second one",
    small={"grace": 2, "second": 3, "alone": 1}, full={"grace": 25, "second": 1, "alone": 0}, places=SIX,
)  # fmt: skip
def drains(trial: Trial) -> list[Figure]:
    grace_s = trial.size["grace"]
    one, several = ("--concurrency", "8"), ("--concurrency", "8", "--processes", "2")
    figures: list[Figure] = []
    with trial.arena() as arena:
        worker_config = msgspec.structs.replace(arena.queue.config.worker, grace=f"{grace_s}s")
        arena.queue.config = msgspec.structs.replace(arena.queue.config, worker=worker_config)
        for arguments in (one,) if trial.size["alone"] else (one, several):
            worker = _busy(arena, arguments)
            figures += _left(arena, _exit_s(worker), grace_s + OVER_S, "of the grace", ended=SHORT)
        # The figure is one second; a machine that runs other tests beside this one gets three.
        for arguments in (one,) if trial.size["alone"] else (one, several):
            worker = _busy(arena, arguments)
            worker.signal(signal.SIGTERM)
            wait_until(lambda w=worker: not _pending(w.pid), 10, "the first signal is seen")
            figures += _left(arena, _exit_s(worker), trial.size["second"], "of a second signal", ended=0)
    return figures


def _busy(arena: Arena, arguments: tuple[str, ...]) -> WorkerOf:
    """Start a worker and let eight bodies run there: short ones, and long ones of each kind, deaf ones too."""
    before = len(arena.lines("start"))
    arena.acknowledged.clear()
    arena.submit(1, seconds=LONG_S)
    arena.submit(1, "chaos.awork", seconds=LONG_S)
    arena.submit(1, "chaos.stubborn", seconds=LONG_S)
    arena.submit(1, "chaos.stubborn", seconds=LONG_S, isolation="process")
    script = f"echo start command 1 $$ 0 >> {arena.record}; exec sleep {LONG_S}"
    arena.acknowledged.append(arena.queue.enqueue_command(["sh", "-c", script]).id)
    worker = arena.start(*arguments)
    wait_until(lambda: len(arena.lines("start")) >= before + 5, 60, "the long bodies run")
    arena.submit(SHORT, seconds=SHORT_S)
    wait_until(lambda: len(arena.lines("start")) >= before + 5 + SHORT, 30, "the short bodies run")
    return worker


def _exit_s(worker: WorkerOf) -> float:
    sent = time.monotonic()
    worker.signal(signal.SIGTERM)
    worker.ended(60)
    return time.monotonic() - sent


def _left(arena: Arena, took_s: float, limit_s: float, after: str, *, ended: int) -> list[Figure]:
    rows = [arena.queue.ledger.get(job_id) for job_id in arena.acknowledged]
    states = [row.state for row in rows]
    charged = [f"{row.id} {row.name}: {row.errors} errors, {row.crashes} crashes" for row in rows
               if row.errors or row.crashes]  # fmt: skip
    neither = [f"{row.id} {row.name} is {row.state}" for row in rows
               if row.state not in (State.SUCCEEDED, State.QUEUED)]  # fmt: skip
    here = [line.pid for line in arena.lines("start")]
    outlived = [str(pid) for pid in here if _alive(pid)]
    for handle in arena.queue.jobs():
        handle.cancel()
    return [
        at_most(f"exit {after}", took_s, limit_s, " s"),
        equals("ended", states.count(State.SUCCEEDED), ended) if ended else none("lost", neither),
        none("neither ended nor handed back", neither),
        none("charged", charged),
        none("processes left", outlived),
    ]


def _alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def _pending(pid: int) -> bool:
    """Whether SIGTERM has been sent to a process and not been seen by it."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return any(mask & (1 << (signal.SIGTERM - 1)) for mask in masks)
