"""``penstock schedules`` and ``penstock scheduler``: every verb against a real ledger, in words, tabs and JSON."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock import JobQueue, scheduler
from penstock.cli.session import Session
from penstock.testing.harness import wait_until

TASKS = """
import datetime as dt
from penstock import task

@task
def report(day: dt.date) -> str:
    return f"report of {day}"

@task
def tick() -> str:
    return "tick"
"""
CONFIG = """
backend = "inline://"
tasks = ["jobs/"]
timezone = "Europe/Berlin"

[schedules.nightly]
task = "report"
cron = "30 2 * * *"
inputs = { day = "{{ interval.start.date }}" }
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch) -> Path:
    folder = tmp_path / "shop"
    (folder / "jobs").mkdir(parents=True)
    (folder / "jobs" / "shop_tasks.py").write_text(TASKS)
    (folder / "penstock.toml").write_text(CONFIG)
    monkeypatch.chdir(folder)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))
    return folder


@pytest.fixture
def penstock(project, capfd) -> Shell:
    return Shell(capfd)


def cells(text: str) -> list[dict[str, str]]:
    header, *rows = (line.split("\t") for line in text.splitlines())
    return [dict(zip(header, row, strict=True)) for row in rows]


# -- making ---------------------------------------------------------------------------------------------------------


def test_a_list_of_over_a_thousand_tells_the_last_job_of_each_and_passes_over_what_was_purged(penstock, project):
    with JobQueue.from_config(project) as queue:
        tick = queue.tasks()["tick"]
        queue.schedule(tick, every="1h", name="base")
        base = queue.schedules.get("base")
        jobs = queue.enqueue_many([tick.call() for _ in range(3)])
        lasts = [jobs[0].id, jobs[2].id, "purged-long-ago", None]
        made = [msgspec.structs.replace(base, name=f"s{n:04}", last_job=lasts[n % 4]) for n in range(1200)]
        assert all(queue.ledger.records.write([scheduler.change_of(None, one, queue.now()) for one in made]))
    assert penstock("schedules") == 0
    listed = {row["name"]: row["last_state"] for row in cells(penstock.out)}
    told = [listed[f"s{n:04}"] for n in (0, 1, 2, 3, 1196, 1197)]
    assert told == ["succeeded", "succeeded", "", "", "succeeded", "succeeded"]
    assert len(listed) == 1201


def test_limits_of_its_jobs_are_said_when_it_is_made_and_changed_later(penstock, project):
    def limits():
        with JobQueue(root=project) as queue:
            return json.loads(queue.schedules.get("tick").plan.template.metadata.get("penstock.limits", "{}"))

    words = ("--isolation", "process", "--max-memory", "2GB", "--max-cpu", "10m", "--max-open-files", "100")
    assert penstock("schedules", "add", "tick", "0 3 * * *", *words) == 0, penstock.err
    assert limits() == {"memory_bytes": 2_000_000_000, "cpu_s": 600, "open_files": 100}
    assert penstock("schedules", "update", "tick", "--max-cpu", "none", "--max-open-files", "200") == 0, penstock.err
    assert limits() == {"memory_bytes": 2_000_000_000, "open_files": 200}
    assert penstock("schedules", "update", "tick", "--isolation", "inline") == 2
    assert "limits hold for the process of a job" in penstock.err
    words = ("--every", "1d", "--from", "2013-01-01", "--to", "2013-01-02", "--max-cpu", "10m", "--isolation", "inline")
    assert penstock("backfill", "tick", *words) == 2
    assert "has no limits of its own" in penstock.err


def test_add_answers_with_the_next_three_fire_times(penstock):
    assert penstock("schedules", "add", "tick", "0 3 * * *", "--timezone", "Asia/Tokyo") == 0
    fires = [datetime.fromisoformat(row["local"]) for row in cells(penstock.out)]
    assert [(at.hour, at.utcoffset()) for at in fires] == [(3, timedelta(hours=9))] * 3
    assert "schedule tick is created: At 03:00 every day (Asia/Tokyo)" in penstock.err


