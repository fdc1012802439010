"""How jobs look: in words, in colours, in tables, in JSON."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

from penstock.core.durations import format_duration
from penstock.core.secrets import mask_data, mask_text
from penstock.core.visible import visible
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import Attempt, ErrorInfo, Job, LogLine, NodeRun, WorkerInfo, shown_spec

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
_OUTCOME_STYLES = {"succeeded": "green", "running": "bold blue", "cancelled": "dim", "released": "yellow"}
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))
_NARROWEST = 4
_LAST_LINES = 20
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
    """Write an instant as people say it, in its largest unit: ``3 s ago``, ``in 4 m``."""
    if at is None:
        return ""
    past_s = (now - at).total_seconds()
    away_s = abs(past_s)
    if away_s < 1:
        return "now"
    told = next(f"{int(away_s // size_s)} {unit}" for unit, size_s in _UNITS if away_s >= size_s)
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
    return f"{job.error.node}: {error_told(job.error)}" if job.error.node else error_told(job.error)


def error_told(error: ErrorInfo) -> str:
    """Return the class of an error and the first line of its message, which promises nothing that follows."""
    first = first_line(error.message).removesuffix(":")
    return f"{error.type}: {first}" if first else error.type


def error_rest(job: Job) -> list[str]:
    """Return the other lines of the message: what a process wrote last. The last twenty."""
    lines = job.error.message.strip().splitlines()[1:] if job.error is not None else []
    return lines[-_LAST_LINES:]


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


def worker_told(worker: WorkerInfo) -> tuple[str, str]:
    """Return what there is to know of a worker before what it can run, empty where nothing is; and its style."""
    if worker.trouble:
        return "; ".join(filter(None, (worker.paused, worker.trouble))), "red"
    return (f"‖ {worker.paused}", "yellow") if worker.paused else ("", "dim")


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


def table(
    header: Sequence[str],
    rows: Sequence[Sequence[Text | str]],
    *,
    width: int,
    gives: Sequence[int],
    right: str = "took",
) -> Table:
    """Return a table in the one style of all tables here, one line a row, no wider than ``width``.

    ``gives`` are the columns that are cut where there is too little room, in that order; all others stay whole. (Rich
    takes from every column, so that one long error would leave two letters of each state.)
    """
    lines = [[seen(cell if isinstance(cell, Text) else Text(cell)) for cell in row] for row in rows]
    widths = [max([cell_len(name), *(line[at].cell_len for line in lines)]) for at, name in enumerate(header)]
    excess = sum(widths) + 2 * (len(widths) - 1) - width
    for at in gives:
        taken = max(0, min(excess, widths[at] - _NARROWEST))
        widths[at] -= taken
        excess -= taken
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_edge=False)
    for at, name in enumerate(header):
        made.add_column(name, no_wrap=True, width=widths[at], justify="right" if name == right else "left")
    for line in lines:
        for at in gives:
            line[at].truncate(widths[at], overflow="ellipsis")
        made.add_row(*line)
    return made


def seen(text: Text) -> Text:
    """Return the same text, with signs in the place of what steers a terminal: to be measured as it will be seen."""
    if (shown := visible(text.plain)) != text.plain:
        text.plain = shown
    return text


def cut(text: str, width: int) -> str:
    """Shorten a text to a width, with a sign that it was."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def jobs_table(jobs: Sequence[Job], now: datetime, *, width: int) -> Table:
    """Return a list of jobs for a terminal of that width; narrow ones leave the queue and the tries out."""
    wide = width >= 100
    header = ["state", "id", "name", *(["queue", "try"] if wide else []), "when", "took", ""]
    short = short_ids([job.id for job in jobs])
    rows: list[list[Text | str]] = []
    for job in jobs:
        told = note(job, now)
        style = "red" if job.state is State.FAILED or (job.state is State.QUEUED and job.error) else "dim"
        row: list[Text | str] = [
            state_text(shown_state(job, now)),
            short[job.id],
            Text(cut(job.name, 32 if wide else 18), style="bold"),
        ]
        if wide:
            row += [Text(cut(job.queue, 12)), tries(job)]
        rows.append([*row, when(job, now), took(job, now), Text(told, style=style)])
    return table(header, rows, width=width, gives=[len(header) - 1, 2])


def tries(job: Job) -> str:
    """Write which attempt a job is at, of how many that may end in an error."""
    most = job.backoff.most(job.max_attempts)
    return f"{job.attempt}/{most}" if job.attempt else f"–/{most}"


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


def nodes_table(nodes: Sequence[NodeRun], now: datetime, *, width: int) -> Table:
    """Return the nodes of an attempt, the failing one in red."""
    rows: list[list[Text | str]] = []
    for node in nodes:
        sign, style = STATES[node.state]
        elapsed_s = node_s(node, now)
        rows.append([
            Text(sign, style=style),
            Text(node.name, style="bold red" if node.state == "failed" else ""),
            "" if elapsed_s is None else format_duration(elapsed_s),
            Text(first_line(node.error), style="red"),
        ])  # fmt: skip
    return table(("", "node", "took", ""), rows, width=width, gives=[3, 1])


def node_s(node: NodeRun, now: datetime) -> float | None:
    """Return how long a node took, or has taken so far."""
    if node.elapsed_s is not None or node.started_at is None:
        return node.elapsed_s
    return max(0.0, (now - node.started_at).total_seconds()) if node.state == "running" else None


def attempts_table(attempts: Sequence[Attempt], now: datetime, *, width: int) -> Table:
    """Return the tries of a job."""
    rows: list[list[Text | str]] = []
    for attempt in attempts:
        outcome = attempt.outcome or "running"
        style = _OUTCOME_STYLES.get(outcome, "red")
        told = attempt.error
        rows.append([
            Text(f"{OUTCOMES.get(outcome, '▸')} {attempt.number}", style=style),
            Text(outcome, style=style),
            ago(attempt.started_at, now),
            format_duration(((attempt.finished_at or now) - attempt.started_at).total_seconds()),
            Text(attempt.worker or "", style="dim"),
            Text(error_told(told) if told else "", style="red"),
        ])  # fmt: skip
    return table(("try", "outcome", "started", "took", "worker", ""), rows, width=width, gives=[5, 4])


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
        "metadata": mask_data(job.metadata),
        "tags": [mask_text(tag) for tag in job.tags],
        "state": shown_state(job, now),
        "stored_state": job.state.value,
        "spec": shown_spec(job.spec),
        "seconds": took_s(job, now),
    }
