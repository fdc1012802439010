"""`penstock worker --health-port`: what a probe is answered by real workers, one or several."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from silent_proxy import SilentProxy

from penstock import JobQueue, health, task
from penstock.core.config import WorkerConfig
from penstock.job.models import WorkerInfo
from penstock.testing import services
from penstock.testing.harness import not_here, short_config, wait_until
from penstock.testing.server import locked

TASKS = """
import time
from pathlib import Path
from penstock import task

@task(name="probed.hold")
def hold(gate: str) -> None:
    while not Path(gate).exists():
        time.sleep(0.01)
"""


@task(name="probed.hold")
def hold(gate: str) -> None:
    """Only the name and the signature of what `TASKS` has."""
    raise NotImplementedError


class Probed:
    """A worker command with a health port, and its project."""

    def __init__(self, folder: Path, *words: str, url: str = "huey+sqlite:///queue.db") -> None:
        (folder / "shop.py").write_text(TASKS)
        (folder / "penstock.toml").write_text(
            f'tasks = ["shop"]\nbackend = "{url}"\nnamespace = "probed{folder.name[-6:]}"\n'
            '[engines.huey]\nanswer_timeout_s = 1\n[worker]\ngrace = "20s"\nhealth_patience = "1s"\n'
        )
        self.gate = folder / "gate"
        self.queue = JobQueue.from_config(folder)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "worker", "--health-port", "0", "--concurrency", "1", *words],
            cwd=folder, env=kept, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        )  # fmt: skip
        stderr: Any = self.process.stderr
        found = re.search(r"http://127\.0\.0\.1:\d+", stderr.readline())
        assert found is not None
        self.url = found[0]
        self._rest = threading.Thread(target=stderr.read)
        self._rest.start()

    def ask(self, path: str) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def wait(self, path: str, status: int, timeout_s: float = 30) -> dict[str, Any]:
        wait_until(lambda: self.ask(path)[0] == status, timeout_s, f"{path} answers {status}")
        return self.ask(path)[1]

    def close(self) -> None:
        self.gate.touch()
        if self.process.poll() is None:
            self.process.terminate()
        self.process.wait(30)
        self._rest.join(10)
        stderr: Any = self.process.stderr
        stderr.close()
        self.queue.close()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Any]:
    started: list[Probed] = []

    def begin(*words: str, **options: str) -> Probed:
        started.append(Probed(tmp_path, *words, **options))
        return started[-1]

    yield begin
    for one in started:
        one.close()


def test_a_worker_is_ready_while_it_works_and_not_while_it_drains(start):
    worker = start()
    told = worker.wait("/ready", 200)
    assert (told["schema"], told["phase"], told["concurrency"]) == ("penstock.health/1", "working", 1)
    assert {sign["name"]: sign["ok"] for sign in told["signs"]} == dict.fromkeys(
        ("loop", "engine", "ledger", "claims"), True
    )
    assert worker.ask("/live")[0] == 200
    assert worker.ask("/")[0] == 404
    job = worker.queue.enqueue(hold, gate=str(worker.gate))
    wait_until(lambda: job.state == "running", 20)
    worker.process.terminate()
    assert worker.wait("/ready", 503)["phase"] == "draining"
    assert worker.ask("/live")[0] == 200
    worker.gate.touch()
    assert worker.process.wait(20) == 0


def test_the_parent_of_several_processes_answers_for_all(start):
    parent = start("--processes", "2")
    told = parent.wait("/ready", 200)
    pids = [member["pid"] for member in told["processes"]]
    assert len(set(pids)) == 2
    assert told["pid"] == parent.process.pid
    os.kill(pids[0], signal.SIGKILL)
    parent.wait("/ready", 503)
    assert parent.ask("/live")[0] == 200
    assert pids[0] not in [member["pid"] for member in parent.wait("/ready", 200)["processes"]]


def test_a_process_that_is_frozen_makes_its_parent_neither_live_nor_ready(start):
    parent = start("--processes", "2")
    pid = parent.wait("/ready", 200)["processes"][0]["pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        parent.wait("/live", 503)
        assert parent.ask("/ready")[0] == 503
    finally:
        os.kill(pid, signal.SIGCONT)
    parent.wait("/live", 200)


@pytest.mark.servers
def test_a_broker_that_is_gone_leaves_a_worker_live_and_not_ready(start):
    if (why_not := not_here("{redis}")) is not None:
        pytest.skip(why_not)
    proxy = SilentProxy(services.url("redis"))
    worker = start(url=f"huey+{proxy.url}")
    worker.wait("/ready", 200)
    proxy.close()
    proxy.fall_silent()
    told = worker.wait("/ready", 503)
    assert [sign["name"] for sign in told["signs"] if not sign["ok"]] == ["engine"]
    assert worker.ask("/live")[0] == 200


@task(name="probed.block")
async def block(gate: str) -> None:
    """Block the loop, as an async body must not."""
    while not Path(gate).exists():  # noqa: ASYNC240 - a stat, within a test
        time.sleep(0.01)  # noqa: ASYNC251 - what is tested


@pytest.mark.servers
def test_a_ledger_that_takes_no_writes_leaves_a_worker_live_and_not_ready(start, tmp_path):
    worker = start()
    worker.wait("/ready", 200)
    lives: list[int] = []
    with locked(tmp_path / ".penstock" / "ledger.db"):
        wait_until(lambda: lives.append(worker.ask("/live")[0]) or worker.ask("/ready")[0] == 503, 30)
        signs = {sign["name"]: sign for sign in worker.ask("/ready")[1]["signs"]}
        assert "has taken no write for" in signs["ledger"]["told"]
        until = time.monotonic() + 12  # over the next scan of the folders, which writes in the main thread
        while time.monotonic() < until:
            lives.append(worker.ask("/live")[0])
            time.sleep(0.2)
    assert set(lives) == {200}
    worker.wait("/ready", 200)


def test_an_async_body_that_blocks_its_loop_is_seen(tmp_path):
    if (why_not := not_here("saq+{redis}")) is not None:
        pytest.skip(why_not)
    config = short_config(
        backend=f"saq+{services.url('redis')}", ledger="sqlite:///ledger.db", namespace=f"probed{tmp_path.name[-6:]}",
        worker=WorkerConfig(health_patience="700ms"),
    )  # fmt: skip
    with JobQueue(config=config, root=tmp_path) as queue, queue.worker() as worker:
        wait_until(lambda: worker.vitals.health().ready, 10)
        queue.enqueue(block, gate=str(tmp_path / "gate"))
        wait_until(lambda: "the engine's loop has not turned" in worker.vitals.health().trouble, 20)
        assert not worker.vitals.health().live
        (tmp_path / "gate").touch()
        wait_until(lambda: worker.vitals.health().live, 20)


def test_a_port_that_is_taken_is_refused_with_its_name(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = subprocess.run(
            [sys.executable, "-m", "penstock", "worker", "--burst", f"--health-port={port}"],
            cwd=tmp_path, capture_output=True, text=True, timeout=60,
        )  # fmt: skip
    assert done.returncode == 3
    assert f"the health port 127.0.0.1:{port} cannot be had" in done.stderr


def test_the_doctor_tells_what_a_worker_finds_wrong_with_itself(tmp_path):
    with JobQueue(ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        now = queue.now()
        queue.ledger.tell_worker(
            WorkerInfo(
                id="there:1:abc", host=os.uname().nodename, pid=1, backend=queue.config.backend, queues=("default",),
                concurrency=1, started_at=now, seen_at=now, claimed_at=now, trouble="engine: has not answered",
            )
        )  # fmt: skip
        found = {check.name: check for check in health.checks(queue)}
    assert found["worker there:1:abc"].level == "warning"
    assert found["worker there:1:abc"].told == "engine: has not answered"
    assert "last claim" in found["workers"].told
