"""``scheduler``: makes the jobs of schedules, and runs none."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session, words
from penstock.core.config import seconds
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import LedgerUnavailableError
from penstock.core.visible import visible
from penstock.declared import declare
from penstock.rescan import Rescan
from penstock.version_look import VersionLook

if TYPE_CHECKING:
    from types import FrameType

    from penstock.client import JobQueue

_AGAIN_S = 0.5


def scheduler(
    *,
    once: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    tasks: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    connect_timeout: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Make the jobs of schedules, and run none, until SIGTERM or Ctrl-C. Every worker does so too, beside its work.

    Any number may run, none leads: one fire time makes one job. What the configuration, folders of functions and of
    job files, and projects declare is made first, and followed.

    Args:
        once: Make what is due now, print how many jobs that were, and end.
        tasks: Modules and folders that hold tasks, added to those configured.
        connect_timeout: For how long to try again when the ledger does not answer at the start; 0: not at all.
        session: Handed in by the parser.
    """
    queue = session.queue(tasks=words(tasks))
    try:
        patience_s = parse_duration_s(connect_timeout or seconds(queue.config.worker.connect_timeout))
    except ValueError as error:
        raise UsageError(f"--connect-timeout: {error}") from None
    stop = threading.Event()

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        stop.set()

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        declared = _declare(queue, stop, 0.0 if once else patience_s)
        if declared is None:
            return OK
        rescan = Rescan(queue, declare=True)
        if once:
            queue.job_files.look()
            rescan.scan()
            with queue.captured(echo=session.verbose > 0):
                _print_once(session, queue.scheduler.tick())
            return OK
        _run(session, queue, rescan, stop)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    return OK


def _declare(queue: JobQueue, stop: threading.Event, patience_s: float) -> dict[str, str] | None:
    """Make the declared schedules as soon as the ledger answers; None: told to stop before."""
    until = time.monotonic() + patience_s
    while not stop.is_set():
        try:
            return declare(queue)
        except LedgerUnavailableError:
            if time.monotonic() >= until:
                raise
            stop.wait(_AGAIN_S)
    return None


def _run(session: Session, queue: JobQueue, rescan: Rescan, stop: threading.Event) -> None:
    queue.job_files.start()
    rescan.scan()
    queue.scheduler.start()
    try:
        found = queue.schedules.list()
        _tell(session, "ready", f"scheduler is ready: {len(found)} schedules", schedules=len(found))
        version = VersionLook(queue.ledger, seconds(queue.config.sweep.interval))
        while not stop.wait(1.0):
            rescan.turn()
            with contextlib.suppress(LedgerUnavailableError):
                version.turn()
    finally:
        queue.job_files.stop()
        queue.scheduler.stop()
    made = queue.scheduler.counts["made"]
    _tell(session, "ended", f"scheduler ended: {made} jobs made", made=made)


def _print_once(session: Session, made: int) -> None:
    if session.json:
        session.document({"schema": "penstock.scheduler/1", "event": "ticked", "made": made})
    else:
        session.write(str(made) if not session.pretty else f"{made} jobs made")


def _tell(session: Session, event: str, text: str, **fields: Any) -> None:
    if session.json:
        session.document({"schema": "penstock.scheduler/1", "event": event, **fields})
        sys.stdout.flush()
    elif not session.quiet:
        sys.stderr.write(visible(f"penstock: {text}\n"))
        sys.stderr.flush()
