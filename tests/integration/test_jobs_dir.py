"""A folder of job files: what its files say becomes schedules, while it is edited and a worker runs."""

from __future__ import annotations

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import JobQueue, registry, task
from penstock.core.config import Config, SecurityConfig
from penstock.core.exceptions import ConfigError, LedgerUnavailableError
from penstock.core.hookspecs import hookimpl
from penstock.runners.command import CommandSpec
from penstock.settings import load
from penstock.testing.harness import CALM, wait_until

EXAMPLE = Path(__file__).parents[2] / "examples" / "jobs_folder"
ECHO = {"type": "execute_command", "command": "echo hi"}


@task(name="jobs_dir.add")
def add(a: int, b: int = 1) -> int:
    return a + b


def raise_(error: Exception) -> Any:
    raise error


class Folder:
    """A jobs.d, and the queue that looks at it."""

    def __init__(self, root: Path, **config: Any) -> None:
        self.path = root / "jobs.d"
        self.path.mkdir()
        self.queue = JobQueue("inline://", ledger="memory://", root=root, config=Config(jobs_dir="jobs.d", **config))

    def write(self, file: str, job_id: str = "", schedule: str = "*/5 * * * *", **fields: Any) -> Path:
        """Write a file as a careful editor does; without a job_id, just that text."""
        text = (
            json.dumps({"job_id": job_id, "schedule": schedule, "task": ECHO, **fields}) if job_id else fields["text"]
        )
        path = self.path / file
        path.write_text(text)
        return path

    def look(self) -> dict[str, str]:
        return self.queue.job_files.look()

    def names(self) -> list[str]:
        return [schedule.name for schedule in self.queue.schedules.list()]

    def errors(self) -> dict[str, dict[str, Any]]:
        records = self.queue.ledger.records.all("scan_error")
        return {Path(record.name).name: msgspec.json.decode(record.body) for record in records}

    def message(self) -> str:
        (error,) = self.errors().values()
        return error["message"]

    def argv(self, name: str) -> tuple[str, ...]:
        return msgspec.json.decode(self.queue.schedules.get(name).plan.template.spec, type=CommandSpec).argv


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Folder]:
    made = Folder(tmp_path)
    yield made
    made.queue.close()


def shell_folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path, security=SecurityConfig(allow_shell=True))


# -- what files make --------------------------------------------------------------------------------------------------


def test_a_file_becomes_a_schedule_with_its_description_and_place(folder):
    path = folder.write("a.json", "new-job", description="says hi")
    assert folder.look() == {"new-job": "created"}
    plan = folder.queue.schedules.get("new-job").plan
    assert (plan.description, plan.where, plan.source) == ("says hi", str(path), f"jobs_dir:{folder.path}")


@pytest.mark.parametrize(
    ("schedule", "told"),
    [
        ("*/5 * * * *", "Every fifth minute"),
        ("0 30 2 * * *", "At 02:30"),
        ("@daily", "At 00:00 every day"),
        ("every 10m", "Every 10m"),
        ("PT1H", "Every 1h"),
        ("2099-01-01T09:00:00Z", "Once at 2099-01-01 09:00:00 UTC"),
        ("R3/2099-01-01T00:00Z/PT1H", "Every 1h"),
    ],
)
def test_a_schedule_is_a_cron_a_time_or_an_interval(folder, schedule, told):
    folder.write("a.json", "a", schedule)
    folder.look()
    assert told in folder.queue.schedules.get("a").plan.rule.explain()


def test_options_of_the_schedule_and_of_its_jobs_stand_beside_it(folder):
    folder.write("a.json", "a", timezone="Europe/Berlin", overlap="queue", queue="etl", timeout="5m", tags=["x"])
    folder.look()
    plan = folder.queue.schedules.get("a").plan
    assert (plan.timezone, plan.overlap, plan.tags) == ("Europe/Berlin", "queue", ("x",))
    assert (plan.template.queue, plan.template.timeout_s) == ("etl", 300.0)


def test_a_text_is_split_and_no_shell_reads_it(folder):
    folder.write("a.json", "a", task={**ECHO, "command": "echo 'a b' $HOME; ls"})
    folder.look()
    assert folder.argv("a") == ("echo", "a b", "$HOME;", "ls")


