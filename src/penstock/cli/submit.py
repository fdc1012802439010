"""``enqueue`` and ``run``: a name and words become a job."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Group, Parameter

from penstock.cli import arguments, watch
from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session
from penstock.client import JobQueue
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import UnknownPipelineError, UnknownTaskError, did_you_mean
from penstock.handle import JobHandle
from penstock.sources.decorators import TASKS, Call

_OPTIONS = Group("Job options", sort_key=50)


def _option(*names: str, hyphen: bool = False) -> Parameter:
    return Parameter(name=names, group=_OPTIONS, show_default=False, negative="", allow_leading_hyphen=hyphen)


def enqueue(
    name: str | None = None,
    /,
    *words: Annotated[str, Parameter(allow_leading_hyphen=False)],
    args: Annotated[str | None, Parameter(show_default=False)] = None,
    inputs: Annotated[str | None, Parameter(show_default=False)] = None,
    final_vars: Annotated[str | None, Parameter(show_default=False)] = None,
    pipeline: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    task: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    tasks: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    wait: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    follow: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    wait_timeout: Annotated[
        str | None, Parameter(name=["--wait-timeout", "--timeout-wait"], show_default=False)
    ] = None,
    queue: Annotated[str | None, _option("--queue")] = None,
    priority: Annotated[int | None, _option("--priority")] = None,
    delay: Annotated[str | None, _option("--delay", "--in", hyphen=True)] = None,
    at: Annotated[str | None, _option("--at")] = None,
    key: Annotated[str | None, _option("--key")] = None,
    unique: Annotated[str | None, _option("--unique")] = None,
    unique_for: Annotated[str | None, _option("--unique-for")] = None,
    on_conflict: Annotated[str | None, _option("--on-conflict")] = None,
    expires: Annotated[str | None, _option("--expires")] = None,
    limit: Annotated[tuple[str, ...], _option("--limit")] = (),
    max_attempts: Annotated[int | None, _option("--max-attempts")] = None,
    max_crashes: Annotated[int | None, _option("--max-crashes")] = None,
    timeout: Annotated[str | None, _option("--timeout")] = None,
    backoff: Annotated[str | None, _option("--backoff")] = None,
    retry_on: Annotated[tuple[str, ...], _option("--retry-on")] = (),
    discard_on: Annotated[tuple[str, ...], _option("--discard-on")] = (),
    on_exit: Annotated[tuple[str, ...], _option("--on-exit")] = (),
    isolation: Annotated[str | None, _option("--isolation")] = None,
    max_memory: Annotated[str | None, _option("--max-memory")] = None,
    max_cpu: Annotated[str | None, _option("--max-cpu")] = None,
    max_open_files: Annotated[int | None, _option("--max-open-files")] = None,
    tag: Annotated[tuple[str, ...], _option("--tag")] = (),
    metadata: Annotated[tuple[str, ...], _option("--metadata")] = (),
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Submit a task, a pipeline, or, behind --, a command.

    Prints the job's id. With --wait or --follow the exit code is 1 if the job failed and 124 if the time was over.

    Args:
        name: A task, else a pipeline of the FlowerPower project found here.
        words: NAME=VALUE for each argument (of a pipeline: input). A VALUE is JSON where it parses, else text.
        args: Arguments as one JSON object, or an array by position.
        inputs: Inputs of a pipeline, as one JSON object.
        final_vars: What a pipeline is to compute, with commas between.
        pipeline: NAME is a pipeline, even if a task has that name.
        task: NAME is a task.
        tasks: A module or folder that holds tasks, added to those configured; may be repeated.
        wait: Wait until the job is final and print what it returned.
        follow: Wait, and print what the job writes meanwhile.
        wait_timeout: Wait at most so long, such as 10m.
        queue: The queue.
        priority: 0 to 9, higher first.
        delay: Not before so long, such as 10m.
        at: Not before this time: ISO 8601 with its zone.
        key: While a job with this key is not final, another is not made.
        unique: While a job with the same values of these arguments is not final, another is not made; "all" for all.
        unique_for: With --unique: for so long after it was made, such as 1h, also when it has succeeded.
        on_conflict: Where another job stands in its way: keep it (default), replace it, or raise.
        expires: It fails if it has not begun so long after it was due, such as 1h, or by an ISO 8601 time.
        limit: KEY=N: at most N jobs that name this key run at once, over all workers; may be repeated.
        max_attempts: How many tries; the first counts.
        max_crashes: How often it may lose its process.
        timeout: How long a try may take, such as 5m; or none.
        backoff: How long to wait between tries, such as 10s..10m.
        retry_on: An error that is tried again: NAME, or NAME=TRIES,BACKOFF to count it for itself; may be repeated.
        discard_on: An error that is not tried again; may be repeated.
        on_exit: What an exit status of a command asks for, such as 75="retry 5m", 69="snooze 1h"; may be repeated.
        isolation: inline or process.
        max_memory: How much address space its process may take, such as 2GB; or none.
        max_cpu: How much CPU time its process may take, such as 10m; or none.
        max_open_files: How many files its process may have open.
        tag: A tag; may be repeated.
        metadata: KEY=VALUE that jobs can be found by; may be repeated.
        session: Handed in by the parser.
    """
    if delay is not None and at is not None:
        raise UsageError("--delay and --at are alternatives; give one")
    wait_s = wait_seconds(wait_timeout, "--wait-timeout")
    opened = session.queue(tasks=tasks)
    call = make_call(
        opened, session.argv, name, words, args=args, inputs=inputs, final_vars=final_vars,
        pipeline=pipeline, task=task, on_exit=on_exit,
        options={
            "queue": queue, "priority": priority, "delay": delay, "at": at, "key": key, "max_attempts": max_attempts,
            "unique": _unique(unique, unique_for), "on_conflict": on_conflict, "expires": expires,
            "limits": arguments.limits(limit),
            "max_crashes": max_crashes, "timeout": timeout, "backoff": backoff, "isolation": isolation,
            "retry_on": retry_on or None, "discard_on": discard_on or None,
            "max_memory": max_memory, "max_cpu": max_cpu, "max_open_files": max_open_files, "tags": tag or None,
            "metadata": arguments.metadata(metadata),
        },
    )  # fmt: skip
    with opened.captured(echo=session.verbose > 0):
        handle = opened.enqueue(call)
    if not (wait or follow):
        print_submitted(session, opened, handle)
        return OK
    return watch.until_final(session, opened, handle, timeout_s=wait_s, follow=follow)


