"""kill -9, twenty times over two hundred jobs: none is lost, none has two owners at once, what is final stays.

The judge of the overlaps is a file that the bodies append to; the ledger is not asked about itself.
"""

from __future__ import annotations

import itertools
import random
import signal
import time
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import pytest

from penstock.job.lifecycle import State
from penstock.testing.harness import WorkerProcess, harness_for, wait_until

HERE = Path(__file__).parent
JOBS = 200
KILLS = 20
BODY_S = 0.12


class Span(NamedTuple):
    """One start of a body. ``until`` is its end, or the death of its process."""

    job_id: str
    attempt: int
    pid: int
    began: float
    until: float
    ended: bool


def read_spans(file: Path, deaths: dict[int, float]) -> list[Span]:
    begun: dict[tuple[str, int, int], float] = {}
    spans = []
    for line in file.read_text().splitlines():
        job_id, attempt, pid, event, at = line.split()
        key = (job_id, int(attempt), int(pid))
        if event == "start":
            assert key not in begun, f"attempt {attempt} of {job_id} began twice"
            begun[key] = float(at)
        else:
            spans.append(Span(*key, begun.pop(key), float(at), ended=True))
    # A body that never told of its end lived until its process was killed.
    spans += [Span(*key, at, deaths[key[2]], ended=False) for key, at in begun.items()]
    return spans


@pytest.mark.slow
@pytest.mark.timeout(180)
def test_twenty_kills_over_two_hundred_jobs(tmp_path):
    from kill_bodies import work

    harness = harness_for("huey+sqlite:///{folder}/queue.db")(tmp_path)
    record = tmp_path / "record"
    deaths: dict[int, float] = {}
    finals: dict[str, tuple[State, object, object]] = {}
    rng = random.Random(20)
    queue = harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=(str(HERE / "kill_bodies.py"),))

    def look() -> int:
        """Note every final row; one that was final before must be the same still."""
        for row in queue.ledger.find(_all()):
            if row.state.final:
                seen = (row.state, row.finished_at, row.attempt)
                assert finals.setdefault(row.id, seen) == seen, f"{row.id} was final and changed"
        return len(finals)

    def start() -> WorkerProcess:
        return WorkerProcess(queue, "--concurrency", "4", PYTHONPATH=str(HERE))

    with queue:
        jobs = queue.enqueue_many([work.call(file=str(record), seconds=BODY_S) for _ in range(JOBS)])
        workers = [start(), start()]
        try:
            for _ in range(KILLS):
                victim = workers.pop(0)
                # Only a worker with a body in its hands is worth killing; each gets a random moment of its life.
                if look() < JOBS:
                    wait_until(lambda pid=victim.pid: f" {pid} start " in _text(record), 30, "a body has begun")
                time.sleep(rng.uniform(0, 0.25))  # the moment of the kill, not a wait
                victim.process.send_signal(signal.SIGKILL)
                victim.process.wait()
                deaths[victim.pid] = time.monotonic()
                victim.wait()
                workers.append(start())
                look()
            wait_until(lambda: look() == JOBS, 60, "all jobs are final")
        finally:
            for worker in workers:
                worker.stop()
                deaths[worker.pid] = time.monotonic()
        look()

        rows = {row.id: row for row in queue.ledger.find(_all())}

    assert set(rows) == {job.id for job in jobs}, "a job is lost"
    assert {row.state for row in rows.values()} == {State.SUCCEEDED}

    spans: dict[str, list[Span]] = defaultdict(list)
    for span in read_spans(record, deaths):
        spans[span.job_id].append(span)
    assert set(spans) == set(rows), "a job has succeeded and never ran"
    for job_id, of_job in spans.items():
        of_job.sort(key=lambda span: span.began)
        for one, other in itertools.pairwise(of_job):
            assert one.until <= other.began, f"two owners at once: {one} and {other}"
        assert [span.attempt for span in of_job] == sorted({span.attempt for span in of_job})
        assert of_job[-1].ended, f"{job_id} has succeeded and its last body never ended"
    cut_off = sum(not span.ended for of_job in spans.values() for span in of_job)
    assert cut_off >= KILLS // 2, "the kills hit no bodies: this test proves nothing"


def _text(record: Path) -> str:
    return record.read_text() if record.exists() else ""


def _all():
    from penstock.job.models import JobQuery

    return JobQuery(limit=JOBS + 1)