def test_a_list_is_taken_as_it_is(folder):
    folder.write("a.json", "a", task={**ECHO, "command": ["echo", "a b", 3]})
    folder.look()
    assert folder.argv("a") == ("echo", "a b", "3")


def test_a_shell_needs_the_file_and_the_configuration(folder):
    folder.write("a.json", "a", task={**ECHO, "command": "echo a | wc -c", "shell": True})
    assert folder.look() == {}
    assert "security.allow_shell = true" in folder.message()


def test_a_shell_that_is_allowed_is_used_only_where_the_file_asks_for_it(tmp_path):
    folder = shell_folder(tmp_path)
    folder.write("a.json", "a", task={**ECHO, "command": "echo a | wc -c", "shell": True})
    folder.write("b.json", "b", task={**ECHO, "command": "echo b"})
    folder.look()
    assert (folder.argv("a"), folder.argv("b")) == (("/bin/sh", "-c", "echo a | wc -c"), ("echo", "b"))


def test_a_task_of_ours_is_run_with_its_inputs(folder):
    folder.write("a.json", "a", "@hourly", task={"type": "task", "name": "jobs_dir.add", "inputs": {"a": 2}})
    folder.look()
    assert folder.queue.schedules.trigger("a").result(10) == 3


def test_a_pipeline_is_run_with_its_inputs(folder, tmp_path):
    (tmp_path / "sales.py").write_text("def total(day: str) -> str:\n    return day\n")
    wanted = {"type": "pipeline", "name": "sales", "inputs": {"day": "{{ fire_at.date }}"}, "final_vars": ["total"]}
    folder.write("a.json", "a", "@hourly", task=wanted)
    folder.look()
    today = folder.queue.now().date()
    assert folder.queue.schedules.trigger("a").result(60)["total"] in {str(today), str(today + timedelta(days=1))}


def test_a_plugin_adds_a_type(folder):
    class Plugin:
        @hookimpl
        def job_file_types(self) -> dict[str, Callable[..., Any]]:
            return {"greet": lambda queue, table: queue.command(["echo", f"hello {table['name']}"])}

    plugin = Plugin()
    registry.plugins().register(plugin)
    try:
        folder.write("a.json", "a", task={"type": "greet", "name": "Ada"})
        folder.look()
        assert folder.argv("a") == ("echo", "hello Ada")
    finally:
        registry.plugins().unregister(plugin)


# -- what changes ---------------------------------------------------------------------------------------------------


def test_a_changed_file_changes_its_schedule_which_stays_paused(folder):
    folder.write("a.json", "a")
    folder.look()
    folder.queue.schedules.pause("a")
    folder.write("a.json", "a", "0 3 * * *")
    assert folder.look() == {"a": "changed"}
    schedule = folder.queue.schedules.get("a")
    assert (schedule.revision, schedule.pause is not None) == (2, True)


def test_another_job_id_in_a_file_takes_the_place_of_the_first(folder):
    folder.write("a.json", "old")
    folder.look()
    folder.write("a.json", "new")
    assert folder.look() == {"new": "created", "old": "removed"}


def test_a_file_that_is_moved_keeps_its_schedule(folder):
    path = folder.write("a.json", "a")
    folder.look()
    path.rename(folder.path / "b.json")
    assert folder.look() == {"a": "changed"}


def test_a_deleted_file_takes_its_schedule_along_at_the_second_look(folder):
    path = folder.write("a.json", "a")
    folder.look()
    path.unlink()
    assert folder.look() == {}
    assert folder.look() == {"a": "removed"}


def test_a_file_that_is_deleted_and_written_anew_keeps_its_schedule(folder):
    path = folder.write("a.json", "a")
    folder.look()
    made_at = folder.queue.schedules.get("a").made_at
    path.unlink()
    folder.look()
    folder.write("a.json", "a", "0 4 * * *")
    assert folder.look() == {"a": "changed"}
    assert folder.queue.schedules.get("a").made_at == made_at


