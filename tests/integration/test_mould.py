"""Workers as forks: what a test run leaves behind, and what its workers are told."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.testing import mould
from penstock.testing.harness import wait_until
from penstock.testing.mould import Told

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks are made on Linux only")

STARTER = """
import os, sys, time
from pathlib import Path
from penstock.testing import mould
here = Path(sys.argv[1])
print(mould.start(["worker"], cwd=here, environ=os.environ, output=here / "log").pid, flush=True)
time.sleep(100)
"""


def _gone(pid: int) -> bool:
    return not Path(f"/proc/{pid}").exists()


def test_a_worker_does_not_outlive_a_test_run_that_is_killed(tmp_path):
    run = subprocess.Popen([sys.executable, "-c", STARTER, tmp_path], stdout=subprocess.PIPE, text=True)
    assert run.stdout is not None
    worker = int(run.stdout.readline())
    log = tmp_path / "log"
    wait_until(lambda: log.exists() and "is ready" in log.read_text(), 60, "the worker is ready")
    run.kill()
    run.wait()
    run.stdout.close()
    wait_until(lambda: _gone(worker), 60, "the worker is gone")


def test_a_fork_ends_with_its_own_code_in_its_own_folder(tmp_path):
    environ = {**os.environ, "PENSTOCK_BACKEND": "nothing://"}
    started = mould.start(["worker"], cwd=tmp_path, environ=environ, output=tmp_path / "log")
    assert started.wait(60) == 3
    assert "nothing" in (tmp_path / "log").read_text()
    assert os.environ.get("PENSTOCK_BACKEND") is None


def test_a_fork_that_is_killed_says_by_which_signal(tmp_path):
    started = mould.start(["worker"], cwd=tmp_path, environ=os.environ, output=tmp_path / "log")
    assert started.poll() is None
    started.kill()
    assert started.wait(60) == -9


def test_a_number_that_comes_again_does_not_bring_the_end_of_the_fork_before():
    # Pids are given out again after 32,768 processes on many machines.
    ours, theirs = socket.socketpair()
    with ours, theirs:
        told = Told(ours)
        theirs.sendall(b'{"pid": 7}\n{"pid": 7, "code": 0}\n{"pid": 7}\n')
        assert (told.begun(), told.begun()) == (7, 7)
        assert told.ended(7, 0.0) is None