@pytest.mark.parametrize(
    ("rule", "kind", "text"),
    [
        ("*/5 * * * *", "cron", "*/5 * * * *"),
        ("@daily", "cron", "@daily"),
        ("*/15 * * * * *", "cron", "*/15 * * * * *"),
        ("every 90m", "every", "every 1h30m"),
        ("PT1H", "every", "every 1h"),
        ("R3/2030-01-01T00:00Z/PT1H", "every", "every 1h"),
        ("2030-01-01T12:00", "at", "2030-01-01T12:00:00+01:00"),
    ],
)
def test_every_form_of_a_rule_is_taken(penstock, rule, kind, text):
    (made,) = penstock.json("schedules", "add", "tick", rule)
    assert (made["rule"]["type"], made["rule"]["text"]) == (kind, text)


def test_expiry_limits_and_metadata_of_its_jobs_may_be_said_and_changed(penstock):
    (made,) = penstock.json(
        "schedules", "add", "tick", "@daily", "--expires", "1h", "--limit", "db=2", "--metadata", "team=etl"
    )
    assert made["job"]["expires_s"] == 3600
    assert made["job"]["metadata"] == {"team": "etl", "penstock.slots": '{"db":2}'}
    (made,) = penstock.json("schedules", "update", "tick", "--limit", "db=1", "--limit", "k=3", "--expires", "2h")
    assert made["job"]["metadata"] == {"team": "etl", "penstock.slots": '{"db":1,"k":3}'}
    assert made["job"]["expires_s"] == 7200


def test_an_interval_begins_with_its_start(penstock):
    (made,) = penstock.json("schedules", "add", "tick", "every 1h", "--start", "2030-01-01T00:30")
    assert [fire["fire_at"] for fire in made["next"]][:2] == ["2029-12-31T23:30:00Z", "2030-01-01T00:30:00Z"]


def test_every_option_arrives(penstock):
    (made,) = penstock.json(
        "schedules", "add", "report", "0 2 * * *", "day={{ fire_at.date }}", "--name", "mine", "--overlap", "queue",
        "--catch-up", "all", "--catch-up-max", "7", "--grace", "6h", "--jitter", "30s", "--start", "2030-01-01",
        "--end", "2031-01-01", "--max-fires", "9", "--soft-start", "--tag", "a", "--tag", "b", "--queue", "etl",
        "--priority", "7", "--max-attempts", "4", "--timeout", "5m",
    )  # fmt: skip
    told = {name: made[name] for name in ("name", "overlap", "catch_up", "catch_up_max", "grace_s", "jitter_s")}
    assert told == {
        "name": "mine", "overlap": "queue", "catch_up": "all", "catch_up_max": 7, "grace_s": 21_600.0, "jitter_s": 30.0,
    }  # fmt: skip
    assert (made["start_at"], made["end_at"]) == ("2029-12-31T23:00:00Z", "2030-12-31T23:00:00Z")
    assert (made["max_fires"], made["soft_start"], made["tags"], made["outcome"]) == (9, True, ["a", "b"], "created")
    job = made["job"]
    assert (job["queue"], job["priority"], job["max_attempts"], job["timeout_s"]) == ("etl", 7, 4, 300.0)
    assert job["spec"] == {"kwargs": {"day": "{{ fire_at.date }}"}}


def test_what_stands_behind_two_dashes_is_a_command(penstock):
    assert penstock("--json", "schedules", "add", "@daily", "--name", "list", "--", "ls", "-l") == 0
    made = json.loads(penstock.out)
    assert made["job"]["spec"]["argv"] == ["ls", "-l"]


def test_a_command_may_say_what_its_exit_statuses_ask_for(penstock):
    assert (
        penstock("--json", "schedules", "add", "@daily", "--name", "sync", "--on-exit", "75=retry 5m", "--", "ls") == 0
    )
    assert json.loads(penstock.out)["job"]["spec"]["on_exit"] == {"75": "retry 5m"}
    assert penstock("schedules", "add", "tick", "@daily", "--on-exit", "75=retry 5m") == 2
    assert "--on-exit is for a command" in penstock.err


def test_an_interval_that_counts_from_the_end_of_a_run_says_so(penstock):
    (made,) = penstock.json("schedules", "add", "tick", "every 15m", "--from-end")
    assert made["rule"]["explained"] == "15 m 0 s after the end of each run"


