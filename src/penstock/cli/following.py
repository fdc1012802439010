"""``watch``: what happens to one job, as it happens."""

from __future__ import annotations

import contextlib
import sys
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from penstock import events
from penstock.cli import refs, show
from penstock.cli.failures import OK
from penstock.cli.session import Session
from penstock.core.exceptions import JobCancelledError, JobFailedError, LedgerError
from penstock.job.events import JobEvent, NodeChange, ProgressChange, StateChange
from penstock.job.lifecycle import State
from penstock.job.models import Job, LogLine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from rich.text import Text

    from penstock.client import JobQueue
    from penstock.handle import JobHandle

_FLAG = Parameter(negative="", show_default=False)
COLUMNS = ("at", "attempt", "what", "told")


def watch(
    ref: str,
    /,
    *,
    wait_timeout: Annotated[
        str | None, Parameter(name=["--wait-timeout", "--timeout-wait"], show_default=False)
    ] = None,
    once: Annotated[bool, _FLAG] = False,
    quiet_log: Annotated[bool, Parameter(name="--no-log", negative="", show_default=False)] = False,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Tell what happens to a job until it is final: its states, progress, messages, nodes and log lines.

    The exit code is 1 if the job failed or was cancelled, 124 if the time was over. With --json an event a line.

    Args:
        ref: The job's id, a unique beginning of it, or a name for its latest job.
        wait_timeout: Watch at most so long, such as 10m.
        once: Tell what there is, and end; the exit code is 0 then, whatever the state is.
        quiet_log: Leave out what the job writes.
        session: Handed in by the parser.
    """
    from penstock.cli.submit import wait_seconds

    timeout_s = wait_seconds(wait_timeout, "--wait-timeout")
    queue = session.queue()
    handle = refs.find(queue, ref)
    looks = [session.raise_if_nobody_reads]
    found = events.stream(queue, handle.id, follow=not once, timeout_s=timeout_s, each_look=lambda: _all(looks))
    wanted = (event for event in found if not (quiet_log and isinstance(event, LogLine)))
    if session.pretty:
        _with_bar(session, queue, handle, wanted, looks)
    else:
        _lines(session, wanted)
    return OK if once else _exit(handle.refresh())


def _all(looks: Iterable[Callable[[], None]]) -> None:
    for look in looks:
        look()


def _exit(job: Job) -> int:
    if job.state is State.FAILED:
        raise JobFailedError(job.id, job.reason or "error", job.error)
    if job.state is State.CANCELLED:
        raise JobCancelledError(job.id)
    return OK


def _lines(session: Session, found: Iterable[JobEvent]) -> None:
    if not session.json:
        session.write("\t".join(COLUMNS))
    for event in found:
        if session.json:
            session.document({"schema": "penstock.event/1", **msgspec.to_builtins(event)})
        else:
            cells = [show.iso(event.at), str(event.attempt), _kind(event), _told(event)]
            session.write("\t".join(" ".join(cell.split()) for cell in cells))
        sys.stdout.flush()


def _with_bar(
    session: Session,
    queue: JobQueue,
    handle: JobHandle,
    found: Iterable[JobEvent],
    looks: list[Callable[[], None]],
) -> None:
    from rich.live import Live
    from rich.text import Text

    def bar() -> Text:
        job, now = handle.job, queue.now()
        told = f"{show.progress_bar(job, 30)}  {job.message or ''}".strip()
        state = show.shown_state(job, now)
        return Text.assemble(show.state_text(state), f"  {job.name}  ", (show.took(job, now), "dim"), f"  {told}")

    with Live(bar(), console=session.console, transient=True, auto_refresh=False) as live:

        def draw() -> None:
            # A ledger that is away is waited for: meanwhile the bar stays as it is.
            with contextlib.suppress(LedgerError):
                handle.refresh()
                live.update(bar(), refresh=True)

        looks.append(draw)  # the time that it takes goes on while nothing happens
        for event in found:
            if not isinstance(event, ProgressChange):
                live.console.print(_line(event))


def _line(event: JobEvent) -> Text:
    from rich.text import Text

    if isinstance(event, LogLine):
        return show.log_text(event)
    at = f"{event.at.astimezone():%H:%M:%S}.{event.at.microsecond // 1000:03d} "
    if isinstance(event, StateChange):
        return Text.assemble((at, "dim"), show.state_text(event.state.value), "  ", (_told(event), "dim"))
    return Text.assemble((at, "dim"), (_told(event), "red" if getattr(event, "error", None) else "cyan"))


def _kind(event: JobEvent) -> str:
    return event.__struct_config__.tag if isinstance(event.__struct_config__.tag, str) else ""


def _told(event: JobEvent) -> str:
    match event:
        case StateChange():
            told = [f"{event.state.value} ({event.event.value})"]
            told += [f"on {event.worker}"] if event.worker and event.state is State.RUNNING else []
            told += [event.reason] if event.reason else []
            told += [show.error_told(event.error)] if event.error else []
            return "  ".join(told)
        case ProgressChange():
            far = "" if event.progress is None else f"{event.progress:.0%}"
            nodes = "" if event.nodes_total is None else f"{event.nodes_done or 0}/{event.nodes_total} nodes"
            return "  ".join(part for part in (far, nodes, event.message or "") if part)
        case NodeChange():
            took = "" if event.elapsed_s is None else f" in {event.elapsed_s:.3f} s"
            error = f": {show.first_line(event.error)}" if event.error else ""
            return f"{event.name} {event.state}{took}{error}"
        case LogLine():
            return f"{event.level} {event.node or event.source}: {event.text.rstrip()}"
