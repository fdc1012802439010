"""What a test says of the jobs that the code under test should have enqueued."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.core.durations import format_duration, parse_duration_s
from penstock.core.exceptions import ArgumentsError, did_you_mean
from penstock.job.lifecycle import SHOWN_STATES, shown_state
from penstock.job.models import Job, JobQuery, shown_spec
from penstock.payload import plain_or_raise
from penstock.signatures import plan_of
from penstock.sources.decorators import TASKS, BoundTask, Task

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.handle import JobHandle

_CLOSE_S = 1.0
_PAGE = 500
_SHOWN = 10


def assert_enqueued(
    queue: JobQueue | None, task: Any = None, /, *args: Any, count: int | None = None, **said: Any
) -> list[JobHandle]:
    """Assert that jobs were enqueued that fit all that is said, and return them, the oldest first.

    ``task`` is a task or a name; None: any. The arguments may be a part of those of the call. Keywords that are no
    parameters of the task and name an option (``queue``, ``delay``, ``at``, ``key``, ``priority``, ``tags``,
    ``metadata``, ``max_attempts``, ``timeout``, ``isolation``, ``state``) are compared with the job's; ``tags`` and
    ``metadata`` may be a part of them too, a ``delay`` is as long give or take a second. Whether a job has run by now
    does not matter, unless ``state`` says so.

    Args:
        queue: where to look; None: `JobQueue.default()`.
        task: see above.
        args: the first arguments of the call.
        count: how many there must be; default: one or more.
        said: further arguments, and options.

    Raises:
        AssertionError: there are none, or not so many; shows what was enqueued.
        ArgumentsError: the task takes no such arguments, and they name no option.
        ValueError: an option cannot be so: a state or a span of time that is none.
    """
    queue = _queue(queue)
    wanted = _Wanted(queue, task, args, said)
    every = _all(queue)
    found = [job for job in every if wanted.fits(job)]
    if (found and count is None) or len(found) == count:
        return [queue.job(job.id) for job in found]
    expected = f"{count} jobs" if count is not None else "a job"
    raise AssertionError(f"expected {expected} {wanted}, found {len(found)}; {_told(queue, every)}")


def assert_not_enqueued(queue: JobQueue | None, task: Any = None, /, *args: Any, **said: Any) -> None:
    """Assert that no job was enqueued that fits all that is said; see `assert_enqueued`. Without more: no job at all.

    Raises:
        AssertionError: there is one; shows which.
    """
    queue = _queue(queue)
    wanted = _Wanted(queue, task, args, said)
    found = [job for job in _all(queue) if wanted.fits(job)]
    if found:
        raise AssertionError(f"expected no job {wanted}, found {len(found)}; {_told(queue, found)}")


class _Wanted:
    def __init__(self, queue: JobQueue, task: Any, args: tuple[Any, ...], said: Mapping[str, Any]) -> None:
        self._now = queue.now()
        known: Any = cast("BoundTask[..., Any]", task).task if isinstance(task, BoundTask) else task
        if isinstance(known, str):
            queue.load_tasks()
            known = TASKS.get(known, known)
        self._task = cast("Task[..., Any] | None", known if isinstance(known, Task) else None)
        self._names = _names(known)
        taken = set(self._task.signature.parameters) if self._task is not None else set[str]()
        self._options = {name: value for name, value in said.items() if name in _OPTIONS and name not in taken}
        kwargs = {name: value for name, value in said.items() if name not in self._options}
        self._args, self._kwargs = args, kwargs
        if self._task is None:
            self._arguments = {name: _plain(value) for name, value in kwargs.items()}
        else:
            plan = plan_of(self._task.fn, self._task.name, self._task.signature)
            try:
                named = plan.part_by_name(args, kwargs)
            except ArgumentsError as error:
                odd = next((name for name in kwargs if name not in taken), None)
                near = "" if odd is None else f"; {odd!r} is no option either.{did_you_mean(odd, _OPTIONS)}"
                raise ArgumentsError(f"{error}{near}") from None
            self._arguments = {name: _plain(value) for name, value in named.items()}
        _check(self._options)

    def fits(self, job: Job) -> bool:
        if self._names and job.name not in self._names:
            return False
        if not all(_OPTIONS[name](job, value, self._now) for name, value in self._options.items()):
            return False
        return not (self._args or self._arguments) or self._takes(job)

    def _takes(self, job: Job) -> bool:
        spec: dict[str, Any] = msgspec.json.decode(job.spec)
        given: dict[str, Any]
        if self._task is not None:
            plan = plan_of(self._task.fn, self._task.name, self._task.signature)
            try:
                given = plan.by_name(spec.get("args", []), spec.get("kwargs", {}))
            except TypeError:  # an older function's arguments
                return False
        elif job.kind == "task":
            first = spec.get("args", [])[: len(self._args)]
            if first != [_plain(value) for value in self._args]:
                return False
            given = spec.get("kwargs", {})
        else:
            if self._args and spec.get("argv", [])[: len(self._args)] != [_plain(value) for value in self._args]:
                return False
            given = spec.get("inputs", {})
        missing = object()
        return all(_plain(given.get(name, missing)) == value if name in given else False
                   for name, value in self._arguments.items())  # fmt: skip

    def __str__(self) -> str:
        words = [repr(value) for value in self._args]
        words += [f"{name}={value!r}" for name, value in (*self._kwargs.items(), *self._options.items())]
        name = next(iter(self._names), "of any task")
        return f"{name}({', '.join(words)})" if words else name


def _queue(queue: JobQueue | None) -> JobQueue:
    from penstock.client import JobQueue

    if queue is None:
        return JobQueue.default()
    if not isinstance(cast("Any", queue), JobQueue):
        raise TypeError(f"first the queue, or None for the default one, then the task; not {queue!r}")
    return queue


def _check(options: Mapping[str, Any]) -> None:
    """Refuse what no job can be, so that nothing is asserted of a word that was mistyped."""
    state, metadata = options.get("state"), options.get("metadata", {})
    if state is not None and state not in SHOWN_STATES:
        raise ValueError(
            f"{state!r} is not a state; there are: {', '.join(SHOWN_STATES)}.{did_you_mean(state, SHOWN_STATES)}"
        )
    if not isinstance(metadata, Mapping):
        raise TypeError(f"metadata is a table such as {{'team': 'etl'}}, not {metadata!r}")
    for name in ("delay", "timeout"):
        if options.get(name) not in (None, False, "none"):
            parse_duration_s(options[name])


def _names(task: Any) -> dict[str, None]:
    if task is None:
        return {}
    if isinstance(task, Task):
        known = cast("Task[..., Any]", task)
        return dict.fromkeys((known.name, *known.aliases))
    if isinstance(task, str):
        return {task: None}
    raise TypeError(f"{task!r} is neither a task nor the name of one")


def _plain(value: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value, enc_hook=plain_or_raise))


def _all(queue: JobQueue) -> list[Job]:
    found: list[Job] = []
    before: str | None = None
    while page := queue.ledger.find(JobQuery(limit=_PAGE, before=before)):
        found += page
        before = page[-1].id
    return found[::-1]


def _told(queue: JobQueue, jobs: list[Job]) -> str:
    if not jobs:
        return "no job was enqueued"
    now = queue.now()
    lines: list[str] = []
    for job in jobs[-_SHOWN:]:
        shown: Any = shown_spec(job.spec)
        table: dict[str, Any] = cast("dict[str, Any]", shown) if isinstance(shown, dict) else {"args": [shown]}
        named: Any = table.get("kwargs") or table.get("inputs") or {}
        words = [*map(repr, table.get("args") or table.get("argv") or [])]
        words += [f"{name}={value!r}" for name, value in named.items()]
        later_s = (job.scheduled_at - job.created_at).total_seconds()
        later = f", delay {format_duration(later_s)}" if later_s >= _CLOSE_S else ""
        lines.append(f"\n  {job.name}({', '.join(words)})  {shown_state(job, now)}, queue {job.queue}{later}")
    left = f"\n  and {len(jobs) - _SHOWN} more" if len(jobs) > _SHOWN else ""
    return f"enqueued were:{''.join(lines)}{left}"


def _delayed(job: Job, value: Any, _now: datetime) -> bool:
    return abs((job.scheduled_at - job.created_at).total_seconds() - parse_duration_s(value)) < _CLOSE_S


def _tagged(job: Job, value: Any, _now: datetime) -> bool:
    return {value} <= set(job.tags) if isinstance(value, str) else set(value) <= set(job.tags)


def _timed(job: Job, value: Any, _now: datetime) -> bool:
    return job.timeout_s is None if value in (None, False, "none") else job.timeout_s == parse_duration_s(value)


def _same(name: str) -> Callable[[Job, Any, datetime], bool]:
    return lambda job, value, _now: getattr(job, name) == value


_OPTIONS: dict[str, Callable[[Job, Any, datetime], bool]] = {
    "queue": _same("queue"),
    "key": _same("key"),
    "priority": _same("priority"),
    "max_attempts": _same("max_attempts"),
    "isolation": _same("isolation"),
    "parent_id": _same("parent_id"),
    "delay": _delayed,
    "at": lambda job, value, _now: abs((job.scheduled_at - value).total_seconds()) < _CLOSE_S,
    "tags": _tagged,
    "tag": _tagged,
    "metadata": lambda job, value, _now: value.items() <= job.metadata.items(),
    "timeout": _timed,
    "state": lambda job, value, now: value in (job.state.value, shown_state(job, now)),
}
