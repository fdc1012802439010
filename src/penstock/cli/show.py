"""How jobs look: in words, in colours, in tables, in JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import msgspec
from rich.table import Table
from rich.text import Text

from penstock.core.durations import format_duration
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Attempt, Job, LogLine, NodeRun, WorkerInfo

STATES: dict[str, tuple[str, str]] = {
    "scheduled": ("◷", "blue"),
    "queued": ("·", "cyan"),
    "blocked": ("‖", "yellow"),
    "running": ("▸", "bold blue"),
    "retrying": ("↻", "yellow"),
    "cancelling": ("⊘", "yellow"),
    "overdue": ("!", "bold red"),
    "succeeded": ("✓", "green"),
    "failed": ("✗", "bold red"),
    "cancelled": ("⊘", "dim"),
}
OUTCOMES = {"error": "✗", "timeout": "✗", "crashed": "✗", "released": "↩", "cancelled": "⊘", "succeeded": "✓"}
_SHORTEST_ID = 13
"""The part of a UUID version 7 that counts milliseconds."""


def state_text(state: str, *, word: bool = True) -> Text:
    """Return a shown state with its sign and colour."""
    sign, style = STATES.get(state, ("?", ""))
    return Text(f"{sign} {state}" if word else sign, style=style)


def short_ids(ids: Sequence[str]) -> dict[str, str]:
    """Return the beginning of each id that tells it from the others: what may be typed back as REF."""
    ordered = sorted(set(ids))
    short: dict[str, str] = {}
    for at, job_id in enumerate(ordered):
        near = ordered[max(0, at - 1) : at] + ordered[at + 1 : at + 2]
        length = _SHORTEST_ID
        while length < len(job_id) and any(other[:length] == job_id[:length] for other in near):
            length += 1
        short[job_id] = job_id[:length].rstrip("-")
    return short


def ago(at: datetime | None, now: datetime) -> str:
    """Write an instant as people say it: ``3 s ago``, ``in 4 m 10 s``."""
    if at is None:
        return ""
    past_s = (now - at).total_seconds()
    if abs(past_s) < 1:
        return "now"
    told = format_duration(float(int(abs(past_s)))).replace(".0 s", " s")
    return f"{told} ago" if past_s > 0 else f"in {told}"


def took_s(job: Job, now: datetime) -> float | None:
    """Return how long the newest attempt took, or has taken so far."""
    if job.started_at is None or (job.state is State.QUEUED):
        return None
    return max(0.0, ((job.finished_at or now) - job.started_at).total_seconds())


def took(job: Job, now: datetime) -> str:
    """Write `took_s`; empty before the first attempt."""
    seconds = took_s(job, now)
    return "" if seconds is None else format_duration(seconds)


def error_line(job: Job) -> str:
    """Return a job's error in one line: the node, the class, the first line of the message."""
    if job.error is None:
        return f"({job.reason})" if job.reason else ""
    first = (job.error.message.strip().splitlines() or [""])[0]
    node = f"{job.error.node}: " if job.error.node else ""
    return f"{node}{job.error.type}: {first}" if first else f"{node}{job.error.type}"


def note(job: Job, now: datetime) -> str:
    """Return the most telling thing about a job, for the last column of a list."""
    if job.state is State.SUCCEEDED:
        return job.message or ""
    if job.state is State.RUNNING:
        parts = [progress_bar(job, 8), job.message or ""]
        return " ".join(part for part in parts if part)
    if job.state is State.QUEUED and (job.held or job.note):
        return job.held or job.note or ""
    return error_line(job)


def progress_bar(job: Job, width: int) -> str:
    """Draw how far a job is: by its nodes, or by what its body told; empty when neither is known."""
    if job.nodes_total:
        done = min(1.0, (job.nodes_done or 0) / job.nodes_total)
        told = f"{job.nodes_done or 0}/{job.nodes_total} nodes"
    elif job.progress is not None:
        done = min(1.0, max(0.0, job.progress))
        told = f"{done:.0%}"
    else:
        return ""
    full = int(done * width)
    return f"{'█' * full}{'░' * (width - full)} {told}"


def when(job: Job, now: datetime) -> str:
    """Say when a job is due, or started, or ended: whichever is the next or the last."""
    if job.state.final:
        return ago(job.finished_at, now)
    if job.state is State.RUNNING:
        return ago(job.started_at, now)
    return ago(job.scheduled_at if job.scheduled_at > now else job.created_at, now)


# -- tables -------------------------------------------------------------------------------------------------------