def test_a_folder_that_vanishes_takes_nothing_along(folder):
    folder.write("a.json", "a")
    folder.look()
    shutil.rmtree(folder.path)
    for _ in range(3):
        folder.look()
    assert folder.names() == ["a"]
    assert "cannot be read" in folder.message()


def test_what_was_deleted_while_nobody_looked_is_gone_afterwards(folder):
    path = folder.write("a.json", "a")
    folder.look()
    path.unlink()
    with JobQueue("inline://", ledger=folder.queue.ledger, root=folder.queue.root, config=folder.queue.config) as later:
        assert later.job_files.look() == {"a": "removed"}


def test_schedules_of_other_doors_are_left_alone(folder):
    folder.queue.schedule(add, name="by hand", cron="@daily", inputs={"a": 1})
    folder.write("a.json", "a")
    folder.look()
    assert folder.names() == ["a", "by hand"]


# -- what is wrong ----------------------------------------------------------------------------------------------------


def test_a_half_written_file_is_told_once_and_its_last_good_version_stays(folder, caplog):
    path = folder.write("a.json", "a")
    folder.look()
    path.write_text(path.read_text()[:40])
    for other in ("b", "c"):
        folder.look()
        folder.write(f"{other}.json", other)
    folder.look()
    assert folder.names() == ["a", "b", "c"]
    told = [record.message for record in caplog.records if record.levelno == logging.ERROR]
    assert len(told) == 1
    assert told[0].startswith(f"job file {path}: line 1: not JSON: ")
    assert told[0].endswith("; its last good version stays")


def test_the_last_good_version_stays_over_a_restart(folder):
    path = folder.write("a.json", "a")
    folder.look()
    path.write_text("{")
    with JobQueue("inline://", ledger=folder.queue.ledger, root=folder.queue.root, config=folder.queue.config) as later:
        later.job_files.look()
    assert folder.names() == ["a"]


def test_an_error_is_a_record_until_the_file_is_good(folder):
    path = folder.write("a.json", text="{")
    folder.look()
    error = folder.errors()["a.json"]
    assert (error["file"], error["type"]) == (str(path), "JSONDecodeError")
    assert error["message"].startswith("line 1: ")
    assert datetime.fromisoformat(error["at"]).tzinfo is not None
    folder.write("a.json", "a")
    folder.look()
    assert folder.errors() == {}


def test_the_record_of_a_file_that_is_deleted_goes(folder):
    path = folder.write("a.json", text="{")
    folder.look()
    path.unlink()
    folder.look()
    assert folder.errors() == {}


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"schedule": "61 * * * *"}, "line 1: cron '61 * * * *': bad minute"),
        ({"schedule": "soon"}, "'soon' is no schedule"),
        ({"timezone": "Mars/Base"}, "timezone: "),
        ({"overlap": "never"}, "overlap: "),
        ({"retries": 3}, "unknown key 'retries'"),
        ({"job_id": "a\n"}, "is no name"),
        ({"task": {"command": "echo"}}, "the task has no type"),
        ({"task": {"type": "execute_comand"}}, "Did you mean 'execute_command'?"),
        ({"task": {"type": "execute_command"}}, "command is missing"),
        ({"task": {**ECHO, "command": "echo 'a"}}, "cannot be split"),
        ({"task": {**ECHO, "command": []}}, "command is missing"),
        ({"task": {**ECHO, "command": ["echo", None]}}, "argument 1 of the command is None"),
        ({"task": {**ECHO, "shell": "yes"}}, "write true or false"),
        ({"task": {**ECHO, "on_exit": {"75": "later"}}}, "exit status 75: 'later' says nothing"),
        ({"task": {**ECHO, "on_exit": "75"}}, "on_exit is '75'"),
        ({"task": {**ECHO, "comand": "x"}}, "unknown key 'comand' in task"),
        ({"task": {"type": "task", "name": "jobs_dir.ad"}}, "Did you mean 'jobs_dir.add'?"),
        ({"task": {"type": "task", "name": "jobs_dir.add", "inputs": {"c": 1}}}, "jobs_dir.add"),
        ({"task": {"type": "pipeline", "name": "nowhere"}}, "no pipeline named 'nowhere'"),
        ({"task": {"type": "pipeline"}}, "takes one name"),
    ],
)
def test_what_is_wrong_is_told_and_no_schedule_is_made(folder, fields, reason):
    folder.write("a.json", **{"job_id": "a", **fields})
    assert folder.look() == {}
    assert reason in folder.message()


