"""The function of a job and what it is called with, and how it becomes a task of penstock."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from penstock import run as run_room
from penstock.bridge import on_loop, wait_on_loop
from penstock.options import JobOptions
from penstock.sources.decorators import Task

if TYPE_CHECKING:
    import rio

    from penstock.bridge import Loop

logger = logging.getLogger("penstock.rio")

Answer = datetime | timedelta | Literal["never"] | None
"""When a job's next run is: at that time (naive: local time; past: at once), after that long, never, or as usual."""


class Run:
    """The run of a job, which its function is called with."""

    __slots__ = ("_progress", "_run", "app")

    def __init__(self, run: run_room.Run, app: rio.App) -> None:
        self._run = run
        self._progress: float | None = None
        self.app = app
        """The Rio app, with its attachments and extensions."""

    @property
    def started_at(self) -> datetime:
        """When the run began, aware."""
        return self._run.started_at

    @property
    def status_message(self) -> str:
        """What the run is doing, in a few words; shown by the views of every process of the app."""
        return self._run.message

    @status_message.setter
    def status_message(self, value: str) -> None:
        self._run.message = value

    @property
    def progress(self) -> float | None:
        """How far the run is, from 0 to 1; None until the function says so."""
        return self._progress

    @progress.setter
    def progress(self, value: float | None) -> None:
        if value is not None:
            self._run.progress = value
            value = self._run.progress
        self._progress = value

    @property
    def job_id(self) -> str:
        """The id of this run's job, as ``penstock jobs show`` takes it."""
        return self._run.job_id

    def check(self) -> None:
        """Raise if the run has to stop, because it was cancelled or the app closes: for long loops in a ``def``."""
        self._run.check()

    def log(self, text: str, level: str = "INFO") -> None:
        """Keep a line with this run."""
        self._run.log(text, level)


JobFunction = Callable[[Run], Answer | Awaitable[Answer]]


def name_of(function: Callable[..., Any]) -> str:
    """Return what rio-jobs calls a function: of a method with its class, in words."""
    owner = getattr(function, "__self__", None)
    if owner is not None:
        told = f"{type(owner).__name__}.{getattr(function, '__name__', 'call')}"
    else:
        told = getattr(function, "__qualname__", None) or repr(function)
    return str(told).replace("_", " ").title()


def place_of(function: Callable[..., Any]) -> str:
    """Return where a function stands, as ``app.py:12``; empty for what is no function."""
    code = getattr(inspect.unwrap(_bare(function)), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code is not None else ""


def task_of(function: JobFunction, *, task: str, title: str, app: rio.App, loop: Loop) -> Task[..., Any]:
    """Make a task of a job's function: an ``async def`` runs on the app's own loop, a ``def`` in a worker's thread."""
    if _is_async(function):

        async def run_async(run: run_room.Run) -> Any:
            mine = Run(run, app)
            try:
                return _local(await on_loop(loop, lambda: function(mine)))  # type: ignore[arg-type]
            except Exception:
                logger.exception("job %r has crashed, it is scheduled again", title)
                raise

        return Task(run_async, task, JobOptions())

    def run_sync(run: run_room.Run) -> Any:
        try:
            answer: Any = function(Run(run, app))
            if inspect.isawaitable(answer):
                awaitable: Awaitable[Any] = answer
                answer = wait_on_loop(loop, lambda: awaitable)
            return _local(answer)
        except Exception:
            logger.exception("job %r has crashed, it is scheduled again", title)
            raise

    return Task(run_sync, task, JobOptions())


def _local(answer: Any) -> Any:
    """Read a naive time as rio-jobs does: it is local time, whatever the zone of the project is."""
    return answer.astimezone() if isinstance(answer, datetime) and answer.utcoffset() is None else answer


def _bare(function: Any) -> Any:
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _is_async(function: Any) -> bool:
    bare = _bare(function)
    return inspect.iscoroutinefunction(bare) or inspect.iscoroutinefunction(getattr(bare, "__call__", None))  # noqa: B004
