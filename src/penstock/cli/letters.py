"""``dead-letters`` and ``requeue``: jobs that failed for good, and how they run again."""

from __future__ import annotations

from typing import Annotated, Any

from cyclopts import Group, Parameter

from penstock.cli import arguments, refs, show
from penstock.cli.failures import OK, UsageError
from penstock.cli.lists import print_jobs, since_of
from penstock.cli.session import Session
from penstock.client import JobQueue
from penstock.dead_letters import Requeued
from penstock.sources.decorators import TASKS

_OPTIONAL = Parameter(show_default=False)
_FLAG = Parameter(negative="", show_default=False)
_JOB = Group("Job options", sort_key=50)
_SHOWN = 5


def _option(*names: str) -> Parameter:
    return Parameter(name=names, group=_JOB, show_default=False, negative="")


def dead_letters(
    *,
    task: Annotated[str | None, Parameter(name=["--task", "--name"], show_default=False)] = None,
    queue: Annotated[str | None, _OPTIONAL] = None,
    tag: Annotated[str | None, _OPTIONAL] = None,
    metadata: Annotated[tuple[str, ...], _FLAG] = (),
    since: Annotated[str | None, _OPTIONAL] = None,
    reason: Annotated[str | None, _OPTIONAL] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 50,
    before: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List jobs that failed for good and were not requeued, newest first.

    Args:
        task: Only jobs of this name; * and ? stand for any characters.
        queue: Only jobs of this queue.
        tag: Only jobs with this tag.
        metadata: KEY=VALUE: only jobs with this entry; may be repeated.
        since: Only jobs submitted since then: 24h, or an ISO 8601 time with its zone.
        reason: Only jobs that failed by this: error, timeout, crash_loop, unknown_task, invalid, expired.
        limit: At most so many.
        before: Only jobs older than this id: the last one of the page before.
        session: Handed in by the parser.
    """
    if limit < 1:
        raise UsageError(f"--limit takes a number over 0, not {limit}")
    opened = session.look()
    found = opened.dead_letters(
        limit=limit, task=task, queue=queue, tag=tag, metadata=arguments.metadata(metadata),
        since=since_of(since, opened), reason=reason, before=before,
    )  # fmt: skip
    now = opened.now()
    if not found and session.pretty:
        session.say("no dead letters")
        return OK
    print_jobs(session, opened, [handle.job for handle in found], now, more=len(found) == limit)
    if session.pretty:
        session.say("again: penstock requeue ID [KEY=VALUE...], or penstock requeue --all")
    return OK


def requeue(
    ref: str | None = None,
    /,
    *words: Annotated[str, Parameter(allow_leading_hyphen=False)],
    every: Annotated[bool, Parameter(name="--all", negative="", show_default=False)] = False,
    task: Annotated[str | None, Parameter(name=["--task", "--name"], show_default=False)] = None,
    queue: Annotated[str | None, _OPTIONAL] = None,
    tag: Annotated[str | None, _OPTIONAL] = None,
    metadata: Annotated[tuple[str, ...], _FLAG] = (),
    since: Annotated[str | None, _OPTIONAL] = None,
    reason: Annotated[str | None, _OPTIONAL] = None,
    limit: Annotated[int | None, Parameter(name=["--limit", "-n"], show_default=False)] = None,
    dry_run: Annotated[bool, _FLAG] = False,
    inputs: Annotated[str | None, _OPTIONAL] = None,
    why: Annotated[str | None, _OPTIONAL] = None,
    to_queue: Annotated[str | None, _option("--to-queue")] = None,
    delay: Annotated[str | None, _option("--delay", "--in")] = None,
    priority: Annotated[int | None, _option("--priority")] = None,
    max_attempts: Annotated[int | None, _option("--max-attempts")] = None,
    timeout: Annotated[str | None, _option("--timeout")] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Run a failed job again, with other inputs if need be; or with --all every dead letter that fits.

    Each becomes a new job, linked to the old one, which is no dead letter any more. Prints the new jobs' ids.

    Args:
        ref: A job's id, a unique beginning of it, or a name for its latest job.
        words: NAME=VALUE for each argument or input that is to be another.
        every: All dead letters that fit the filters, the oldest first.
        task: Only jobs of this name; * and ? stand for any characters.
        queue: Only jobs of this queue.
        tag: Only jobs with this tag.
        metadata: KEY=VALUE: only jobs with this entry; may be repeated.
        since: Only jobs submitted since then: 24h, or an ISO 8601 time with its zone.
        reason: Only jobs that failed by this: error, timeout, crash_loop, unknown_task, invalid, expired.
        limit: At most so many, the newest.
        dry_run: Only tell which.
        inputs: The arguments or inputs that are to be others, as one JSON object.
        why: The reason, for the audit trail.
        to_queue: Run it in this queue.
        delay: Not before so long, such as 10m.
        priority: 0 to 9, higher first.
        max_attempts: How many tries; the first counts.
        timeout: How long a try may take, such as 5m; or none.
        session: Handed in by the parser.
    """
    filters: dict[str, Any] = {
        "task": task,
        "queue": queue,
        "tag": tag,
        "metadata": arguments.metadata(metadata),
        "since": since,
        "reason": reason,
        "limit": limit,
    }
    given = [name for name, value in filters.items() if value is not None]
    options: dict[str, Any] = {
        "queue": to_queue, "delay": delay, "priority": priority, "max_attempts": max_attempts, "timeout": timeout,
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    if every and (ref is not None or inputs is not None):
        raise UsageError("--all takes filters, no REF and no inputs: give one or the other")
    if not every and (given or dry_run):
        raise UsageError(f"--{(given or ['dry-run'])[0]} goes with --all")
    if not every and ref is None:
        raise UsageError("which job? Write its REF, or --all for every dead letter that fits")
    opened = session.queue()
    if every:
        filters["since"] = since_of(since, opened)
        with opened.captured(echo=session.verbose > 0):
            told = opened.requeue_all(dry_run=dry_run, why=why, options=options, **filters)
        return _tell_all(session, told)
    handle = refs.find(opened, str(ref))
    changed = arguments.json_object(inputs, "--inputs")
    if words or changed:
        changed |= _typed(opened, handle.name, words, changed)
    with opened.captured(echo=session.verbose > 0):
        again = opened.requeue(handle.id, changed or None, why=why, **options)
    if session.json:
        session.document({**show.job_document(again.job, opened.now()), "outcome": str(again.outcome)})
    else:
        session.write(f"{again.id}  {again.name}: again of {handle.id}" if session.pretty else again.id)
        if again.outcome == "kept":
            session.say(f"job {again.id} is there already and is not final; nothing was changed")
    return OK


def _typed(queue: JobQueue, name: str, words: tuple[str, ...], given: dict[str, Any]) -> dict[str, Any]:
    """Read words as the task's own types where it is known here, else as JSON where they parse."""
    queue.load_tasks()
    task = TASKS.get(name)
    pairs = arguments.pairs(words)
    if both := sorted(set(pairs) & set(given)):
        raise UsageError(f"argument {both[0]!r} is given twice: as {both[0]}=... and in --inputs")
    if task is not None:
        return arguments.for_task(task, words, None)[1]
    return {key: arguments.guess(text) for key, text in pairs.items()}


def _tell_all(session: Session, told: Requeued) -> int:
    if session.json:
        session.document({"schema": "penstock.requeued/1", **{f: getattr(told, f) for f in told.__struct_fields__}})
        return OK
    for job_id in told.jobs:
        session.write(job_id)
    for job_id, why in list(told.refused.items())[:_SHOWN]:
        session.warn(f"{job_id} is not requeued: {why}")
    if len(told.refused) > _SHOWN:
        session.warn(f"{len(told.refused) - _SHOWN:,} more are not requeued; --json tells which")
    if told.dry_run:
        session.say(f"{told.found:,} dead letters would be requeued; leave out --dry-run to do it")
    else:
        kept = f", {told.kept:,} kept for a live job of the same key" if told.kept else ""
        session.say(f"{told.requeued:,} of {told.found:,} dead letters requeued{kept}")
    return OK
