"""Pipelines in warm child processes, as a worker runs them."""

from __future__ import annotations

import os
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from penstock.body import Ended, Interrupt
from penstock.core.config import Config
from penstock.core.exceptions import InvalidJobError
from penstock.job.lifecycle import State
from penstock.job.models import Job, LogLine, NodeRun, Progress, Report, new_job_id
from penstock.payload import encode_spec
from penstock.results import ResultStore
from penstock.runners.isolation import ChildPool
from penstock.runners.pipeline import PipelineRunner, pipeline_call

pytest.importorskip("flowerpower")

SALES = """
import datetime as dt
from decimal import Decimal
from pathlib import Path
import logging
import pandas as pd
from loguru import logger

def raw(path: str) -> pd.DataFrame:
    return pd.read_csv(path)

def cleaned(raw: pd.DataFrame, min_qty: int) -> pd.DataFrame:
    logger.debug("in detail")
    logger.info("cleaning {} rows", len(raw))
    logging.getLogger("shop").info("by logging")
    print("by print")
    return raw[raw.qty >= min_qty]

def total_by_product(cleaned: pd.DataFrame) -> pd.DataFrame:
    return cleaned.assign(total=cleaned.qty * cleaned.price).groupby("product", as_index=False).total.OPERATION()

def rows(cleaned: pd.DataFrame) -> int:
    return len(cleaned)

def typed(day: dt.date, amount: Decimal) -> str:
    return f"{type(day).__name__} {type(amount).__name__} {day:%Y%m%d} {amount + 1}"

def of_frame(table: pd.DataFrame) -> int:
    return int(table.qty.sum())
"""
FILES = {
    "conf/project.yml": "name: PROJECT\n",
    "conf/pipelines/sales.yml": (
        "run:\n  inputs: {path: data/sales.csv, min_qty: 1}\n  final_vars: [total_by_product, rows]\n"
        "  executor: {type: synchronous}\n  retry: {max_retries: 3, retry_delay: 60}\n"
    ),
    "conf/pipelines/flaky.yml": (
        "run:\n  final_vars: [third]\n  cache: true\n  executor: {type: synchronous}\n"
        "  retry: {max_retries: 3, retry_delay: 60}\n"
    ),
    "conf/pipelines/items.yml": "run: {final_vars: [total], executor: {type: threadpool, max_workers: 2}}\n",
    "conf/pipelines/looped.yml": "run: {final_vars: [c], executor: {type: synchronous}}\n",
    "conf/pipelines/rayed.yml": "run: {final_vars: [total], executor: {type: ray}}\n",
    "conf/pipelines/tracked.yml": "run: {final_vars: [one], with_adapter: {mlflow: true}}\n",
    "pipelines/sales.py": SALES,
    "pipelines/flaky.py": (
        "from pathlib import Path\n"
        "def first(marker: str) -> int:\n    Path(marker + '.first').open('a').write('x')\n    return 1\n"
        "def second(first: int) -> int:\n    return first + 1\n"
        "def third(second: int, marker: str) -> int:\n"
        "    path = Path(marker)\n"
        "    path.open('a').write('x')\n"
        "    if len(path.read_text()) < 2:\n        raise ConnectionError('the service is down')\n"
        "    return second + 1\n"
    ),
    "pipelines/items.py": (
        "from hamilton.htypes import Collect, Parallelizable\n"
        "def item(n: int) -> Parallelizable[int]:\n    yield from range(n)\n"
        "def square(item: int) -> int:\n    return item * item\n"
        "def total(square: Collect[int]) -> int:\n    return sum(square)\n"
    ),
    "pipelines/rayed.py": "def total() -> int:\n    return 1\n",
    "pipelines/tracked.py": "def one() -> int:\n    return 1\n",
    "pipelines/slow.py": "import time\ndef done(seconds: float) -> int:\n    time.sleep(seconds)\n    return 1\n",
    "pipelines/looped.py": (
        "def a(b: int) -> int:\n    return b\ndef b(a: int) -> int:\n    return a\n"
        "def c(a: int) -> int:\n    return a\n"
    ),
    "pipelines/broken.py": "import no_such_module_here\n",
    "pipelines/extra.py": "def twice(rows: int) -> int:\n    return rows * 2\n",
    "data/sales.csv": "product,qty,price\na,1,2.0\na,1,3.0\nb,0,9.0\nc,3,4.0\n",
}
WEATHER = """
import asyncio
def rain(hours: list[float]) -> float:
    return sum(hours)
def wet(rain: float, limit: float = 1.0) -> bool:
    return rain > limit
"""
SLEEPY = """
import asyncio
async def slept(seconds: float) -> float:
    await asyncio.sleep(seconds)
    return seconds
async def report(slept: float) -> str:
    return f"slept {slept}"
"""