def test_the_line_of_a_wrong_value_is_told(folder):
    path = folder.path / "a.json"
    path.write_text(json.dumps({"job_id": "a", "schedule": "@daily", "task": {**ECHO, "shell": True}}, indent=1))
    folder.look()
    assert folder.message().startswith("line 7: shell = true is not allowed here")


def test_a_plugin_s_type_that_breaks_is_an_error_of_its_file_alone(folder):
    class Plugin:
        @hookimpl
        def job_file_types(self) -> dict[str, Callable[..., Any]]:
            return {"broken": lambda queue, table: 1 / 0}

    plugin = Plugin()
    registry.plugins().register(plugin)
    try:
        folder.write("a.json", "a", task={"type": "broken"})
        folder.write("b.json", "b")
        assert folder.look() == {"b": "created"}
        (error,) = folder.errors().values()
        assert (error["type"], "1 / 0" in error["traceback"]) == ("ZeroDivisionError", True)
    finally:
        registry.plugins().unregister(plugin)


def test_a_file_that_names_a_task_which_comes_later_is_taken_over_then(folder):
    folder.write("a.json", "a", task={"type": "task", "name": "jobs_dir.late"})
    assert folder.look() == {}

    @task(name="jobs_dir.late")
    def late() -> None: ...

    assert wait_until(folder.look, 10) == {"a": "created"}
    assert folder.errors() == {}


# -- one time, and one name for two -----------------------------------------------------------------------------------


def test_a_one_time_job_in_the_past_is_skipped_with_one_notice(folder, caplog):
    folder.write("a.json", "a", "2020-01-01T00:00:00")
    folder.look()
    folder.write("b.json", "b")
    folder.look()
    assert folder.names() == ["b"]
    told = [record.message for record in caplog.records if "skipped" in record.message]
    assert told == [f"job file {folder.path / 'a.json'}: 2020-01-01T00:00:00 is over by now; a is skipped"]
    assert folder.errors() == {}


def test_a_one_time_job_that_has_run_is_not_skipped_and_does_not_run_again(folder, caplog):
    soon = datetime.now(UTC) + timedelta(seconds=0.2)
    folder.write("a.json", "a", soon.isoformat(), task={"type": "task", "name": "jobs_dir.add", "inputs": {"a": 1}})
    folder.look()
    wait_until(lambda: folder.queue.scheduler.tick(), 10, "the job is made")
    for _ in range(2):
        folder.write("a.json", "a", soon.isoformat(), task={"type": "task", "name": "jobs_dir.add", "inputs": {"a": 2}})
        folder.look()
        folder.queue.scheduler.tick()
    assert len(folder.queue.jobs(name="jobs_dir.add")) == 1
    assert "skipped" not in caplog.text


def test_of_two_files_with_one_job_id_the_first_keeps_it(folder):
    folder.write("b.json", "same", description="first")
    folder.look()
    folder.write("a.json", "same", description="second")
    folder.look()
    assert folder.queue.schedules.get("same").plan.description == "first"
    assert folder.errors()["a.json"]["type"] == "DuplicateJobId"
    assert "belongs to b.json" in folder.message()


def test_of_two_files_that_come_together_the_first_by_name_has_the_job_id(folder):
    folder.write("b.json", "same")
    folder.write("a.json", "same")
    folder.look()
    assert folder.queue.schedules.get("same").plan.where.endswith("a.json")
    assert list(folder.errors()) == ["b.json"]


def test_the_second_file_has_the_job_id_when_the_first_is_gone(folder):
    first = folder.write("a.json", "same", description="first")
    folder.write("b.json", "same", description="second")
    folder.look()
    first.unlink()
    folder.look()
    assert folder.queue.schedules.get("same").plan.description == "second"
    assert folder.errors() == {}


