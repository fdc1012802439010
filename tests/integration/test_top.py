"""The terminal screen: what it shows, what its keys do."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

import penstock as package
from penstock import JobQueue, Run, task
from penstock.cli import show
from penstock.core.records import Change
from penstock.job.lifecycle import State
from penstock.sources.decorators import TASKS

textual = pytest.importorskip("textual")

from penstock.tui.app import Page, Top  # noqa: E402
from penstock.tui.draw import short_duration  # noqa: E402
from penstock.tui.snapshot import take  # noqa: E402


@pytest.fixture
def queue(tmp_path):
    before = set(TASKS)

    @task(name="top_report")
    def report(run: Run) -> str:
        run.log("counting the rows")
        return "done"

    @task(name="top_flaky")
    def flaky() -> None:
        raise ValueError("column 'price' is null")

    with JobQueue("inline://", ledger=f"sqlite:///{tmp_path}/l.db", root=tmp_path) as queue:
        yield queue
    for name in set(TASKS) - before:
        TASKS.discard(name)


def filled(queue: JobQueue) -> JobQueue:
    queue.schedule("top_report", cron="0 2 * * *", timezone="Europe/Berlin", name="nightly")
    queue.schedule("top_flaky", every="15m", name="fx")
    with queue.captured():
        queue.schedules.trigger("nightly").wait(10)
        queue.schedules.trigger("fx").wait(10)
    body = b"""{"file": "jobs/tax.py", "type": "SyntaxError", "message": "invalid syntax", "line": 12,
        "at": "2026-11-21T06:20:11Z", "active": true}"""
    queue.ledger.records.write([Change(kind="scan_error", name="/srv/jobs/tax.py", seen=0, body=body)])
    return queue


def drive(queue: JobQueue, act: Callable[[Top, object], Awaitable[None]], *, refresh_s: float = 60.0) -> None:
    async def run() -> None:
        app = Top(queue, refresh_s=refresh_s)
        async with app.run_test(size=(120, 40)) as pilot:
            await until(pilot, lambda: app.snapshot is not None)
            await act(app, pilot)

    asyncio.run(run())


async def until(pilot, seen: Callable[[], object], timeout_s: float = 20.0) -> None:
    end = time.monotonic() + timeout_s
    while not seen():
        assert time.monotonic() < end, "it did not come"
        await pilot.pause(0.02)


def lines(app: Top, table: str) -> list[list[str]]:
    found = app.query_one(f"#{table}")
    return [[str(cell) for cell in found.get_row_at(at)] for at in range(found.row_count)]


def head(app: Top) -> str:
    return str(app.query_one("#head").render())


def log(app: Top) -> str:
    return "\n".join(strip.text for strip in app.query_one("#log").lines)


def test_the_screen_shows_functions_runs_logs_and_files_that_fail(queue):
    async def act(app, pilot):
        assert "inline://" in head(app)
        assert "24 h: 2 runs  1 ok  1 failed" in head(app)
        assert "⚠ jobs/tax.py: SyntaxError line 12: invalid syntax (old version active)" in head(app)
        fx, nightly = lines(app, "functions")
        assert fx[:3] == ["✗", "fx (top_flaky)", "every 15m"]
        assert fx[4].startswith("failed")
        assert fx[5] == "✗"
        assert nightly[2] == "0 2 * * *"
        assert nightly[4].startswith("ok")
        assert [line[2] for line in lines(app, "runs")] == ["top_flaky", "top_report"]
        await until(pilot, lambda: "ValueError: column 'price' is null" in log(app))
        await pilot.press("tab", "down")
        await until(pilot, lambda: "counting the rows" in log(app))

    drive(filled(queue), act)


def test_what_a_body_wrote_steers_no_terminal_and_is_no_markup(queue):
    evil = "\x1b[2J\x9b1m\u202e[/red]"

    @task(name="odd[/red]name", max_attempts=1)
    def odd(run: Run) -> None:
        run.log(f"told {evil}")
        run.message = evil
        raise ValueError(evil)

    async def act(app, pilot):
        await until(pilot, lambda: "ValueError" in log(app))
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(app.screen, Page))
        strips = app.screen._compositor.render_strips()
        shown = "\n".join([head(app), log(app), str(lines(app, "runs")), *(strip.text for strip in strips)])
        assert "␛[2J" in shown
        assert not {"\x1b", "\x9b", "\u202e"} & set(shown)

    with queue.captured():
        queue.enqueue("odd[/red]name").wait(10)
    drive(queue, act)


def test_a_key_runs_the_selected_function_now(queue):
    async def act(app, pilot):
        before = queue.counts()
        await pilot.press("down", "r")
        await until(pilot, lambda: queue.counts().get("succeeded") == before["succeeded"] + 1)
        await until(pilot, lambda: len(lines(app, "runs")) == 3)
        assert queue.schedules.get("nightly").counts["manual"] == 2

    drive(filled(queue), act)


def test_among_the_runs_the_keys_are_for_the_function_of_the_selected_run(queue):
    async def act(app, pilot):
        await pilot.press("tab", "down", "p")
        await until(pilot, lambda: queue.schedules.get("nightly").pause is not None)
        assert queue.schedules.get("fx").pause is None

    drive(filled(queue), act)


def test_a_key_pauses_a_schedule_and_lets_it_go_on(queue):
    async def act(app, pilot):
        await pilot.press("p")
        await until(pilot, lambda: any("paused" in line[3] for line in lines(app, "functions")))
        assert queue.schedules.get("fx").pause is not None
        await pilot.press("p")  # the cursor has stayed on it, although it is the last line now
        await until(pilot, lambda: queue.schedules.get("fx").pause is None)

    drive(filled(queue), act)


def test_a_key_retries_the_selected_run(queue):
    async def act(app, pilot):
        failed = queue.jobs(states=("failed",))[0]
        await pilot.press("tab", "t")
        await until(pilot, lambda: len(queue.jobs(states=("failed",))) == 2)
        assert queue.jobs(parent_id=failed.id)[0].name == "top_flaky"

    drive(filled(queue), act)


def test_a_key_cancels_the_selected_run(queue):
    job = queue.enqueue("top_report", delay="1h")

    async def act(app, pilot):
        await pilot.press("tab", "c")
        await until(pilot, lambda: job.refresh().state is State.CANCELLED)

    drive(queue, act)


def test_what_cannot_be_done_is_told_and_the_screen_stays(queue):
    job = queue.enqueue("top_report", delay="1h")

    async def act(app, pilot):
        await pilot.press("tab", "t")
        await until(pilot, lambda: any("not final" in note.message for note in app._notifications))
        await pilot.press("shift+tab", "p")
        await until(pilot, lambda: any("no schedule to pause" in note.message for note in app._notifications))
        assert job.refresh().state is State.QUEUED

    drive(queue, act)


def test_enter_tells_all_about_a_run_and_escape_closes_it(queue):
    async def act(app, pilot):
        await pilot.press("tab", "enter")
        await until(pilot, lambda: isinstance(app.screen, Page))
        told = str(app.screen.query_one("Static").render())
        assert "ValueError: column 'price' is null" in told
        assert "try 1: error" in told
        await pilot.press("escape")
        await until(pilot, lambda: not isinstance(app.screen, Page))
        await pilot.press("question_mark")
        await until(pilot, lambda: isinstance(app.screen, Page))

    drive(filled(queue), act)


def test_a_filter_leaves_what_has_it_in_its_name(queue):
    async def act(app, pilot):
        await pilot.press("slash", *"night", "enter")
        await until(pilot, lambda: [line[1] for line in lines(app, "functions")] == ["nightly (top_report)"])
        await pilot.press("escape")
        await until(pilot, lambda: len(lines(app, "functions")) == 2)

    drive(filled(queue), act)


def test_it_looks_again_by_itself(queue):
    async def act(app, pilot):
        assert lines(app, "runs") == []
        queue.enqueue("top_report").wait(10)
        await until(pilot, lambda: len(lines(app, "runs")) == 1)

    drive(queue, act, refresh_s=0.1)


def test_the_newest_run_is_on_top_unless_somebody_looks_at_the_runs(queue):
    def selected(app) -> str:
        return app.query_one("#runs").get_row_at(app.query_one("#runs").cursor_row)[2].plain

    async def act(app, pilot):
        assert selected(app) == "top_flaky"
        queue.enqueue("top_report").wait(10)
        await until(pilot, lambda: len(lines(app, "runs")) == 3)
        assert selected(app) == "top_report"
        await pilot.press("tab", "down")
        assert selected(app) == "top_flaky"
        queue.enqueue("top_report").wait(10)
        await until(pilot, lambda: len(lines(app, "runs")) == 4)
        assert selected(app) == "top_flaky"

    drive(filled(queue), act, refresh_s=0.1)


def test_an_empty_ledger_is_no_trouble(queue):
    async def act(app, pilot):
        assert "not scanned yet" in head(app)
        assert "no worker" in head(app)
        await pilot.press("r", "t", "c", "p", "tab", "enter", "down", "r")
        assert app.is_running

    drive(queue, act)


def test_a_ledger_that_does_not_answer_is_told_until_it_does(tmp_path):
    with JobQueue("inline://", ledger="redis://127.0.0.1:1/0", root=tmp_path) as queue:

        async def run() -> None:
            app = Top(queue, refresh_s=60)
            async with app.run_test(size=(100, 30)) as pilot:
                await until(pilot, lambda: "⚠" in head(app))
                await pilot.press("r", "p")
                assert app.is_running

        asyncio.run(run())


def test_names_and_messages_are_no_markup(queue):
    with queue.captured():
        queue.run(queue.command(["false", "[/red]"], tags=[]))

    async def act(app, pilot):
        assert lines(app, "runs")[0][2] == "false"

    drive(queue, act)


def test_one_moment_tells_what_runs_first_and_what_is_paused_last(queue):
    filled(queue)
    queue.schedules.pause("fx")
    queue.schedule("top_report", every="1m", name="soon")
    assert [row.name for row in take(queue).rows] == ["soon", "nightly", "fx"]


def test_two_schedules_of_one_task_have_runs_of_their_own(queue):
    for name in ("a", "b"):
        queue.schedule("top_report", every="1h", name=name)
    queue.schedules.trigger("a").wait(10)
    rows = {row.name: row for row in take(queue).rows}
    assert (len(rows["a"].jobs), len(rows["b"].jobs)) == (1, 0)


@pytest.mark.parametrize(("seconds", "told"), [(900, "15m"), (5400, "1h30m"), (86_400, "1d"), (0.25, "250ms")])
def test_an_interval_is_told_as_it_is_written(seconds, told):
    assert short_duration(seconds) == told


# -- the command ------------------------------------------------------------------------------------------------------


def penstock(root: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "NO_COLOR": "1", "PYTHONPATH": str(Path(package.__file__).parents[1])}
    return subprocess.run(
        [sys.executable, "-m", "penstock", *words], cwd=root, capture_output=True, text=True, timeout=60, env=environ
    )


def test_once_prints_it_and_needs_no_screen(queue, tmp_path):
    filled(queue)
    (tmp_path / "penstock.toml").write_text('ledger = "sqlite:///l.db"\n')
    told = penstock(tmp_path, "top", "--once")
    assert told.returncode == 0, told.stderr
    assert "24 h: 2 runs  1 ok  1 failed" in told.stdout
    assert "jobs/tax.py: SyntaxError line 12" in told.stdout
    assert "nightly (top_report)" in told.stdout
    assert show.short_ids([queue.jobs()[0].id])[queue.jobs()[0].id] in told.stdout


def test_as_json_it_is_one_document_also_where_there_is_no_ledger_yet(tmp_path):
    told = penstock(tmp_path, "top", "--json")
    document = json.loads(told.stdout)
    assert document["schema"] == "penstock.top/1"
    assert (document["runs"], document["functions"], document["last_scan"]) == (0, [], None)


def test_once_loads_no_screen(tmp_path):
    code = "import penstock.cli.top, penstock.tui.snapshot, penstock.tui.draw, sys; print('textual' in sys.modules)"
    environ = {**os.environ, "PYTHONPATH": str(Path(package.__file__).parents[1])}
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environ)
    assert told.stdout.strip() == "False", told.stderr


def test_a_refresh_that_is_no_time_is_refused(tmp_path):
    told = penstock(tmp_path, "top", "--once", "--refresh", "soon")
    assert told.returncode == 2
    assert "--refresh: 'soon' is not a duration" in told.stderr


def test_what_is_paused_and_struck_is_told_on_every_screen(queue, tmp_path):
    queue.pause(queue="etl", why="migration")
    queue.strike("top_report", "day", "==", "monday")
    (tmp_path / "penstock.toml").write_text('ledger = "sqlite:///l.db"\n')
    for words in (("top", "--once"), ("status",), ("snapshot",), ("doctor",)):
        told = penstock(tmp_path, *words)
        assert "queue etl" in told.stdout, (words, told.stdout, told.stderr)
        assert "top_report, day == " in told.stdout, (words, told.stdout)
