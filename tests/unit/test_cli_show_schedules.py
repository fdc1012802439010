"""How schedules look on a terminal: no wider than it is, with every state told by sign and word."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import msgspec
import pytest
from rich.console import Console

from penstock.cli import show_schedules
from penstock.core.triggers import At, Cron, Every
from penstock.job.rules import After
from penstock.job.schedules import Pause, Plan, Schedule, Template
from penstock.schedules import Fire

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
NIGHTLY = Schedule(
    name="nightly",
    plan=Plan(
        rule=Cron("0 2 * * *", "Europe/Berlin"),
        template=Template(kind="task", name="report", spec="{}"),
        timezone="Europe/Berlin",
        where="[schedules.nightly]",
    ),
    made_at=NOW, changed_at=NOW, next_at=NOW + timedelta(hours=13),
)  # fmt: skip


def drawn(schedule: Schedule, width: int) -> list[str]:
    console = Console(width=width, record=True, color_system=None, file=io.StringIO())
    console.print(show_schedules.schedules_table([(schedule, None)], NOW, width=width))
    return [line.rstrip() for line in console.export_text().splitlines()]


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_the_list_is_no_wider_than_the_terminal(width):
    lines = drawn(NIGHTLY, width)
    assert len(lines) == 2
    assert max(map(len, lines)) <= width
    assert "● active" in lines[1]


def test_a_row_tells_rule_next_fire_in_its_zone_and_who_declared_it():
    _, row = drawn(NIGHTLY, 140)
    for told in ("nightly  → report", "At 02:00 every day", "22 Nov 02:00 CET  in 13 h", "[schedules.nightly]"):
        assert told in row


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"pause": Pause(at=NOW - timedelta(hours=2), by="ada", note="moving")}, "paused by ada 2 h ago: moving"),
        ({"next_at": NOW - timedelta(seconds=1)}, "21 Nov 12:59:59 CET  due"),
        ({"next_at": NOW + timedelta(days=300)}, "17 Sep 2027 14:00 CEST  in 300 d"),
        ({"next_at": None, "awaits": "x"}, "after the run that is under way"),
        ({"next_at": None, "over": True}, ""),
    ],
)
def test_what_is_next_is_said_in_words(changes, told):
    assert show_schedules.next_text(msgspec.structs.replace(NIGHTLY, **changes), NOW) == told


@pytest.mark.parametrize(
    ("rule", "written", "said"),
    [
        (Cron("0 2 * * *", "Europe/Berlin"), "0 2 * * *", "At 02:00 every day (Europe/Berlin)"),
        (Every(5400, NOW), "every 1h30m", "Every 1h30m"),
        (Every(0.25, NOW), "every 0.25s", "Every 0.25s"),
        (After(900), "every 15m", "15 m 0 s after the end of each run"),
        (At(NOW), "2026-11-21T13:00:00+01:00", "Once at 21 Nov 2026 13:00 CET"),
    ],
)
def test_a_rule_is_written_as_it_may_be_given_again_and_said_in_words(rule, written, said):
    plan = msgspec.structs.replace(NIGHTLY.plan, rule=rule)
    assert (show_schedules.rule_text(plan), show_schedules.explained(plan)) == (written, said)


def test_a_day_on_which_the_clocks_change_is_marked():
    console = Console(width=100, record=True, color_system=None, file=io.StringIO())
    fires = [Fire(NOW), Fire(NOW + timedelta(days=1), "clocks go back by 1:00")]
    console.print(show_schedules.fires_table(fires, NOW))
    first, second = console.export_text().splitlines()
    assert "◐" not in first
    assert second.rstrip().endswith("◐ clocks go back by 1:00")
