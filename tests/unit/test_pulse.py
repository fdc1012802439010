"""A child whose worker is frozen ends its body; one whose worker lives, or that is idle, does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import child_bodies as bodies
from test_isolation import Bench, call, eventually, is_alive

SILENCE_S = 1.0
WORKER = """
import sys
sys.path.insert(0, {here!r})
import test_isolation as t
from pathlib import Path
bench = t.Bench(Path({folder!r}), silence_s={silence_s})
bench.run(t.call(t.bodies.child_starts_a_program, {mark!r}))
"""


def test_the_body_of_a_frozen_worker_ends_with_all_that_it_started(tmp_path: Path) -> None:
    mark = tmp_path / "program"
    code = WORKER.format(here=str(Path(__file__).parent), folder=str(tmp_path), silence_s=SILENCE_S, mark=str(mark))
    worker = subprocess.Popen([sys.executable, "-c", code])
    try:
        eventually(lambda: mark.exists() and mark.read_text(), within_s=30)
        program = int(mark.read_text())
        child = os.getpgid(program)
        os.kill(worker.pid, signal.SIGSTOP)
        eventually(lambda: not is_alive(child) and not is_alive(program))
    finally:
        worker.kill()
        worker.wait()


def test_a_body_longer_than_that_runs_on_while_its_worker_lives(tmp_path: Path) -> None:
    bench = Bench(tmp_path, silence_s=SILENCE_S)
    ended = bench.run(call(bodies.child_sleeps, str(tmp_path / "mark"), 2 * SILENCE_S))
    bench.pool.close()
    bench.interrupt.close()
    assert ended.how == "returned"


def test_an_idle_child_hears_nothing_for_long_and_stays(tmp_path: Path) -> None:
    bench = Bench(tmp_path, silence_s=SILENCE_S)
    pid = bench.value(call(bodies.child_pid))
    time.sleep(1.5 * SILENCE_S)  # the silence
    assert bench.value(call(bodies.child_pid)) == pid
    bench.pool.close()
    bench.interrupt.close()
