"""Options that several commands share: those of a job, those of a schedule."""

from __future__ import annotations

import dataclasses
from typing import Annotated, Any

from cyclopts import Group, Parameter

from penstock.cli import arguments
from penstock.cli.failures import UsageError

_JOB = Group("Job options", sort_key=50)
_SCHEDULE = Group("Schedule options", sort_key=40)


def _job(help: str) -> Parameter:  # noqa: A002 - the parser's own word
    return Parameter(group=_JOB, show_default=False, negative="", help=help)


def _schedule(help: str, **more: Any) -> Parameter:  # noqa: A002
    return Parameter(group=_SCHEDULE, show_default=False, help=help, **more)


@Parameter(name="*")
@dataclasses.dataclass(kw_only=True)
class JobFlags:
    """What may be said of each job that a schedule makes."""

    queue: Annotated[str | None, _job("The queue.")] = None
    priority: Annotated[int | None, _job("0 to 9, higher first.")] = None
    max_attempts: Annotated[int | None, _job("How many tries; the first counts.")] = None
    max_crashes: Annotated[int | None, _job("How often it may lose its process.")] = None
    timeout: Annotated[str | None, _job("How long a try may take, such as 5m; or none.")] = None
    backoff: Annotated[str | None, _job("How long to wait between tries, such as 10s..10m.")] = None
    retry_on: Annotated[
        tuple[str, ...], _job("An error that is tried again: NAME, or NAME=TRIES,BACKOFF; may be repeated.")
    ] = ()
    discard_on: Annotated[tuple[str, ...], _job("An error that is not tried again; may be repeated.")] = ()
    expires: Annotated[str | None, _job("It fails if it has not begun so long after it was due, such as 1h.")] = None
    limit: Annotated[
        tuple[str, ...], _job("KEY=N: at most N jobs that name this key run at once; may be repeated.")
    ] = ()
    metadata: Annotated[tuple[str, ...], _job("KEY=VALUE that jobs can be found by; may be repeated.")] = ()
    isolation: Annotated[str | None, _job("inline or process.")] = None
    max_memory: Annotated[str | None, _job("How much address space its process may take, such as 2GB; or none.")] = None
    max_cpu: Annotated[str | None, _job("How much CPU time its process may take, such as 10m; or none.")] = None
    max_open_files: Annotated[str | None, _job("How many files its process may have open; or none.")] = None

    def given(self) -> dict[str, Any]:
        """Return those that were given. Raises `UsageError`."""
        options = {name: value for name, value in _given(self).items() if value != ()}
        if limits := arguments.limits(options.pop("limit", ())):
            options["limits"] = limits
        if metadata := arguments.metadata(options.pop("metadata", ())):
            options["metadata"] = metadata
        if (most := options.get("max_open_files", "")).isdecimal():
            options["max_open_files"] = int(most)
        return options


@Parameter(name="*")
@dataclasses.dataclass(kw_only=True)
class ScheduleFlags:
    """What may be said of a schedule beside its rule."""

    timezone: Annotated[
        str | None, _schedule("An IANA zone: of a cron, and of times without one; default: the project's.")
    ] = None
    overlap: Annotated[
        str | None, _schedule("While the job before still runs: skip (default), queue, allow or cancel_previous.")
    ] = None
    catch_up: Annotated[str | None, _schedule("Fire times that were missed: none, latest (default) or all.")] = None
    catch_up_max: Annotated[int | None, _schedule("How many missed ones at most, the newest; default: 100.")] = None
    grace: Annotated[str | None, _schedule("How late a missed one may be made, such as 6h; or none.")] = None
    jitter: Annotated[str | None, _schedule("Start each job up to so much later, such as 30s.")] = None
    start: Annotated[str | None, _schedule("No fire time before this time; an interval begins with it.")] = None
    end: Annotated[str | None, _schedule("No fire time after this time; or none.")] = None
    max_fires: Annotated[str | None, _schedule("So many fire times in all; or none for no limit.")] = None
    from_end: Annotated[
        bool | None, _schedule("Count the interval from the end of each run.", negative="--no-from-end")
    ] = None
    follows: Annotated[
        bool | None, _schedule("As --from-end; what a run returns may say when the next is.", negative="--no-follows")
    ] = None
    soft_start: Annotated[
        bool | None,
        _schedule("Stagger its first run behind others' when a scheduler starts.", negative="--no-soft-start"),
    ] = None
    tag: Annotated[tuple[str, ...], _schedule("A tag, of its jobs too; may be repeated.", negative="")] = ()

    def given(self) -> dict[str, Any]:
        """Return those that were given, by the names of `JobQueue.schedule`. Raises `UsageError`."""
        options = _given(self)
        if (most := options.get("max_fires", "none")) != "none":
            try:
                options["max_fires"] = int(most)
            except ValueError:
                raise UsageError(f"--max-fires takes a whole number or none, not {most!r}") from None
        tags = options.pop("tag", ())
        return {**options, "tags": tags} if tags else options


def rule_options(rule: str, given: dict[str, Any]) -> dict[str, Any]:
    """Return a rule as the option that it is; an interval is anchored at ``start`` where that is given."""
    text = rule.strip()
    if text.lower().startswith("every "):
        return {**given, "every": text[6:].strip()}
    if text.startswith("P"):
        return {**given, "every": text}
    return {**given, "rule": text}


def _given(flags: Any) -> dict[str, Any]:
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(flags)}
    return {name: value for name, value in values.items() if value is not None}
