"""The command line against real files: every exit code, every way of naming a job, JSON everywhere.

Most tests call `main` in this process with the inline backend, where an enqueue is done when it returns.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

TASK_FILE = """
from penstock import Run, task

@task(queue="etl")
def greet(name: str, run: Run) -> str:
    print("greeting", name)
    return f"Hello {name}"

@task
def fail(text: str = "bad") -> None:
    raise ValueError(text)

@task
def table() -> dict:
    return {"rows": [1, 2]}

@task
def odd() -> object:
    return object()
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "shop"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "tasks.py").write_text(TASK_FILE)
    (folder / "penstock.toml").write_text('backend = "inline://"\ntasks = ["jobs/"]\n')
    monkeypatch.chdir(folder)
    for name in ("PENSTOCK_CONFIG", "PENSTOCK_BACKEND", "PENSTOCK_LEDGER"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    return folder


@pytest.fixture
def penstock(project, capfd) -> Shell:
    return Shell(capfd)


# -- submitting -----------------------------------------------------------------------------------------------------


def test_enqueue_prints_the_id_alone_in_a_pipe(penstock):
    assert penstock("enqueue", "greet", "name=Ada") == 0
    assert len(penstock.out.split()) == 1


def test_a_task_s_own_options_hold_and_flags_override_them(penstock):
    (job,) = penstock.json("enqueue", "greet", "name=Ada")
    assert job["queue"] == "etl"
    (job,) = penstock.json("enqueue", "greet", "name=Ada", "--queue", "fast", "--tag", "a", "--tag", "b", "--key", "k")
    assert (job["queue"], job["tags"], job["key"]) == ("fast", ["a", "b"], "k")


def test_a_delayed_job_is_scheduled(penstock):
    (job,) = penstock.json("enqueue", "greet", "name=Ada", "--in", "10m")
    assert job["state"] == "scheduled"


def test_a_second_job_with_a_live_key_is_kept_and_told(penstock):
    (first,) = penstock.json("enqueue", "greet", "name=Ada", "--in", "1h", "--key", "k")
    assert penstock("enqueue", "greet", "name=Ada", "--in", "1h", "--key", "k") == 0
    assert penstock.out.strip() == first["id"]
    assert "is there already" in penstock.err


def test_wait_prints_the_result_and_exits_0(penstock):
    assert penstock("enqueue", "greet", "name=Ada", "--wait") == 0
    assert penstock.out == "Hello Ada\n"


def test_wait_exits_1_when_the_job_failed(penstock):
    assert penstock("enqueue", "fail", "--wait") == 1
    assert "ValueError: bad" in penstock.err
    assert "penstock logs" in penstock.err


def test_wait_exits_124_when_the_time_is_over(penstock):
    assert penstock("enqueue", "greet", "name=Ada", "--in", "1h", "--wait", "--wait-timeout", "100ms") == 124
    assert "still scheduled after 0.1 s" in penstock.err


def test_what_stands_behind_two_dashes_is_a_command(penstock):
    assert penstock("enqueue", "--wait", "--timeout", "30s", "--", sys.executable, "-c", "print('--json')") == 0
    assert json.loads(penstock.out)["output"] == "--json\n"


def test_run_runs_here_and_records_the_job(penstock):
    assert penstock("run", "greet", "name=Ada") == 0
    assert penstock.out == "Hello Ada\n"
    assert "greeting Ada" in penstock.err
    (job,) = penstock.json("jobs")
    assert (job["state"], job["name"]) == ("succeeded", "greet")


def test_run_ignores_the_queue_and_leaves_other_jobs_alone(penstock):
    options = ("--url", "huey+sqlite:///.penstock/queue.db")
    assert penstock("enqueue", "greet", "name=Ada", *options) == 0
    assert penstock("run", "greet", "name=Bob", *options) == 0
    assert [job["state"] for job in penstock.json("jobs")] == ["succeeded", "queued"]


def test_run_exits_1_when_the_job_failed(penstock):
    assert penstock("run", "fail", "text=really") == 1
    assert "ValueError: really" in penstock.err


# -- naming a job ---------------------------------------------------------------------------------------------------


def test_a_job_is_found_by_id_by_its_beginning_and_by_name(penstock):
    penstock("enqueue", "table")
    (job,) = penstock.json("enqueue", "greet", "name=Ada")
    for ref in (job["id"], job["id"][:30], "greet"):
        assert [found["id"] for found in penstock.json("status", ref)] == [job["id"]]


def test_a_name_means_the_latest_job(penstock):
    penstock("enqueue", "greet", "name=Ada")
    penstock("enqueue", "greet", "name=Bob")
    assert penstock("result", "greet") == 0
    assert penstock.out == "Hello Bob\n"


def test_an_ambiguous_beginning_is_refused(penstock):
    penstock("enqueue", "greet", "name=Ada")
    (job,) = penstock.json("enqueue", "greet", "name=Bob")
    assert penstock("status", job["id"][:4]) == 2
    assert "several jobs begin with" in penstock.err


@pytest.mark.parametrize("verb", ["status", "result", "logs", "cancel", "retry"])
def test_an_unknown_job_exits_5(penstock, verb):
    assert penstock(verb, "nosuch") == 5
    assert "no job 'nosuch'" in penstock.err
    assert "penstock jobs" in penstock.err


# -- looking --------------------------------------------------------------------------------------------------------


def test_status_tells_the_error_and_the_attempts(penstock):
    penstock("enqueue", "fail")
    assert penstock("status", "fail") == 0
    lines = dict(line.split("\t", 1) for line in penstock.out.splitlines())
    assert lines["state"] == "failed"
    assert lines["note"] == "ValueError: bad"
    assert lines["attempt"].startswith("1\terror")
    (document,) = penstock.json("status", "fail")
    assert document["attempts"][0]["outcome"] == "error"


def test_result_prints_plain_data_as_json(penstock):
    penstock("enqueue", "table")
    assert penstock("result", "table") == 0
    assert json.loads(penstock.out) == {"rows": [1, 2]}


def test_result_of_a_failed_job_exits_1(penstock):
    penstock("enqueue", "fail")
    assert penstock("result", "fail") == 1


def test_result_of_a_cancelled_job_exits_1(penstock):
    penstock("enqueue", "greet", "name=Ada", "--in", "1h")
    assert penstock("cancel", "greet") == 0
    assert penstock("result", "greet") == 1
    assert "was cancelled" in penstock.err


def test_result_of_a_job_that_is_not_final_exits_124_at_once(penstock):
    penstock("enqueue", "greet", "name=Ada", "--in", "1h")
    assert penstock("result", "greet") == 124
    assert "no result yet: it is scheduled" in penstock.err


def test_a_result_that_could_not_be_stored_exits_5_and_says_why(penstock):
    penstock("enqueue", "odd")
    assert penstock("result", "odd") == 5
    assert "object" in penstock.err


def test_logs_print_what_the_body_wrote(penstock):
    penstock("run", "greet", "name=Ada")
    assert penstock("logs", "greet") == 0
    assert penstock.out.rstrip().endswith("stdout: greeting Ada")
    (line,) = penstock.json("logs", "greet")
    assert (line["source"], line["text"], line["attempt"]) == ("stdout", "greeting Ada", 1)


def test_following_the_logs_of_a_failed_job_exits_1(penstock):
    penstock("enqueue", "fail")
    assert penstock("logs", "fail") == 0
    assert penstock("logs", "fail", "-f") == 1


def test_jobs_are_listed_newest_first_and_filtered(penstock):
    penstock("enqueue", "greet", "name=Ada")
    penstock("enqueue", "fail")
    penstock("enqueue", "table", "--in", "1h", "--tag", "red")
    names = lambda *words: [job["name"] for job in penstock.json("jobs", *words)]  # noqa: E731
    assert names() == ["table", "fail", "greet"]
    assert names("--status", "failed,scheduled") == ["table", "fail"]
    assert names("--name", "gr*") == ["greet"]
    assert names("--queue", "etl") == ["greet"]
    assert names("--tag", "red") == ["table"]
    assert names("--since", "1h") == ["table", "fail", "greet"]
    assert names("--limit", "1") == ["table"]
    (newest,) = penstock.json("jobs", "--limit", "1")
    assert names("--before", newest["id"]) == ["fail", "greet"]


def test_jobs_in_a_pipe_are_tab_separated(penstock):
    penstock("enqueue", "fail", "text=two\nlines\tand a tab")
    assert penstock("jobs") == 0
    header, row = penstock.out.splitlines()
    assert len(header.split("\t")) == len(row.split("\t"))
    assert header.split("\t")[:3] == ["id", "state", "name"]


def test_tasks_show_where_they_stand_and_their_options(penstock):
    found = {row["name"]: row for row in penstock.json("tasks")}
    assert found["greet"]["source"] == "jobs/tasks.py:4"
    assert found["greet"]["signature"] == "(name: str) -> str"
    assert found["greet"]["options"] == {"queue": "etl"}


def test_tasks_show_what_holds_their_jobs(penstock):
    penstock("pause", "task", "greet")
    penstock("strike", "greet", "name == Ada")
    (found,) = penstock.json("tasks", "greet")
    assert found["held"] == ["paused: task greet", 'struck: greet, name == "Ada"']


def test_tasks_hide_the_default_of_a_secret(penstock, project):
    code = "from penstock import task\n\n@task\ndef login(token: str = 'tok-123456') -> None: ...\n"
    (project / "jobs" / "login.py").write_text(code)
    (found,) = penstock.json("tasks", "login")
    assert found["signature"] == "(token: str = ***) -> None"


def test_a_file_that_does_not_load_is_told_once_and_the_others_work(penstock, project):
    (project / "jobs" / "broken.py").write_text("import nothing_of_that_name\n")
    assert penstock("enqueue", "greet", "name=Ada") == 0
    assert penstock.err.count("Traceback") == 1
    assert "jobs/broken.py" in penstock.err
    assert "nothing_of_that_name" in penstock.err


def test_tasks_exits_3_when_a_file_does_not_load(penstock, project):
    (project / "jobs" / "broken.py").write_text("(")
    assert penstock("tasks") == 3
    assert "greet" in penstock.out


# -- changing -------------------------------------------------------------------------------------------------------


def test_cancel_takes_several_jobs_and_says_what_it_did(penstock):
    (first,) = penstock.json("enqueue", "greet", "name=Ada", "--in", "1h")
    (second,) = penstock.json("enqueue", "table")
    outcomes = penstock.json("cancel", first["id"], second["id"])
    assert [entry["outcome"] for entry in outcomes] == ["cancelled", "finished"]


def test_one_unknown_job_keeps_the_others_from_nothing(penstock):
    penstock("enqueue", "greet", "name=Ada", "--in", "1h")
    assert penstock("cancel", "nosuch", "greet") == 5
    (job,) = penstock.json("jobs")
    assert job["state"] == "cancelled"


def test_retry_makes_a_new_job_that_knows_the_old_one(penstock):
    (old,) = penstock.json("enqueue", "fail")
    (new,) = penstock.json("retry", old["id"])
    assert new["id"] != old["id"]
    assert new["parent_id"] == old["id"]


def test_retry_of_a_job_that_is_not_final_exits_2(penstock):
    penstock("enqueue", "greet", "name=Ada", "--in", "1h")
    assert penstock("retry", "greet") == 2
    assert "not final" in penstock.err


# -- errors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["enqueue"], "what is to run?"),
        (["enqueue", "gret"], "Did you mean 'greet'?"),
        (["enqueue", "greet", "--pipeline"], "no pipeline named 'greet'"),
        (["enqueue", "greet"], "'name'"),
        (["enqueue", "greet", "Ada"], "write name=Ada"),
        (["enqueue", "greet", "name=Ada", "--inputs", "{}"], "greet is a task"),
        (["enqueue", "greet", "name=Ada", "--in", "-5s"], "negative"),
        (["enqueue", "greet", "name=Ada", "--in", "soon"], "'soon' is not a duration"),
        (["enqueue", "greet", "name=Ada", "--at", "2026-11-21T12:00"], "has no time zone"),
        (["enqueue", "greet", "name=Ada", "--in", "1s", "--at", "2030-01-01T00:00Z"], "alternatives"),
        (["enqueue", "greet", "name=Ada", "--max-attempts", "0"], "max_attempts"),
        (["enqueue", "--"], "no command behind --"),
        (["enqueue", "greet", "--", "ls"], "stands alone behind --"),
        (["status", "greet", "--", "ls"], "take what follows `--`"),
        (["jobs", "--status", "faild"], "Did you mean 'failed'?"),
        (["jobs", "--since", "yesterday"], "--since 'yesterday'"),
        (["jobs", "--limit", "0"], "--limit"),
        (["jobs", "--colour"], "--colour"),
        (["nosuch"], "nosuch"),
        (["worker", "--concurrency", "0"], "--concurrency"),
        (["worker", "--grace", "soon"], "--grace"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_a_wrong_command_line_exits_2_and_names_the_word(penstock, words, told):
    assert penstock(*words) == 2
    assert told in penstock.err
    assert penstock.err.startswith("penstock: error: ")
    assert "Traceback" not in penstock.err


def test_nothing_is_written_when_the_input_is_refused(penstock):
    penstock("enqueue", "greet", "nam=Ada")
    assert penstock.json("jobs") == []


def test_a_wrong_key_in_the_config_exits_3_with_file_and_line(penstock, project):
    (project / "penstock.toml").write_text('backend = "inline://"\n[defaults]\nretires = 2\n')
    assert penstock("jobs") == 3
    assert "penstock.toml:3" in penstock.err


def test_an_unknown_backend_exits_3(penstock):
    assert penstock("jobs", "--url", "huy+sqlite:///q.db") == 3
    assert "huey" in penstock.err


def test_a_ledger_that_cannot_be_opened_exits_4(penstock, project):
    (project / "file").write_text("")
    assert penstock("jobs", "--ledger", "sqlite:///file/ledger.db") == 4
    assert "file/ledger.db" in penstock.err
    assert "penstock doctor" in penstock.err


def test_what_the_backend_cannot_do_exits_6_and_writes_nothing(penstock):
    assert penstock("enqueue", "greet", "name=Ada", "--priority", "9") == 6
    assert "priority" in penstock.err
    assert penstock.json("jobs") == []


def test_errors_under_json_are_json_too(penstock):
    assert penstock("status", "nosuch", "--json") == 5
    assert json.loads(penstock.err)["error"]["exit_code"] == 5
    assert penstock.out == ""


# -- setup ----------------------------------------------------------------------------------------------------------


def test_config_show_tells_each_value_s_origin_and_masks_passwords(penstock):
    rows = {row["key"]: row for row in penstock.json("config", "show", "--ledger", "postgres://me:secret@h/db")}
    assert rows["backend"]["origin"] == "penstock.toml:1"
    assert rows["namespace"]["origin"] == "default"
    assert "flag" in rows["ledger"]["origin"]
    assert "secret" not in rows["ledger"]["value"]


def test_backends_lists_the_embedded_default_as_installed(penstock):
    found = {row["scheme"]: row for row in penstock.json("backends")}
    assert found["huey+sqlite"]["installed"]
    assert found["inline"]["capabilities"]["priority"] == "absent"


def test_doctor_finds_nothing_wrong_with_a_good_project(penstock):
    checks = {check["name"]: check for check in penstock.json("doctor")}
    assert {check["level"] for check in checks.values()} == {"ok"}
    assert checks["config"]["told"].endswith("penstock.toml")
    assert checks["tasks"]["told"].startswith("4 in ")


def test_doctor_leaves_no_file_in_the_result_folder(penstock, project):
    penstock("doctor")
    assert [path for path in (project / ".penstock" / "results").rglob("*") if path.is_file()] == []


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["jobs"], 0), (["status"], 0), (["top", "--once"], 0), (["tasks"], 0), (["backends"], 0), (["doctor"], 0),
        (["config", "show"], 0), (["schedules"], 0), (["schedules", "explain", "0 2 * * *"], 0),
        (["schedules", "show", "x"], 5), (["schedules", "next", "x"], 5), (["status", "none-such"], 5),
        (["logs", "none-such"], 5), (["result", "none-such"], 5),
        (["snapshot"], 0), (["queues"], 0), (["workers"], 0), (["dead-letters"], 0), (["rules"], 0), (["audit"], 0),
        (["workers", "for-task", "x"], 0), (["explain", "none-such"], 5),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)  # fmt: skip
