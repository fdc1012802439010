"""``jobs`` and ``tasks``: what was submitted, and what can be."""

from __future__ import annotations

import logging
import os
import sys
import time
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

from cyclopts import Parameter

from penstock.cli import arguments, show
from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session
from penstock.client import JobQueue
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import LedgerError, did_you_mean
from penstock.job.lifecycle import SHOWN_STATES

if TYPE_CHECKING:
    from rich.console import RenderableType

    from penstock.job.models import Job
    from penstock.job.steering import Rule
    from penstock.sources.decorators import Task

logger = logging.getLogger("penstock.cli")

_OPTIONAL = Parameter(show_default=False)
_FLAG = Parameter(negative="", show_default=False)
_REFRESH_S = 1.0


def jobs(
    *,
    status: Annotated[
        tuple[str, ...], Parameter(name=["--status", "--state", "-s"], negative="", show_default=False)
    ] = (),
    name: Annotated[str | None, _OPTIONAL] = None,
    queue: Annotated[str | None, _OPTIONAL] = None,
    tag: Annotated[str | None, _OPTIONAL] = None,
    metadata: Annotated[tuple[str, ...], _FLAG] = (),
    since: Annotated[str | None, _OPTIONAL] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 50,
    before: Annotated[str | None, _OPTIONAL] = None,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="", show_default=False)] = False,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List submitted jobs, newest first.

    Args:
        status: Only jobs in this state (queued, running, failed, ...); may be repeated, or hold commas.
        name: Only jobs of this name; * and ? stand for any characters.
        queue: Only jobs in this queue.
        tag: Only jobs with this tag.
        metadata: KEY=VALUE: only jobs with this entry; may be repeated.
        since: Only jobs made within this time, such as 24h, or since an ISO 8601 time with its zone.
        limit: At most so many.
        before: Only jobs older than this id: the last one of the page before.
        watch: Show the list until Ctrl-C. In a pipe: a line for each change.
        session: Handed in by the parser.
    """
    opened = session.queue() if watch else session.look()
    if limit < 1:
        raise UsageError(f"--limit takes a number over 0, not {limit}")
    query: dict[str, Any] = {
        "states": _states(status), "name": name, "queue": queue, "tag": tag, "limit": limit, "before": before,
        "since": since_of(since, opened), "metadata": arguments.metadata(metadata) or {},
    }  # fmt: skip

    def found() -> tuple[list[Job], datetime]:
        return [handle.job for handle in opened.jobs(**query)], opened.now()

    if watch:
        return _watch_pretty(session, opened, found) if session.pretty else _watch_lines(session, found)
    listed, now = found()
    print_jobs(session, opened, listed, now, more=len(listed) == limit)
    return OK


def print_jobs(session: Session, queue: JobQueue, jobs: Sequence[Job], now: datetime, *, more: bool) -> None:
    """Write a page of jobs; ``more``: older ones may follow."""
    if session.json:
        for job in jobs:
            session.document(show.job_document(job, now))
    elif not session.pretty:
        session.rows(show.JOB_COLUMNS, (show.job_row(job, now) for job in jobs))
    elif not jobs:
        session.say("no jobs" if not queue.counts() else "no jobs fit; leave a filter out")
    else:
        session.console.print(show.jobs_table(jobs, now, width=session.console.width))
        if more:
            session.say(f"older ones: --before {jobs[-1].id}")


def _watch_pretty(session: Session, queue: JobQueue, found: Any) -> int:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def screen() -> RenderableType:
        jobs, now = found()
        counts = queue.counts()
        head = Text.assemble(
            *(part for state in SHOWN_STATES if state in counts
              for part in ((f"{counts[state]} ", ""), show.state_text(state), "   "))
        )  # fmt: skip
        room = max(1, session.console.height - 4)
        return Group(head, "", show.jobs_table(jobs[:room], now, width=session.console.width))

    with Live(screen(), console=session.console, auto_refresh=False, screen=True) as live:
        while True:
            time.sleep(_REFRESH_S)
            live.update(screen(), refresh=True)


def _watch_lines(session: Session, found: Any) -> int:
    seen: dict[str, tuple[Any, ...]] = {}
    if not session.json:
        session.write("\t".join(show.JOB_COLUMNS))
    while True:
        jobs, now = found()
        for job in reversed(jobs):
            looks = (show.shown_state(job, now), job.attempt, job.progress, job.message, job.nodes_done)
            if seen.get(job.id) == looks:
                continue
            seen[job.id] = looks
            if session.json:
                session.document(show.job_document(job, now))
            else:
                session.write("\t".join(" ".join(cell.split()) for cell in show.job_row(job, now)))
        sys.stdout.flush()
        time.sleep(_REFRESH_S)
        session.raise_if_nobody_reads()


def _states(words: Sequence[str]) -> tuple[str, ...]:
    states = tuple(part.strip() for word in words for part in word.split(",") if part.strip())
    for state in states:
        if state not in SHOWN_STATES:
            raise UsageError(
                f"--status {state!r} is not a state; there are: {', '.join(SHOWN_STATES)}."
                f"{did_you_mean(state, SHOWN_STATES)}"
            )
    return states


def since_of(text: str | None, queue: JobQueue) -> datetime | None:
    """Read ``24h`` or an ISO 8601 time with its zone. Raises `UsageError`."""
    if text is None:
        return None
    try:
        return queue.now() - timedelta(seconds=parse_duration_s(text))
    except (ValueError, OverflowError):
        pass  # perhaps it is a time
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"--since {text!r} is neither a duration (24h) nor an ISO 8601 time") from None
    if at.utcoffset() is None:
        raise UsageError(f"--since {text} has no time zone; add Z or an offset such as +01:00")
    return at


def tasks(
    name: str | None = None,
    /,
    *,
    tasks: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List what can be run here: tasks with their options, and the pipelines of FlowerPower projects.

    What could not be loaded is told on stderr, with its traceback; the exit code is 3 then.

    Args:
        name: Only this one.
        tasks: A module or folder that holds tasks, added to those configured; may be repeated.
        session: Handed in by the parser.
    """
    from penstock.cli.failures import CONFIG

    queue = session.look(tasks=tasks)
    found = [_task_row(task) for _, task in sorted(queue.tasks().items())]
    found += [
        {
            "name": pipeline,
            "kind": "pipeline",
            "signature": "",
            "source": _pipeline_source(pipeline, project),
            "options": {},
        }
        for pipeline, project in sorted(queue.pipelines().items())
    ]
    if name is not None:
        found = [row for row in found if name in (row["name"], *row["options"].get("aliases", ()))]
    rules = _rules(queue)
    for row in found:
        names = (row["name"], *row["options"].get("aliases", ()))
        row["held"] = [rule.held for rule in rules if rule.concerns(names)]
    if session.json:
        for row in found:
            session.document({"schema": "penstock.task/1", **row})
    elif session.pretty:
        _print_tasks(session, found)
    else:
        session.rows(
            ("name", "kind", "signature", "source", "options", "held"),
            (
                [
                    row["name"],
                    row["kind"],
                    row["signature"],
                    row["source"],
                    _told(row["options"]),
                    "; ".join(row["held"]),
                ]
                for row in found
            ),
        )
    if name is not None and not found:
        from penstock.core.exceptions import UnknownTaskError

        raise UnknownTaskError(name, [*queue.tasks(), *queue.pipelines()])
    return CONFIG if queue.load_failures else OK


