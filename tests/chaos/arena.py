"""Where a bar is tried: an engine, a ledger, worker processes that can be killed and frozen, and their deaths noted."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from judge import Line, Verdict, judge, parsed

from penstock import tether
from penstock.core.exceptions import PenstockError
from penstock.job.lifecycle import FINAL
from penstock.job.models import JobQuery
from penstock.sources.decorators import TASKS, Call, Task
from penstock.testing.harness import environment, filled, harness_for, wait_until

HERE = Path(__file__).parent
BODIES = str(HERE / "chaos_bodies.py")
_LOADED: dict[str, Task[Any, Any]] = {}


class WorkerOf:
    """One ``penstock worker`` of an arena; what it prints goes to a file, so that it never waits for a reader."""

    def __init__(self, arena: Arena, arguments: Sequence[str], environ: dict[str, str]) -> None:
        self._arena = arena
        self._asked = False
        self.log = arena.folder / f"worker-{len(arena.started)}.log"
        path = os.pathsep.join(filter(None, [str(HERE), os.environ.get("PYTHONPATH")]))
        ours = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "COV_CORE"))}
        # Should this process die, however it does, its workers must not stay.
        self._tether, theirs = socket.socketpair()
        with self.log.open("wb") as log, theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "penstock", "worker", *arguments],
                cwd=arena.folder,
                env={
                    **ours,
                    **environment(arena.queue.config),
                    "PYTHONPATH": path,
                    tether.VARIABLE: str(theirs.fileno()),
                    **environ,
                },
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        """Whether it runs. One that has ended by itself is noted, with the moment of this look."""
        if self.process.poll() is None:
            return True
        self._arena.deaths.setdefault(self.pid, time.monotonic())
        if not self._asked:
            self._asked = True
            self._arena.unasked.append(f"{self.log.name} ended with {self.process.returncode}: {self.told}")
        return False

    def wait_ready(self, timeout_s: float = 60.0) -> None:
        """Wait until it has told the ledger of itself."""
        workers = self._arena.queue.workers
        wait_until(
            lambda: not self.alive or any(worker.pid == self.pid for worker in workers()), timeout_s, str(self.log)
        )
        if not self.alive:
            raise RuntimeError(f"the worker ended with {self.process.returncode}:\n{self.told}")

    @property
    def told(self) -> str:
        """The end of what it printed."""
        return self.log.read_text(errors="replace")[-2000:]

    def signal(self, number: int) -> None:
        self._asked = self._asked or number not in (signal.SIGSTOP, signal.SIGCONT)
        self.process.send_signal(number)

    def kill(self) -> None:
        """kill -9, and note the death."""
        self.signal(signal.SIGKILL)
        self.ended()

    def ended(self, timeout_s: float = 60.0) -> int:
        """Wait for its end, as it is expected to, note it, and return the exit code."""
        self._asked = True
        code = self.process.wait(timeout_s)
        self._arena.deaths.setdefault(self.pid, time.monotonic())
        self._tether.close()
        return code

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def wake(self) -> None:
        self.signal(signal.SIGCONT)

    def stop(self) -> None:
        """End it in good order, by force after 20 s."""
        if self.alive:
            self.wake()
            self.signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.ended(20)
                return
            self.process.kill()
        self.ended()


class Arena:
    """One place and one seed. Use as a context manager: at the end every worker is stopped.

    ``engine`` and ``ledger`` are URL templates as in `penstock.testing.harness.filled`. Times are those of
    `short_config`: a lease of 2.5 s, a sweep every 0.5 s, a message published again after 1 s. ``changes`` are fields
    of `Config`, as the bar needs them.
    """

    def __init__(self, engine: str, ledger: str, folder: Path, seed: int, **changes: Any) -> None:
        self.engine, self.ledger, self.folder = engine, ledger, folder
        self.rng = random.Random(f"{seed} {engine} {ledger}")
        self.record = folder / "record"
        self.deaths: dict[int, float] = {}
        self.started: list[WorkerOf] = []
        self.unasked: list[str] = []
        """Workers that ended by themselves, with what they printed last."""
        self.acknowledged: list[str] = []
        self._lines: list[Line] = []
        self._read_bytes = 0
        self._harness = harness_for(engine)(folder)
        self.queue = self._harness.queue(filled(ledger, folder), tasks=(BODIES,), **changes)

    def __enter__(self) -> Arena:
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _traceback: object) -> None:
        if error is not None:
            with contextlib.suppress(PenstockError):  # it may be what broke
                error.add_note(f"the ledger counts {self.queue.counts()}")
            for worker in self.started:
                error.add_note(
                    f"{worker.log.name} of {worker.pid}, {'alive' if worker.alive else 'dead'}: {worker.told}"
                )
        try:
            self.stop_workers()
        finally:
            self._harness.reset()
            self.queue.close()

    # -- workers ------------------------------------------------------------------------------------------------

    def start(self, *arguments: str, **environ: str) -> WorkerOf:
        """Start a worker process; ``arguments`` are those of ``penstock worker``."""
        started = WorkerOf(self, arguments, environ)
        self.started.append(started)
        return started

    @property
    def alive(self) -> list[WorkerOf]:
        return [worker for worker in self.started if worker.alive]

    @property
    def busy(self) -> list[WorkerOf]:
        """The workers in whose own process a body runs now."""
        running = Counter[int]()
        for line in self.lines():
            running[line.pid] += {"start": 1, "end": -1, "stopped": -1}.get(line.event, 0)
        return [worker for worker in self.alive if running[worker.pid] > 0]

    def wait_busy(self, timeout_s: float) -> list[WorkerOf]:
        """Return the workers that are busy as soon as one is; after the timeout, those that live."""
        until = time.monotonic() + timeout_s
        while not (found := self.busy) and time.monotonic() < until:
            time.sleep(0.01)
        return found or self.alive

    def stop_workers(self) -> None:
        for worker in self.alive:
            worker.wake()
            worker.signal(signal.SIGTERM)
        for worker in self.started:
            worker.stop()

    # -- jobs ---------------------------------------------------------------------------------------------------

    def call(self, task: str = "chaos.work", *, seconds: float = 0.0, **options: Any) -> Call:
        """Return the call of a body that takes so long; ``options`` are those of the job."""
        self._load_tasks()
        found = TASKS.find(task)
        return (found.options(**options) if options else found).call(file=str(self.record), seconds=seconds)

    def _load_tasks(self) -> None:
        """Load the bodies. A file is loaded once in a process, and what it had brought is forgotten after each test."""
        self.queue.load_tasks()
        _LOADED.update({name: one for name, one in TASKS.items() if Path(one.source[0]).parent == HERE})
        for name in set(_LOADED) - set(TASKS):
            TASKS.add(_LOADED[name])

    def submit(self, count: int, task: str = "chaos.work", *, seconds: float = 0.0, **options: Any) -> list[str]:
        """Submit jobs, in calls of up to 500; they are acknowledged now."""
        ids: list[str] = []
        while len(ids) < count:
            calls = [self.call(task, seconds=seconds, **options)] * min(500, count - len(ids))
            ids += [handle.id for handle in self.queue.enqueue_many(calls)]
        self.acknowledged += ids
        return ids

    def wait_final(self, timeout_s: float, count: int | None = None) -> None:
        """Wait until so many jobs (default: all acknowledged) are final, as the ledger has it: then one may judge.

        After the timeout too: what has not ended by then is lost.
        """
        wanted = len(self.acknowledged) if count is None else count
        looked_s = 0.0

        def ended() -> bool:
            # Counting is work for the ledger, more of it the more jobs there are: it is not to slow what is measured.
            nonlocal looked_s
            time.sleep(max(0.05, 20 * looked_s))
            began = time.monotonic()
            counts = self.queue.counts()
            looked_s = time.monotonic() - began
            return sum(counts.get(state.value, 0) for state in FINAL) >= wanted

        with contextlib.suppress(TimeoutError):
            wait_until(ended, timeout_s)

    def lines(self, event: str | None = None) -> list[Line]:
        """What the bodies have written so far. Asked over and over: only what is new is read."""
        with contextlib.suppress(FileNotFoundError), self.record.open("rb") as record:
            record.seek(self._read_bytes)
            new = record.read()
            whole = new[: new.rfind(b"\n") + 1]
            self._read_bytes += len(whole)
            self._lines += parsed(whole.decode())
        return [line for line in self._lines if event in (None, line.event)]

    def verdict(self) -> Verdict:
        """Judge: by the file, once every worker is stopped and its death noted.

        Raises:
            AssertionError: a worker had ended that nobody had asked to.
        """
        self.stop_workers()
        assert self.unasked == [], "\n".join(self.unasked)
        return judge(self.record, self.acknowledged, self.deaths)

    def rows(self) -> dict[str, Any]:
        """Return the ledger's rows by id; for what users are told, never to judge what ran."""
        jobs = self.queue.ledger.find(JobQuery(limit=1_000_000))
        return {job.id: job for job in jobs}

    def lies(self, verdict: Verdict) -> list[str]:
        """Where a user who asks for a result is told of another body than that of the highest attempt."""
        wrong: list[str] = []
        for job_id, row in self.rows().items():
            # As the judge does: a frozen process may begin a lower attempt after it has woken, and stop it at once.
            last = max(verdict.spans.get(job_id, []), key=lambda span: span.attempt, default=None)
            said = msgspec.json.encode([row.state, row.attempt]).decode()
            if last is None or (row.state.value, row.attempt) != ("succeeded", last.attempt):
                wrong.append(f"{job_id}: the ledger says {said}, the file {last}")
        return wrong
