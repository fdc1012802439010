"""`penstock worker` in several processes, and before a server answers: what a shell or a supervisor sees."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import JobQueue, task
from penstock.core.exceptions import BackendUnavailableError, LedgerUnavailableError
from penstock.job.models import WorkerInfo
from penstock.processes import shares
from penstock.testing.harness import wait_until

TASKS = """
import os, time
from pathlib import Path
from penstock import task

@task(name="several.hold")
def hold(gate: str) -> int:
    while not Path(gate).exists():
        time.sleep(0.01)
    return os.getpid()

@task(name="several.nap")
def nap(seconds: float) -> int:
    time.sleep(seconds)
    return os.getpid()

@task(name="several.stall")
def stall() -> None:
    from penstock.worker import Worker

    Worker._force = lambda worker: time.sleep(60)  # what the main thread is to do at a second signal
    time.sleep(60)
"""
NOBODY = "127.0.0.1:1"
"""Port 1 is served nowhere: a connection is refused at once."""


@task(name="several.hold")
def hold(gate: str) -> int:
    """Only the name and the signature of what `TASKS` has."""
    raise NotImplementedError


@task(name="several.nap")
def nap(seconds: float) -> int:
    """As `hold`."""
    raise NotImplementedError


@task(name="several.stall")
def stall() -> None:
    """As `hold`."""
    raise NotImplementedError


class Shop:
    """A project, its queue, and its worker commands."""

    def __init__(self, folder: Path) -> None:
        (folder / "shop.py").write_text(TASKS)
        (folder / "penstock.toml").write_text('tasks = ["shop"]\n[worker]\ngrace = "10s"\n[lease]\nttl = "5s"\n')
        self.folder = folder
        self.queue = JobQueue(root=folder)
        self.started: list[subprocess.Popen[str]] = []

    def worker(self, *words: str, concurrency: int = 1) -> subprocess.Popen[str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "penstock", "worker", f"--concurrency={concurrency}", *words],
                cwd=self.folder, env=kept, text=True, start_new_session=True,
                stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )
        )  # fmt: skip
        return self.started[-1]

    def ready(self, count: int) -> list[WorkerInfo]:
        """Wait until the ledger lists so many workers that live, and return them."""
        listed = lambda: [w for w in self.queue.workers() if alive(w.pid)]  # noqa: E731
        wait_until(lambda: len(listed()) >= count, 30, f"{count} workers are ready")
        return listed()

    def held(self, count: int) -> list[str]:
        """Enqueue jobs that wait for `open_gate`, and wait until all run."""
        jobs = self.queue.enqueue_many([hold.call(gate=str(self.gate)) for _ in range(count)])
        wait_until(lambda: self.queue.counts().get("running") == count, 30, f"{count} jobs run")
        return [job.id for job in jobs]

    @property
    def gate(self) -> Path:
        return self.folder / "gate"


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=40)
    return process.returncode, out, err


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.gate.touch()
    for process in made.started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)
    made.queue.close()


# -- several processes ----------------------------------------------------------------------------------------------


def test_several_processes_are_several_workers_and_one_sigterm_drains_them_all(shop):
    parent = shop.worker("--processes", "2")
    assert parent.pid not in {worker.pid for worker in shop.ready(2)}
    shop.held(2)
    parent.terminate()
    wait_until(lambda: "SIGTERM" not in pending(parent.pid), what="the signal is seen")
    shop.gate.touch()
    assert ended(parent)[0] == 0
    assert shop.queue.counts() == {"succeeded": 2}
    assert shop.queue.workers() == []


def test_ctrl_c_in_a_terminal_counts_once(shop):
    parent = shop.worker("--processes", "2")
    shop.ready(2)
    shop.held(2)
    os.killpg(parent.pid, signal.SIGINT)  # what a terminal does
    with pytest.raises(TimeoutError):
        wait_until(lambda: shop.queue.counts() != {"running": 2}, 0.7)
    shop.gate.touch()
    assert ended(parent)[0] == 0
    assert shop.queue.counts() == {"succeeded": 2}


def test_a_second_signal_makes_all_processes_leave_and_hand_their_jobs_back(shop):
    parent = shop.worker("--processes", "2")
    shop.ready(2)
    shop.held(2)
    parent.terminate()
    wait_until(lambda: "SIGTERM" not in pending(parent.pid), what="the signal is seen")
    parent.terminate()
    assert ended(parent)[0] == 143
    assert shop.queue.ledger.backlog()[1] == 0
    assert {job.crashes for job in (handle.job for handle in shop.queue.jobs())} == {0}


def test_the_processes_leave_when_their_parent_is_killed(shop):
    parent = shop.worker("--processes", "2")
    pids = [worker.pid for worker in shop.ready(2)]
    shop.held(2)
    parent.kill()
    wait_until(lambda: not any(map(alive, pids)), 10, "no process is left")


def test_a_process_that_dies_is_replaced_and_it_is_said_so(shop):
    parent = shop.worker("--processes", "2")
    first = {worker.pid for worker in shop.ready(2)}
    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not alive(victim))
    assert len(first & {worker.pid for worker in shop.ready(2)}) == 1
    parent.terminate()
    code, _, err = ended(parent)
    assert code == 0
    assert f"process {victim} died of SIGKILL; another takes its place in 0.5 s" in err


def test_a_start_that_cannot_succeed_is_given_up_with_its_exit_code(shop):
    code, _, err = ended(shop.worker("--processes", "2", "--url", f"huey+redis://{NOBODY}", "--connect-timeout", "0"))
    assert code == 4
    assert "ended with exit code 4 before it was ready; giving up" in err


def test_processes_that_always_die_at_their_start_are_given_up(shop):
    (shop.folder / "shop.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    code, _, err = ended(shop.worker("--processes", "2"))
    assert code == 137
    assert err.count("another takes its place") <= 5


def test_a_burst_ends_when_all_processes_are_done(shop):
    shop.queue.enqueue_many([nap.call(seconds=0.1) for _ in range(8)])
    assert ended(shop.worker("--processes", "2", "--burst"))[0] == 0
    assert shop.queue.counts() == {"succeeded": 8}


def test_max_jobs_is_the_number_of_all_processes_together(shop):
    shop.queue.enqueue_many([nap.call(seconds=0.01) for _ in range(8)])
    assert ended(shop.worker("--processes", "2", "--max-jobs", "5"))[0] == 0
    assert shop.queue.counts() == {"succeeded": 5, "queued": 3}


def test_a_number_of_jobs_is_divided_without_rest():
    assert shares(5, 2) == [3, 2]
    assert shares(2, 4) == [1, 1]
    assert shares(None, 2) == [None, None]


def test_what_processes_write_as_json_stays_json(shop):
    _, out, _ = ended(shop.worker("--processes", "3", "--burst", "--json"))
    events = [json.loads(line) for line in out.splitlines()]
    assert events[0]["event"] == "started"
    assert len(events[0]["pids"]) == 3
    assert sorted(event["event"] for event in events[1:]) == ["ended"] * 3 + ["ready"] * 3


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--processes", "0"], 2, "--processes takes a number over 0"),
        (["--processes", "2", "--url", "inline://"], 6, "2 processes would get no job"),
        (["--processes", "2", "--ledger", "memory://"], 3, "a ledger that they can share"),
    ],
)
def test_several_processes_are_refused_where_they_make_no_sense(shop, words, code, told):
    found, _, err = ended(shop.worker(*words))
    assert found == code
    assert told in err


def pending(pid: int) -> set[str]:
    """Name the signals that a process has been sent and has not looked at."""
    status = Path(f"/proc/{pid}/status").read_text()
    masks = [int(line.split()[1], 16) for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
    return {number.name for number in signal.Signals if any(mask >> (number - 1) & 1 for mask in masks)}


# -- before a server answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "what"),
    [(["--url", f"huey+redis://{NOBODY}"], "engine"), (["--ledger", f"redis://{NOBODY}"], "ledger")],
)
def test_a_worker_tries_again_and_then_says_what_did_not_answer(shop, words, what):
    code, _, err = ended(shop.worker(*words, "--connect-timeout", "1s"))
    assert code == 4
    assert f"the {what} does not answer, trying again in 0.5 s" in err
    assert f"the {what} did not answer for 1 s" in err.splitlines()[-2]


def test_an_engine_that_never_answers_is_told_as_json(shop):
    code, _, err = ended(shop.worker("--url", f"huey+redis://{NOBODY}", "--connect-timeout", "0", "--json"))
    assert code == 4
    assert json.loads(err.splitlines()[-1])["error"]["type"] == "BackendUnavailableError"


@pytest.mark.parametrize("words", [["--url", f"huey+redis://{NOBODY}"], ["--ledger", f"redis://{NOBODY}"]])
def test_sigterm_ends_the_waiting_at_once(shop, words):
    process = shop.worker(*words)
    assert "trying again" in process.stderr.readline()
    sent = time.monotonic()
    process.terminate()
    code, _, err = ended(process)
    assert code == 0
    assert time.monotonic() - sent < 3
    assert "it was never ready" in err


def test_a_second_signal_hands_jobs_back_although_the_main_thread_never_comes_to_it(shop):
    process = shop.worker()
    shop.ready(1)
    job = shop.queue.enqueue(stall)
    wait_until(lambda: job.refresh().state == "running", 30, "the job runs")
    process.terminate()
    time.sleep(0.2)  # of two signals that come at once the kernel delivers one
    process.terminate()
    assert ended(process)[0] == 143
    assert (job.refresh().state, job.job.errors, job.job.crashes) == ("queued", 0, 0)


def test_a_wrong_setting_is_not_tried_again(shop):
    code, _, err = ended(shop.worker("--url", "rabbit://127.0.0.1"))
    assert code == 3
    assert "trying again" not in err


def test_an_embedded_worker_fails_at_once(tmp_path):
    with JobQueue(f"huey+redis://{NOBODY}", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError), queue.worker():
            pass
        assert time.monotonic() - began < 3


def test_an_embedded_worker_waits_for_as_long_as_it_is_told(tmp_path):
    with JobQueue(ledger=f"redis://{NOBODY}", root=tmp_path) as queue:
        began = time.monotonic()
        with pytest.raises(LedgerUnavailableError), queue.worker(connect_timeout=0.7):
            pass
        assert time.monotonic() - began >= 0.7
