"""``workers``: which worker processes there are, how they are, and what each can run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli import refs, show
from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import did_you_mean

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.job.models import WorkerInfo

_OPTIONAL = Parameter(show_default=False)
_COLUMNS = (
    "id", "host", "pid", "backend", "queues", "concurrency", "running", "started_at", "seen_at", "claimed_at",
    "version", "tasks", "pipelines", "trouble", "paused",
)  # fmt: skip


def workers(
    *,
    queue: Annotated[str | None, _OPTIONAL] = None,
    seen_within: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List the workers that live: where each runs, its last sign of life, its version, what it can run.

    Args:
        queue: Only those that listen to this queue.
        seen_within: Those that gave a sign of life within this time; default: 60s.
        session: Handed in by the parser.
    """
    opened = session.look()
    found = opened.workers(seen_within_s=_seconds(seen_within))
    if queue is not None:
        found = [worker for worker in found if queue in worker.queues]
    return _print(session, found, opened.now(), "no worker lives; start one: penstock worker")


def for_task(
    name: str,
    /,
    *,
    seen_within: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List the workers that can run a task or a pipeline.

    Args:
        name: Its name, or one that it had before.
        seen_within: Those that gave a sign of life within this time; default: 60s.
        session: Handed in by the parser.
    """
    opened = session.look()
    found = opened.workers_for(name, seen_within_s=_seconds(seen_within))
    near = "" if found else did_you_mean(name, refs.runnable(opened) | refs.names_of_jobs(opened))
    return _print(session, found, opened.now(), f"no worker that lives has {name!r}: its jobs wait for one.{near}")


def _seconds(text: str | None) -> float:
    try:
        seconds = 60.0 if text is None else parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f"--seen-within: {error}") from None
    if seconds <= 0:
        raise UsageError(f"--seen-within takes a time over 0, not {text}")
    return seconds


def _print(session: Session, found: Sequence[WorkerInfo], now: datetime, nobody: str) -> int:
    if session.json:
        for worker in found:
            fields = {name: getattr(worker, name) for name in worker.__struct_fields__}
            session.document({"schema": "penstock.worker_info/1", **fields})
    elif not session.pretty:
        session.rows(_COLUMNS, ([_cell(getattr(worker, name)) for name in _COLUMNS] for worker in found))
    elif found:
        _table(session, found, now)
    if not found:
        session.say(nobody)
    return OK


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ",".join(value)  # pyright: ignore[reportUnknownArgumentType]
    return show.iso(value) if hasattr(value, "isoformat") else "" if value is None else str(value)


def _table(session: Session, found: Sequence[WorkerInfo], now: datetime) -> None:
    from rich.text import Text

    rows: list[list[Text | str]] = []
    for worker in found:
        can = [*worker.tasks, *worker.pipelines]
        told, style = show.worker_told(worker)
        rows.append([
            Text(worker.id, style="bold"),
            worker.backend,
            ",".join(worker.queues),
            f"{worker.running}/{worker.concurrency}",
            show.ago(worker.seen_at, now),
            worker.version,
            Text(told or ", ".join(can) or "nothing", style=style),
        ])  # fmt: skip
    header = ("worker", "engine", "queues", "runs", "seen", "version", "can run")
    gives = [1, 6, 2] if any(worker.trouble or worker.paused for worker in found) else [6, 1, 2]
    session.console.print(show.table(header, rows, width=session.console.width, gives=gives))
