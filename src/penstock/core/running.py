"""The contracts with what runs bodies, and with what makes jobs of fire times."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import msgspec

from penstock.core.exceptions import InvalidJobError

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.config import Config
    from penstock.job.models import Job, Report

# -- runners ----------------------------------------------------------------------------------------------------


class RunContext(Protocol):
    """What a body's attempt offers to a runner; `penstock.Run` is the user's view of the same thing."""

    job_id: str
    attempt: int

    def report(self, report: Report) -> None:
        """Pass on a log line, node news or progress; never raises."""
        ...


class Runner(ABC):
    """Knows how to check, describe and execute one kind of spec.

    ``prepare`` runs where jobs are submitted and must import no framework; ``execute`` runs where the body runs:
    in the engine's worker (isolation inline) or in a child process.
    """

    kind: ClassVar[str]
    spec_type: ClassVar[type[msgspec.Struct]]
    parts: ClassVar[bool] = False
    """Whether the value is a mapping of named results, each of which is stored by itself."""
    surrounds: ClassVar[bool] = False
    """Whether `execute` puts what a worker's bodies are surrounded by around the body itself."""

    @abstractmethod
    def execute(self, job: Job, run: Any) -> Any:
        """Run the body and return its value; what it raises is the job's error.

        May return an awaitable: the caller awaits it, on the engine's loop where there is one.
        """

    def configure(self, config: Config, root: Path) -> None:  # noqa: B027 - a runner may have nothing to learn
        """Learn which project this process works for. Raises `ConfigError`."""

    def prepare_child(self, setup: Mapping[str, Any]) -> None:  # noqa: B027 - or nothing to load
        """In a new child process: load what `child_setup` names. What it raises fails the job that waits for it."""

    def missing(self, job: Job) -> str | None:
        """Say why this process cannot run the job (its task is unknown here), or None when it can."""
        return None

    def edited(self, job: Job, inputs: Mapping[str, Any]) -> msgspec.Struct:
        """Return the job's spec with some inputs changed, checked as at enqueue. Raises `InvalidJobError`."""
        raise InvalidJobError(f"job {job.id} is a {job.kind}, whose input cannot be changed; submit a new one")

    def is_async(self, job: Job) -> bool:
        """Whether `execute` returns an awaitable for this job."""
        return False

    def may_run_apart(self, job: Job) -> bool:
        """Whether a child process can run a job that was to run in the worker."""
        return False

    def child_key(self, job: Job) -> str:
        """Name the warm child that may run this job: jobs with different keys never share a process."""
        return self.kind

    def child_setup(self, job: Job) -> Mapping[str, Any]:
        """Return plain data from which the child prepares itself.

        The child process itself reads ``cwd`` (working folder), ``sys_path`` (put in front), ``env`` (added to the
        environment) and ``watch`` (files and folders whose change replaces the child). Everything else is for
        `prepare_child`.
        """
        return {}


# -- the scheduler ----------------------------------------------------------------------------------------------


class Scheduler(ABC):
    """Turns fire times into jobs: exactly one job for each fire time, over any number of schedulers."""

    @abstractmethod
    def tick(self) -> int:
        """Make the jobs of all fire times that have come; return how many were made."""

    @abstractmethod
    def next_at(self) -> datetime | None:
        """Return the next fire time of any schedule, or None."""
