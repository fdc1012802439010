"""What the rules of control cost a job that uses none of them: strikes, pauses, keys, turns, limits, successors."""

from __future__ import annotations

import statistics
import time
from pathlib import Path

JOBS = 1500
PAIRS = 15


def cpu_us(path: Path, *, controlled: bool) -> float:
    """Return the CPU time of one job, from `enqueue_many` to its end, with all that may hold a job back or without."""
    from penstock import JobQueue
    from penstock.admission import Admission
    from penstock.sources.decorators import task

    @task(name="bench_control")
    def noop(number: int) -> None:
        pass

    with JobQueue(f"huey+sqlite:///{path}/queue.db", ledger=f"sqlite:///{path}/ledger.db", root=path) as queue:
        execution = queue.execution
        if not controlled:
            execution.admission = Admission()
            execution._successors = None
            queue.steering.rules = lambda: ()
        began = time.process_time()
        queue.enqueue_many([noop.call(number) for number in range(JOBS)])
        worker = queue.worker(concurrency=4, scheduler=False)
        worker.start()
        while execution.counts["returned"] < JOBS:
            time.sleep(0.005)
        worker.stop()
        return (time.process_time() - began) / JOBS * 1e6


def medians(folder) -> tuple[float, float, float]:
    """Return the CPU time of a job without and with, in us, and the median of the ratios of neighbours."""
    pairs: list[tuple[float, float]] = []
    for number in range(PAIRS):
        took: dict[bool, float] = {}
        for controlled in (False, True) if number % 2 else (True, False):
            with folder() as path:
                took[controlled] = cpu_us(path, controlled=controlled)
        pairs.append((took[False], took[True]))
    without, having = (statistics.median(pair[i] for pair in pairs) for i in range(2))
    return without, having, statistics.median(b / a for a, b in pairs)
