"""Waiting in front of a terminal: for a job to end, with what it writes meanwhile, and what it returned."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from penstock import events
from penstock.cli import show
from penstock.cli.failures import OK, tell
from penstock.cli.session import Session
from penstock.client import JobQueue
from penstock.core.exceptions import (
    JobCancelledError,
    JobFailedError,
    LedgerUnavailableError,
    ResultError,
    ResultTimeoutError,
)
from penstock.core.visible import visible_json
from penstock.handle import JobHandle
from penstock.job.lifecycle import State
from penstock.job.models import LogLine, Ref

if TYPE_CHECKING:
    from rich.console import RenderableType

_POLL_S = 0.2


def new_lines(
    session: Session,
    handle: JobHandle,
    *,
    follow: bool = True,
    timeout_s: float | None = None,
    attempt: int | None = None,
    node: str | None = None,
) -> Iterator[LogLine]:
    """Yield what a job writes, as it comes, until it is final. Raises `ResultTimeoutError` after ``timeout_s``."""
    found = events.stream(
        handle.queue, handle.id, follow=follow, timeout_s=timeout_s, each_look=session.raise_if_nobody_reads
    )
    for event in found:
        if isinstance(event, LogLine) and attempt in (None, event.attempt) and node in (None, event.node):
            yield event


def print_line(session: Session, line: LogLine) -> None:
    """Print a line that a body wrote, on stdout."""
    if session.json:
        session.document({"schema": "penstock.log/1", **{f: getattr(line, f) for f in line.__struct_fields__}})
    else:
        session.console.print(show.log_text(line), soft_wrap=True)


def until_final(session: Session, queue: JobQueue, handle: JobHandle, *, timeout_s: float | None, follow: bool) -> int:
    """Wait for a job, print its end, return the exit code."""
    if follow:
        for line in new_lines(session, handle, timeout_s=timeout_s):
            print_line(session, line)
            sys.stdout.flush()
    elif session.pretty and not session.quiet:
        _wait_with_bar(session, queue, handle, timeout_s)
    else:
        handle.wait(timeout_s)
    return finish(session, queue, handle)


def _wait_with_bar(session: Session, queue: JobQueue, handle: JobHandle, timeout_s: float | None) -> None:
    from rich.live import Live
    from rich.text import Text

    def line() -> RenderableType:
        job, now = handle.job, queue.now()
        told = show.note(job, now)
        return Text.assemble(
            show.state_text(handle.state), "  ", handle.name, (f"  {show.took(job, now)}", "dim"), f"  {told}"
        )

    started = time.monotonic()
    with Live(line(), console=session.err, transient=True, auto_refresh=False) as live:
        while True:
            left_s = _POLL_S if timeout_s is None else min(_POLL_S, timeout_s - (time.monotonic() - started))
            try:
                handle.wait(max(0.0, left_s))
            except ResultTimeoutError:
                if timeout_s is not None and time.monotonic() - started >= timeout_s:
                    raise ResultTimeoutError(handle.id, timeout_s, handle.state) from None
                with contextlib.suppress(LedgerUnavailableError):  # it has gone away since
                    live.update(line(), refresh=True)
            except LedgerUnavailableError:
                if timeout_s is not None and time.monotonic() - started >= timeout_s:
                    raise
            else:
                return


def finish(session: Session, queue: JobQueue, handle: JobHandle) -> int:
    """Print how a final job ended and what it returned; return the exit code."""
    job, now = handle.refresh(), queue.now()
    if session.json:
        session.document({**show.job_document(job, now), "result": queue.results.describe(job.result)})
        if job.state is State.SUCCEEDED:
            return OK
    if job.state is State.FAILED:
        raise JobFailedError(job.id, job.reason or "error", job.error)
    if job.state is State.CANCELLED:
        raise JobCancelledError(job.id)
    if not session.quiet:
        from rich.text import Text

        session.say(Text.assemble(show.state_text(handle.state), f"  {handle.name}  ", (show.took(job, now), "dim"),
                                  (f"  {handle.id}", "dim")))  # fmt: skip
    print_value(session, queue, handle)
    return OK


def print_value(session: Session, queue: JobQueue, handle: JobHandle, *, load: bool = False) -> None:
    """Print what a succeeded job returned: text as it is, tables as tables, everything else as JSON.

    Raises:
        ResultError: a value was not stored, or is gone or damaged.
    """
    stored = handle.job.result
    if session.json:
        session.document(handle.result(0) if load else queue.results.describe(stored))
        return
    value, refs = queue.results.describe(stored), queue.results.refs(stored)
    named = {"result": value} if "result" in refs else value
    if refs:
        _print_parts(session, queue, named, refs)
    elif value is not None or session.pretty:
        if _dropped(value):
            handle.result(0)  # raises, and says why
        _print_plain(session, value)


def _dropped(value: Any) -> bool:
    if not isinstance(value, dict):
        return False
    found = cast("dict[str, Any]", value)
    return found.get("type") == "dropped" or any(_dropped(part) for part in found.values())


def _print_parts(session: Session, queue: JobQueue, parts: dict[str, Any], refs: dict[str, Ref]) -> None:
    for name, part in parts.items():
        ref = refs.get(name)
        if ref is None:
            session.console.print(f"{name}:", style="bold", end=" ")
            _print_plain(session, part)
            continue
        shape = f"{ref.rows:,} rows x {len(ref.columns)} columns, " if ref.rows is not None else ""
        session.console.print(f"{name}:", style="bold", end=" ")
        session.console.print(f"{ref.kind}, {shape}{ref.size_bytes:,} bytes, {ref.uri}", soft_wrap=True)
        try:
            session.console.print(_preview(queue.results.load_ref(ref)))
        except ResultError as error:
            tell(error, as_json=False, verbose=False)


def _preview(value: Any) -> str:
    if hasattr(value, "head") and hasattr(value, "columns"):
        text = str(value.head(10))
        hidden = len(value) - 10
        return f"{text}\n... {hidden:,} more rows" if hidden > 0 else text
    text = str(value)
    return text if len(text) <= 2_000 else f"{text[:2_000]} ..."


def _print_plain(session: Session, value: Any) -> None:
    if isinstance(value, str):
        session.pass_on(value)
        return
    import msgspec

    text = msgspec.json.format(msgspec.json.encode(value), indent=2 if session.pretty else 0).decode()
    session.write(visible_json(text))
