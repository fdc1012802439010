"""``schedules``: what makes jobs by itself; listed, made, changed, paused, triggered, explained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from penstock.cli import show, show_schedules, watch
from penstock.cli.failures import OK, UsageError, tell
from penstock.cli.flags import JobFlags, ScheduleFlags, rule_options
from penstock.cli.session import Session
from penstock.core.exceptions import JobNotFoundError, PenstockError
from penstock.schedules import Did

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.job.models import Job
    from penstock.job.schedules import Schedule
    from penstock.schedules import Fire

_OPTIONAL = Parameter(show_default=False)
_FLAG = Parameter(negative="", show_default=False)
_COUNT = Parameter(name=["--count", "-n"])
_NEXT = 3
_PAGE = 1000
_EVENTS = 10


def schedules(
    *,
    tag: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List the schedules: when each fires next, what became of its last job, who declared it.

    Args:
        tag: Only those with this tag.
        session: Handed in by the parser.
    """
    queue = session.look()
    found = queue.schedules.list(tag=tag)
    lasts = _lasts(queue, found)
    listed = [(schedule, lasts.get(schedule.last_job or "")) for schedule in found]
    now, held = queue.now(), {schedule.name: queue.schedules.held(schedule) for schedule in found}
    if session.json:
        for schedule, last in listed:
            session.document(show_schedules.document(schedule, last, now, held=held[schedule.name]))
    elif not session.pretty:
        session.rows(show_schedules.COLUMNS, (show_schedules.row(*one, now, held=held[one[0].name]) for one in listed))
    elif not listed:
        session.say("no schedules" if tag is None else f"no schedules with the tag {tag!r}")
    else:
        session.console.print(show_schedules.schedules_table(listed, now, width=session.console.width))
        for name, rules in held.items():
            if rules:
                session.say(f"‖ {name} makes jobs that wait: {'; '.join(rules)}")
    there = {schedule.name for schedule, _ in listed}
    if tag is None and (missing := [name for name in queue.config.schedules if name not in there]):
        session.say(f"declared and not made yet: {', '.join(missing)}; a worker, or penstock scheduler, makes them")
    return OK


