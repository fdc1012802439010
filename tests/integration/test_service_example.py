"""`examples/service` as its container runs it: the words of the Dockerfile, without Docker."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import penstock
from penstock import JobQueue
from penstock.job.lifecycle import State
from penstock.testing.harness import wait_until

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


@pytest.fixture
def service(tmp_path: Path) -> Path:
    shutil.copytree(
        ROOT / "examples" / "service", tmp_path / "service", ignore=shutil.ignore_patterns("data", "__pycache__")
    )
    return tmp_path / "service"


def words(instruction: str) -> list[str]:
    """Return the list behind an instruction of the Dockerfile."""
    found = re.search(rf"^ *{instruction} (\[.*\])$", DOCKERFILE, re.MULTILINE)
    assert found is not None
    return json.loads(found[1])


@contextmanager
def running(folder: Path) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """Run the container's command, on any free port for the health check; yield it and the port."""
    command = [word.replace("8700", "0") for word in words('CMD(?! \\["python")')]
    environ = {
        **os.environ, "PENSTOCK_SCHEDULER__SCAN_INTERVAL": "100ms", "PENSTOCK_SCHEDULER__INTERVAL": "50ms",
        "PYTHONPATH": str(Path(penstock.__file__).parents[1]),
    }  # fmt: skip
    environ.pop("TAX_RATE", None)
    log = folder / "log"
    with log.open("w") as file:
        made = subprocess.Popen(
            [sys.executable, "-m", "penstock", *command], cwd=folder, env=environ, stdout=file, stderr=file, text=True
        )
    try:
        wait_until(lambda: "is ready" in log.read_text() or made.poll() is not None, 60, "the worker is ready")
        port = re.search(r"health: http://127\.0\.0\.1:(\d+)/", log.read_text())
        assert port is not None, log.read_text()
        yield made, int(port[1])
        made.send_signal(signal.SIGTERM)
        assert made.wait(30) == 0, log.read_text()
    finally:
        made.kill()
        made.wait()


def healthy(port: int) -> bool:
    check = [word.replace("8700", str(port)) for word in words('CMD(?= \\["python")')]
    return subprocess.run([sys.executable, *check[1:]], timeout=30, stderr=subprocess.DEVNULL).returncode == 0


def test_the_service_runs_its_functions_follows_their_files_and_keeps_its_history(service):
    with JobQueue.from_config(service) as queue:
        with running(service) as (_, port):
            wait_until(lambda: healthy(port), 30, "the health check is content")
            assert "discovered 4 scheduled functions" in (service / "log").read_text()
            assert {s.name for s in queue.schedules.list()} == {
                "disk_usage", "nightly_summary", "empty_trash", "count_files",
            }  # fmt: skip
            (error,) = queue.discovery.errors()
            assert (error.file, error.type, error.line) == ("functions/tax.py", "KeyError", 8)
            assert queue.schedules.get("nightly_summary").plan.timezone == "Europe/Berlin"

            wait_until(lambda: queue.jobs(name="disk_usage", states=("succeeded",)), 60, "a function has run")
            summary = queue.schedules.trigger("nightly_summary")  # has a timeout, so a process of its own
            assert summary.result(60).startswith("1 looks" if len(queue.jobs(name="disk_usage")) == 1 else "")
            assert queue.schedules.trigger("count_files").result(30) > 0

            tax = service / "functions" / "tax.py"
            tax.write_text(tax.read_text().replace('os.environ["TAX_RATE"]', '"0.19"'))
            wait_until(lambda: queue.discovery.errors() == [], 30, "the file is well")
            assert queue.schedules.trigger("tax_return").result(30) == 190.0
            tax.unlink()
            wait_until(lambda: "tax_return" not in {s.name for s in queue.schedules.list()}, 30, "its schedule is gone")

        before = {job.id for job in queue.jobs()}
        with running(service):
            assert before <= {job.id for job in queue.jobs()}
            assert queue.discovery.last().functions == 4
        assert not [job for job in queue.jobs() if job.job.state is State.FAILED]


def test_the_image_runs_as_nobody_in_particular_and_knows_the_words_it_starts_with():
    users = re.findall(r"^USER (\S+)$", DOCKERFILE, re.MULTILINE)
    assert users == ["10001"]
    assert words("ENTRYPOINT") == ["penstock"]
    assert "HEALTHCHECK" in DOCKERFILE
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", DOCKERFILE, re.MULTILINE)
    assert [name for line in copied for name in line.split() if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {f"!{name}" for line in copied for name in line.split()} <= set(ignored)
