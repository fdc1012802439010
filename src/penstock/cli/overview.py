"""``snapshot`` and ``queues``: what there is now, counted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from penstock.cli import show
from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session
from penstock.core.durations import format_duration
from penstock.job.lifecycle import SHOWN_STATES

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

    from penstock.snapshot import QueueState, Snapshot

QUEUE_COLUMNS = ("queue", "waiting", "waiting_since", "running", "scheduled", "retrying", "blocked", "engine",
                 "late_p50_s", "late_max_s", "listeners", "paused")  # fmt: skip
_SPARED = ("scheduled", "retrying", "blocked")
"""Columns of the table of queues that are left out where there are no such jobs."""
_NARROW_SPARES = ("engine", "late", "latest")
"""Those that a narrow terminal has no room for."""
_LISTED = 10
"""What runs and what comes is cut there on a terminal; ``--json`` and a pipe have all that was asked for."""


def snapshot(
    *,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 100,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Show what there is now: jobs by state, queue and task, what runs where, what comes next, who works.

    Args:
        limit: List at most so many running and so many future jobs; all are counted.
        session: Handed in by the parser.
    """
    if limit < 0:
        raise UsageError(f"--limit takes a number, 0 or more, not {limit}")
    taken = session.look().snapshot(limit=limit)
    if session.json:
        session.document({"schema": "penstock.snapshot/1", "total": taken.total, **_fields(taken)})
    elif session.pretty:
        session.console.print(_page(taken, session.console.width))
    else:
        _plain(session, taken)
    return OK