def run(
    name: str | None = None,
    /,
    *words: str,
    args: Annotated[str | None, Parameter(show_default=False)] = None,
    inputs: Annotated[str | None, Parameter(show_default=False)] = None,
    final_vars: Annotated[str | None, Parameter(show_default=False)] = None,
    pipeline: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    task: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    tasks: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    max_attempts: Annotated[int | None, _option("--max-attempts")] = None,
    timeout: Annotated[str | None, _option("--timeout")] = None,
    on_exit: Annotated[tuple[str, ...], _option("--on-exit")] = (),
    isolation: Annotated[str | None, _option("--isolation")] = None,
    max_memory: Annotated[str | None, _option("--max-memory")] = None,
    max_cpu: Annotated[str | None, _option("--max-cpu")] = None,
    max_open_files: Annotated[int | None, _option("--max-open-files")] = None,
    tag: Annotated[tuple[str, ...], _option("--tag")] = (),
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Run a task, a pipeline, or, behind --, a command here and now, without queue and worker.

    It is a job in the ledger all the same, with its log and its result. What it writes is shown on stderr, what it
    returned on stdout. The exit code is 1 if it failed. Ctrl-C cancels it.

    Args:
        name: A task, else a pipeline of the FlowerPower project found here.
        words: NAME=VALUE for each argument (of a pipeline: input). A VALUE is JSON where it parses, else text.
        args: Arguments as one JSON object, or an array by position.
        inputs: Inputs of a pipeline, as one JSON object.
        final_vars: What a pipeline is to compute, with commas between.
        pipeline: NAME is a pipeline, even if a task has that name.
        task: NAME is a task.
        tasks: A module or folder that holds tasks, added to those configured; may be repeated.
        max_attempts: How many tries; the first counts.
        timeout: How long a try may take, such as 5m; or none.
        on_exit: What an exit status of a command asks for, such as 75="retry 5m"; may be repeated.
        isolation: inline (in this very process; for a debugger) or process.
        max_memory: How much address space its process may take, such as 2GB; or none.
        max_cpu: How much CPU time its process may take, such as 10m; or none.
        max_open_files: How many files its process may have open.
        tag: A tag; may be repeated.
        session: Handed in by the parser.
    """
    opened = session.queue(tasks=tasks)
    call = make_call(
        opened, session.argv, name, words, args=args, inputs=inputs, final_vars=final_vars,
        pipeline=pipeline, task=task, on_exit=on_exit,
        options={
            "max_attempts": max_attempts, "timeout": timeout, "isolation": isolation, "max_memory": max_memory,
            "max_cpu": max_cpu, "max_open_files": max_open_files, "tags": tag or None,
        },
    )  # fmt: skip
    handle = opened.run(call, echo=not session.quiet)
    return watch.finish(session, opened, handle)


def make_call(
    queue: JobQueue,
    argv: tuple[str, ...] | None,
    name: str | None,
    words: Sequence[str],
    *,
    args: str | None,
    inputs: str | None,
    final_vars: str | None,
    pipeline: bool,
    task: bool,
    options: dict[str, Any],
    on_exit: Sequence[str] = (),
) -> Call:
    """Return the call that a command line means. Raises `UsageError` and `InvalidJobError`."""
    options = {name: value for name, value in options.items() if value is not None}
    if argv is not None:
        if name is not None or words or args or inputs or final_vars or pipeline or task:
            raise UsageError("a command stands alone behind --; job options stand before it")
        if not argv:
            raise UsageError("no command behind --; write: penstock enqueue -- ls -l")
        return queue.command(list(argv), on_exit=_on_exit(on_exit), **options)
    if on_exit:
        raise UsageError("--on-exit is for a command behind --")
    if name is None:
        raise UsageError("what is to run? Write a task's or a pipeline's name, or -- and a command")
    if pipeline and task:
        raise UsageError("--pipeline and --task are alternatives; give one")
    queue.load_tasks()
    found = None if pipeline else TASKS.get(name)
    if found is not None:
        if inputs is not None or final_vars is not None:
            raise UsageError(f"--inputs and --final-vars are for pipelines; {name} is a task and takes NAME=VALUE")
        positional, named = arguments.for_task(found, words, args)
        return found.options(**options).call(*positional, **named)
    if task:
        raise UnknownTaskError(name, queue.tasks())
    if args is not None:
        _refuse_unknown(queue, name, pipeline=pipeline)
        raise UsageError(f"--args is for tasks; {name} is a pipeline and takes NAME=VALUE or --inputs")
    given = arguments.json_object(inputs, "--inputs")
    for key, text in arguments.pairs(words).items():
        if key in given:
            raise UsageError(f"input {key!r} is given twice: as {key}=... and in --inputs")
        given[key] = arguments.guess(text)
    if given:
        options["inputs"] = given
    if final_vars is not None:
        options["final_vars"] = [part.strip() for part in final_vars.split(",") if part.strip()]
    _refuse_unknown(queue, name, pipeline=pipeline)
    return queue.pipeline(name, **options)


def _refuse_unknown(queue: JobQueue, name: str, *, pipeline: bool) -> None:
    """Tell of tasks and pipelines alike when NAME is neither."""
    pipelines = queue.pipelines()
    if name in pipelines:
        return
    if pipeline:
        raise UnknownPipelineError(name, pipelines, str(queue.root))
    tasks = queue.tasks()
    error = UnknownTaskError(name, tasks)
    listed = f"Tasks: {', '.join(sorted(tasks)) or 'none'}. Pipelines: {', '.join(sorted(pipelines)) or 'none'}."
    near = did_you_mean(name, [*tasks, *pipelines])
    error.args = (f"no task and no pipeline is named {name!r}. {listed}{near}",)
    raise error


def print_submitted(session: Session, queue: JobQueue, handle: JobHandle) -> None:
    """Print what was submitted: its id alone in a pipe."""
    now = queue.now()
    if session.json:
        from penstock.cli import show

        session.document({**show.job_document(handle.job, now), "outcome": str(handle.outcome)})
    elif not session.pretty or session.quiet:
        session.write(handle.id)
    else:
        from rich.text import Text

        from penstock.cli import show

        line = Text.assemble(
            show.state_text(handle.state),
            "  ",
            (handle.id, "bold"),
            "  ",
            handle.name,
            ("  " + _due(handle, now), "dim"),
        )
        session.console.print(line)
    if handle.outcome == "kept":
        session.say(f"a job with this key is there already and stays: {handle.id}")
    elif handle.outcome == "replaced":
        session.say("it takes the place of the job that had this key")
    elif handle.outcome == "blocked":
        session.say(f"it waits: {handle.job.held}")


def _unique(by: str | None, period: str | None) -> dict[str, Any] | None:
    if by is None:
        if period is not None:
            raise UsageError("--unique-for needs --unique: of which arguments?")
        return None
    names = () if by == "all" else tuple(name.strip() for name in by.split(","))
    return {"by": names} if period is None else {"by": names, "period": period}


def _on_exit(given: Sequence[str]) -> dict[Any, str]:
    for one in given:
        if "=" not in one:
            raise UsageError(f"--on-exit takes STATUS=WHAT, such as 75='retry 5m', not {one!r}")
    return {status.strip(): asked for status, _, asked in (one.partition("=") for one in given)}


def _due(handle: JobHandle, now: Any) -> str:
    from penstock.cli import show

    return show.ago(handle.scheduled_at, now) if handle.scheduled_at > now else f"queue {handle.job.queue}"


def wait_seconds(text: str | None, option: str) -> float | None:
    """Read how long to wait. Raises `UsageError`."""
    if text is None:
        return None
    try:
        return parse_duration_s(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from None