def add(
    what: str,
    rule: str | None = None,
    /,
    *words: Annotated[str, Parameter(allow_leading_hyphen=False)],
    name: Annotated[str | None, _OPTIONAL] = None,
    args: Annotated[str | None, _OPTIONAL] = None,
    inputs: Annotated[str | None, _OPTIONAL] = None,
    final_vars: Annotated[str | None, _OPTIONAL] = None,
    pipeline: Annotated[bool, _FLAG] = False,
    task: Annotated[bool, _FLAG] = False,
    tasks: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    options: ScheduleFlags | None = None,
    jobs: JobFlags | None = None,
    on_exit: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    why: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Make a schedule for a task, a pipeline, or, behind --, a command; or change the one of that name.

    RULE is a cron of 5 or 6 fields ("0 2 * * *"), @daily and its like, "every 15m", an ISO 8601 time
    (2026-11-22T02:00), or a repeating interval (R/2026-11-22T00:00Z/PT1H). Prints the next three fire times.

    Args:
        what: A task, else a pipeline of the FlowerPower project found here. With -- the rule, and no more.
        rule: When.
        words: NAME=VALUE for each argument or input. A VALUE may hold {{ fire_at }}, {{ interval.start }}.
        name: What the schedule is called; default: as the task or pipeline.
        args: Arguments as one JSON object, or an array by position.
        inputs: Inputs of a pipeline, as one JSON object.
        final_vars: What a pipeline is to compute, with commas between.
        pipeline: WHAT is a pipeline, even if a task has that name.
        task: WHAT is a task.
        tasks: A module or folder that holds tasks, added to those configured; may be repeated.
        options: How it behaves.
        jobs: Of each job that it makes.
        on_exit: What an exit status of a command asks for, such as 75="retry 5m"; may be repeated.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    from penstock.cli.submit import make_call

    meant: str | None = what
    if session.argv is not None:
        if rule is not None:
            raise UsageError('a command stands behind --, and before it the rule alone: add "0 2 * * *" -- ls -l')
        meant, rule = None, what
    if rule is None:
        raise UsageError(f'when is {what} to run? Write a rule behind it, such as "0 2 * * *" or "every 15m"')
    if words and "=" not in words[0] and " " not in rule:
        raise UsageError(
            f'a rule of several words stands in quotes, such as "0 2 * * *" or "every 15m"; not {rule} {words[0]}'
        )
    opened = session.queue(tasks=tasks)
    call = make_call(
        opened, session.argv, meant, words, args=args, inputs=inputs, final_vars=final_vars, pipeline=pipeline,
        task=task, options=(jobs or JobFlags()).given(), on_exit=on_exit,
    )  # fmt: skip
    given = rule_options(rule, (options or ScheduleFlags()).given())
    made, did = opened.schedules.put(call, name=name, why=why, **given)
    _print_changed(session, opened, made, str(did))
    return OK


def update(
    name: str,
    rule: str | None = None,
    /,
    *,
    options: ScheduleFlags | None = None,
    jobs: JobFlags | None = None,
    why: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Change a schedule that was made by hand; what is not named stays, and so does where it stands.

    Args:
        name: The schedule.
        rule: Another rule; see penstock schedules add --help.
        options: How it behaves.
        jobs: Of each job that it makes.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    given = {**(options or ScheduleFlags()).given(), **(jobs or JobFlags()).given()}
    if rule is not None:
        given = rule_options(rule, given)
    if not given:
        raise UsageError(f"what is to change of {name}? Write another rule, or options; see --help")
    queue = session.queue()
    before = queue.schedules.get(name)
    after = queue.schedules.update(name, why=why, **given)
    _print_changed(session, queue, after, str(Did.KEPT if after.revision == before.revision else Did.CHANGED))
    return OK


def remove(
    first: str,
    /,
    *more: str,
    why: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Take schedules away. Their jobs stay, those that run go on.

    Args:
        first: A schedule that was made by hand; one that a file declares is removed there.
        more: Further ones.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    queue = session.queue()

    def verb(name: str) -> dict[str, Any]:
        queue.schedules.remove(name, why=why)
        return {"name": name, "outcome": "removed"}

    return _for_each(session, [first, *more], verb)


def pause(
    first: str,
    /,
    *more: str,
    note: Annotated[str, Parameter(name=["--note", "--why"], show_default=False)] = "",
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Let schedules make no jobs until they are resumed; they stay paused over restarts and deploys.

    Args:
        first: A schedule.
        more: Further ones.
        note: Why; it is shown with the schedule, and in the audit trail.
        session: Handed in by the parser.
    """
    queue = session.queue()

    def verb(name: str) -> dict[str, Any]:
        at = queue.schedules.pause(name, note).pause
        return {"name": name, "outcome": "paused", "pause": at}

    return _for_each(session, [first, *more], verb)


def resume(
    first: str,
    /,
    *more: str,
    why: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Let paused schedules go on. The fire times of the pause are not made up for.

    Args:
        first: A schedule.
        more: Further ones.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    queue = session.queue()

    def verb(name: str) -> dict[str, Any]:
        resumed = queue.schedules.resume(name, why=why)
        told = show_schedules.next_text(resumed, queue.now())
        return {"name": name, "outcome": "resumed", "next_at": resumed.next_at, "told": f"next {told}" if told else ""}

    return _for_each(session, [first, *more], verb)


def trigger(
    name: str,
    /,
    *,
    wait: Annotated[bool, _FLAG] = False,
    follow: Annotated[bool, _FLAG] = False,
    wait_timeout: Annotated[str | None, _OPTIONAL] = None,
    why: Annotated[str | None, _OPTIONAL] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Make a job of a schedule now, whatever its rule says, and print its id. It is recorded as manual.

    Args:
        name: The schedule.
        wait: Wait until the job is final and print what it returned.
        follow: Wait, and print what the job writes meanwhile.
        wait_timeout: Wait at most so long, such as 10m.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    from penstock.cli.submit import print_submitted, wait_seconds

    wait_s = wait_seconds(wait_timeout, "--wait-timeout")
    queue = session.queue()
    with queue.captured(echo=session.verbose > 0):
        handle = queue.schedules.trigger(name, why=why)
    if wait or follow:
        return watch.until_final(session, queue, handle, timeout_s=wait_s, follow=follow)
    print_submitted(session, queue, handle)
    return OK


def upcoming(
    name: str,
    /,
    *,
    count: Annotated[int, _COUNT] = 5,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Print the next fire times of a schedule; days on which the clocks change are marked.

    Args:
        name: The schedule.
        count: How many.
        session: Handed in by the parser.
    """
    wanted, queue = _checked(count), session.look()
    schedule, fires = queue.schedules.get(name), queue.schedules.next(name, wanted)
    if schedule.pause is not None:
        session.say(f"{name} is {show_schedules.next_text(schedule, queue.now())}")
    elif not fires:
        told = "when the run that is under way has ended" if schedule.awaits else "never again by itself"
        session.say(f"{name} fires {told}")
    _print_fires(session, queue, fires)
    return OK


def show_one(
    name: str,
    /,
    *,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Show one schedule: what it runs and when, what became of its fire times, what happened lately.

    Args:
        name: The schedule.
        session: Handed in by the parser.
    """
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    queue = session.look()
    schedule = queue.schedules.get(name)
    last, now, fires = _last(queue, schedule), queue.now(), queue.schedules.next(name, _NEXT)
    held = queue.schedules.held(schedule)
    if session.json:
        document = show_schedules.document(schedule, last, now, held=held)
        session.document({**document, "next": [show_schedules.fire_document(fire) for fire in fires]})
        return OK
    facts = show_schedules.facts(schedule, last, now, held=held)
    if not session.pretty:
        for key, told in [("name", name), ("state", show_schedules.state_of(schedule)), *facts]:
            session.write(f"{key}\t{' '.join(told.split())}")
        for fire in fires:
            session.write("\t".join(["fire", *show_schedules.fire_row(fire)]))
        for event in reversed(schedule.events[-_EVENTS:]):
            cells = ["event", show.iso(event.at), event.what, show.iso(event.fire_at), str(event.count)]
            session.write("\t".join([*cells, event.job_id or ""]))
        return OK
    console, grid = session.console, Table.grid(padding=(0, 2))
    for key, told in facts:
        grid.add_row(Text(key, style="dim"), Text(told))
    console.print(Text.assemble(show_schedules.state_text(schedule), "  ", (name, "bold")))
    console.print(Padding(grid, (1, 0, 0, 0)))
    if fires:
        console.print(Padding(show_schedules.fires_table(fires, now), (1, 0, 0, 0)))
    if schedule.events:
        lately = schedule.events[-_EVENTS:]
        table = show_schedules.events_table(lately, schedule.plan, now, width=console.width)
        console.print(Padding(table, (1, 0, 0, 0)))
    return OK


def explain(
    rule: str,
    /,
    *,
    timezone: Annotated[str | None, _OPTIONAL] = None,
    count: Annotated[int, _COUNT] = 5,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Say a rule in words, and when it would fire next; nothing is stored.

    Args:
        rule: Such as "0 2 * * *"; see penstock schedules add --help.
        timezone: An IANA zone; default: the project's.
        count: How many fire times.
        session: Handed in by the parser.
    """
    queue = session.look()
    told, fires = queue.schedules.explain(rule, timezone=timezone, count=_checked(count))
    if session.json:
        session.document({
            "schema": "penstock.explanation/1", "rule": rule, "explained": told,
            "next": [show_schedules.fire_document(fire) for fire in fires],
        })  # fmt: skip
        return OK
    session.write(told)
    if session.pretty:
        session.console.print(show_schedules.fires_table(fires, queue.now()))
    else:
        for fire in fires:
            session.write("\t".join(show_schedules.fire_row(fire)))
    return OK


# -- what they share ------------------------------------------------------------------------------------------------


def _lasts(queue: JobQueue, schedules: Sequence[Schedule]) -> dict[str, Job]:
    """Return the last jobs of schedules by id, without those that were purged: a few questions for thousands."""
    wanted = [schedule.last_job for schedule in schedules if schedule.last_job is not None]
    pages = (tuple(wanted[start : start + _PAGE]) for start in range(0, len(wanted), _PAGE))
    return {handle.id: handle.job for page in pages for handle in queue.jobs(ids=page, limit=_PAGE)}


def _last(queue: JobQueue, schedule: Schedule) -> Job | None:
    if schedule.last_job is None:
        return None
    try:
        return queue.job(schedule.last_job).job
    except JobNotFoundError:  # it was purged
        return None


def _checked(count: int) -> int:
    if not 1 <= count <= 1000:
        raise UsageError(f"--count takes a number from 1 to 1000, not {count}")
    return count


def _print_fires(session: Session, queue: JobQueue, fires: Sequence[Fire]) -> None:
    if session.json:
        for fire in fires:
            session.document({"schema": "penstock.fire/1", **show_schedules.fire_document(fire)})
    elif session.pretty:
        session.console.print(show_schedules.fires_table(fires, queue.now()))
    else:
        session.rows(show_schedules.FIRE_COLUMNS, map(show_schedules.fire_row, fires))


def _print_changed(session: Session, queue: JobQueue, schedule: Schedule, outcome: str) -> None:
    fires = queue.schedules.next(schedule.name, _NEXT)
    now = queue.now()
    if session.json:
        session.document({
            **show_schedules.document(schedule, _last(queue, schedule), now, held=queue.schedules.held(schedule)),
            "outcome": outcome,
            "next": [show_schedules.fire_document(fire) for fire in fires],
        })  # fmt: skip
        return
    told = "stays as it was" if outcome == str(Did.KEPT) else f"is {outcome}"
    session.say(f"schedule {schedule.name} {told}: {show_schedules.explained(schedule.plan)}")
    if schedule.pause is not None:
        session.say(f"it is {show_schedules.next_text(schedule, now)}")
    elif not fires:
        session.say("it never fires: its time is over")
    _print_fires(session, queue, fires)


def _for_each(session: Session, names: Sequence[str], verb: Callable[[str], dict[str, Any]]) -> int:
    """Apply a verb to each schedule; one that fails does not keep the others back. The exit code is the first's."""
    code = OK
    for name in names:
        try:
            told = verb(name)
        except PenstockError as error:
            failed = tell(error, as_json=session.json, verbose=session.verbose > 0)
            code = code or failed
            continue
        line = told.pop("told", "")
        if session.json:
            session.document({"schema": "penstock.schedule.change/1", **told})
        else:
            session.write(f"{name}: {told['outcome']}" + (f", {line}" if line else ""))
    return code
