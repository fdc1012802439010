"""``status``, ``result``, ``logs``: one job, looked at closely."""

from __future__ import annotations

import sys
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli import refs, show, watch
from penstock.cli.failures import JOB_FAILED, OK
from penstock.cli.session import Session
from penstock.core.exceptions import JobCancelledError, JobFailedError, ResultTimeoutError
from penstock.core.secrets import mask_text
from penstock.job import schedules
from penstock.job.lifecycle import State

if TYPE_CHECKING:
    from rich.console import RenderableType

    from penstock.handle import JobHandle
    from penstock.job.models import Attempt, Job, NodeRun

_FLAG = Parameter(negative="", show_default=False)


def status(
    ref: str | None = None,
    /,
    *,
    attempt: Annotated[int | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Show one job: its state, its error first, its nodes, its attempts. Without REF: what `penstock top --once` shows.

    Files of tasks that cannot be loaded are told on stderr. The exit code is 0 whatever the state is; ask
    `penstock result` for the job's own.

    Args:
        ref: The job's id, a unique beginning of it, or a name for its latest job.
        attempt: Show the nodes of this attempt; default: the newest.
        session: Handed in by the parser.
    """
    if ref is None:
        from penstock.cli.top import top

        return top(once=True, session=session)
    queue = session.look()
    handle = refs.find(queue, ref)
    job, attempts, nodes, now = handle.job, handle.attempts(), handle.nodes(attempt=attempt), queue.now()
    if session.json:
        session.document({**show.job_document(job, now), "attempts": attempts, "nodes": nodes})
    elif session.pretty:
        session.console.print(_card(job, attempts, nodes, now, session.console.width))
    else:
        _plain(session, job, attempts, nodes, now)
    for error in queue.discovery.errors():
        session.warn(f"not loaded: {error.told}")
    return OK


def _card(job: Job, attempts: list[Attempt], nodes: list[NodeRun], now: datetime, width: int) -> RenderableType:
    from rich.console import Group
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    state = show.shown_state(job, now)
    lines: list[Any] = [Text.assemble(show.state_text(state), "  ", (job.name, "bold"), "  ", (job.id, "dim"))]
    if job.error is not None and job.state is not State.SUCCEEDED:
        lines.append(Text(show.error_line(job), style="red"))
        lines += [show.seen(Text(f"  {line}", style="dim red")) for line in show.error_rest(job)]
    elif job.reason and job.state is State.FAILED:
        lines.append(Text(f"reason: {job.reason}", style="red"))
    if bar := show.progress_bar(job, 24):
        lines.append(Text(f"{bar}  {job.message or ''}".rstrip(), style=show.STATES[state][1]))
    elif job.message:
        lines.append(Text(job.message))
    facts = Table.grid(padding=(0, 2))
    for name, told in _facts(job, now):
        facts.add_row(Text(name, style="dim"), Text(told))
    lines.append(Padding(facts, (1, 0, 0, 0)))
    if nodes:
        lines.append(Padding(show.nodes_table(nodes, now, width=width), (1, 0, 0, 0)))
    if attempts:
        lines.append(Padding(show.attempts_table(attempts, now, width=width), (1, 0, 0, 0)))
    if job.state is State.FAILED:
        told = f"next: penstock logs {job.id}\n      penstock retry {job.id}"
        lines.append(Padding(Text(told, style="dim"), (1, 0, 0, 0)))
    return Group(*lines)


def _facts(job: Job, now: datetime) -> list[tuple[str, str]]:
    facts = [("kind", job.kind), ("queue", f"{job.queue}, priority {job.priority}")]
    facts.append(("tries", f"{show.tries(job)}{_lost(job)}"))
    facts.append(("created", f"{show.ago(job.created_at, now)}  {show.iso(job.created_at)}"))
    if job.state is State.QUEUED and job.scheduled_at > now:
        facts.append(("due", f"{show.ago(job.scheduled_at, now)}  {show.iso(job.scheduled_at)}"))
    if told := show.took(job, now):
        facts.append(("took", told))
    facts.extend(_of_schedule(job))
    if job.held or job.note:
        facts.append(("waits", job.held or job.note or ""))
    if job.owner and job.state is State.RUNNING:
        facts.append(("worker", job.owner))
    optional = {"key": job.key, "tags": mask_text(", ".join(job.tags)), "again of": job.parent_id, "reason": job.reason}
    facts.extend((name, told) for name, told in optional.items() if told)
    return facts


def _of_schedule(job: Job) -> list[tuple[str, str]]:
    """Say which schedule has made a job, and for which fire time."""
    told = job.metadata
    if not (name := told.get(schedules.SCHEDULE)):
        return []
    how = "manual" if schedules.MANUAL in told else "backfill" if schedules.BACKFILL in told else ""
    times = [("fire time", told.get(schedules.FIRE_AT)), ("interval from", told.get(schedules.INTERVAL_START))]
    facts = [("schedule", f"{name}, {how}" if how else name)]
    return facts + [(what, at.replace("+00:00", "Z")) for what, at in times if at]


def _lost(job: Job) -> str:
    counts = ((job.errors, "error", "errors"), (job.crashes, "crash", "crashes"))
    return "".join(f", {count} {one if count == 1 else many}" for count, one, many in counts if count)


def _plain(session: Session, job: Job, attempts: list[Attempt], nodes: list[NodeRun], now: datetime) -> None:
    values = dict(zip(show.JOB_COLUMNS, show.job_row(job, now), strict=True))
    values["note"] = show.error_line(job) or values["note"]
    for name, value in values.items():
        session.write(f"{name}\t{' '.join(value.split())}")
    for line in show.error_rest(job):
        session.write(f"error\t{' '.join(line.split())}")
    for name, told in _of_schedule(job):
        session.write(f"{name}\t{told}")
    if job.nodes_total is not None:
        session.write(f"nodes\t{job.nodes_done or 0}/{job.nodes_total}")
    for node in nodes:
        seconds = show.node_s(node, now)
        told = show.first_line(node.error)
        session.write(f"node\t{node.name}\t{node.state}\t{'' if seconds is None else f'{seconds:.3f}'}\t{told}")
    for attempt in attempts:
        error = show.error_told(attempt.error) if attempt.error else ""
        session.write(f"attempt\t{attempt.number}\t{attempt.outcome or 'running'}\t{attempt.worker or ''}\t{error}")


def result(
    ref: str,
    /,
    *,
    wait: Annotated[bool, _FLAG] = False,
    wait_timeout: Annotated[
        str | None, Parameter(name=["--wait-timeout", "--timeout-wait"], show_default=False)
    ] = None,
    load: Annotated[bool, _FLAG] = False,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Print what a job returned.

    Text is printed as it is, plain data as JSON, a table as its first rows and where it lies. The exit code is 1 if
    the job failed, 124 if it is not final (in time).

    Args:
        ref: The job's id, a unique beginning of it, or a name for its latest job.
        wait: Wait until the job is final.
        wait_timeout: Wait at most so long, such as 10m.
        load: With --json, print the rows of stored tables instead of where they lie.
        session: Handed in by the parser.
    """
    from penstock.cli.submit import wait_seconds

    queue = session.look()
    handle = refs.find(queue, ref)
    timeout_s = wait_seconds(wait_timeout, "--wait-timeout")
    if timeout_s is None and not wait and not handle.job.state.final:
        error = ResultTimeoutError(handle.id, 0.0, handle.state)
        error.args = (f"job {handle.id} has no result yet: it is {handle.state}; --wait waits for it",)
        raise error
    job = handle.wait(timeout_s)
    if job.state is State.FAILED:
        raise JobFailedError(job.id, job.reason or "error", job.error)
    if job.state is State.CANCELLED:
        raise JobCancelledError(job.id)
    watch.print_value(session, queue, handle, load=load)
    return OK


def logs(
    ref: str,
    /,
    *,
    follow: Annotated[bool, Parameter(name=["--follow", "-f"], negative="", show_default=False)] = False,
    attempt: Annotated[int | None, Parameter(show_default=False)] = None,
    node: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Print what a job wrote: logging, print, and the output of commands.

    With --follow until the job is final; the exit code is then 1 if it failed. A failed job's traceback follows its
    lines, on stderr.

    Args:
        ref: The job's id, a unique beginning of it, or a name for its latest job.
        follow: Go on until the job is final.
        attempt: Only the lines of this attempt.
        node: Only the lines of this pipeline node.
        session: Handed in by the parser.
    """
    queue = session.look()
    handle = refs.find(queue, ref)
    for line in watch.new_lines(session, handle, follow=follow, attempt=attempt, node=node):
        watch.print_line(session, line)
        sys.stdout.flush()
    if handle.refresh().state is State.FAILED:
        _print_traceback(session, handle)
        return JOB_FAILED if follow else OK
    return JOB_FAILED if follow and handle.job.state is State.CANCELLED else OK


def _print_traceback(session: Session, handle: JobHandle) -> None:
    from rich.text import Text

    error = handle.job.error
    if error is None or session.json:
        return
    session.say(Text(error.traceback.rstrip() or show.error_line(handle.job), style="red"))