def test_a_broken_file_keeps_its_job_id_from_another(folder):
    folder.write("a.json", "same", description="first")
    folder.look()
    folder.write("a.json", text="{")
    folder.write("b.json", "same", description="second")
    folder.look()
    assert folder.queue.schedules.get("same").plan.description == "first"
    assert sorted(folder.errors()) == ["a.json", "b.json"]


def test_a_file_that_is_refused_under_another_name_has_given_up_its_first(folder):
    folder.write("a.json", "x")
    folder.write("b.json", "y")
    folder.look()
    folder.write("a.json", "y")
    folder.write("c.json", "x", description="c")
    folder.look()
    assert folder.queue.schedules.get("x").plan.description == "c"
    assert list(folder.errors()) == ["a.json"]


def test_two_files_may_swap_their_job_ids(folder):
    folder.write("a.json", "x", description="a")
    folder.write("b.json", "y", description="b")
    folder.look()
    folder.write("a.json", "y", description="a")
    folder.write("b.json", "x", description="b")
    folder.look()
    assert folder.queue.schedules.get("x").plan.description == "b"
    assert folder.errors() == {}


def test_a_name_that_was_made_by_hand_is_left_alone_and_taken_over_when_it_is_free(folder):
    folder.queue.schedule(add, name="a", cron="@daily", inputs={"a": 1})
    folder.write("a.json", "a")
    folder.look()
    assert "it was made by hand" in folder.message()
    folder.queue.unschedule("a")
    assert wait_until(folder.look, 10) == {"a": "created"}


def test_the_folder_and_the_level_may_come_from_the_environment(tmp_path):
    config = load(tmp_path, env={"PENSTOCK_JOBS_DIR": "jobs.d", "PENSTOCK_LOG_LEVEL": "INFO"}).config
    assert (config.jobs_dir, config.log_level) == ("jobs.d", "INFO")
    with pytest.raises(ConfigError, match="'loud' is none of debug, info, warning, error"):
        load(tmp_path, env={"PENSTOCK_LOG_LEVEL": "loud"})


def test_without_a_folder_there_is_nothing_to_do(tmp_path):
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        assert queue.job_files.look() == {}
        with queue.worker():
            assert queue.schedules.list() == []


def test_an_embedded_worker_watches_the_folder_too(tmp_path):
    (tmp_path / "jobs.d").mkdir()
    config = Config(jobs_dir="jobs.d", sweep=CALM)
    ledger, backend = f"sqlite:///{tmp_path}/ledger.db", f"huey+sqlite:///{tmp_path}/queue.db"
    with JobQueue(backend, ledger=ledger, root=tmp_path, config=config) as queue:
        with queue.worker():
            (tmp_path / "jobs.d" / "a.json").write_text(job_file("a", "@daily", "echo"))
            wait_until(lambda: queue.schedules.list(), 20, "the file is taken over")
        assert not [thread for thread in threading.enumerate() if thread.name == "penstock-jobs-dir"]


def test_two_workers_over_one_folder_make_one_job_for_a_fire_time(folder):
    config, root = folder.queue.config, folder.queue.root
    soon = (datetime.now(UTC) + timedelta(seconds=0.3)).isoformat()
    folder.write("a.json", "a", soon, task={"type": "task", "name": "jobs_dir.add", "inputs": {"a": 1}})
    others = [JobQueue("inline://", ledger=folder.queue.ledger, root=root, config=config) for _ in range(2)]
    for queue in others:
        queue.job_files.start()
        queue.scheduler.start()
    try:
        wait_until(lambda: folder.queue.schedules.get("a").over, 20, "the time has come")
        assert len(folder.queue.jobs(name="jobs_dir.add")) == 1
        assert folder.queue.schedules.get("a").revision == 1
    finally:
        for queue in others:
            queue.job_files.stop()
            queue.scheduler.stop()
            queue.close()


