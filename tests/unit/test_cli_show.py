"""How jobs look in lists."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console

from penstock.cli import show
from penstock.job.lifecycle import SHOWN_STATES, State
from penstock.job.models import ErrorInfo, Job

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


def job(number: int = 0, **fields) -> Job:
    asked = {"id": f"019aa4f0-1a2b-7{number:03d}-8000-000000000000", "kind": "task", "name": "hello", "spec": b"{}"}
    return Job(**{"state": State.QUEUED, "created_at": NOW, "scheduled_at": NOW, **asked, **fields})


def printed(table, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width)
    console.print(table)
    return console.file.getvalue().splitlines()


def test_every_shown_state_has_a_sign_and_a_colour():
    assert set(show.STATES) == set(SHOWN_STATES)


def test_short_ids_tell_the_listed_jobs_apart():
    ids = [job(n).id for n in (1, 2, 30)]
    short = show.short_ids(ids)
    assert len(set(short.values())) == 3
    assert all(job_id.startswith(begin) and len(begin) >= 13 for job_id, begin in short.items())


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_long_error_takes_no_room_from_the_other_columns(width):
    failed = job(
        state=State.FAILED,
        name="delays_by_carrier",
        attempt=1,
        started_at=NOW,
        finished_at=NOW,
        error=ErrorInfo("ValueError", "x" * 500),
    )
    lines = printed(show.jobs_table([failed, job(1)], NOW, width=width), width)
    assert max(map(len, lines)) <= width
    assert "✗ failed" in lines[1]
    assert "delays_by_carrier" in lines[1]
    assert lines[1].rstrip().endswith("…")
    assert len(lines) == 3


def test_a_name_gives_way_in_a_very_narrow_terminal():
    assert max(map(len, printed(show.jobs_table([job(name="n" * 100)], NOW, width=50), 50))) <= 50


@pytest.mark.parametrize(
    ("away_s", "told"),
    [(0, "now"), (-5, "5 s ago"), (-119, "1 m ago"), (-7200, "2 h ago"), (-200_000, "2 d ago"), (90, "in 1 m")],
)
def test_instants_are_told_in_their_largest_unit(away_s, told):
    assert show.ago(NOW + timedelta(seconds=away_s), NOW) == told


def test_the_error_line_names_node_class_and_first_line():
    failed = job(state=State.FAILED, error=ErrorInfo("ValueError", "bad\nsecond line", node="by_region"))
    assert show.error_line(failed) == "by_region: ValueError: bad"


def test_a_line_of_an_error_promises_nothing_that_follows_elsewhere():
    failed = job(state=State.FAILED, error=ErrorInfo("CommandFailed", "exit status 3:\nno room"))
    assert show.error_line(failed) == "CommandFailed: exit status 3"
    assert show.error_rest(failed) == ["no room"]


def test_markup_in_a_name_is_shown_as_it_is():
    assert any("[red]" in line for line in printed(show.jobs_table([job(name="[red]x")], NOW, width=120), 120))


def test_a_job_as_json_has_the_shown_state_and_the_input():
    document = msgspec.json.decode(
        msgspec.json.encode(
            show.job_document(job(scheduled_at=NOW + timedelta(hours=1), spec=b'{"kwargs":{"n":1}}'), NOW)
        )
    )
    assert document["schema"] == "penstock.job/1"
    assert document["state"] == "scheduled"
    assert document["stored_state"] == "queued"
    assert document["spec"] == {"kwargs": {"n": 1}}
