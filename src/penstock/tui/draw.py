"""How a moment looks: the lines above, and the cells of the two tables."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING

from rich.console import Group
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from penstock.cli import show
from penstock.core.durations import format_duration
from penstock.core.triggers import At, Cron, Every, zone_of
from penstock.job.lifecycle import State, shown_state
from penstock.job.rules import After

if TYPE_CHECKING:
    from rich.console import RenderableType

    from penstock.job.models import Job
    from penstock.tui.snapshot import Row, Snapshot

FUNCTION_COLUMNS = ("", "function", "schedule", "next run", "last status", "last 10")
RUN_COLUMNS = ("state", "id", "name", "when", "took", "")
_SOON_S = 86_400.0
_LATE_S = 2.0
_ERRORS = 3


def head(snapshot: Snapshot, *, trouble: str = "") -> list[Text]:
    """Return the lines above the tables: engine and scan, the day's runs, and what is wrong."""
    first = Text.assemble(("penstock", "bold"), "  ", snapshot.backend, "    ")
    scan = snapshot.last_scan
    if scan is None:
        first.append("not scanned yet", style="dim")
    else:
        first.append(f"last scan {scan.at.astimezone():%H:%M:%S}")
        first.append(f" ({show.ago(scan.at, snapshot.at)})", style="dim")
        first.append(f"   {_count(scan.functions, 'function')}")
    first.append(f"  {_count(snapshot.schedules, 'schedule')}   ")
    workers = _count(snapshot.workers, "worker") if snapshot.workers else "no worker"
    first.append(workers, style="" if snapshot.workers else "yellow")
    if snapshot.ill:
        first.append(f" ({snapshot.ill} not well)", style="yellow")
    day = snapshot.day
    second = Text(f"24 h: {snapshot.runs:,}{'+' if snapshot.more else ''} runs  ")
    second.append(f"{day.get('succeeded', 0):,} ok  ", style="green" if day.get("succeeded") else "dim")
    second.append(f"{day.get('failed', 0):,} failed  ", style="bold red" if day.get("failed") else "dim")
    for state in ("retrying", "running"):
        if day.get(state):
            second.append(f"{day[state]:,} {state}  ", style=show.STATES[state][1])
    second.append(f"       queued {snapshot.waiting:,}", style="" if snapshot.waiting else "dim")
    lines = [first, second]
    if trouble:
        lines.append(Text(f"⚠ {trouble}", style="bold red"))
    lines += [Text(f"⏸ {held}", style="yellow") for held in snapshot.held[:_ERRORS]]
    if (others := len(snapshot.held) - _ERRORS) > 0:
        lines.append(Text(f"⏸ and {others} more strikes and pauses: penstock rules", style="yellow"))
    lines += [Text(f"⚠ {error.told}", style="yellow") for error in snapshot.errors[:_ERRORS]]
    if (others := len(snapshot.errors) - _ERRORS) > 0:
        lines.append(Text(f"⚠ and {others} more files that cannot be loaded: penstock scan", style="yellow"))
    return lines


def function_cells(row: Row, now: datetime) -> list[Text]:
    """Return the cells of `FUNCTION_COLUMNS`."""
    name = Text(row.name, style="bold")
    if row.name != row.runs:
        name.append(f" ({row.runs})", style="dim")
    if row.broken is not None:
        name.append(" ⚠", style="yellow")
    return [_sign(row, now), name, Text(_rule(row)), _next(row, now), _last(row, now), _ten(row, now)]


def run_cells(job: Job, now: datetime, short: str) -> list[Text]:
    """Return the cells of `RUN_COLUMNS`."""
    told = show.note(job, now)
    style = "red" if job.state is State.FAILED or (job.state is State.QUEUED and job.error) else "dim"
    return [
        show.state_text(shown_state(job, now)),
        Text(short),
        Text(job.name, style="bold"),
        Text(show.when(job, now)),
        Text(show.took(job, now), justify="right"),
        Text(told, style=style),
    ]


def page(snapshot: Snapshot, *, width: int, runs: int = 10) -> RenderableType:
    """Return the whole of it to be printed once."""
    parts: list[RenderableType] = [*head(snapshot), ""]
    if snapshot.rows:
        cells = [function_cells(row, snapshot.at) for row in snapshot.rows]
        parts.append(show.table(FUNCTION_COLUMNS, cells, width=width, gives=[4, 1, 2]))
    else:
        parts.append(Text("no functions and no schedules yet", style="dim"))
    jobs = snapshot.jobs[:runs]
    if jobs:
        short = show.short_ids([job.id for job in jobs])
        lines = [run_cells(job, snapshot.at, short[job.id]) for job in jobs]
        table: Table = show.table(RUN_COLUMNS, lines, width=width, gives=[5, 2])
        parts.append(Padding(table, (1, 0, 0, 0)))
    return Group(*parts)


def _sign(row: Row, now: datetime) -> Text:
    if row.live is not None:
        return show.state_text("running", word=False)
    if row.schedule is not None and row.schedule.pause is not None:
        return Text("‖", style="yellow")
    return Text("◷", style="blue") if row.last is None else show.state_text(shown_state(row.last, now), word=False)


def _rule(row: Row) -> str:
    if row.schedule is None:
        return "–"
    match row.schedule.plan.rule:
        case Cron(expr=expr):
            return expr
        case Every(seconds=seconds):
            return f"every {short_duration(seconds)}"
        case After(seconds=seconds):
            return f"{short_duration(seconds)} after each"
        case At():
            return "once"


def short_duration(seconds: float) -> str:
    """Write a span as it is written in a schedule: ``1h30m``."""
    if seconds < 1 or seconds != int(seconds):
        return format_duration(seconds).replace(" ", "")
    left, parts = int(seconds), ""
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)):
        count, left = divmod(left, size)
        parts += f"{count}{unit}" if count else ""
    return parts


def _next(row: Row, now: datetime) -> Text:
    if row.live is not None:
        told = "running" if row.live.progress is None else f"running {row.live.progress:.0%}"
        return Text(told, style="bold blue")
    schedule = row.schedule
    if schedule is None:
        return Text("–", style="dim")
    if schedule.pause is not None:
        by = f" by {schedule.pause.by}" if schedule.pause.by else ""
        return Text(f"paused{by}" + (f": {schedule.pause.note}" if schedule.pause.note else ""), style="yellow")
    if schedule.next_at is None:
        return Text("never again" if schedule.over else "after this run", style="dim")
    left_s = (schedule.next_at - now).total_seconds()
    if left_s < -_LATE_S:
        return Text("due; no scheduler runs?", style="yellow")
    if left_s < _SOON_S:
        return Text(show.ago(max(schedule.next_at, now), now))
    local = schedule.next_at.astimezone(zone_of(schedule.plan.timezone))
    return Text(f"{local:%d %b %H:%M %Z}")


def _last(row: Row, now: datetime) -> Text:
    if row.live is not None and (bar := show.progress_bar(row.live, 8)):
        return Text(bar, style="bold blue")
    if row.last is None:
        return Text("–", style="dim")
    state = shown_state(row.last, now)
    word = "ok" if state == "succeeded" else state
    return Text(f"{word} {show.took(row.last, now)}".rstrip(), style=show.STATES[state][1])


def _ten(row: Row, now: datetime) -> Text:
    """Draw the newest ten, the newest on the right, as people read time."""
    signs = [show.state_text(shown_state(job, now), word=False) for job in reversed(row.jobs)]
    return Text.assemble(*signs) if signs else Text("·" * 10, style="dim")


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("" if number == 1 else "s")
