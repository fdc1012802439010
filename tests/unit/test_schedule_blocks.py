"""``schedule:`` of a pipeline, in today's spelling and in those of FlowerPower before 0.21."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from penstock.core.triggers import Cron
from penstock.sources.flowerpower import project_at
from penstock.sources.schedule_blocks import Block, Unread, blocks

WRITTEN_BY_THE_FIRST_VERSIONS = (
    "{run: {coalesce: latest, conflict_poilcy: do_nothing, paused: false, id: null},"
    " trigger: {crontab: null, days: 0, minute: null, minutes: 0, seconds: 0, timezone: UTC, type: null}}"
)
"""Into each new pipeline's file, spelling and all."""


def read(tmp_path: Path, text: str) -> list[Block | Unread]:
    """Read the one pipeline of a project with this text in its file."""
    (tmp_path / "conf" / "pipelines").mkdir(parents=True)
    (tmp_path / "conf" / "project.yml").write_text("name: shop\n")
    (tmp_path / "conf" / "pipelines" / "sales.yml").write_text(text)
    project = project_at(tmp_path)
    assert project is not None
    return list(blocks(project))


def options(tmp_path: Path, schedule: str) -> dict[str, Any]:
    (block,) = read(tmp_path, f"run: {{}}\nschedule: {schedule}\n")
    assert isinstance(block, Block), block
    return block.options


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ('"0 6 * * *"', {"rule": "0 6 * * *"}),
        ('{cron: "0 6 * * *"}', {"cron": "0 6 * * *"}),
        ('{cron: "0 6 * * *", timezone: Europe/Berlin, overlap: queue}',
         {"cron": "0 6 * * *", "timezone": "Europe/Berlin", "overlap": "queue"}),
        ("{interval: 30m}", {"every": 1800.0}),
        ("{interval: 45}", {"every": 45}),
        ("{interval: 1 hour 30 minutes}", {"every": 5400.0}),
        ("{interval: {hours: 1, minutes: 30}}", {"every": 5400.0}),
        ('{date: "2099-01-01T09:00:00"}', {"at": "2099-01-01T09:00:00"}),
        ("{date: 2099-01-01}", {"at": "2099-01-01T00:00"}),
        ("{date: {run_time: '2099-01-01T09:00'}}", {"at": "2099-01-01T09:00"}),
        ("{cron: {crontab: '0 6 * * *', timezone: UTC}}", {"cron": "0 6 * * *", "timezone": "UTC"}),
        ("{trigger: {type_: interval, interval: {minutes: 5}, cron: {hour: null}}}", {"every": 300.0}),
        ("{trigger: {type: cron, crontab: '0 3 * * *', days: 0}}", {"cron": "0 3 * * *"}),
        ("{trigger: {cron: {hour: 3}}, run: {coalesce: all, misfire_grace_time: 60, max_jitter: 5}}",
         {"cron": "0 3 * * *", "catch_up": "all", "grace": 60, "jitter": 5}),
        ("{trigger: {cron: {hour: 3}}, run: {coalesce: earliest, max_running_jobs: 3, executor: threadpool}}",
         {"cron": "0 3 * * *", "catch_up": "latest", "overlap": "allow"}),
    ],
)  # fmt: skip
def test_each_spelling_is_read(tmp_path, schedule, expected):
    found = options(tmp_path, schedule)
    assert found == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("{hour: 6}", "0 6 * * *"),
        ("{minute: '*/15'}", "*/15 * * * *"),
        ("{hour: 6, minute: 30, day_of_week: mon-fri}", "30 6 * * mon-fri"),
        ("{hour: 6, day_of_week: '0-4'}", "0 6 * * mon-fri"),
        ("{hour: 6, day_of_week: 6}", "0 6 * * sun"),
        ("{hour: 6, day_of_week: '0,2'}", "0 6 * * mon,wed"),
        ("{hour: 6, day_of_week: '*/2'}", "0 6 * * mon,wed,fri,sun"),
        ("{day: 1}", "0 0 1 * *"),
        ("{month: 3}", "0 0 1 3 *"),
        ("{second: '*/10'}", "*/10 * * * * *"),
        ("{minute: 0, hour: '*', day: '*', month: '*', day_of_week: '*'}", "0 * * * *"),
    ],
)
def test_fields_that_are_left_out_are_what_apscheduler_took_them_for(tmp_path, fields, expected):
    cron = options(tmp_path, f"{{cron: {fields}}}")["cron"]
    assert cron == expected
    Cron(cron)


@pytest.mark.parametrize(
    "schedule",
    [
        "null",
        "{}",
        "{cron: null, interval: null, date: null}",
        "{cron: null, timezone: UTC}",
        WRITTEN_BY_THE_FIRST_VERSIONS,
    ],
)
def test_a_block_that_says_nothing_is_no_schedule(tmp_path, schedule):
    assert read(tmp_path, f"schedule: {schedule}\n") == []


@pytest.mark.parametrize(
    ("schedule", "reason"),
    [
        ("5", "the block is 5, not a mapping"),
        ("{overlap: skip}", "there is no rule"),
        ("{cron: '@daily', interval: 3}", "interval and cron are two rules"),
        ("{cron: {hour: 6, week: 3}}", "the field week is not carried over"),
        ("{cron: {hours: 6}}", "Did you mean 'hour'?"),
        ("{interval: {hour: 1}}", "Did you mean 'hours'?"),
        ("{interval: {hours: many}}", "hours is 'many'"),
        ("{interval: soon}", "interval is 'soon'"),
        ("{trigger: {type_: calendar, calendar: {months: 1}}}", "calendar is not carried over"),
        ("{trigger: {cron: {hour: 1}, interval: {hours: 1}}}", "cron and interval are two rules"),
        ("{trigger: {cron: {hour: 1}}, run: {coalesce: never}}", "coalesce is 'never'"),
        ("{cron: '@daily', paused: often}", "paused is 'often'"),
    ],
)
def test_a_block_that_makes_no_sense_is_told_with_file_and_line(tmp_path, schedule, reason):
    (found,) = read(tmp_path, f"run: {{}}\n\nschedule: {schedule}\n")
    assert isinstance(found, Unread)
    assert str(found.error).startswith(f"{tmp_path / 'conf' / 'pipelines' / 'sales.yml'}:3: schedule: ")
    assert reason in str(found.error)


def test_a_spelling_of_before_says_how_it_was_read(tmp_path):
    (block,) = read(tmp_path, "schedule: {cron: {hour: 6, day_of_week: 0}}\n")
    assert isinstance(block, Block)
    assert block.old == "cron as '0 6 * * mon'"


def test_a_spelling_of_today_has_nothing_to_say(tmp_path):
    (block,) = read(tmp_path, "schedule: {cron: '0 6 * * *'}\n")
    assert isinstance(block, Block)
    assert block.old == ""


def test_a_file_that_is_no_yaml_is_told(tmp_path):
    (found,) = read(tmp_path, "schedule: {cron: *daily\n")
    assert isinstance(found, Unread)
    assert "sales.yml" in str(found.error)
