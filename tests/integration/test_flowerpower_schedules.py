"""FlowerPower projects whose pipelines say when they run: declared, kept, prefixed, and run by a worker."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from penstock import JobQueue, declared
from penstock.core.config import Config, SchedulerConfig
from penstock.job.schedules import FIRE_AT, SCHEDULE
from penstock.testing.harness import short_config, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"


class Shop:
    """A FlowerPower project, and the queue of the folder that it lies in."""

    def __init__(self, root: Path, name: str = "shop") -> None:
        self.root = root
        self.path = root / name
        self.write("conf/project.yml", f"name: {name}\n")
        self.write("pipelines/sales.py", "def total() -> int:\n    return 1\n")
        self.sales("cron: '0 6 * * *'")
        self.queue = JobQueue("inline://", ledger="memory://", root=root, config=Config(projects=(name,)))

    @property
    def source(self) -> str:
        return f"flowerpower:{self.path}"

    def write(self, file: str, text: str) -> None:
        path = self.path / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        # YAML is read once per change of its time, which two writes in one tick of the clock share.
        os.utime(path, ns=(0, hash(text) % 10**15))

    def sales(self, schedule: str | None) -> None:
        block = "" if schedule is None else f"schedule: {{{schedule}}}\n"
        self.write("conf/pipelines/sales.yml", f"run: {{final_vars: [total]}}\n{block}")

    def declare(self) -> dict[str, str]:
        return declared.declare(self.queue)

    def plan(self, name: str = "sales") -> Any:
        return self.queue.schedules.get(name).plan


@pytest.fixture
def shop(tmp_path: Path) -> Iterator[Shop]:
    made = Shop(tmp_path)
    yield made
    made.queue.close()


def test_a_pipeline_s_schedule_has_its_name_and_place(shop):
    assert shop.declare() == {"sales": "created"}
    plan = shop.plan()
    assert (plan.rule.expr, plan.source) == ("0 6 * * *", shop.source)
    assert plan.where == f"{shop.path / 'conf' / 'pipelines' / 'sales.yml'}:2"
    assert (plan.template.kind, plan.template.name) == ("pipeline", "sales")


def test_flowerpower_is_not_imported_for_it(tmp_path):
    Shop(tmp_path).queue.close()
    code = (
        "import sys; from penstock import JobQueue, declared; from penstock.core.config import Config\n"
        "queue = JobQueue('inline://', ledger='memory://', config=Config(projects=('shop',)))\n"
        "assert declared.declare(queue) == {'sales': 'created'}\n"
        "print([name for name in ('flowerpower', 'hamilton', 'pandas') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, text=True, capture_output=True, check=True)
    assert told.stdout == "[]\n"


def test_options_of_schedule_run_and_job_stand_in_the_block(shop):
    shop.sales("cron: '@daily', timezone: Europe/Berlin, overlap: queue, timeout: 5m, queue: etl, inputs: {day: x}")
    shop.declare()
    plan = shop.plan()
    assert (plan.timezone, plan.overlap) == ("Europe/Berlin", "queue")
    assert (plan.template.queue, plan.template.timeout_s, '"day":"x"' in plan.template.spec) == ("etl", 300.0, True)


def test_a_changed_block_changes_the_schedule_which_stays_paused(shop):
    shop.declare()
    shop.queue.schedules.pause("sales")
    shop.sales("cron: '0 7 * * *'")
    assert shop.declare() == {"sales": "changed"}
    assert shop.queue.schedules.get("sales").pause is not None


def test_a_block_that_changes_while_a_worker_works_is_read_again(tmp_path):
    shop = Shop(tmp_path)
    config = short_config(
        backend=f"huey+sqlite:///{tmp_path}/queue.db", ledger=f"sqlite:///{tmp_path}/ledger.db", projects=("shop",),
        scheduler=SchedulerConfig(scan_interval="50ms"),
    )  # fmt: skip
    rule = lambda name: next((s.plan.rule.explain() for s in queue.schedules.list() if s.name == name), "")  # noqa: E731
    with JobQueue(config=config, root=tmp_path) as queue, queue.worker():
        assert "06:00" in rule("sales")
        shop.sales("cron: '0 7 * * *'")
        wait_until(lambda: "07:00" in rule("sales"), what="the changed block is read")
        shop.write("conf/queue.yml", "schedules: {weekly: {pipeline: sales, cron: '0 9 * * 1'}}\n")
        wait_until(lambda: rule("weekly"), what="the new file is read")
        shop.sales(None)
        wait_until(lambda: not rule("sales"), what="the block that is gone is noticed")
    shop.queue.close()


def test_a_block_that_is_gone_takes_its_schedule_along(shop):
    shop.declare()
    shop.sales(None)
    assert shop.declare() == {"sales": "removed"}


@pytest.mark.parametrize("block", ["cron: '61 * * * *'", "cron: '@daily', overlapp: skip", "interval: soon"])
def test_a_wrong_block_is_told_and_its_schedule_stays(shop, caplog, block):
    shop.declare()
    shop.sales(block)
    shop.declare()
    assert shop.plan().rule.expr == "0 6 * * *"
    assert f"{shop.path / 'conf' / 'pipelines' / 'sales.yml'}:2: schedule: " in caplog.text


def test_old_spellings_of_a_project_are_told_in_one_notice(shop, caplog):
    shop.sales("cron: {hour: 6}")
    shop.write("conf/pipelines/stock.yml", "schedule: {interval: {minutes: 5}}\n")
    shop.write("conf/pipelines/plain.yml", "schedule: {interval: 5m}\n")
    assert shop.declare() == {"plain": "created", "sales": "created", "stock": "created"}
    (notice,) = [record.message for record in caplog.records if record.levelno == logging.WARNING]
    assert "sales (cron as '0 6 * * *'); stock (interval as '300s')" in notice


def test_a_schedule_that_was_paused_in_an_old_block_starts_paused_and_can_be_resumed(shop):
    shop.sales("trigger: {cron: {hour: 6}}, run: {paused: true}")
    shop.declare()
    assert shop.queue.schedules.get("sales").pause is not None
    shop.queue.schedules.resume("sales")
    shop.declare()
    assert shop.queue.schedules.get("sales").pause is None


def test_a_date_that_is_over_is_skipped_with_a_notice(shop, caplog):
    shop.sales("date: 2020-01-01T09:00:00")
    shop.declare()
    assert shop.queue.schedules.list() == []
    assert "is over by now; sales is skipped" in caplog.text


def test_a_date_without_a_zone_is_of_the_schedule_s_zone(shop):
    shop.sales("date: 2099-07-01T09:00:00, timezone: Europe/Berlin")
    shop.declare()
    assert shop.plan().rule.instant.isoformat() == "2099-07-01T07:00:00+00:00"


def test_schedules_of_queue_yml_run_pipelines_and_commands(shop):
    shop.write(
        "conf/queue.yml",
        "schedules:\n"
        "  sales: {cron: '@hourly'}\n"
        "  second: {pipeline: sales, cron: '@weekly', inputs: {x: 1}}\n"
        "  listing: {command: [ls], every: 10m}\n",
    )
    shop.sales(None)
    assert shop.declare() == {"sales": "created", "second": "created", "listing": "created"}
    assert shop.plan("listing").template.kind == "command"


def test_schedules_of_a_job_queue_block_count_and_its_engine_is_not_spoken_of(shop, caplog):
    shop.write(
        "conf/project.yml",
        "name: shop\njob_queue:\n  type: rq\n  backend: {host: old}\n"
        "  schedules: {second: {pipeline: sales, every: 1h}}\n",
    )
    shop.declare()
    assert shop.plan("second").where == f"{shop.path / 'conf' / 'project.yml'}:5"
    assert caplog.text == ""


def test_a_wrong_table_of_queue_yml_is_told_with_file_and_line(shop, caplog):
    shop.write("conf/queue.yml", "schedules:\n  second: {pipeline: sales, cron: often}\n  third: 5\n")
    assert shop.declare()["sales"] == "created"
    for line in (2, 3):
        assert f"{shop.path / 'conf' / 'queue.yml'}:{line}: " in caplog.text


def test_schedules_of_queue_yml_are_made_once_when_it_is_the_configuration(shop):
    shop.write(
        "conf/queue.yml",
        "backend: inline://\nledger: memory://\nschedules: {second: {pipeline: sales, cron: '@weekly'}}\n",
    )
    with JobQueue.for_project(shop.path) as queue:
        assert declared.declare(queue) == {"second": "created", "sales": "created"}
        assert queue.schedules.get("second").plan.source.startswith("config:")


def test_a_name_that_is_taken_gets_the_project_s_before_it_and_keeps_it(shop):
    shop.queue.schedule(shop.queue.command(["ls"]), name="sales", cron="@daily")
    assert shop.declare() == {"shop/sales": "created"}
    shop.queue.unschedule("sales")
    assert shop.declare() == {"shop/sales": "kept"}


def test_two_projects_with_pipelines_of_one_name_have_a_schedule_each(shop):
    other = Shop(shop.root, "depot")
    with JobQueue("inline://", ledger="memory://", root=shop.root, config=Config(projects=("shop", "depot"))) as queue:
        assert declared.declare(queue) == {"sales": "created", "depot/sales": "created"}
        assert declared.declare(queue) == {"sales": "kept", "depot/sales": "kept"}
        assert queue.schedules.get("depot/sales").plan.source == other.source
    other.queue.close()


def test_a_schedule_of_the_configuration_has_the_name(shop, monkeypatch):
    config = Config(projects=("shop",), schedules={"sales": {"cron": "@weekly"}})
    with JobQueue("inline://", ledger="memory://", root=shop.root, config=config) as queue:
        assert declared.declare(queue) == {"sales": "created", "shop/sales": "created"}


def test_the_example_runs_by_itself(tmp_path, monkeypatch):
    pytest.importorskip("flowerpower")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    root = tmp_path / "shop"
    shutil.copytree(EXAMPLE, root, ignore=shutil.ignore_patterns(".penstock", "__pycache__"))
    yaml = root / "conf" / "pipelines" / "sales.yml"
    yaml.write_text(yaml.read_text().replace("0 6 * * mon-fri", "* * * * * *"))  # nobody waits for the morning
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "penstock", "worker"], cwd=root, env=kept, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    queue = JobQueue.for_project(root)
    try:
        done = wait_until(lambda: queue.jobs(name="sales", states=("succeeded",)), 60, "a report is made")[0]
        told = queue.ledger.get(done.id).metadata
        assert told[SCHEDULE] == "sales"
        day = datetime.fromisoformat(told[FIRE_AT]).astimezone(ZoneInfo("Europe/Berlin")).date()
        assert done.result(10) == {"report": f"the day {day}: 9.00"}
        assert sorted(s.name for s in queue.schedules.list()) == ["month-end", "sales", "stock"]
        assert queue.schedules.get("stock").plan.rule.explain() == "At 22:00 on Monday through Friday (Europe/Berlin)"
    finally:
        worker.send_signal(signal.SIGTERM)
        said = worker.communicate(timeout=60)[0]
        queue.close()
    assert "stock (cron as '0 22 * * mon-fri')" in said