def plain_table(*columns: str) -> Table:
    """Return an empty table in the one style of all tables here."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for column in columns:
        table.add_column(column, no_wrap=True, overflow="ellipsis")
    return table


def jobs_table(jobs: Sequence[Job], now: datetime, *, width: int) -> Table:
    """Return a list of jobs for a terminal of that width; narrow ones leave the queue and the tries out."""
    wide = width >= 100
    table = plain_table("state", "id", "name")
    table.columns[2].max_width = 32 if wide else 18
    table.columns[1].min_width = _SHORTEST_ID
    if wide:
        table.add_column("queue", no_wrap=True, max_width=12, overflow="ellipsis")
        table.add_column("try", no_wrap=True)
    table.add_column("when", no_wrap=True)
    table.add_column("took", no_wrap=True, justify="right")
    table.add_column("", no_wrap=True, overflow="ellipsis", ratio=1)
    short = short_ids([job.id for job in jobs])
    for job in jobs:
        state = shown_state(job, now)
        cells: list[Text | str] = [state_text(state), short[job.id], Text(job.name)]
        if wide:
            cells += [Text(job.queue), tries(job)]
        told = note(job, now)
        style = "red" if job.state is State.FAILED or (job.state is State.QUEUED and job.error) else "dim"
        cells += [when(job, now), took(job, now), Text(told, style=style if told else "")]
        table.add_row(*cells)
    return table


def tries(job: Job) -> str:
    """Write which attempt a job is at, of how many that may end in an error."""
    return f"{job.attempt}/{job.max_attempts}" if job.attempt else f"–/{job.max_attempts}"


JOB_COLUMNS = ("id", "state", "name", "kind", "queue", "attempt", "max_attempts", "created_at", "scheduled_at",
               "started_at", "finished_at", "seconds", "note")  # fmt: skip


def job_row(job: Job, now: datetime) -> list[str]:
    """Return the cells of `JOB_COLUMNS`."""
    seconds = took_s(job, now)
    return [
        job.id, shown_state(job, now), job.name, job.kind, job.queue, str(job.attempt), str(job.max_attempts),
        iso(job.created_at), iso(job.scheduled_at), iso(job.started_at), iso(job.finished_at),
        "" if seconds is None else f"{seconds:.3f}", note(job, now),
    ]  # fmt: skip


def nodes_table(nodes: Sequence[NodeRun], now: datetime) -> Table:
    """Return the nodes of an attempt."""
    table = plain_table("", "node", "took", "")
    table.columns[2].justify = "right"
    table.columns[3].ratio = 1
    for node in nodes:
        sign, style = STATES[node.state]
        elapsed_s = node_s(node, now)
        table.add_row(
            Text(sign, style=style),
            Text(node.name, style="bold red" if node.state == "failed" else ""),
            "" if elapsed_s is None else format_duration(elapsed_s),
            Text(first_line(node.error), style="red"),
        )
    return table


def node_s(node: NodeRun, now: datetime) -> float | None:
    """Return how long a node took, or has taken so far."""
    if node.elapsed_s is not None or node.started_at is None:
        return node.elapsed_s
    return max(0.0, (now - node.started_at).total_seconds()) if node.state == "running" else None


def attempts_table(attempts: Sequence[Attempt], now: datetime) -> Table:
    """Return the tries of a job."""
    table = plain_table("", "try", "outcome", "started", "took", "worker", "")
    table.columns[4].justify = "right"
    table.columns[6].ratio = 1
    for attempt in attempts:
        outcome = attempt.outcome or "running"
        style = {"succeeded": "green", "running": "bold blue", "cancelled": "dim", "released": "yellow"}.get(
            outcome, "red"
        )
        told = attempt.error
        table.add_row(
            Text(OUTCOMES.get(outcome, "▸"), style=style),
            str(attempt.number),
            Text(outcome, style=style),
            ago(attempt.started_at, now),
            format_duration(((attempt.finished_at or now) - attempt.started_at).total_seconds()),
            attempt.worker or "",
            Text(f"{told.type}: {first_line(told.message)}" if told else "", style="red"),
        )
    return table


def workers_table(workers: Iterable[WorkerInfo], now: datetime) -> Table:
    """Return the workers seen lately."""
    table = plain_table("worker", "queues", "runs", "seen", "since")
    for worker in workers:
        table.add_row(
            worker.id, ", ".join(worker.queues), f"{worker.running}/{worker.concurrency}", ago(worker.seen_at, now),
            ago(worker.started_at, now),
        )  # fmt: skip
    return table


def log_text(line: LogLine) -> Text:
    """Return a line that a body wrote."""
    style = {"ERROR": "red", "CRITICAL": "bold red", "WARNING": "yellow", "DEBUG": "dim"}.get(line.level.upper(), "")
    text = Text(f"{line.at.astimezone():%H:%M:%S}.{line.at.microsecond // 1000:03d} ", style="dim")
    text.append(f"{line.level.upper():<7} ", style=style or "dim")
    text.append(f"{line.node or line.source}: ", style="cyan")
    text.append(line.text.rstrip("\n"), style=style)
    return text


def first_line(text: str | None) -> str:
    """Return the first line that says something."""
    return next((line.strip() for line in (text or "").splitlines() if line.strip()), "")


# -- JSON ---------------------------------------------------------------------------------------------------------


def iso(at: datetime | None) -> str:
    """Write an instant for machines."""
    return "" if at is None else at.isoformat().replace("+00:00", "Z")


def job_document(job: Job, now: datetime) -> dict[str, Any]:
    """Return a job as a JSON document. ``state`` is the shown state; the fields are those of `Job`."""
    fields = {name: getattr(job, name) for name in job.__struct_fields__ if name not in ("spec", "result", "backoff")}
    return {
        "schema": "penstock.job/1",
        **fields,
        "state": shown_state(job, now),
        "stored_state": job.state.value,
        "spec": msgspec.Raw(job.spec),
        "seconds": took_s(job, now),
    }
