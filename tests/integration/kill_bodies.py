"""The body of the kill test: it tells a file when it begins and when it ends."""

from __future__ import annotations

import os
import time

from penstock import Run, task


def tell(file: str, run: Run, event: str) -> None:
    line = f"{run.job_id} {run.attempt} {os.getpid()} {event} {time.monotonic()}\n".encode()
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


@task(name="kill.work", max_crashes=50)
def work(file: str, run: Run, seconds: float) -> str:
    tell(file, run, "start")
    time.sleep(seconds)
    tell(file, run, "end")
    return run.job_id
