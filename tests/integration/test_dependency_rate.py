"""A rate holds over all workers: 50 begin in a second, whoever of four processes takes them."""

from __future__ import annotations

import os
import subprocess
import sys
from bisect import bisect_left
from contextlib import closing
from pathlib import Path

import pytest

from penstock import JobQueue
from penstock.testing.harness import wait_until

JOBS, RATE = 150, 50
TASKS = f"""
import time
from penstock import RateLimit, task

@task
def limited(rate: RateLimit = RateLimit({RATE}, per="1s")) -> float:
    return time.time()
"""


@pytest.mark.slow
def test_fifty_in_a_second_begin_over_four_workers(tmp_path: Path):
    (tmp_path / "limited.py").write_text(TASKS)
    (tmp_path / "penstock.toml").write_text(
        'backend = "huey+sqlite:///queue.db"\nledger = "sqlite:///ledger.db"\ntasks = ["limited.py"]\n'
    )
    command = [sys.executable, "-m", "penstock", "worker", "--concurrency", "4"]
    workers = [
        subprocess.Popen(command, cwd=tmp_path, env=os.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for _ in range(4)
    ]
    try:
        with closing(JobQueue.from_config(tmp_path)) as queue:
            wait_until(lambda: len(queue.workers()) == 4, 60, "four workers")
            task = queue.tasks()["limited"]
            jobs = queue.enqueue_many([task.call() for _ in range(JOBS)])
            wait_until(lambda: queue.counts().get("succeeded") == JOBS, 60, "all jobs")
            began = sorted(job.result(10) for job in jobs)
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait(30)
    most = max(bisect_left(began, at + 1) - number for number, at in enumerate(began))
    # The rate lets them in at most 50 in a second; each begins a moment after that, on a busy machine a longer one.
    assert RATE <= most <= RATE + 5
    assert (JOBS - RATE) / RATE - 0.5 <= began[-1] - began[0] <= 30