def test_add_of_a_name_that_is_there_changes_it(penstock):
    outcomes = [
        penstock.json("schedules", "add", "tick", rule)[0]["outcome"] for rule in ("@daily", "@daily", "@hourly")
    ]
    assert outcomes == ["created", "kept", "changed"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("add", "tick", "61 * * * *"), "bad minute '61'"),
        (("add", "tick", "often"), "is no schedule; write '*/5 * * * *'"),
        (("add", "tick"), "when is tick to run?"),
        (("add", "tick", "every", "15m"), "stands in quotes"),
        (("add", "tock", "@daily"), "Did you mean 'tick'"),
        (("add", "report", "@daily"), "missing a required argument: 'day'"),
        (("add", "report", "@daily", "day={{ fire_at.dat }}"), "there is no {{ fire_at.dat }}"),
        (("add", "tick", "@daily", "--overlap", "skp"), "Did you mean 'skip'"),
        (("add", "tick", "@daily", "--timezone", "Europe/Berln"), "Did you mean 'Europe/Berlin'"),
        (("add", "tick", "@daily", "--from-end"), "need an interval"),
        (("add", "tick", "@daily", "--", "ls"), "before it the rule alone"),
        (("next", "tick", "-n", "0"), "from 1 to 1000"),
        (("update", "tick"), "what is to change"),
    ],
)
def test_what_is_wrong_is_told_exits_2_and_nothing_is_written(penstock, words, said):
    assert penstock("schedules", *words) == 2
    assert said in penstock.err
    assert penstock.json("schedules") == []


@pytest.mark.parametrize("verb", ["update", "rm", "pause", "resume", "run", "next", "show"])
def test_an_unknown_schedule_exits_5_with_the_nearest_name(penstock, verb):
    penstock("schedules", "add", "tick", "@daily")
    assert penstock("schedules", verb, "tck", *(["@hourly"] if verb == "update" else [])) == 5
    assert "Did you mean 'tick'" in penstock.err


# -- changing -------------------------------------------------------------------------------------------------------


def test_update_changes_what_is_named_and_counts_the_revision(penstock):
    penstock("schedules", "add", "tick", "0 2 * * *", "--jitter", "10s")
    (made,) = penstock.json("schedules", "update", "tick", "--overlap", "allow", "--queue", "etl")
    assert (made["overlap"], made["jitter_s"], made["rule"]["text"]) == ("allow", 10.0, "0 2 * * *")
    assert (made["job"]["queue"], made["revision"], made["outcome"]) == ("etl", 2, "changed")
    (again,) = penstock.json("schedules", "update", "tick", "--overlap", "allow")
    assert (again["revision"], again["outcome"]) == (2, "kept")
    (other,) = penstock.json("schedules", "update", "tick", "@hourly")
    assert (other["rule"]["text"], other["revision"]) == ("@hourly", 3)


def test_update_takes_away_what_none_is_said_of(penstock):
    penstock("schedules", "add", "tick", "@daily", "--end", "2040-01-01", "--max-fires", "3", "--grace", "1h")
    (made,) = penstock.json("schedules", "update", "tick", "--end", "none", "--max-fires", "none", "--grace", "none")
    assert (made["end_at"], made["max_fires"], made["grace_s"]) == (None, None, None)


def test_one_whose_time_is_over_goes_on_when_it_is_given_more(penstock):
    penstock("schedules", "add", "tick", "every 100ms", "--max-fires", "1")
    wait_until(lambda: penstock("scheduler", "--once") == 0 and penstock.json("schedules", "show", "tick")[0]["over"])
    (made,) = penstock.json("schedules", "update", "tick", "--max-fires", "3")
    assert (made["state"], len(made["next"])) == ("active", 2)


def test_pause_keeps_its_note_and_resume_lets_go_on(penstock):
    penstock("schedules", "add", "tick", "@daily")
    assert penstock("schedules", "pause", "tick", "--note", "the server moves") == 0
    (paused,) = penstock.json("schedules")
    assert (paused["state"], paused["pause"]["note"]) == ("paused", "the server moves")
    assert penstock("schedules", "show", "tick") == 0
    assert "the server moves" in penstock.out
    assert penstock("schedules", "resume", "tick") == 0
    assert "tick: resumed, next " in penstock.out
    assert penstock.json("schedules")[0]["state"] == "active"