def test_looking_makes_no_file(penstock, tmp_path, monkeypatch, words, code):
    empty = tmp_path / "empty"
    empty.mkdir()
    monkeypatch.chdir(empty)
    assert penstock(*words) == code, penstock.err
    assert penstock(*words, "--json") == code, penstock.err
    assert list(empty.iterdir()) == []


def test_doctor_says_that_the_ledger_is_not_there_yet(penstock):
    told = {check["name"]: check["told"] for check in penstock.json("doctor")}
    assert "not there yet" in told["ledger"]
    penstock("enqueue", "greet", "name=Ada")
    told = {check["name"]: check["told"] for check in penstock.json("doctor")}
    assert "1 jobs" in told["ledger"]


def test_doctor_exits_4_when_the_ledger_is_unreachable(penstock, project):
    (project / "file").write_text("")
    assert penstock("doctor", "--ledger", "sqlite:///file/ledger.db") == 4
    assert "error\tledger" in penstock.out


def test_doctor_exits_3_when_a_task_does_not_load(penstock, project):
    (project / "jobs" / "broken.py").write_text("(")
    assert penstock("doctor") == 3


def test_init_writes_a_project_that_runs_and_never_overwrites(penstock, tmp_path, monkeypatch):
    assert penstock("init", str(tmp_path / "new")) == 0
    monkeypatch.chdir(tmp_path / "new")
    assert penstock("run", "hello", "name=Ada") == 0
    assert penstock.out == "Hello Ada\n"
    (tmp_path / "new" / "jobs" / "hello.py").write_text("# mine\n")
    outcomes = {row["path"]: row["outcome"] for row in penstock.json("init")}
    assert set(outcomes.values()) == {"kept"}
    assert (tmp_path / "new" / "jobs" / "hello.py").read_text() == "# mine\n"


def test_init_names_the_flowerpower_project_that_is_there(penstock, tmp_path):
    (tmp_path / "fp" / "conf").mkdir(parents=True)
    (tmp_path / "fp" / "conf" / "project.yml").write_text("name: fp\n")
    penstock("init", str(tmp_path / "fp"))
    assert 'projects = ["."]' in (tmp_path / "fp" / "penstock.toml").read_text()
