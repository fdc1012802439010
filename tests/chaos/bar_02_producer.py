"""Bar 2: kill -9 the producer at every statement of submit.

A producer forks for each submit; the child counts the lines of penstock that it executes and kills itself at the line
whose turn it is, so that over all submits every line has been the last one.
"""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bars import HUEY, POSTGRES, REDIS, RQ, SAQ, SIX, SQLITE, Trial, bar
from judge import judge
from report import Figure, at_least, at_most, equals, none, told

import penstock
from penstock import JobQueue
from penstock.core.config import seconds
from penstock.testing.harness import environment, wait_until

LATE_S = 5.0
"""How much later than the publish grace a job may begin that has no message."""
_OURS = str(Path(penstock.__file__).parent)


class _Tracer:
    """Counts lines of penstock in this thread, and dies at one."""

    def __init__(self, last: int) -> None:
        self.lines = 0
        self._last = last

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if not frame.f_code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            self.lines += 1
            if self.lines == self._last:
                os.kill(os.getpid(), signal.SIGKILL)
        return self


def _submit(queue: JobQueue, record: str, number: int, last: int) -> int:
    """Submit job ``number`` and die at line ``last``; 0: live. Return how many lines it took."""
    from chaos_bodies import work

    call = work.options(key=f"submit-{number}").call(file=record, seconds=0.0)
    _ = queue.ledger
    tracer = _Tracer(last)
    sys.settrace(tracer)
    handle = queue.enqueue(call)
    sys.settrace(None)
    _note(record, f"acknowledged {handle.id}")
    return tracer.lines


def _note(record: str, line: str) -> None:
    descriptor = os.open(f"{record}.producer", os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    os.write(descriptor, f"{line}\n".encode())
    os.close(descriptor)


def _produce(record: str, submits: int) -> None:
    """The producer's process: it opens nothing itself, each child opens its own."""
    queue = JobQueue.from_config(Path.cwd())  # opens nothing, but imports the engine
    importlib.import_module(f"penstock.ledger.{queue.config.ledger.partition(':')[0]}")
    lines = submits  # until the first child has told
    for number in range(submits):
        # Each fifth lives to hear the answer: what it has heard must be true, whatever it had still to write.
        last = 0 if number % 5 == 0 else 1 + number * lines // submits
        pid = os.fork()
        if pid == 0:
            taken = _submit(queue, record, number, last)
            if number == 0:
                _note(record, f"lines {taken}")
            os.kill(os.getpid(), signal.SIGKILL)
        os.waitpid(pid, 0)
        _note(record, f"died submit-{number} {time.monotonic()}")
        if number == 0:
            lines = next(int(n) for word, n, *_ in _notes(record) if word == "lines")


def _notes(record: str) -> list[list[str]]:
    file = Path(f"{record}.producer")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@bar(
    2, "kill -9 the producer at every statement of submit",
    small={"submits": 30}, full={"submits": 500},
    places=((HUEY, SQLITE), (RQ, REDIS), (SAQ, POSTGRES)), full_places=SIX,
)  # fmt: skip
def producer(trial: Trial) -> list[Figure]:
    submits = trial.size["submits"]
    with trial.arena() as arena:
        record = str(arena.record)
        arena.start("--concurrency", "2").wait_ready()
        config = json.dumps(environment(arena.queue.config))
        made = subprocess.run(
            [sys.executable, __file__, record, str(submits), config],
            cwd=arena.folder, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert made.returncode == 0, made.stderr[-2000:]
        notes = _notes(record)
        acknowledged = {note[1] for note in notes if note[0] == "acknowledged"}
        died_at = {note[1]: float(note[2]) for note in notes if note[0] == "died"}
        # Which jobs there are only the ledger can say: of those that were not acknowledged nobody else knows.
        rows = {job_id: row.key for job_id, row in arena.rows().items()}
        grace_s = seconds(arena.queue.config.sweep.publish_grace)
        wait_until(lambda: len(arena.lines("end")) >= len(rows), grace_s + 3 * LATE_S, "every row has run")
        arena.acknowledged = sorted(rows)
        verdict = arena.verdict()
        late_s = [verdict.spans[job_id][0].began - died_at[key] for job_id, key in rows.items()]
        return [
            equals("submits", len(died_at), submits),
            told("lines each", next(int(note[1]) for note in notes if note[0] == "lines")),
            told("acknowledged", len(acknowledged)),
            none("acknowledged and lost", judge(arena.record, acknowledged, arena.deaths).lost),
            at_least("recorded, not acknowledged", len(rows) - len(acknowledged), 1),
            equals("of all recorded ran", verdict.commits, len(rows)),
            none("second bodies", [*verdict.double, *verdict.second, *verdict.strange]),
            at_most("latest start after the death", max(late_s), grace_s + LATE_S, " s"),
        ]


if __name__ == "__main__":
    os.environ.update(json.loads(sys.argv[3]))
    _produce(sys.argv[1], int(sys.argv[2]))