def test_one_that_is_unknown_keeps_the_others_from_nothing(penstock):
    for name in ("a", "b"):
        penstock("schedules", "add", "tick", "@daily", "--name", name)
    assert penstock("schedules", "rm", "a", "nosuch", "b") == 5
    assert penstock.out.splitlines() == ["a: removed", "b: removed"]
    assert penstock.json("schedules") == []


def test_one_that_a_file_declares_is_changed_there_but_may_be_paused(penstock):
    penstock("scheduler", "--once")
    for words in (("rm", "nightly"), ("update", "nightly", "@daily"), ("add", "tick", "@daily", "--name", "nightly")):
        assert penstock("schedules", *words) == 2
        assert "it is declared in [schedules.nightly]; change it there" in penstock.err
    assert "penstock schedules show nightly" in penstock.err
    assert penstock("schedules", "pause", "nightly") == 0


def test_run_makes_a_job_now_that_knows_its_schedule(penstock):
    penstock("scheduler", "--once")
    assert penstock("schedules", "run", "nightly", "--wait") == 0
    assert penstock.out.startswith("report of ")
    assert penstock("schedules", "run", "nightly") == 0
    (job_id,) = penstock.out.split()
    assert penstock("status", "nightly") == 0
    told = dict(line.split("\t", 1) for line in penstock.out.splitlines())
    assert (told["id"], told["schedule"]) == (job_id, "nightly, manual")
    assert told["fire time"].endswith("Z")
    (shown,) = penstock.json("schedules", "show", "nightly")
    assert (shown["counts"], shown["last_job"], shown["last_state"]) == ({"manual": 2}, job_id, "succeeded")


# -- looking --------------------------------------------------------------------------------------------------------


def test_the_list_tells_state_rule_next_fire_last_result_and_who_declared_it(penstock):
    penstock("scheduler", "--once")
    penstock("schedules", "add", "tick", "every 90m", "--tag", "red")
    penstock("schedules", "run", "tick")
    assert penstock("schedules") == 0
    nightly, tick = cells(penstock.out)
    assert (nightly["explained"], nightly["timezone"], nightly["declared_in"], nightly["runs"]) == (
        "At 02:30 every day (Europe/Berlin)", "Europe/Berlin", "[schedules.nightly]", "report",
    )  # fmt: skip
    assert (tick["state"], tick["rule"], tick["last_state"], tick["declared_in"]) == (
        "active", "every 1h30m", "succeeded", "",
    )  # fmt: skip
    assert datetime.fromisoformat(tick["next_at"]) > datetime.fromisoformat(tick["last_at"])
    assert [row["name"] for row in penstock.json("schedules", "--tag", "red")] == ["tick"]


def test_a_schedule_whose_jobs_a_strike_or_a_pause_holds_back_says_so(penstock, monkeypatch):
    penstock("schedules", "add", "tick", "every 90m")
    penstock("schedules", "add", "tick", "every 1h", "--name", "other", "--queue", "etl")
    penstock("pause", "queue", "default")
    penstock("strike", "tick")
    told = ["paused: queue default", "struck: tick"]
    assert [(row["name"], row["held"]) for row in penstock.json("schedules")] == [("other", told[1:]), ("tick", told)]
    assert penstock("schedules") == 0
    assert [row["held"] for row in cells(penstock.out)] == [told[1], "; ".join(told)]
    assert penstock("schedules", "show", "tick") == 0
    assert f"held back\t{'; '.join(told)}" in penstock.out
    monkeypatch.setattr(Session, "pretty", property(lambda session: not session.json))
    penstock("schedules")
    assert "tick makes jobs that wait: paused: queue default; struck: tick" in " ".join(penstock.err.split())


def test_what_is_declared_and_not_made_yet_is_told(penstock):
    assert penstock("schedules") == 0
    assert "declared and not made yet: nightly" in penstock.err


def test_days_on_which_the_clocks_change_are_marked(penstock):
    penstock("schedules", "add", "tick", "30 2 * * *", "--start", "2030-03-30", "--timezone", "Europe/Berlin")
    fires = penstock.json("schedules", "next", "tick", "-n", "3")
    assert [(fire["local"], fire["change"]) for fire in fires] == [
        ("2030-03-30T02:30:00+01:00", ""),
        ("2030-03-31T03:00:00+02:00", "clocks go forward by 1:00"),
        ("2030-04-01T02:30:00+02:00", ""),
    ]


