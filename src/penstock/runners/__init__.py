"""Runners: each knows how to execute one kind of spec."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from penstock.core.exceptions import InvalidJobError, did_you_mean

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.config import Config
    from penstock.core.running import Runner
    from penstock.job.models import Job
    from penstock.run import Run

_HOMES = {"task": "task:TaskRunner", "command": "command:CommandRunner", "pipeline": "pipeline:PipelineRunner"}
_made: dict[str, Runner] = {}

_project: tuple[Config, Path] | None = None

loading_script: str | None = None
"""In a child process: the script that is being loaded to find its tasks."""


def configure(config: Config, *, root: Path) -> None:
    """Tell the runners of this process which project they work for. Raises `ConfigError`."""
    global _project  # noqa: PLW0603 - runners are per process, and so is what they know
    _project = (config, root)
    for runner in _made.values():
        runner.configure(config, root)


def runner_for(kind: str) -> Runner:
    """Return this process's runner of a kind.

    Raises:
        InvalidJobError: no runner of that kind is installed here; says which there are.
    """
    runner = _made.get(kind)
    if runner is None:
        home = _HOMES.get(kind)
        if home is None:
            from penstock import registry  # a child process starts a fifth sooner without

            for theirs in registry.plugins().hook.runners():
                for offered in theirs:
                    register(offered)
            if kind in _made:
                return _made[kind]
            raise InvalidJobError(
                f"no runner for jobs of kind {kind!r} is installed here; there are: {', '.join(kinds())}."
                f"{did_you_mean(kind, kinds())}"
            )
        module, _, name = home.partition(":")
        register(getattr(import_module(f"penstock.runners.{module}"), name)())
        runner = _made[kind]
    return runner


def register(runner: Runner) -> None:
    """Add a runner, or put it in the place of the one that has its kind."""
    if _project is not None:
        runner.configure(*_project)
    _made[runner.kind] = runner


def surrounded(runner: Runner, job: Job, run: Run) -> Any:
    """Have a runner run a body, within what this process puts around each of them; see `Runner.execute`."""
    if runner.surrounds or not run.around:
        return runner.execute(job, run)
    from penstock.dependencies.around import nothing
    from penstock.dependencies.resolving import call

    return call(partial(runner.execute, job, run), {}, run, is_async=runner.is_async(job), declares=nothing)


def kinds() -> list[str]:
    """List the kinds that can be run here."""
    return sorted({*_HOMES, *_made})
