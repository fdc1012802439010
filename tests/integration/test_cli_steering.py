"""Strikes, pauses and rules of uniqueness from the command line."""

from __future__ import annotations

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock import JobQueue

JOBS = """
from penstock import task

@task
def report(customer: str, size: int = 1) -> str:
    return customer
"""


@pytest.fixture
def sh(capfd, tmp_path, monkeypatch):
    (tmp_path / "jobs.py").write_text(JOBS)
    (tmp_path / "penstock.toml").write_text(
        'backend = "huey+sqlite:///q.db"\nledger = "sqlite:///ledger.db"\ntasks = ["jobs.py"]\n'
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PENSTOCK_ACTOR", "ada")
    return Shell(capfd)


def enqueue(sh, *words):
    return sh.json("enqueue", "report", *words)[0]


def test_a_strike_holds_and_a_restore_lets_go_on(sh):
    job = enqueue(sh, "customer=acme")["id"]
    assert sh.json("strike", "report", "customer == acme", "--why", "unpaid")[0]["jobs"] == 1
    assert enqueue(sh, "customer=acme")["outcome"] == "blocked"
    assert enqueue(sh, "customer=other")["outcome"] == "created"
    assert sh.json("restore", "report", "customer == acme")[0]["jobs"] == 2
    assert sh("worker", "--burst") == 0
    assert sh.json("status", job)[0]["state"] == "succeeded"


def test_a_strike_on_the_command_line_knows_what_was_passed_by_position_and_tells_of_a_misspelt_name(sh):
    with JobQueue.from_config() as queue:
        queue.enqueue("report", "acme")
    assert sh.json("strike", "report", "customer == acme")[0]["jobs"] == 1
    assert sh("strike", "report", "costumer == acme") == 0
    assert "report has no argument 'costumer' here. Did you mean 'customer'?" in " ".join(sh.err.split())


def test_the_rules_that_hold_are_listed_with_who_and_why(sh):
    sh("strike", "*", "size between [2, 5]", "--why", "too large")
    sh("pause", "queue", "etl")
    assert [(r["rule"], r["kind"], r["by"], r["why"]) for r in sh.json("rules")] == [
        ("queue etl", "paused", "ada", ""), ("size between [2,5]", "struck", "ada", "too large")
    ]  # fmt: skip


def test_who_asks_why_a_job_waits_is_told_of_the_pause(sh):
    sh("pause", "task", "report", "--why", "migration")
    job = enqueue(sh, "customer=acme")["id"]
    assert sh("explain", job) == 0
    assert "Task report is paused, by ada" in sh.out


def test_a_pause_ends_with_a_resume(sh):
    sh("pause", "task", "report")
    job = enqueue(sh, "customer=acme")["id"]
    assert sh("resume", "task", "report") == 0
    sh("worker", "--burst")
    assert sh.json("status", job)[0]["state"] == "succeeded"


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("strike",), 2, "name a task"),
        (("strike", "*"), 2, "pause the queues"),
        (("strike", "report", "customer ~ acme"), 2, "no condition"),
        (("strike", "report", "size between 3"), 2, "lowest and the highest"),
        (("restore", "report"), 5, "not there"),
        (("pause", "job", "x"), 2, "queue, task or worker"),
        (("resume", "queue", "etl"), 5, "not there"),
    ],
)
def test_what_means_nothing_is_told_and_changes_nothing(sh, words, code, told):
    assert sh(*words) == code
    assert told in sh.err
    assert sh.json("rules") == []


def test_a_reason_may_come_from_the_environment(sh, monkeypatch):
    monkeypatch.setenv("PENSTOCK_STRIKE_WHY", "by the pipeline")
    sh("strike", "report")
    assert sh.json("rules")[0]["why"] == "by the pipeline"


def test_rules_of_uniqueness_and_limits_can_be_given_at_submit(sh):
    first = enqueue(sh, "customer=a", "size=1", "--unique", "customer", "--unique-for", "1h", "--limit", "db=2")
    second = enqueue(sh, "customer=a", "size=2", "--unique", "customer", "--unique-for", "1h")
    third = enqueue(sh, "customer=a", "--unique", "customer", "--on-conflict", "replace", "--expires", "1h")
    assert [made["outcome"] for made in (first, second, third)] == ["created", "kept", "replaced"]


def test_a_conflict_that_is_to_be_an_error_names_the_job_that_is_there(sh):
    there = enqueue(sh, "customer=a", "--key", "k")["id"]
    assert sh("enqueue", "report", "customer=b", "--key", "k", "--on-conflict", "raise") != 0
    assert there in sh.err


# -- words that nobody knows ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (
            ("strike", "reprot"),
            "no task, pipeline or command 'reprot' is known, and no job has it.",
        ),
        (("pause", "task", "reprot"), "Did you mean 'report'?"),
        (("pause", "queue", "defualt"), "no queue 'defualt' is known, and no job has it."),
        (("pause", "worker", "nobody"), "no worker that lives is named 'nobody'"),
    ],
)
def test_a_rule_for_what_nobody_knows_holds_with_a_warning(sh, words, told):
    assert sh(*words) == 0
    assert told in sh.err
    assert len(sh.json("rules")) == 1


@pytest.mark.parametrize("words", [("strike", "report"), ("pause", "queue", "default"), ("strike", "*", "size > 3")])
def test_a_rule_for_what_is_known_comes_without_a_warning(sh, words):
    assert sh(*words) == 0
    assert sh.err == ""


def test_a_job_that_is_not_there_is_told_with_the_nearest_name(sh):
    enqueue(sh, "customer=a")
    assert sh("explain", "reprot") == 5
    assert "Did you mean 'report'?" in sh.err


def test_who_asks_for_workers_of_an_unknown_task_is_told_the_nearest(sh):
    enqueue(sh, "customer=a")
    assert sh("workers", "for-task", "reprot") == 0
    assert "no worker that lives has 'reprot': its jobs wait for one. Did you mean 'report'?" in sh.err