def queues(*, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """List the queues: what waits and runs there, since when, how late jobs begin, who listens.

    Args:
        session: Handed in by the parser.
    """
    queue = session.look()
    found, now = queue.queues(), queue.now()
    if session.json:
        for one in found:
            session.document({"schema": "penstock.queue/1", **_fields(one)})
    elif session.pretty:
        session.console.print(_queues_table(found, now, session.console.width))
    else:
        session.rows(QUEUE_COLUMNS, (_queue_row(one) for one in found))
    return OK


# -- for a terminal ---------------------------------------------------------------------------------------------------


def _page(taken: Snapshot, width: int) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    now = taken.taken_at
    head = Text(f"{taken.total:,} jobs", style="bold")
    for state, count in taken.states.items():
        head.append_text(Text.assemble("   ", f"{count:,} ", show.state_text(state)))
    parts: list[Any] = [head]
    parts += [Text(f"‖ {decision.told}", style="yellow") for decision in taken.decisions]
    for title, counts in (("queue", taken.queues), ("task", taken.tasks)):
        if counts:
            parts += ["", _counts_table(title, counts, width)]
    if taken.running:
        parts += ["", _running_table(taken, now, width)]
    if taken.future:
        rows = [[show.state_text(one.state), one.id, Text(one.name, style="bold"), one.queue, show.ago(one.at, now)]
                for one in taken.future[:_LISTED]]  # fmt: skip
        parts += ["", show.table(("comes next", "id", "name", "queue", "due"), rows, width=width, gives=[2, 1])]
    parts += ["", _workers_table(taken, width) if taken.workers else Text("no worker is alive", style="yellow")]
    return Group(*parts)


def _counts_table(title: str, counts: Mapping[str, Mapping[str, int]], width: int) -> RenderableType:
    from rich.text import Text

    states = [state for state in SHOWN_STATES if any(state in of for of in counts.values())]
    rows: list[list[Text | str]] = [
        [Text(name, style="bold"), *(f"{of[state]:,}" if state in of else "" for state in states)]
        for name, of in counts.items()
    ]
    return show.table((title, *states), rows, width=width, gives=[0])


def _running_table(taken: Snapshot, now: datetime, width: int) -> RenderableType:
    from rich.text import Text

    rows: list[list[Text | str]] = []
    for one in taken.running[:_LISTED]:
        far = "" if one.progress is None else f"{one.progress:.0%}"
        rows.append([
            show.state_text(one.state), one.id, Text(one.name, style="bold"), one.worker,
            format_duration((now - one.since).total_seconds()), Text(f"{far} {one.message or ''}".strip(), style="dim"),
        ])  # fmt: skip
    return show.table(("", "id", "name", "worker", "took", ""), rows, width=width, gives=[5, 3, 2])


def _workers_table(taken: Snapshot, width: int) -> RenderableType:
    from rich.text import Text

    rows: list[list[Text | str]] = []
    for one in taken.workers:
        told, style = show.worker_told(one)
        rows.append([
            Text(one.id, style=style if told else ""), f"{one.running}/{one.concurrency}", ",".join(one.queues),
            show.ago(one.seen_at, taken.taken_at), one.version,
            Text(told or ", ".join((*one.tasks, *one.pipelines)), style=style),
        ])  # fmt: skip
    header = ("worker", "busy", "queues", "seen", "version", "can run")
    return show.table(header, rows, width=width, gives=[5, 2, 0])


def _queues_table(found: Sequence[QueueState], now: datetime, width: int) -> RenderableType:
    from rich.text import Text

    rows: list[list[Text | str]] = []
    for one in found:
        waits = one.waiting_since is not None and not one.listeners
        depth = "–" if one.depth is None else f"{one.depth:,}"
        told = one.paused.told if one.paused else "" if one.listeners or not one.waiting else "nobody listens"
        rows.append([
            Text(one.name, style="bold"), f"{one.waiting:,}",
            Text(show.ago(one.waiting_since, now), style="yellow" if waits else ""), f"{one.running:,}",
            f"{one.scheduled:,}", f"{one.retrying:,}", f"{one.blocked:,}", depth,
            _late(one.late_p50_s), _late(one.late_max_s), str(len(one.listeners)), Text(told, style="yellow"),
        ])  # fmt: skip
    header = ("queue", "waiting", "first due", "running", "scheduled", "retrying", "blocked", "engine", "late",
              "latest", "workers", "")  # fmt: skip
    spared = _NARROW_SPARES if width < 100 else ()
    shown = [at for at, name in enumerate(header)
             if name not in spared and not (name in _SPARED and all(str(row[at]) == "0" for row in rows))]  # fmt: skip
    return show.table(
        [header[at] for at in shown], [[row[at] for at in shown] for row in rows], width=width,
        gives=[len(shown) - 1, 0],
    )  # fmt: skip


def _late(late_s: float | None) -> str:
    return "" if late_s is None else format_duration(late_s)


# -- for a pipe -------------------------------------------------------------------------------------------------------


def _plain(session: Session, taken: Snapshot) -> None:
    session.write(f"taken_at\t{show.iso(taken.taken_at)}")
    session.write(f"total\t{taken.total}")
    for state, count in taken.states.items():
        session.write(f"state\t{state}\t{count}")
    for title, counts in (("queue", taken.queues), ("task", taken.tasks)):
        for name, of in counts.items():
            for state, count in of.items():
                session.write(f"{title}\t{name}\t{state}\t{count}")
    for one in taken.running:
        cells = [one.id, one.name, one.queue, one.state, str(one.attempt), one.worker, show.iso(one.since)]
        session.write("\t".join(["running", *cells]))
    for job in taken.future:
        session.write("\t".join(["future", job.id, job.name, job.queue, job.state, show.iso(job.at)]))
    for worker in taken.workers:
        cells = [worker.id, ",".join(worker.queues), f"{worker.running}/{worker.concurrency}", show.iso(worker.seen_at)]
        session.write("\t".join(["worker", *cells, worker.version, ",".join(worker.tasks)]))
    for decision in taken.decisions:
        session.write("\t".join([decision.kind, decision.subject, decision.by, show.iso(decision.at), decision.why]))


def _queue_row(one: QueueState) -> list[str]:
    return [
        one.name, str(one.waiting), show.iso(one.waiting_since), str(one.running), str(one.scheduled),
        str(one.retrying), str(one.blocked), "" if one.depth is None else str(one.depth), _seconds(one.late_p50_s),
        _seconds(one.late_max_s), ",".join(one.listeners), one.paused.told if one.paused else "",
    ]  # fmt: skip


def _seconds(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.3f}"


def _fields(value: msgspec.Struct) -> dict[str, Any]:
    return {name: getattr(value, name) for name in value.__struct_fields__}