def write_project(root: Path, name: str, operation: str) -> None:
    for path, text in FILES.items():
        file = root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text.replace("PROJECT", name).replace("OPERATION", operation))


class Outcome:
    """How one job ended, and what it reported."""

    def __init__(self, ended: Ended, reports: list[Report], value: Any, job: Job) -> None:
        self.ended = ended
        self.value = value
        self.job = job
        self.lines = [r for r in reports if isinstance(r, LogLine)]
        self.nodes = {r.name: r for r in reports if isinstance(r, NodeRun)}
        progress = [r for r in reports if isinstance(r, Progress) and r.nodes_total is not None]
        self.progress = (progress[-1].nodes_done, progress[-1].nodes_total) if progress else None

    @property
    def error(self) -> str:
        assert self.ended.error is not None, self.ended
        return f"{self.ended.error.type}: {self.ended.error.message}"


class Place:
    """Two FlowerPower projects that differ in one word, a folder of Hamilton modules, and warm children."""

    def __init__(self, root: Path) -> None:
        self.root = root
        write_project(root / "shop", "shop", "sum")
        write_project(root / "twin", "twin", "max")
        (root / "nodes").mkdir()
        (root / "nodes" / "weather.py").write_text(WEATHER)
        (root / "nodes" / "sleepy.py").write_text(SLEEPY)
        self.config = Config(projects=("shop", "twin", "nodes"))
        self.results = ResultStore(root / "results")
        self.pool = ChildPool(results_url=str(root / "results"), cancel_grace_s=0.2)
        self.runner = PipelineRunner()
        self.runner.configure(self.config, root)

    def job(self, name: str, *args: Any, attempt: int = 1, **kwargs: Any) -> Job:
        kwargs.setdefault("project", "nodes" if name in ("weather", "sleepy") else "shop")
        call = pipeline_call(self.config, self.root, name, *args, **kwargs)
        now = datetime.now(UTC)
        return Job(
            id=call.options.job_id or new_job_id(), kind="pipeline", name=name, spec=encode_spec(call.spec),
            state=State.RUNNING, created_at=now, scheduled_at=now, attempt=attempt, errors=attempt - 1,
            max_attempts=call.options.max_attempts or 1,
        )  # fmt: skip

    def perform(
        self, job: Job, *, timeout_s: float | None = 60, interrupt: Interrupt | None = None,
        emit: Callable[[Report], None] = lambda _report: None,
    ) -> Outcome:  # fmt: skip
        reports: list[Report] = []

        def both(report: Report) -> None:
            reports.append(report)
            emit(report)

        interrupt = interrupt or Interrupt()
        try:
            ended = self.pool.run(
                job, key=self.runner.child_key(job), setup=self.runner.child_setup(job), emit=both,
                interrupt=interrupt, timeout_s=timeout_s,
            )  # fmt: skip
        finally:
            interrupt.close()
        return Outcome(ended, reports, self.results.decode(ended.result), job)

    def run(self, name: str, *args: Any, **kwargs: Any) -> Outcome:
        return self.perform(self.job(name, *args, **kwargs))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("place"))
    yield place
    place.pool.close()


# -- FlowerPower ----------------------------------------------------------------------------------------------------


def test_the_value_is_each_final_variable(place):
    value = place.run("sales").value
    assert (value["rows"], value["total_by_product"].total.tolist()) == (3, [5.0, 12.0])


def test_a_given_input_is_added_to_the_projects_own(place):
    assert place.run("sales", inputs={"min_qty": 2}, final_vars=["rows"]).value == {"rows": 1}


def test_dates_and_decimals_arrive_as_what_they_were(place):
    given = {"day": date(2013, 1, 2), "amount": Decimal("1.10")}
    value = place.run("sales", inputs=given, final_vars=["typed"]).value
    assert value == {"typed": "date Decimal 20130102 2.10"}


def test_a_data_frame_arrives_by_its_ref(place):
    pandas = pytest.importorskip("pandas")
    ref = place.results.put(pandas.DataFrame({"qty": [1, 2]}))
    assert place.run("sales", inputs={"table": ref}, final_vars=["of_frame"]).value == {"of_frame": 3}


def test_two_projects_with_the_same_module_names_each_run_their_own(place):
    totals = [place.run("sales", project=name).value["total_by_product"].total.tolist() for name in ("shop", "twin")]
    assert totals == [[5.0, 12.0], [3.0, 12.0]]


def test_further_modules_of_the_project_may_be_named(place):
    assert place.run("sales", additional_modules=["extra"], final_vars=["twice"]).value == {"twice": 6}


def test_every_node_is_told_with_its_time(place):
    nodes = place.run("sales").nodes
    assert {name: (n.state, n.elapsed_s is not None) for name, n in nodes.items()} == dict.fromkeys(
        ("raw", "cleaned", "total_by_product", "rows"), ("succeeded", True)
    )


