"""What belongs to the job that runs: itself, its run, its queue, its worker, its arguments, its log."""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Any, cast

import msgspec
from uncalled_for import CallArgument

from penstock.capture import Capture
from penstock.dependencies.base import Immediate
from penstock.run import Run

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.handle import JobHandle


class WorkerIdentity(msgspec.Struct, frozen=True):
    """The worker that owns an attempt: in a child process, the one that started it."""

    id: str
    host: str
    pid: int


class _CurrentRun(Immediate[Run]):
    def enter(self, run: Run) -> Run:
        return run


class _CurrentJob(Immediate["JobHandle"]):
    def enter(self, run: Run) -> JobHandle:
        from penstock.handle import JobHandle

        return JobHandle(run.home.queue, run.job)


class _CurrentQueue(Immediate["JobQueue"]):
    def enter(self, run: Run) -> JobQueue:
        return run.home.queue


class _CurrentWorker(Immediate[WorkerIdentity]):
    def enter(self, run: Run) -> WorkerIdentity:
        owner = run.job.owner or ""
        host, _, rest = owner.partition(":")
        pid = rest.partition(":")[0]
        return WorkerIdentity(owner, host, int(pid) if pid.isdigit() else 0)


class _TaskKey(Immediate[str]):
    def enter(self, run: Run) -> str:
        return run.job.key or run.job_id


class _Log(logging.LoggerAdapter[logging.Logger]):
    """Keeps what is said with the attempt, also where nothing else takes down what bodies log."""

    def __init__(self, run: Run) -> None:
        told = {"task": run.name, "job_id": run.job_id, "attempt": run.attempt, "worker": run.job.owner}
        super().__init__(logging.getLogger(f"penstock.task.{run.name}"), told)
        self._run = run

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        return msg, {**kwargs, "extra": {**(self.extra or {}), **kwargs.get("extra", {})}}

    def log(self, level: int, msg: Any, *args: Any, **kwargs: Any) -> None:
        super().log(level, msg, *args, **{**kwargs, "stacklevel": kwargs.get("stacklevel", 1) + 1})
        if not Capture.is_installed() and level >= logging.INFO:
            text = str(msg) % args if args else str(msg)
            self._run.log(text, logging.getLevelName(level))


class _TaskLogger(Immediate["logging.LoggerAdapter[logging.Logger]"]):
    def enter(self, run: Run) -> logging.LoggerAdapter[logging.Logger]:
        return _Log(run)


def CurrentRun() -> Run:  # noqa: N802 - reads as a class, as all dependencies do
    """The attempt as it runs: progress, message, log, whether it has to stop."""
    return cast("Run", _CurrentRun())


def CurrentJob() -> JobHandle:  # noqa: N802
    """The job that runs, as a handle."""
    return cast("JobHandle", _CurrentJob())


def CurrentQueue() -> JobQueue:  # noqa: N802
    """The queue that the job came from, to submit more; in a child process, one with the same configuration."""
    return cast("JobQueue", _CurrentQueue())


def CurrentWorker() -> WorkerIdentity:  # noqa: N802
    """The worker that owns this attempt."""
    return cast("WorkerIdentity", _CurrentWorker())


def TaskKey() -> str:  # noqa: N802
    """The job's ``key``, or its id where it has none."""
    return cast("str", _TaskKey())


def TaskLogger() -> logging.LoggerAdapter[logging.Logger]:  # noqa: N802
    """A logger whose lines are kept with the attempt; its records carry task, job_id, attempt and worker."""
    return cast("logging.LoggerAdapter[logging.Logger]", _TaskLogger())


def TaskArgument(name: str | None = None, *, optional: bool = False) -> Any:  # noqa: N802
    """An argument of the task that is run, for the functions that it depends on.

    Without a name it is the argument of the same name as the parameter. ``optional``: None if there is none.
    """
    return CallArgument(name, optional)