def _rules(queue: JobQueue) -> Sequence[Rule]:
    """Return the strikes and pauses; none where the ledger cannot be read: what can be run is told all the same."""
    try:
        return queue.rules()
    except LedgerError as error:
        logger.warning("whether anything is paused or struck is not known: %s", error)
        return ()


def _task_row(task: Task[..., Any]) -> dict[str, Any]:
    file, line = task.source
    options = {
        name: value for name in task.defaults.__struct_fields__ if (value := getattr(task.defaults, name)) is not None
    }
    if task.aliases:
        options["aliases"] = task.aliases
    if task.concurrency is not None:
        options["concurrency"] = task.concurrency
    return {
        "name": task.name,
        "kind": "task",
        "signature": arguments.signature(task),
        "source": f"{_shown(file)}:{line}",
        "options": options,
        "doc": show.first_line(task.__doc__),
    }


def _pipeline_source(name: str, project: Path) -> str:
    file = project.joinpath("pipelines", *name.split(".")).with_suffix(".py")
    return _shown(file if file.is_file() else project)


def _shown(path: str | Path) -> str:
    shown = os.path.relpath(path, Path.cwd())
    return str(path) if shown.startswith("..") else shown


def _told(options: dict[str, Any]) -> str:
    parts: list[str] = []
    for name, value in options.items():
        if name == "backoff":
            parts.append(f"backoff={value}")
        elif name == "retry_on":
            parts.append(f"retry_on={','.join(map(str, value))}")
        elif name.endswith("_s"):
            parts.append(f"{name[:-2]}={value:g}s")
        else:
            parts.append(f"{name}={_word(value)}")
    return " ".join(parts)


def _word(value: Any) -> str:
    return ",".join(map(str, cast("tuple[Any, ...]", value))) if isinstance(value, tuple) else str(value)


def _print_tasks(session: Session, rows: list[dict[str, Any]]) -> None:
    from rich.text import Text

    if not rows:
        session.say("nothing can be run here yet; try: penstock init")
        return
    cells: list[list[Text | str]] = []
    for row in rows:
        told = Text(f"{row['signature']}  {_told(row['options'])}".strip(), style="dim")
        held = Text(f"‖ {'; '.join(row['held'])}  " if row["held"] else "", style="yellow")
        cells.append([Text(row["name"], style="bold"), row["kind"], row["source"], held + told])
    session.console.print(show.table(("name", "kind", "source", ""), cells, width=session.console.width, gives=[3, 2]))