def test_progress_counts_the_nodes(place):
    assert place.run("sales").progress == (4, 4)


def test_items_of_a_parallel_node_count_as_one(place):
    outcome = place.run("items", inputs={"n": 20})
    assert (outcome.value, outcome.progress) == ({"total": 2470}, (3, 3))


def test_a_process_pool_takes_the_items(place):
    outcome = place.run("items", inputs={"n": 3}, executor_cfg={"type": "processpool", "max_workers": 1})
    assert outcome.value == {"total": 5}, outcome.ended


@pytest.mark.parametrize("text", ["cleaning 4 rows", "by logging", "by print"])
def test_lines_of_loguru_logging_and_print_are_kept(place, text):
    assert [line.text for line in place.run("sales").lines].count(text) == 1


@pytest.mark.parametrize(("level", "count"), [("DEBUG", 2), ("INFO", 1), ("ERROR", 0)])
def test_the_log_level_says_which_lines_of_loguru_are_kept(place, level, count):
    lines = place.run("sales", log_level=level).lines
    assert sum(line.text.startswith("cleaning ") or line.text == "in detail" for line in lines) == count


def test_the_level_of_one_job_is_not_that_of_the_next(place):
    place.run("sales", log_level="ERROR")
    assert "cleaning 4 rows" in [line.text for line in place.run("sales").lines]


# -- failing --------------------------------------------------------------------------------------------------------


def flaky(place: Place, name: str, **kwargs: Any) -> Outcome:
    return place.run("flaky", inputs={"marker": str(place.root / name)}, **kwargs)


def test_the_error_keeps_its_own_type_and_names_its_node(place):
    error = flaky(place, "typed").ended.error
    assert (error.type, error.node, "OSError" in error.bases) == ("ConnectionError", "third", True)


def test_the_failed_node_is_told(place):
    nodes = flaky(place, "told").nodes
    assert (nodes["third"].state, nodes["second"].state) == ("failed", "succeeded")


def test_the_traceback_starts_at_the_node(place):
    error = flaky(place, "trace").ended.error
    assert ("flaky.py" in error.traceback, "hamilton" in error.traceback) == (True, False)


def test_flowerpowers_own_retries_are_off(place):
    flaky(place, "once")
    assert (place.root / "once").read_text() == "x"


def test_an_error_of_a_node_may_be_tried_again(place):
    assert flaky(place, "again").ended.retryable


def test_the_second_attempt_takes_done_nodes_from_the_cache(place):
    first = place.job("flaky", inputs={"marker": str(place.root / "cached")})
    second = place.job("flaky", inputs={"marker": str(place.root / "cached")}, attempt=2, job_id=first.id)
    place.perform(first)
    assert place.perform(second).value == {"third": 3}
    assert (place.root / "cached.first").read_text() == "x"


def test_the_cache_of_a_job_is_deleted_when_it_has_succeeded(place):
    for attempt in (1, 2):
        job = place.job("flaky", inputs={"marker": str(place.root / "gone")}, attempt=attempt, job_id="cache-gone")
        place.perform(job)
    assert list((place.root / "shop" / ".penstock" / "cache").glob("job-cache-gone")) == []


def test_the_cache_of_a_job_that_will_be_tried_again_is_private_and_stays(place):
    place.perform(place.job("flaky", inputs={"marker": str(place.root / "stays")}, job_id="cache-stays"))
    home = place.root / "shop" / ".penstock" / "cache"
    assert ((home / "job-cache-stays").is_dir(), home.stat().st_mode & 0o777) == (True, 0o700)


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("flaky", {}, "marker"),
        ("sales", {"final_vars": ["totl"]}, "no variable 'totl'"),
        ("sales", {"inputs": {"day": "soon", "amount": "1"}, "final_vars": ["typed"]}, "input 'day' is 'soon'"),
        ("looped", {}, "a cycle: "),
        ("broken", {"final_vars": ["x"]}, "fails to import: ModuleNotFoundError: No module named 'no_such_module"),
        ("extra", {}, "has no final_vars"),
        ("rayed", {}, "executor 'ray' needs the package"),
        ("tracked", {}, "with_adapter.mlflow is on, but it cannot be made"),
        ("sales", {"adapters": ["lineage"]}, "no adapter 'lineage'"),
        ("sales", {"additional_modules": ["os"]}, "'os' is no file of project shop"),
    ],
)
def test_what_no_attempt_can_mend_is_not_tried_again(place, name, given, told):
    outcome = place.run(name, **given)
    assert not outcome.ended.retryable
    assert told in outcome.error


def test_the_traceback_of_a_module_that_does_not_import_is_told(place):
    assert "import no_such_module_here" in place.run("broken", final_vars=["x"]).ended.error.traceback


def test_a_missing_input_is_told_in_hamiltons_own_words(place):
    assert "Required input marker not provided for nodes" in place.run("flaky").error


