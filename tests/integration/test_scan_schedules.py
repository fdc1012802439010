"""Folders of functions with ``@schedule``: found, kept up to date, and what is told of those that fail."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

import penstock as penstock_package
from penstock import JobQueue
from penstock.core.config import Config, SchedulerConfig
from penstock.core.records import Change
from penstock.job.lifecycle import State
from penstock.sources import scan
from penstock.sources.decorators import TASKS
from penstock.sources.loading import PRIVATE
from penstock.testing.harness import wait_until

pytestmark = pytest.mark.filterwarnings("ignore::penstock.rooms.TasksNotLoadedWarning")


@pytest.fixture(autouse=True)
def clean_process():
    tasks, path, modules = dict(TASKS), list(sys.path), set(sys.modules)
    forget()
    yield
    forget()
    for name in set(TASKS) - set(tasks):
        TASKS.discard(name)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(PRIVATE):
            del sys.modules[name]


def forget() -> None:
    """Be a process that has loaded nothing yet."""
    for source in scan._LOADED.values():
        for name in [name for name, task in TASKS.items() if task.__module__ == source.module]:
            TASKS.discard(name)
        sys.modules.pop(source.module, None)
    scan._LOADED.clear()
    scan._BROKEN.clear()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "fns").mkdir()
    return tmp_path


def write(root: Path, name: str, text: str) -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(textwrap.dedent(text))
    return file


def function(name: str, *, when: str = "timedelta(hours=1)", returns: object = None, body: str = "") -> str:
    head = "from datetime import timedelta\nfrom penstock import schedule\n"
    return f"{head}{body}\n@schedule({when})\ndef {name}():\n    return {returns!r}\n"


def opened(root: Path, **more) -> JobQueue:
    scheduler = SchedulerConfig(**{"scan_interval": "50ms", "interval": "20ms", "load_timeout": "500ms", **more})
    config = Config(tasks=("fns/",), scheduler=scheduler, results=str(root / "results"))
    return JobQueue("inline://", ledger=f"sqlite:///{root}/ledger.db", config=config, root=root)


@pytest.fixture
def queue(root):
    with opened(root) as queue:
        yield queue


def names(queue: JobQueue) -> set[str]:
    return {schedule.name for schedule in queue.schedules.list()}


# -- what is found ----------------------------------------------------------------------------------------------------


def test_functions_in_all_folders_get_their_schedules(root, queue, caplog):
    write(root, "fns/a.py", function("one_fn"))
    write(root, "fns/deep/er/b.py", function("two_fn", when='cron="0 2 * * *", timezone="Europe/Berlin"'))
    caplog.set_level("INFO", "penstock.scan")
    found = queue.discovery.scan()
    assert "discovered 2 scheduled functions" in caplog.text
    assert {one.name: one.did for one in found.schedules} == {"one_fn": "created", "two_fn": "created"}
    schedule = queue.schedules.get("two_fn")
    assert schedule.plan.source == f"scan:{root}/fns"
    assert schedule.plan.where == "fns/deep/er/b.py:4"
    assert schedule.plan.timezone == "Europe/Berlin"
    assert queue.discovery.last().functions == 2


def test_a_second_scan_keeps_what_is_there(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    queue.discovery.scan()
    before = queue.schedules.get("one_fn")
    assert [one.did for one in queue.discovery.scan().schedules] == ["kept"]
    assert queue.schedules.get("one_fn") == before


def test_a_changed_rule_is_taken_over_and_a_pause_stays(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    queue.discovery.scan()
    queue.schedules.pause("one_fn", "for now")
    write(root, "fns/a.py", function("one_fn", when='"5m"'))
    assert [one.did for one in queue.discovery.scan().schedules] == ["changed"]
    changed = queue.schedules.get("one_fn")
    assert (changed.plan.rule.seconds, changed.revision, changed.pause.note) == (300, 2, "for now")


def test_a_deleted_file_takes_its_schedules_along(root, queue):
    file = write(root, "fns/a.py", function("one_fn"))
    write(root, "fns/b.py", function("two_fn"))
    queue.discovery.scan()
    file.unlink()
    assert queue.discovery.scan().removed == ("one_fn",)
    assert names(queue) == {"two_fn"}


def test_two_files_of_one_stem_are_two(root, queue):
    write(root, "fns/x/daily.py", function("of_x", returns="x"))
    write(root, "fns/y/daily.py", function("of_y", returns="y"))
    queue.discovery.scan()
    assert queue.schedules.trigger("of_x").result(10) == "x"
    assert queue.schedules.trigger("of_y").result(10) == "y"


def test_two_functions_of_one_name_are_told_and_the_first_works_on(root, queue):
    write(root, "fns/x/daily.py", function("same_fn", returns="x"))
    write(root, "fns/y/daily.py", function("same_fn", returns="y"))
    (error,) = queue.discovery.scan().errors
    assert error.file == "fns/y/daily.py"
    assert "name=" in error.message
    assert queue.schedules.trigger("same_fn").result(10) == "x"


def test_a_folder_and_a_file_that_are_named_twice_are_scanned_once(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    config = msgspec.structs.replace(queue.config, tasks=("fns/", str(root / "fns"), "fns/a.py"))
    with JobQueue(config=config, ledger=queue.ledger, root=root) as other:
        for _ in range(2):
            found = other.discovery.scan()
            assert (found.functions, found.errors, found.removed) == (1, (), ())
    assert names(queue) == {"one_fn"}


def test_a_package_may_import_relatively(root, queue):
    write(root, "fns/shop/__init__.py", "")
    write(root, "fns/shop/_prices.py", "PRICE = 42\n")
    write(
        root,
        "fns/shop/report.py",
        function("shop_report", body="from ._prices import PRICE\n").replace("None", "PRICE"),
    )
    assert queue.discovery.scan().errors == ()
    assert queue.schedules.trigger("shop_report").result(10) == 42


def test_a_module_that_files_import_relatively_is_followed_too(root, queue):
    write(root, "fns/shop/_prices.py", "PRICE = 42\n")
    body = "from . import _prices\n"
    write(root, "fns/shop/report.py", function("shop_report", body=body).replace("None", "_prices.PRICE"))
    queue.discovery.scan()
    write(root, "fns/shop/_prices.py", "PRICE = 4_300\n")
    assert queue.discovery.scan().changed == ("fns/shop/report.py",)
    assert queue.schedules.trigger("shop_report").result(10) == 4300
    write(root, "fns/shop/_prices.py", "PRICE = \n")
    assert [error.type for error in queue.discovery.scan().errors] == ["SyntaxError"]
    assert queue.schedules.trigger("shop_report").result(10) == 4300


# -- what fails -------------------------------------------------------------------------------------------------------


def test_files_that_fail_are_recorded_and_stop_nobody(root, queue):
    write(root, "fns/a_syntax.py", "x = 1\ndef f(:\n")
    write(root, "fns/b_exits.py", "import sys\nsys.exit(3)\n")
    write(root, "fns/c_raises.py", "def inner():\n    raise ValueError('no data')\ninner()\n")
    write(root, "fns/d_slow.py", "import time\ntime.sleep(30)\n")
    write(root, "fns/e_rule.py", function("bad_rule", when='cron="99 * * * *"'))
    write(root, "fns/z_good.py", function("good_fn"))
    queue.discovery.scan()
    assert names(queue) == {"good_fn"}
    told = {error.file: error for error in queue.discovery.errors()}
    assert {file: error.type for file, error in told.items()} == {
        "fns/a_syntax.py": "SyntaxError",
        "fns/b_exits.py": "SystemExit",
        "fns/c_raises.py": "ValueError",
        "fns/d_slow.py": "TooSlow",
        "fns/e_rule.py": "InvalidScheduleError",
    }
    assert (told["fns/a_syntax.py"].line, told["fns/c_raises.py"].line) == (2, 2)
    assert told["fns/c_raises.py"].message == "no data"
    assert "in inner" in told["fns/c_raises.py"].traceback
    assert queue.discovery.last().errors == 5


def test_an_error_is_gone_when_the_file_is_good_again(root, queue):
    write(root, "fns/a.py", "def f(:\n")
    queue.discovery.scan()
    since = queue.discovery.errors()[0].at
    queue.discovery.scan()
    assert queue.discovery.errors()[0].at == since  # told since when, not when it was looked at last
    write(root, "fns/a.py", function("one_fn"))
    queue.discovery.scan()
    assert queue.discovery.errors() == []
    assert names(queue) == {"one_fn"}


def test_an_error_is_gone_with_its_file(root, queue):
    file = write(root, "fns/a.py", "def f(:\n")
    queue.discovery.scan()
    file.unlink()
    queue.discovery.scan()
    assert queue.discovery.errors() == []


def test_a_broken_file_keeps_its_last_good_version(root, queue):
    write(root, "fns/a.py", function("one_fn", returns="good"))
    queue.discovery.scan()
    write(root, "fns/a.py", "def f(:\n")
    (error,) = queue.discovery.scan().errors
    assert "old version active" in error.told
    assert names(queue) == {"one_fn"}
    assert queue.schedules.trigger("one_fn").result(10) == "good"


def test_a_broken_file_keeps_its_last_good_version_in_a_child_process_too(root, queue):
    write(root, "fns/a.py", function("one_fn", when="timedelta(hours=1), timeout='30s'", returns="good"))
    queue.discovery.scan()
    write(root, "fns/a.py", "def f(:\n")
    queue.discovery.scan()
    job = queue.schedules.trigger("one_fn")
    assert job.result(30) == "good"
    assert job.job.isolation == "process"


def test_a_process_that_never_saw_the_good_version_leaves_its_schedules_alone(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    queue.discovery.scan()
    write(root, "fns/a.py", "def f(:\n")
    forget()
    with opened(root) as other:
        scanned = other.discovery.scan()
    assert scanned.removed == ()
    assert "its jobs wait" in scanned.errors[0].told
    assert names(queue) == {"one_fn"}


def test_a_folder_that_is_gone_takes_nothing_along(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    queue.discovery.scan()
    (root / "fns").rename(root / "away")  # as when a disk is not mounted
    queue.discovery.scan()
    assert names(queue) == {"one_fn"}
    assert queue.discovery.errors()[0].type == "NotFound"


def test_an_unchanged_slow_file_is_not_waited_for_again(root, queue):
    write(root, "fns/slow.py", "import time\ntime.sleep(30)\n")
    first = queue.discovery.scan()
    again = queue.discovery.scan()
    assert [error.type for error in again.errors] == ["TooSlow"]
    assert first.took_s > 0.4
    assert again.took_s < 0.4


def test_functions_of_a_folder_that_is_no_longer_configured_go_when_somebody_scans(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    write(root, "more/b.py", function("two_fn"))
    config = msgspec.structs.replace(queue.config, tasks=("fns/", "more/"))
    with JobQueue(config=config, ledger=queue.ledger, root=root) as other:
        other.discovery.scan()
    assert names(queue) == {"one_fn", "two_fn"}
    queue.discovery.scan()
    assert names(queue) == {"one_fn", "two_fn"}  # a worker of other folders does not decide that
    queue.discovery.scan(prune=True)
    assert names(queue) == {"one_fn"}


# -- while a worker works ---------------------------------------------------------------------------------------------


def results_of(queue: JobQueue, name: str) -> list[object]:
    return [job.result(0) for job in queue.jobs(name=name) if job.job.state is State.SUCCEEDED]


def test_a_worker_runs_the_new_version_of_a_function_it_has_loaded(root):
    write(root, "fns/a.py", function("one_fn", when='"100ms"', returns="old"))
    with opened(root) as queue, queue.worker():
        wait_until(lambda: "old" in results_of(queue, "one_fn"), 20)
        write(root, "fns/a.py", function("one_fn", when='"100ms"', returns="new!"))
        wait_until(lambda: "new!" in results_of(queue, "one_fn"), 20)
        write(root, "fns/a.py", "def f(:\n")
        wait_until(lambda: [error.file for error in queue.discovery.errors()] == ["fns/a.py"], 20)
        ran = len(results_of(queue, "one_fn"))
        wait_until(lambda: len(results_of(queue, "one_fn")) > ran + 1, 20)
        write(root, "fns/b.py", function("two_fn"))
        wait_until(lambda: "two_fn" in names(queue), 20)
        assert not queue.jobs(states=("failed",))


def test_a_task_is_there_for_others_while_its_file_is_loaded_again(root, queue):
    write(root, "fns/a.py", function("one_fn", returns="old"))
    queue.discovery.scan()
    slow = f"import pathlib, time\nwhile not pathlib.Path({str(root / 'go')!r}).exists(): time.sleep(0.005)\n"
    write(root, "fns/a.py", function("one_fn", returns="new", body=slow))
    loading = threading.Thread(target=queue.discovery.scan)
    loading.start()
    try:
        wait_until(lambda: TASKS._staged is not None, 20)
        assert queue.schedules.trigger("one_fn").result(10) == "old"
    finally:
        (root / "go").touch()
        loading.join()
    assert queue.schedules.trigger("one_fn").result(10) == "new"


def test_what_is_overdue_after_an_outage_runs_once_and_goes_on_from_now(root, queue):
    write(root, "fns/a.py", function("one_fn"))
    queue.discovery.scan()
    record = queue.ledger.records.get("schedule", "one_fn")
    schedule = queue.schedules.get("one_fn")
    ago = queue.now() - timedelta(days=3, minutes=50)
    rule = msgspec.structs.replace(schedule.plan.rule, anchor=ago)
    plan = msgspec.structs.replace(schedule.plan, rule=rule)
    past = msgspec.structs.replace(schedule, plan=plan, next_at=ago, made_at=ago)
    change = Change(kind="schedule", name="one_fn", seen=record.version, body=msgspec.json.encode(past), due_at=ago)
    assert queue.ledger.records.write([change]) != [0]
    queue.discovery.scan()
    assert queue.scheduler.tick() == 1
    assert queue.scheduler.tick() == 0
    left = queue.schedules.get("one_fn").next_at - queue.now()
    assert timedelta(minutes=59) < left <= timedelta(hours=1)
    assert len(queue.jobs(name="one_fn")) == 1


# -- the command ------------------------------------------------------------------------------------------------------


def penstock(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "penstock", *words], cwd=root, capture_output=True, text=True, timeout=60,
        env={**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(penstock_package.__file__).parents[1])},
    )  # fmt: skip


def test_the_command_tells_what_it_found_and_what_fails(root):
    write(root, "penstock.toml", 'tasks = ["fns/"]\n')
    write(root, "fns/a.py", function("one_fn"))
    write(root, "fns/b.py", "def f(:\n")
    told = penstock(root, "scan")
    assert told.returncode == 3
    assert "discovered 1 scheduled functions" in told.stderr
    assert "fns/b.py: SyntaxError line 1" in told.stderr
    assert "one_fn\tone_fn\tfns/a.py:4\tEvery 1h" in told.stdout.replace("\tcreated", "")
    document = json.loads(penstock(root, "scan", "--json").stdout)
    assert document["schema"] == "penstock.scan/1"
    assert [one["did"] for one in document["schedules"]] == ["kept"]
    assert document["errors"][0]["type"] == "SyntaxError"


def test_every_screen_tells_of_a_file_that_fails(root):
    write(root, "penstock.toml", 'tasks = ["fns/"]\nledger = "sqlite:///ledger.db"\nbackend = "inline://"\n')
    write(root, "fns/a.py", function("one_fn"))
    write(root, "fns/b.py", "def f(:\n")
    with opened(root) as queue:
        queue.discovery.scan()
        queue.schedules.trigger("one_fn").wait(10)
    (root / "fns" / "b.py").unlink()  # here it is well; the workers have not looked again
    told = "fns/b.py: SyntaxError line 1"
    assert told in penstock(root, "top", "--once").stdout
    assert told in penstock(root, "status").stdout
    assert told in penstock(root, "status", "one_fn").stderr
    assert told in penstock(root, "doctor").stdout
