"""``backfill``: the jobs of past fire times, with a bar for people and lines for pipes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli import show, show_schedules
from penstock.cli.failures import JOB_FAILED, OK, UsageError
from penstock.cli.flags import JobFlags
from penstock.cli.session import Session, words
from penstock.core.exceptions import ScheduleNotFoundError

if TYPE_CHECKING:
    from datetime import datetime

    from rich.progress import Progress

    from penstock.backfill import Backfill, Counts, Event
    from penstock.client import JobQueue

_OPTIONAL = Parameter(show_default=False)
_FLAG = Parameter(negative="", show_default=False)
_SHOWN = 5
_KINDS = ("failed", "missing", "purged")


def backfill(
    name: str,
    /,
    *inputs: Annotated[str, Parameter(allow_leading_hyphen=False)],
    from_: Annotated[str, Parameter(name="--from")],
    to: str,
    every: Annotated[str | None, _OPTIONAL] = None,
    cron: Annotated[str | None, _OPTIONAL] = None,
    timezone: Annotated[str | None, _OPTIONAL] = None,
    max_active: int = 4,
    rerun: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    dry_run: Annotated[bool, _FLAG] = False,
    final_vars: Annotated[str | None, _OPTIONAL] = None,
    tasks: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    jobs: JobFlags | None = None,
    why: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Make the jobs of past fire times, a few at a time, and wait for them.

    A fire time whose job has succeeded is left alone, so the same command goes on where it was stopped, and runs again
    what failed. Workers do the work. The exit code is 1 if a job failed.

    Args:
        name: A schedule; or a task or pipeline, with --every or --cron.
        inputs: NAME=VALUE for each argument or input of a task or pipeline; a VALUE may hold {{ fire_at.date }}.
        from_: The first fire time: a day (2013-01-01), or an ISO 8601 time.
        to: The last: a day means all of it.
        every: The interval between fire times, such as 1d, where NAME is no schedule.
        cron: Their rule, such as "0 2 * * *", where NAME is no schedule.
        timezone: The zone of --from, --to and --cron, where NAME is no schedule; default: the project's.
        max_active: So many jobs at once, at most.
        rerun: failed, missing, purged (so old that history.keep_succeeded may have dropped a success of the schedule);
            may be repeated; default: failed and missing.
        dry_run: Tell what would be run, and run nothing.
        final_vars: What a pipeline is to compute, with commas between.
        tasks: A module or folder that holds tasks, added to those configured; may be repeated.
        jobs: Of each job, where NAME is no schedule.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    if max_active < 1:
        raise UsageError(f"--max-active takes a number over 0, not {max_active}")
    kinds = words(rerun) or list(_KINDS[:2])
    if wrong := [kind for kind in kinds if kind not in _KINDS]:
        raise UsageError(f"--rerun {wrong[0]!r} is none of {', '.join(_KINDS)}")
    queue = session.queue(tasks=tasks)
    prepared = _prepared(
        session, queue, name, inputs, final_vars, (jobs or JobFlags()).given(),
        start=from_, end=to, every=every, cron=cron, timezone=timezone, max_active=max_active, rerun=kinds,
    )  # fmt: skip
    prepared.why = why
    if dry_run:
        return _print_plan(session, prepared)
    _warn_of_nobody(session, queue, prepared)
    try:
        with queue.captured(echo=session.verbose > 0):
            counts = (
                _with_bar(session, prepared) if session.pretty and not session.quiet else _in_lines(session, prepared)
            )
    except KeyboardInterrupt:
        session.say("what was started goes on; the same command goes on with the rest")
        raise
    session.say(_closing(counts))
    return JOB_FAILED if counts.failed else OK


def _prepared(
    session: Session,
    queue: JobQueue,
    name: str,
    inputs: Sequence[str],
    final_vars: str | None,
    options: dict[str, Any],
    **said: Any,
) -> Backfill:
    from penstock.backfill import prepare
    from penstock.cli.submit import make_call

    if said["every"] is None and said["cron"] is None:
        if inputs or final_vars:
            try:
                queue.schedules.get(name)
            except ScheduleNotFoundError:
                pass
            else:
                raise UsageError(f"{name} is a schedule and has its own inputs; leave out {' '.join(inputs)}")
        return prepare(queue, name, **said, **options)
    call = make_call(
        queue, session.argv, name, inputs, args=None, inputs=None, final_vars=final_vars, pipeline=False, task=False,
        options=options,
    )  # fmt: skip
    return prepare(queue, call, **said)


def _warn_of_nobody(session: Session, queue: JobQueue, prepared: Backfill) -> None:
    wanted = prepared.schedule.plan.template.queue
    here = queue.gateway.in_process
    waits = prepared.todo or prepared.counts.live
    if waits and not here and not any(wanted in worker.queues for worker in queue.workers()):
        from rich.text import Text

        told = Text(f"no worker listens to the queue {wanted}", style="yellow")
        session.say(Text.assemble(told, f"; start one: penstock worker {wanted}"))


# -- for people -----------------------------------------------------------------------------------------------------


def _with_bar(session: Session, prepared: Backfill) -> Counts:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    timezone = prepared.schedule.plan.timezone
    session.say(_plan_text(prepared))
    progress = Progress(
        TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TimeRemainingColumn(), TextColumn("{task.fields[told]}", style="red", markup=False), console=session.err,
    )  # fmt: skip
    with progress:
        bar = progress.add_task(prepared.schedule.name, total=len(prepared.todo) + prepared.counts.live, told="")

        def tell(event: Event) -> None:
            if event.did == "ended":
                _advance(progress, bar, event)
            if event.did == "ended" and event.job is not None and event.job.state != "succeeded":
                told = Text.assemble((f"✗ {_when(event.fire_at, timezone)}  ", "red"), show.error_line(event.job))
                progress.console.print(told.append(f"  {event.job.id}", style="dim"))

        return prepared.run(tell)


def _advance(progress: Progress, bar: Any, event: Event) -> None:
    failed = f"{event.counts.failed} failed" if event.counts.failed else ""
    progress.update(bar, completed=event.counts.ended, told=failed)


def _when(at: datetime | None, timezone: str) -> str:
    return "" if at is None else show_schedules.local(at, timezone)


def _plan_text(prepared: Backfill) -> str:
    counts = prepared.counts
    parts = [
        (counts.done, "have succeeded"),
        (counts.live, "under way"),
        (counts.failed_before, "failed"),
        (counts.missing, "missing"),
        (counts.purged, "older than the history: they may have run (--rerun purged)"),
        (counts.ahead, "yet to come, left to the schedule"),
    ]
    told = ", ".join(f"{count} {what}" for count, what in parts if count)
    return f"{counts.fire_times + counts.ahead} fire times of {prepared.schedule.name}: {told or 'none'}"


def _closing(counts: Counts) -> str:
    told = [f"{counts.succeeded} succeeded", f"{counts.failed} failed"]
    told += [f"{counts.done} had succeeded before"] if counts.done else []
    older = f" ({counts.purged} older than the history: --rerun purged)" if 0 < counts.purged <= counts.left else ""
    told += [f"{counts.left} left out{older}"] if counts.left else []
    told += [f"{counts.gone} purged meanwhile"] if counts.gone else []
    again = "; the same command runs those that failed again" if counts.failed else ""
    return f"{counts.fire_times} fire times: {', '.join(told)}{again}"


# -- for machines ---------------------------------------------------------------------------------------------------


def _in_lines(session: Session, prepared: Backfill) -> Counts:
    if not session.json:
        session.say(_plan_text(prepared))
        session.write("fire_at\tstate\tjob\tnote")

    def tell(event: Event) -> None:
        if session.json:
            session.document({
                "schema": "penstock.backfill/1", "event": str(event.did), "schedule": prepared.schedule.name,
                "fire_at": show.iso(event.fire_at) or None, "job": None if event.job is None else event.job.id,
                "state": None if event.job is None else event.job.state.value, "counts": event.counts,
            })  # fmt: skip
        elif event.did == "ended":
            job = event.job
            cells = ["gone", "", ""] if job is None else [job.state.value, job.id, show.error_line(job)]
            session.write("\t".join([show.iso(event.fire_at), *(" ".join(cell.split()) for cell in cells)]))
        sys.stdout.flush()

    counts = prepared.run(tell)
    if session.json:
        session.document({
            "schema": "penstock.backfill/1", "event": "finished", "schedule": prepared.schedule.name, "counts": counts,
        })  # fmt: skip
    return counts


def _print_plan(session: Session, prepared: Backfill) -> int:
    if session.json:
        session.document({
            "schema": "penstock.backfill/1", "event": "planned", "schedule": prepared.schedule.name,
            "counts": prepared.counts, "fire_times": [show.iso(at) for at in prepared.todo],
        })  # fmt: skip
        return OK
    session.say(_plan_text(prepared))
    shown = prepared.todo if not session.pretty else prepared.todo[:_SHOWN]
    for at in shown:
        session.write(_when(at, prepared.schedule.plan.timezone) if session.pretty else show.iso(at))
    if more := len(prepared.todo) - len(shown):
        session.say(f"and {more} more, until {_when(prepared.todo[-1], prepared.schedule.plan.timezone)}")
    return OK