# -- being stopped --------------------------------------------------------------------------------------------------


def test_a_pipeline_past_its_timeout_is_stopped(place):
    job = place.job("slow", inputs={"seconds": 60}, final_vars=["done"])
    begun = time.monotonic()
    outcome = place.perform(job, timeout_s=0.5)
    assert (outcome.ended.how, time.monotonic() - begun < 15) == ("timeout", True)


def test_a_node_that_was_stopped_is_not_done(place):
    outcome = place.perform(place.job("slow", inputs={"seconds": 60}, final_vars=["done"]), timeout_s=0.5)
    assert (outcome.nodes["done"].state, outcome.progress) == ("failed", (0, 1))


def test_a_cancelled_pipeline_is_stopped_at_its_node(place):
    interrupt = Interrupt()

    def cancel_at_node(report: Report) -> None:
        if isinstance(report, NodeRun):
            threading.Thread(target=interrupt.set, args=("cancelled",)).start()

    job = place.job("slow", inputs={"seconds": 60}, final_vars=["done"])
    assert place.perform(job, interrupt=interrupt, emit=cancel_at_node).ended.how == "cancelled"


# -- code ------------------------------------------------------------------------------------------------------------


def test_changed_code_runs_in_a_new_child(place, tmp_path):
    write_project(tmp_path / "moving", "moving", "sum")
    moving = pipeline_place(place, tmp_path)
    before = moving.run("rayed", project="moving", executor_cfg="synchronous").value
    path = tmp_path / "moving" / "pipelines" / "rayed.py"
    path.write_text("def total() -> int:\n    return 22\n")
    after = moving.run("rayed", project="moving", executor_cfg="synchronous").value
    assert (before, after) == ({"total": 1}, {"total": 22})


def pipeline_place(place: Place, root: Path) -> Place:
    """The same children, for projects in another folder."""
    other = object.__new__(Place)
    other.root, other.config = root, Config(projects=("moving",))
    other.results, other.pool, other.runner = place.results, place.pool, PipelineRunner()
    other.runner.configure(other.config, root)
    return other


# -- Hamilton -------------------------------------------------------------------------------------------------------


def test_plain_modules_run(place):
    outcome = place.run("weather", inputs={"hours": [0.5, 1]}, final_vars=["wet", "rain"])
    assert (outcome.value, outcome.progress) == ({"wet": True, "rain": 1.5}, (2, 2))


def test_an_overridden_node_does_not_run_and_is_not_counted(place):
    outcome = place.run("weather", overrides={"rain": 0.0}, final_vars=["wet"])
    assert (outcome.value, outcome.progress, list(outcome.nodes)) == ({"wet": False}, (1, 1), ["wet"])


def test_async_nodes_run_with_the_async_driver(place):
    outcome = place.run("sleepy", inputs={"seconds": 0.2}, final_vars=["report"], async_driver=True)
    assert (outcome.value, outcome.progress) == ({"report": "slept 0.2"}, (2, 2))


def test_an_async_node_is_told_with_the_time_that_it_took(place):
    outcome = place.run("sleepy", inputs={"seconds": 0.2}, final_vars=["report"], async_driver=True)
    assert outcome.nodes["slept"].elapsed_s >= 0.2


def test_plain_modules_may_be_cached(place):
    outcome = place.run("weather", inputs={"hours": [1.0]}, final_vars=["rain"], cache=True)
    assert outcome.value == {"rain": 1.0}


# -- the worker's side ----------------------------------------------------------------------------------------------


def test_a_project_that_the_worker_does_not_know_is_missing(place):
    stranger = PipelineRunner()
    stranger.configure(Config(projects=("twin",)), place.root)
    assert "knows no project 'shop' (it knows: twin)" in (stranger.missing(place.job("sales")) or "")


def test_one_process_runs_only_one_project(place, monkeypatch):
    monkeypatch.chdir(place.root)
    runner = PipelineRunner()
    runner.configure(place.config, place.root)
    runner._settle_in(place.root / "shop")
    with pytest.raises(InvalidJobError, match="isolation='process'"):
        runner._settle_in(place.root / "twin")


@pytest.mark.slow
def test_a_warm_job_costs_little_above_the_pipelines_own_time(place):
    """Reports a figure; the limit is far above it, because machines that run tests are noisy."""
    took: list[float] = []
    for _ in range(12):
        job = place.job("rayed", executor_cfg="synchronous")
        begun = time.perf_counter()
        outcome = place.perform(job)
        took.append(time.perf_counter() - begun - sum(n.elapsed_s or 0 for n in outcome.nodes.values()))
    print(f"\nwarm job above its nodes: {statistics.median(took[2:]) * 1e3:.1f} ms (pid {os.getpid()})")
    assert statistics.median(took[2:]) < 1.0
