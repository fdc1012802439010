"""Who did what by hand, when and why: it is written down after it was done, and keeps nothing from being done."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from penstock import CancelOutcome, Config, JobQueue, audit, task
from penstock.core.exceptions import LedgerUnavailableError, ScheduleNotFoundError
from penstock.ledger import open_ledger
from penstock.sources.decorators import TASKS
from penstock.testing.harness import short_config


@task(name="audited")
def audited() -> None:
    """Do nothing."""


@pytest.fixture(autouse=True)
def _known() -> None:
    TASKS._tasks.setdefault("audited", audited)  # pyright: ignore[reportPrivateUsage]


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[JobQueue]:
    monkeypatch.setenv(audit.ACTOR, "ada")
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        yield queue


def lines(queue: JobQueue) -> list[tuple[str, str, str, str]]:
    return [(one.actor, one.verb, one.subject, one.why) for one in audit.entries(queue)]


def test_a_cancel_is_written_down_with_its_reason(queue: JobQueue) -> None:
    job = queue.enqueue(audited, delay="1h")
    job.cancel(why="wrong day")
    (entry,) = audit.entries(queue)
    assert (entry.actor, entry.verb, entry.subject, entry.why) == ("ada", "cancel", job.id, "wrong day")
    assert entry.details == {"name": "audited", "outcome": "cancelled"}
    assert abs((queue.now() - entry.at).total_seconds()) < 5


def test_what_changed_nothing_is_not_written_down(queue: JobQueue) -> None:
    job = queue.enqueue(audited)
    assert job.cancel() is CancelOutcome.FINISHED
    queue.schedule(audited, cron="0 2 * * *")
    queue.schedule(audited, cron="0 2 * * *")
    assert [verb for _, verb, _, _ in lines(queue)] == ["schedules add"]


def test_a_retry_names_the_new_job(queue: JobQueue) -> None:
    job = queue.enqueue(audited)
    again = job.retry(why="once more")
    (entry,) = audit.entries(queue)
    assert (entry.verb, entry.subject, entry.details["job"]) == ("retry", job.id, again.id)


def test_every_verb_of_a_schedule_is_written_down(queue: JobQueue) -> None:
    queue.schedule(audited, name="nightly", cron="0 2 * * *", why="a")
    queue.schedules.update("nightly", cron="0 3 * * *", why="b")
    queue.schedules.pause("nightly", "c")
    queue.schedules.resume("nightly", why="d")
    queue.schedules.trigger("nightly", by="the app", why="e")
    queue.backfill("nightly", start="2026-01-01", end="2026-01-02", why="f")
    queue.schedules.remove("nightly", why="g")
    assert lines(queue)[::-1] == [
        ("ada", "schedules add", "nightly", "a"),
        ("ada", "schedules update", "nightly", "b"),
        ("ada", "schedules pause", "nightly", "c"),
        ("ada", "schedules resume", "nightly", "d"),
        ("the app", "schedules run", "nightly", "e"),
        ("ada", "backfill", "nightly", "f"),
        ("ada", "schedules rm", "nightly", "g"),
    ]


def test_what_failed_and_what_files_declare_is_nobody_s_action(queue: JobQueue) -> None:
    with pytest.raises(ScheduleNotFoundError):
        queue.schedules.remove("nightly")
    plan = queue.schedules.plan(_intent(queue), cron="0 2 * * *")
    queue.schedules.declare("config:/srv/shop", {"nightly": plan})
    queue.enqueue(audited)
    assert lines(queue) == []


def _intent(queue: JobQueue) -> Any:
    from penstock.calls import intent_of

    return intent_of(queue.config, audited.call())


def test_a_job_that_a_schedule_calls_off_is_nobody_s_action(queue: JobQueue) -> None:
    job = queue.enqueue(audited, delay="1h")
    queue.scheduler._cancel(job.id)  # pyright: ignore[reportPrivateUsage]
    assert (job.state, lines(queue)) == ("cancelled", [])


def test_secrets_in_an_entry_are_hidden(queue: JobQueue) -> None:
    job = queue.enqueue(audited, delay="1h")
    job.cancel(why="postgres://ada:geheim123@db refused token=abcdef123456")
    stored = b"".join(record.body for record in queue.ledger.records.all(audit.KIND))
    assert b"geheim123" not in stored
    assert b"abcdef123456" not in stored


def test_an_entry_that_cannot_be_written_fails_nothing_and_is_logged(
    queue: JobQueue, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    job = queue.enqueue(audited, delay="1h")

    def away(_changes: object) -> list[int]:
        raise LedgerUnavailableError("away")

    monkeypatch.setattr(queue.ledger.records, "write", away)
    assert job.cancel() is CancelOutcome.CANCELLED
    assert f"cancel of {job.id} is done, and could not be written down" in caplog.text


def test_entries_are_listed_newest_first_by_what_is_asked(queue: JobQueue) -> None:
    for number in range(5):
        audit.note(queue, "cancel" if number % 2 else "retry", f"job-{number}", by=f"user{number % 3}")
    assert [one.subject for one in audit.entries(queue)] == [f"job-{number}" for number in (4, 3, 2, 1, 0)]
    assert [one.subject for one in audit.entries(queue, verb="cancel")] == ["job-3", "job-1"]
    assert [one.subject for one in audit.entries(queue, actor="user1", limit=1)] == ["job-4"]
    assert [one.subject for one in audit.entries(queue, subject="job-2")] == ["job-2"]
    assert audit.entries(queue, since=queue.now()) == []


def test_who_acts_is_the_variable_else_user_and_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(audit.ACTOR, " ci bot ")
    assert audit.actor() == "ci bot"
    monkeypatch.delenv(audit.ACTOR)
    assert "@" in audit.actor()


@pytest.mark.parametrize("text", ["x" * 100_000, "half \udcff surrogate", "nul \0 byte"])
def test_any_text_can_be_written_down(queue: JobQueue, text: str) -> None:
    audit.note(queue, "cancel", "job-1", why=text, detail=text)
    (entry,) = audit.entries(queue)
    assert len(entry.why) <= 2_000


def test_entries_go_when_their_time_is_over(tmp_path: Path) -> None:
    now = [time.time()]

    def clock() -> float:
        return now[0]

    ledger = open_ledger("memory://", clock=clock)
    config = msgspec.structs.replace(Config(), backend="inline://")
    with JobQueue(config=config, ledger=ledger, root=tmp_path) as queue:
        audit.note(queue, "cancel", "old")
        now[0] += 60 * 86_400
        audit.note(queue, "cancel", "young")
        queue.sweeper.purge()
        assert len(audit.entries(queue)) == 2
        now[0] += 31 * 86_400
        queue.sweeper.purge()
        assert [one.subject for one in audit.entries(queue)] == ["young"]


def test_of_too_many_entries_the_oldest_go(queue: JobQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "KEPT_MAX", 3)
    for number in range(5):
        audit.note(queue, "cancel", f"job-{number}")
    queue.sweeper.purge()
    assert [one.subject for one in audit.entries(queue)] == ["job-4", "job-3", "job-2"]


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgres"])
def test_the_trail_is_kept_by_every_ledger(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = "sqlite:///ledger.db" if kind == "sqlite" else request.getfixturevalue(f"{kind}_url")
    config = msgspec.structs.replace(
        short_config(), backend="inline://", ledger=url, namespace=f"audit{time.time_ns()}"
    )
    with JobQueue(config=config, root=tmp_path) as queue:
        audit.note(queue, "cancel", "job-1", why="so", n=1)
        audit.note(queue, "retry", "job-1")
        assert [(one.verb, one.why, one.details) for one in audit.entries(queue)] == [
            ("retry", "", {}), ("cancel", "so", {"n": "1"}),
        ]  # fmt: skip
