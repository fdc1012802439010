"""A node of a pipeline says how the attempt ends, and a failed run is requeued with other inputs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from penstock import JobQueue
from penstock.core.config import Config

pytest.importorskip("flowerpower")

GRAPH = """
from pathlib import Path
from penstock import Discard, RetryLater, Snooze

ASKS = {"later": lambda: RetryLater("1h", "closed"), "snooze": lambda: Snooze("10ms", "no file"),
        "discard": lambda: Discard("gone"), "error": lambda: ConnectionResetError("cut")}

def source(ask: str, mark: str, times: int) -> int:
    file = Path(mark)
    count = len(file.read_text()) if file.exists() else 0
    if count < times:
        file.write_text("x" * (count + 1))
        raise ASKS[ask]()
    return count

def report(source: int) -> int:
    return source + 1
"""


@pytest.fixture(scope="module")
def queue(tmp_path_factory) -> Iterator[JobQueue]:
    root: Path = tmp_path_factory.mktemp("graphs")
    plain, flow = root / "plain", root / "flow"
    for file, text in {
        plain / "graph.py": GRAPH,
        flow / "pipelines" / "graph_flow.py": GRAPH,
        flow / "conf" / "project.yml": "name: flow\n",
        flow / "conf" / "pipelines" / "graph_flow.yml": (
            "run:\n  final_vars: [report]\n  executor: {type: synchronous}\n"
            "  retry: {max_retries: 2, retry_delay: 60}\n"
        ),
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    config = Config(projects=("plain", "flow"), backend="inline://", ledger="memory://")
    with JobQueue(config=config, root=root) as queue:
        yield queue


@pytest.fixture(params=["graph", "graph_flow"])
def run(request, queue, tmp_path):
    def run(ask: str, times: int = 1, **options):
        more = {"final_vars": ["report"]} if request.param == "graph" else {}
        inputs = {"ask": ask, "mark": str(tmp_path / "mark"), "times": times}
        return queue.enqueue_pipeline(request.param, inputs=inputs, **more, **options)

    return run


def test_a_node_that_snoozes_spends_nothing(run):
    job = run("snooze", 2, max_attempts=1)
    assert job.result(60) == {"report": 3}
    assert (job.job.errors, job.job.attempt) == (0, 3)


def test_a_node_that_asks_for_later_is_tried_again_then(run, queue):
    job = run("later", max_attempts=2)
    assert (job.state, job.job.errors, job.job.error.node) == ("retrying", 1, "source")
    assert (job.scheduled_at - queue.now()).total_seconds() > 3500


def test_a_node_that_discards_ends_the_run(run):
    job = run("discard", max_attempts=5)
    assert (job.state, job.job.reason, job.job.error.message) == ("failed", "error", "gone")


def test_a_node_s_error_is_counted_by_its_class(run):
    job = run("error", 9, retry_on={ConnectionError: {"max_attempts": 3, "backoff": "10ms"}}, max_attempts=1)
    assert (job.wait(60).state, job.job.attempt) == ("failed", 3)


def test_a_failed_run_is_requeued_with_other_inputs(run, queue):
    failed = run("discard", max_attempts=1)
    again = queue.requeue(failed.id, inputs={"times": 0})
    assert again.result(60) == {"report": 2}
    assert [letter.id for letter in queue.dead_letters() if letter.id == failed.id] == []


@pytest.mark.parametrize("how", [{"executor": "threadpool"}, {"async_driver": True}])
def test_a_node_asks_on_every_driver(queue, tmp_path, how):
    inputs = {"ask": "snooze", "mark": str(tmp_path / "mark"), "times": 1}
    job = queue.enqueue_pipeline("graph", inputs=inputs, final_vars=["report"], max_attempts=1, **how)
    assert (job.result(60), job.job.errors) == ({"report": 2}, 0)
