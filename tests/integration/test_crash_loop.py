"""A body that kills its process: it fails when its crash budget is spent, and nobody else pays for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from penstock.job.lifecycle import State
from penstock.testing.harness import WorkerProcess, harness_for, wait_until

TASKS = """
import os, time
from pathlib import Path
from penstock import Run, task

@task(name="loop.dies")
def dies(together: str, run: Run) -> None:
    print(f"last words of attempt {run.attempt}", flush=True)
    if run.attempt == 1:
        while not Path(together).exists():  # until its neighbour runs too
            time.sleep(0.01)
    os._exit(3)

@task(name="loop.neighbour")
def neighbour(together: str, run: Run) -> int:
    Path(together).touch()
    time.sleep(0.5)
    return run.attempt
"""


@pytest.mark.slow
def test_a_body_that_kills_its_worker_spends_its_own_budget_and_not_its_neighbours(tmp_path: Path) -> None:
    (tmp_path / "loop.py").write_text(TASKS)
    harness = harness_for("huey+sqlite:///{folder}/queue.db")(tmp_path)
    workers: list[WorkerProcess] = []

    def keep_one() -> None:
        if not workers or workers[-1].process.poll() is not None:
            workers.append(WorkerProcess(queue, "--concurrency", "2"))

    with harness.queue(f"sqlite:///{tmp_path}/ledger.db", tasks=("loop.py",)) as queue:
        together = str(tmp_path / "together")
        tasks = queue.tasks()
        guilty = queue.enqueue(tasks["loop.dies"], together)
        innocent = queue.enqueue(tasks["loop.neighbour"], together)
        try:
            for job in (guilty, innocent):
                wait_until(lambda j=job: keep_one() or j.refresh().state.final, 60, f"{job.name} is final")
            row = queue.ledger.get(guilty.id)
            assert (row.state, row.reason, row.crashes, row.attempt) == (State.FAILED, "crash_loop", 3, 3)
            assert queue.ledger.get(innocent.id).state is State.SUCCEEDED
            # The worker that had its third try lives on, and tells what it last said.
            assert workers[-1].process.poll() is None
            assert row.error is not None
            assert "last words of attempt 3" in row.error.message
            assert "last words of attempt 3" in [line.text for line in guilty.logs()]
            assert len(workers) == 3
        finally:
            for worker in workers:
                worker.stop()
