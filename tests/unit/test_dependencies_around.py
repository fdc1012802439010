"""What belongs to a worker and not to a task: it surrounds the body of each job, whatever its kind and its place."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import around_bodies as bodies
import pytest
from msgspec.structs import replace

from penstock import (
    Admission,
    AdmissionBlocked,
    ConcurrencyLimit,
    Depends,
    JobQueue,
    Perpetual,
    Retry,
    Runtime,
    TaskArgument,
    Timeout,
    task,
)
from penstock.core.config import Config, WorkerConfig
from penstock.core.exceptions import ConfigError
from penstock.sources.decorators import TASKS
from penstock.testing.harness import WorkerProcess, wait_until

Open = Callable[..., JobQueue]
EVERYWHERE = ("around_bodies:everywhere",)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[str]]:
    monkeypatch.setenv("AROUND_NOTES", str(tmp_path / "notes"))
    return lambda: (tmp_path / "notes").read_text().splitlines()


@pytest.fixture
def opened(tmp_path: Path, told: Any) -> Iterator[Open]:
    for body in (bodies.sync_body, bodies.async_body, bodies.plain_body, bodies.raises):
        TASKS.add(body)
    queues: list[JobQueue] = []

    def open_queue(*dependencies: str, **changes: Any) -> JobQueue:
        config = Config(
            backend=f"huey+sqlite:///{tmp_path}/queue.db",
            ledger=f"sqlite:///{tmp_path}/ledger.db",
            worker=WorkerConfig(dependencies=dependencies),
        )
        queues.append(JobQueue(config=replace(config, **changes), root=tmp_path))
        return queues[-1]

    yield open_queue
    for queue in queues:
        queue.close()


@pytest.mark.parametrize("isolation", ["inline", "process"])
@pytest.mark.parametrize("body", [bodies.sync_body, bodies.async_body], ids=["sync", "async"])
def test_what_a_worker_depends_on_surrounds_bodies_and_shares_what_they_open(opened, told, body, isolation):
    queue = opened(*EVERYWHERE)
    with queue.worker(concurrency=1):
        assert queue.enqueue(body, "acme", key="k", isolation=isolation).result(30) == "k"
    assert told() == [
        "connected", f"begins {body.name} k", "task for acme", "marked", "body", f"ends {body.name}", "disconnected",
    ]  # fmt: skip


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_task_without_dependencies_is_surrounded_too(opened, told, isolation):
    queue = opened("around_bodies:trace")
    with queue.worker(concurrency=1):
        assert queue.enqueue(bodies.plain_body, "acme", more="x", key="k", isolation=isolation).result(30) == "k"
    assert told() == ["connected", "begins around.plain k", "body", "ends around.plain", "disconnected"]


def test_a_command_is_surrounded(opened, told):
    queue = opened(*EVERYWHERE)
    with queue.worker(concurrency=1):
        job = queue.enqueue_command([sys.executable, "-c", "print('hello')"], key="k").wait(30)
    assert job.state == "succeeded"
    assert [line for line in told() if line != "marked"] == [
        "connected", f"begins {job.name} k", "command for None", f"ends {job.name}", "disconnected",
    ]  # fmt: skip


def test_a_pipeline_is_surrounded(opened, told, tmp_path):
    pytest.importorskip("flowerpower")
    for file, text in {
        "conf/project.yml": "name: shop\n",
        "conf/pipelines/sums.yml": "run: {final_vars: [total], executor: {type: synchronous}}\n",
        "pipelines/sums.py": "import around_bodies\n\ndef total() -> str:\n    return around_bodies.within.get()\n",
    }.items():
        (tmp_path / "shop" / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "shop" / file).write_text(text)
    queue = opened("around_bodies:trace", projects=(str(tmp_path / "shop"),))
    with queue.worker(concurrency=1):
        job = queue.enqueue_pipeline("sums", key="k")
        assert job.result(60)["total"] == "k"
    assert told() == ["connected", "begins sums k", "ends sums", "disconnected"]


def test_it_sees_the_error_of_a_body(opened, told):
    queue = opened("around_bodies:trace")
    with queue.worker(concurrency=1):
        assert queue.enqueue(bodies.raises).wait(30).error.type == "KeyError"
    assert told()[2:] == ["failed with KeyError", "ends around.raises", "disconnected"]


def test_a_worker_may_be_given_objects_and_the_next_one_none(opened, told):
    queue = opened()
    with queue.worker(concurrency=1, dependencies={"trace": Depends(bodies.traced)}):
        assert queue.enqueue(bodies.plain_body, key="k").result(30) == "k"
    with queue.worker(concurrency=1):
        assert queue.enqueue(bodies.plain_body, key="l").result(30) == "nothing"


def test_objects_do_not_reach_a_child_and_its_job_says_so(opened, told):
    queue = opened()
    with queue.worker(concurrency=1, dependencies={"trace": bodies.trace}):
        job = queue.enqueue(bodies.plain_body, isolation="process").wait(30)
    assert job.state == "failed"
    assert "[worker] dependencies" in job.error.message


def test_a_worker_dependency_that_raises_fails_the_job_and_is_named(opened):
    def needs(day: str = TaskArgument()) -> None: ...

    queue = opened()
    with queue.worker(concurrency=1, dependencies={"needs": Depends(needs)}):
        job = queue.enqueue(bodies.plain_body).wait(30)
    assert job.state == "failed"
    assert "the worker's dependency 'needs'" in job.error.traceback


def test_a_worker_may_admit_jobs_later(opened, told):
    is_open: list[bool] = []

    class Hours(Admission):
        def admit(self, job: Any, argument: Any) -> None:
            if not is_open:
                raise AdmissionBlocked("closed", retry_delay="50ms")

    queue = opened()
    with queue.worker(concurrency=1, dependencies={"hours": Hours()}):
        job = queue.enqueue(bodies.plain_body)
        wait_until(lambda: job.state == "blocked", what="that it waits")
        is_open.append(True)
        assert job.wait(30).state == "succeeded"
    assert job.job.errors == 0


@pytest.mark.parametrize(
    "wrong", [Timeout("1s"), Retry(2), Perpetual("1s"), ConcurrencyLimit(1), bodies.traced], ids=lambda w: str(type(w))
)
def test_what_belongs_to_a_task_or_is_no_dependency_is_refused_before_a_job_is_taken(opened, wrong):
    with (
        pytest.raises(ConfigError, match="a worker's dependency 'wrong'"),
        opened().worker(dependencies={"wrong": wrong}),
    ):
        pass


@pytest.mark.parametrize("place", ["around_bodies:nowhere", "no_such_module:x", "around_bodies:not_one"])
def test_what_is_not_there_is_told_before_a_job_is_taken(opened, place):
    with pytest.raises(ConfigError, match="dependenc"), opened(place).worker():
        pass


def test_a_kind_that_there_may_be_one_of_is_declared_by_one_side(opened):
    @task
    def own(runtime: Runtime = Runtime()) -> None: ...

    queue = opened()
    with queue.worker(concurrency=1, dependencies={"runtime": Runtime()}):
        job = queue.enqueue(own, isolation="inline").wait(30)
    assert "Only one Runtime" in job.error.message


def test_the_command_line_adds_to_what_is_configured(opened, told, tmp_path):
    queue = opened("around_bodies:trace", tasks=("around_bodies",))
    job = queue.enqueue("around.sync", "acme", key="k")
    found = f"{Path(bodies.__file__).parent}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    worker = WorkerProcess(queue, "--burst", "--dependencies", EVERYWHERE[0], PYTHONPATH=found)
    assert worker.wait(60) == 0, worker.output
    assert job.result(1) == "k"
    assert "task for acme" in told()