def test_a_schedule_that_moves_on_while_it_is_taken_away_goes_all_the_same(folder, monkeypatch):
    folder.write("a.json", "a")
    folder.look()
    folder.write("a.json", "b")
    records = folder.queue.ledger.records
    read = records.get

    def read_and_change(kind: str, name: str) -> Any:
        found = read(kind, name)
        if name == "a":
            monkeypatch.undo()
            folder.queue.schedules.pause("a")
        return found

    monkeypatch.setattr(records, "get", read_and_change)
    folder.look()
    assert folder.names() == ["b"]


def test_a_ledger_that_does_not_answer_is_asked_again(folder, monkeypatch, caplog):
    folder.write("a.json", "a")
    with monkeypatch.context() as patch:
        patch.setattr(folder.queue.ledger.records, "all", lambda _kind: raise_(LedgerUnavailableError("away")))
        folder.queue.job_files._look_again()
    assert "away" in caplog.text
    assert folder.look() == {"a": "created"}


# -- a worker that runs -----------------------------------------------------------------------------------------------


class Service:
    """A real ``penstock worker --jobs-dir`` in a folder of its own."""

    def __init__(self, root: Path, level: str = "INFO") -> None:
        self.root = root
        self.queue = JobQueue(root=root)
        env = {name: value for name, value in os.environ.items() if not name.startswith("PENSTOCK_")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "penstock", "worker", "--jobs-dir", "jobs.d", "--log-level", level],
            cwd=root, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def job(self, name: str) -> Any:
        """Wait for a job of this name to succeed, and return it."""
        found = wait_until(lambda: self.queue.jobs(name=name, states=("succeeded",)), 30, f"a job {name} succeeds")
        return found[0]

    def within_2_s(self, true: Callable[[], Any]) -> None:
        """Wait until the ledger shows it, and see that it took no more than two seconds (five on a busy machine)."""
        begun = time.monotonic()
        wait_until(true, 20)
        assert time.monotonic() - begun < 5

    def has(self, name: str) -> bool:
        return any(schedule.name == name for schedule in self.queue.schedules.list())

    def end(self) -> str:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        said = self.process.communicate(timeout=30)[0]
        self.queue.close()
        return said


def job_file(job_id: str, schedule: str, *command: str) -> str:
    return json.dumps({"job_id": job_id, "schedule": schedule, "task": {**ECHO, "command": list(command)}})


@pytest.mark.parametrize("watch", ["events", "poll"])
def test_a_folder_that_is_edited_while_a_worker_runs(tmp_path, monkeypatch, watch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    shutil.copytree(EXAMPLE, tmp_path / "service")
    root = tmp_path / "service"
    jobs = root / "jobs.d"
    with (root / "penstock.toml").open("a") as config:
        config.write(f'jobs_dir_watch = "{watch}"\n')
    service = Service(root)
    try:
        service.job("tick")  # as the example has it: each second
        (jobs / "added.json").write_text(job_file("added", "* * * * * *", "echo", "added"))
        service.within_2_s(lambda: service.has("added"))
        assert service.job("added").result(10)["output"] == "added\n"
        (jobs / "added.json").write_text(job_file("renamed", "* * * * * *", "echo", "renamed"))
        service.within_2_s(lambda: service.has("renamed") and not service.has("added"))
        (jobs / "added.json").write_text('{"job_id": "renamed",\n "schedule": ')
        service.within_2_s(lambda: service.queue.ledger.records.all("scan_error"))
        assert service.has("renamed")
        (jobs / "added.json").unlink()
        service.within_2_s(lambda: not service.has("renamed"))
        service.within_2_s(lambda: not service.queue.ledger.records.all("scan_error"))
    finally:
        said = service.end()
    assert f"job file {jobs / 'added.json'}: line 2: not JSON: it ends too early; its last good version stays" in said
    assert "renamed removed" in said


def test_a_worker_refuses_a_jobs_dir_that_is_not_there(tmp_path):
    service = Service(tmp_path)
    assert service.process.wait(30) == 2
    assert "--jobs-dir: there is no folder" in service.end()


def test_a_worker_refuses_a_level_that_is_none(tmp_path):
    (tmp_path / "jobs.d").mkdir()
    service = Service(tmp_path, "loud")
    assert service.process.wait(30) == 2
    assert "--log-level takes debug, info, warning, error" in service.end()
