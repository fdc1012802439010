"""``worker``: one process that works jobs off."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import msgspec
from cyclopts import Parameter

from penstock.cli.failures import UsageError
from penstock.cli.session import Session, words
from penstock.core.durations import parse_duration_s
from penstock.core.secrets import mask_url
from penstock.job.lifecycle import FINAL

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.worker import Worker

_FLAG = Parameter(negative="", show_default=False)


def worker(
    *queue: str,
    tasks: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    concurrency: Annotated[int | None, Parameter(name=["--concurrency", "-c"], show_default=False)] = None,
    queues: Annotated[tuple[str, ...], Parameter(consume_multiple=True, negative="", show_default=False)] = (),
    burst: Annotated[bool, _FLAG] = False,
    max_jobs: Annotated[int | None, Parameter(show_default=False)] = None,
    grace: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Work jobs off until told to stop.

    The first SIGTERM or Ctrl-C drains: nothing new is taken, what runs may finish within the grace. The second stops
    at once and hands the jobs back.

    Args:
        queue: The queues to work off, in order of preference; default: as configured.
        tasks: Modules and folders that hold tasks, added to those configured.
        concurrency: How many jobs at once.
        queues: The same as QUEUE.
        burst: Work off what is due, then end. What is scheduled for later stays.
        max_jobs: End after so many jobs.
        grace: How long a drain may take, such as 30s.
        session: Handed in by the parser.
    """
    for option, number in (("--concurrency", concurrency), ("--max-jobs", max_jobs)):
        if number is not None and number < 1:
            raise UsageError(f"{option} takes a number over 0, not {number}")
    from penstock.worker import Worker

    opened = _queue(session, tasks, grace)
    names = words([*queue, *queues])
    made = Worker(
        opened, queues=names or None, concurrency=concurrency, burst=burst, max_jobs=max_jobs,
        echo=session.verbose > 0,
    )  # fmt: skip
    opened.load_tasks()  # now, so that what does not load is told before the first job
    code = made.run(on_ready=lambda: _ready(session, made))
    _closing(session, made, code)
    return code


def _queue(session: Session, tasks: Sequence[str], grace: str | None) -> JobQueue:
    config = session.settings.config
    if grace is not None:
        try:
            parse_duration_s(grace)
        except ValueError as error:
            raise UsageError(f"--grace: {error}") from None
        config = msgspec.structs.replace(config, worker=msgspec.structs.replace(config.worker, grace=grace))
    return session.queue(config=config, tasks=tasks)


def _ready(session: Session, made: Worker) -> None:
    info = made.info()
    if session.json:
        session.document({"schema": "penstock.worker/1", "event": "ready", "worker": info})
        sys.stdout.flush()
        return
    pipelines = len(made.queue.pipelines())
    known = f"{len(info.tasks)} tasks" + (f", {pipelines} pipelines" if pipelines else "")
    _line(
        session,
        f"worker {info.id} is ready: {mask_url(info.backend)}, queues {', '.join(info.queues)}, "
        f"{info.concurrency} at once, {known}",
    )


def _closing(session: Session, made: Worker, code: int) -> None:
    counts: dict[str, int] = made.counts()
    left = {state: count for state, count in made.queue.counts().items() if state not in FINAL}
    if session.json:
        session.document({
            "schema": "penstock.worker/1", "event": "ended", "counts": counts, "left": left, "exit_code": code,
        })  # fmt: skip
        return
    told = _told(counts) or "nothing to do"
    _line(session, f"worker {made.queue.owner} ended: {told}" + (f"; still to do: {_told(left)}" if left else ""))


def _told(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items())


def _line(session: Session, text: str) -> None:
    if not session.quiet:
        sys.stderr.write(f"penstock: {text}\n")
        sys.stderr.flush()
