"""``scan``: looks for scheduled functions in the configured folders, and tells which files cannot be loaded."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from penstock.cli import show
from penstock.cli.failures import CONFIG, OK
from penstock.cli.session import Session, told
from penstock.core.config import seconds

if TYPE_CHECKING:
    from penstock.job.scans import Scan

_FLAG = Parameter(negative="", show_default=False)
_UNWATCHED_S = 10.0


def scan(
    *path: str,
    watch: Annotated[bool, Parameter(name=["--watch", "-w"], negative="", show_default=False)] = False,
    once: Annotated[bool, _FLAG] = False,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Load the configured folders and make the schedules that their functions ask for with @schedule.

    A file that fails stops no other: it is told here and on every screen until it is well again, and what its last good
    version scheduled stays. The exit code is 3 then. Workers do the same by themselves.

    Args:
        path: Further folders, files or modules, beside those configured.
        watch: Go on until Ctrl-C, and tell each change.
        once: Look once; this is what happens without --watch.
        session: Handed in by the parser.
    """
    del once
    queue = session.queue(tasks=path)
    found = queue.discovery.scan(prune=not path, log=session.verbose > 0)
    _print(session, found)
    while watch:
        sys.stdout.flush()
        time.sleep(seconds(queue.config.scheduler.scan_interval) or _UNWATCHED_S)
        session.raise_if_nobody_reads()
        before, found = found, queue.discovery.scan(log=session.verbose > 0)
        if found.changed or found.removed or _failing(before) != _failing(found):
            _print(session, found)
    return CONFIG if found.errors else OK


def _failing(scan: Scan) -> list[tuple[str, str, str]]:
    return [(error.file, error.type, error.message) for error in scan.errors]


def _print(session: Session, scan: Scan) -> None:
    if session.json:
        session.document({"schema": "penstock.scan/1", **{f: getattr(scan, f) for f in scan.__struct_fields__}})
        return
    if not session.verbose:  # then the log has said so
        session.say(f"discovered {scan.functions} scheduled functions")
    if session.pretty:
        _print_table(session, scan)
    else:
        session.rows(
            ("name", "task", "where", "rule", "did"),
            ([one.name, one.task, one.where, one.rule, one.did] for one in scan.schedules),
        )
    for name in scan.removed:
        session.say(f"removed: {name}")
    for error in scan.errors:
        # Without markup: a traceback is full of brackets.
        sys.stderr.write(told(f"penstock: error: not loaded: {error.told}\n"))
        if error.traceback and not session.quiet:
            sys.stderr.write(told(error.traceback.rstrip()) + "\n")


def _print_table(session: Session, scan: Scan) -> None:
    from rich.text import Text

    if not scan.schedules:
        return
    rows: list[list[Text | str]] = []
    for one in scan.schedules:
        did = Text(one.did, style=_STYLES.get(one.did, "red"))
        rows.append([Text(one.name, style="bold"), one.rule, Text(one.where, style="dim"), did])
    table = show.table(("schedule", "when", "where", ""), rows, width=session.console.width, gives=[1, 2])
    session.console.print(table)


_STYLES = {"created": "green", "changed": "yellow", "kept": "dim"}