def test_explain_says_a_rule_in_words_and_stores_nothing(penstock):
    assert penstock("schedules", "explain", "0 2 * * 1-5", "--timezone", "America/New_York", "-n", "2") == 0
    words, *fires = penstock.out.splitlines()
    assert words == "At 02:00 on Monday through Friday (America/New_York)"
    assert len(fires) == 2
    (told,) = penstock.json("schedules", "explain", "every 15m")
    assert (told["explained"], len(told["next"])) == ("Every 15m", 5)
    assert penstock.json("schedules") == []


def test_show_tells_what_became_of_fire_times(penstock):
    penstock("schedules", "add", "tick", "2020-01-01T00:00")
    assert penstock("scheduler", "--once") == 0
    (shown,) = penstock.json("schedules", "show", "tick")
    assert (shown["state"], shown["counts"], shown["next"]) == ("over", {"skipped: late": 1}, [])
    assert penstock("schedules", "show", "tick") == 0
    told = [line.split("\t") for line in penstock.out.splitlines()]
    assert ["counted", "1 skipped: late"] in told
    (event,) = (line for line in told if line[0] == "event")
    assert event[2:4] == ["skipped: late", "2019-12-31T23:00:00Z"]


# -- the scheduler alone --------------------------------------------------------------------------------------------


def test_a_scheduler_alone_takes_every_door(penstock, project):
    (project / "jobs" / "found.py").write_text(
        "from penstock import schedule\n\n@schedule(every='1h')\ndef found() -> None:\n    pass\n"
    )
    (project / "jobs.d").mkdir()
    job = {"job_id": "new-job", "description": "says hi", "schedule": "*/5 * * * *",
           "task": {"type": "execute_command", "command": "echo hi"}}  # fmt: skip
    (project / "jobs.d" / "new.json").write_text(json.dumps(job))
    (project / "penstock.toml").write_text('jobs_dir = "jobs.d"\n' + CONFIG)
    assert penstock("scheduler", "--once") == 0
    assert {row["name"] for row in penstock.json("schedules")} == {"nightly", "found", "new-job"}
    assert penstock("schedules", "show", "new-job") == 0
    assert "says hi" in penstock.out


def test_once_makes_what_is_due_and_prints_how_many_jobs_that_were(penstock):
    penstock("schedules", "add", "tick", "2020-01-01T00:00", "--grace", "100000d")
    assert penstock("scheduler", "--once") == 0
    assert penstock.out.strip() == "1"
    assert [job["name"] for job in penstock.json("jobs")] == ["tick"]
    assert penstock("scheduler", "--once") == 0
    assert penstock.out.strip() == "0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_runs_until_a_signal_and_works_no_job_off(project, number):
    (project / "penstock.toml").write_text(CONFIG.replace("inline://", "huey+sqlite:///.penstock/queue.db"))
    command = [sys.executable, "-m", "penstock", "scheduler", "--json"]
    with (
        JobQueue.from_config(project) as queue,
        subprocess.Popen(command, cwd=project, stdout=subprocess.PIPE, text=True) as process,
    ):
        assert process.stdout is not None
        try:
            assert json.loads(process.stdout.readline())["event"] == "ready"
            queue.schedule("tick", every="100ms", max_fires=3, overlap="allow")
            wait_until(lambda: len(queue.jobs()) == 3)
            process.send_signal(number)
            assert process.wait(20) == 0
            ended = json.loads(process.stdout.readline())
        finally:
            process.kill()
        assert (ended["event"], ended["made"]) == ("ended", 3)
        assert queue.counts() == {"queued": 3}
        assert [schedule.name for schedule in queue.schedules.list()] == ["nightly", "tick"]


def test_a_worker_makes_no_jobs_of_schedules_where_that_is_switched_off(penstock, project, monkeypatch):
    from penstock.core.config import Config, WorkerConfig
    from penstock.worker import Worker

    monkeypatch.setenv("PENSTOCK_WORKER__SCHEDULER", "false")
    with JobQueue.from_config(project) as queue:
        assert not Worker(queue)._schedules
        assert Worker(queue, scheduler=True)._schedules
    with JobQueue("inline://", ledger="memory://", config=Config(worker=WorkerConfig())) as queue:
        assert Worker(queue)._schedules
