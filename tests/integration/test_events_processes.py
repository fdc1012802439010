"""What a job tells whoever follows it, while it runs in other processes, and while those die."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from penstock import JobQueue, LogLine, ProgressChange, StateChange, task
from penstock.job.events import JobEvent
from penstock.testing.harness import WorkerProcess, short_config, wait_until

TASKS = """
import time
from pathlib import Path
from penstock import Run, task

@task(name="told.work", isolation="process", max_crashes=5)
def work(gate: str, run: Run) -> str:
    print(f"try {run.attempt} begins")
    run.progress, run.message = 0.5, f"half of try {run.attempt}"
    while not Path(gate).exists():
        time.sleep(0.01)
    print(f"try {run.attempt} ends")
    return "done"
"""


@task(name="told.work", isolation="process", max_crashes=5)
def work(gate: str) -> str:
    """Only the name and the signature of what `TASKS` has."""
    raise NotImplementedError


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    (tmp_path / "told.py").write_text(TASKS)
    config = replace(short_config(backend="huey+sqlite:///queue.db", ledger="sqlite:///ledger.db"), tasks=("told",))
    with JobQueue(config=config, root=tmp_path) as queue:
        queue.has_loaded([])  # the tasks are the workers': here they are known by name
        yield queue


def test_a_job_that_outlives_its_worker_is_followed_to_its_end(queue: JobQueue, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    first = WorkerProcess(queue)
    job = queue.enqueue(work, str(gate))
    heard: list[JobEvent] = []
    follower = threading.Thread(target=lambda: heard.extend(job.events(timeout=90)), daemon=True)
    follower.start()
    wait_until(lambda: job.progress == 0.5, 30, "the first try is under way")
    os.kill(first.pid, signal.SIGKILL)
    second = WorkerProcess(queue)
    try:
        wait_until(lambda: job.refresh().message == "half of try 2", 60, "the second try is under way")
        gate.touch()
        follower.join(60)
    finally:
        second.terminate()
        second.wait()
        first.wait()
    assert [str(event.event) for event in heard if isinstance(event, StateChange)] == [
        "enqueue", "claim", "rescue", "claim", "succeed",
    ]  # fmt: skip
    assert [event.text for event in heard if isinstance(event, LogLine)] == [
        "try 1 begins", "try 2 begins", "try 2 ends",
    ]  # fmt: skip
    assert "half of try 2" in [event.message for event in heard if isinstance(event, ProgressChange)]
    assert isinstance(heard[-1], StateChange)
