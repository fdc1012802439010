"""The base classes of dependencies: ours are made from them, and a user's own may be.

A dependency is an async context manager (the class is that of ``uncalled-for``): what ``__aenter__`` returns is what
the parameter gets, ``__aexit__`` cleans up. As ``Annotated`` metadata a `Dependency` wraps the call and leaves the
parameter an argument; a `Provider` supplies the value there too.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec
from uncalled_for import Dependency, Provided, Provider

from penstock.body import Ended
from penstock.core.durations import Duration, parse_duration_s
from penstock.run import Run, current_run

if TYPE_CHECKING:
    from penstock.job.models import Job

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

_BLOCKED_S = 1.0


class TaskOutcome(msgspec.Struct, frozen=True, kw_only=True):
    """How a body ended, as its handlers see it."""

    duration: timedelta
    result: Any = None
    exception: BaseException | None = None
    final: bool = True
    """False: the job will be tried again."""


class AdmissionBlocked(Exception):  # noqa: N818 - no error: the job waits
    """Raised by a dependency that does not let the body begin now.

    The job goes back to its queue without spending a try and is due again after ``retry_delay`` (1 s);
    ``reschedule=False`` drops it instead: it is cancelled. ``note`` tells people why.
    """

    def __init__(self, note: str = "", *, reschedule: bool = True, retry_delay: Duration | None = None) -> None:
        super().__init__(note or "not admitted now")
        wait_s = _BLOCKED_S if retry_delay is None else max(0.0, parse_duration_s(retry_delay))
        how = "blocked" if reschedule else "dropped"
        self.ended = Ended(how=how, wait_s=wait_s, note=str(self))
        """How the attempt ends by this."""


class Immediate(Provider[T_co], Generic[T_co]):
    """A dependency that waits for nothing: it is asked without a loop."""

    def enter(self, run: Run) -> T_co:
        """Return what the parameter gets, for this attempt."""
        raise NotImplementedError

    async def __aenter__(self) -> T_co:
        return self.enter(running())


class Admission(Dependency["Admission"]):
    """Lets a job begin or not; asked in the worker, before the body's process and its other dependencies.

    A subclass implements `admit`. As ``Annotated`` metadata of a parameter it is asked with that argument.
    """

    def admit(self, job: Job, argument: Any) -> None:
        """Return, or raise `AdmissionBlocked`. May block; it is called by a thread.

        ``argument`` is the value of the annotated parameter (plain data, as it is stored), or None.
        """
        raise NotImplementedError

    async def __aenter__(self) -> Admission:
        return self


class Runtime(Dependency["Runtime"]):
    """Runs the body: once, several times, within something, or not at all. At most one for each task."""

    single = True

    async def run(self, body: Callable[[], Awaitable[Any]]) -> Any:
        """Return the task's value; ``await body()`` runs the function, be it ``def`` or ``async def``."""
        return await body()

    async def __aenter__(self) -> Runtime:
        return self


class FailureHandler(Dependency["FailureHandler"]):
    """Is told of a body that raised, before the other dependencies are closed. At most one for each task."""

    single = True

    async def handle_failure(self, outcome: TaskOutcome) -> bool | None:
        """Return True: it is dealt with, the job has succeeded with None. What is raised takes the error's place."""
        raise NotImplementedError

    async def __aenter__(self) -> FailureHandler:
        return self


class CompletionHandler(Dependency["CompletionHandler"]):
    """Is told when a body has ended for good, with success or not: not of an error after which it is tried again."""

    async def on_complete(self, outcome: TaskOutcome) -> None:
        """Take note. What is raised is the job's error."""
        raise NotImplementedError

    async def __aenter__(self) -> CompletionHandler:
        return self


def running() -> Run:
    """Return the run that dependencies are resolved for. Raises RuntimeError outside of one."""
    run = current_run.get()
    if run is None:
        raise RuntimeError("a dependency is resolved by a worker, for a job; there is none here")
    return run


__all__ = [
    "Admission",
    "AdmissionBlocked",
    "CompletionHandler",
    "Dependency",
    "FailureHandler",
    "Immediate",
    "Provided",
    "Provider",
    "Runtime",
    "TaskOutcome",
    "running",
]
