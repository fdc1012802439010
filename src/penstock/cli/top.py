"""``top``: the screen of scheduled functions and their runs."""

from __future__ import annotations

import importlib.util
import sys
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from penstock.cli import show
from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import ConfigError

if TYPE_CHECKING:
    from penstock.tui.snapshot import Row, Snapshot

_PIPE_WIDTH = 160
_FLAG = Parameter(negative="", show_default=False)


def top(
    *,
    once: Annotated[bool, _FLAG] = False,
    refresh: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Show scheduled functions, their runs and what they wrote; run, retry, cancel and pause them by a key.

    Args:
        once: Print it once and end; so it is in a pipe, and with --json.
        refresh: How often to look again, such as 2s; default: as configured.
        session: Handed in by the parser.
    """
    refresh_s = _refresh_s(refresh or session.settings.config.tui.refresh)
    if once or session.json or not sys.stdout.isatty():
        from penstock.tui.snapshot import take

        snapshot = take(session.look())
        if session.json:
            session.document(_document(snapshot))
        else:
            from penstock.tui.draw import page

            if not sys.stdout.isatty():
                session.console.width = _PIPE_WIDTH  # a pipe has none, and what reads it wants whole lines
            session.console.print(page(snapshot, width=session.console.width))
        return OK
    if importlib.util.find_spec("textual") is None:
        raise ConfigError(
            'the screen needs Textual, which is not installed. Run: pip install "penstock[tui]"; '
            "`penstock top --once` needs nothing"
        )
    from penstock.tui.app import Top

    Top(session.queue(), refresh_s=refresh_s).run()
    return OK


def _refresh_s(text: str | float) -> float:
    try:
        refresh_s = parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f"--refresh: {error}") from None
    if refresh_s < 0.1:
        raise UsageError(f"--refresh takes 100ms or more, not {text}")
    return refresh_s


def _document(snapshot: Snapshot) -> dict[str, Any]:
    fields = {name: getattr(snapshot, name) for name in snapshot.__struct_fields__ if name not in ("rows", "jobs")}
    return {
        "schema": "penstock.top/1",
        **fields,
        "runs": snapshot.runs,
        "functions": [_row(row) for row in snapshot.rows],
        "jobs": [show.job_document(job, snapshot.at) for job in snapshot.jobs],
    }


def _row(row: Row) -> dict[str, Any]:
    schedule = row.schedule
    return {
        "name": row.name,
        "runs": row.runs,
        "rule": None if schedule is None else schedule.plan.rule.explain(),
        "next_at": None if schedule is None else schedule.next_at,
        "paused": None if schedule is None or schedule.pause is None else msgspec.to_builtins(schedule.pause),
        "where": None if schedule is None else schedule.plan.where,
        "last": [{"id": job.id, "state": job.state} for job in row.jobs],
    }
