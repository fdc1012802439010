"""Runners: each knows how to execute one kind of spec."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from penstock.core.config import Config
from penstock.core.exceptions import InvalidJobError, did_you_mean

if TYPE_CHECKING:
    from penstock.core.base import Runner

_HOMES = {"task": "task:TaskRunner", "command": "command:CommandRunner", "pipeline": "pipeline:PipelineRunner"}
_made: dict[str, Runner] = {}

config: Config = Config()
"""The configuration of the queue whose jobs this process runs; see `configure`."""
root: Path | None = None

loading_script: str | None = None
"""In a child process: the script that is being loaded to find its tasks."""


def configure(chosen: Config, *, root: Path | None = None) -> None:
    """Tell the runners of this process which project they work for."""
    globals()["config"], globals()["root"] = chosen, root


def runner_for(kind: str) -> Runner:
    """Return this process's runner of a kind.

    Raises:
        InvalidJobError: no runner of that kind is installed here; says which there are.
    """
    runner = _made.get(kind)
    if runner is None:
        home = _HOMES.get(kind)
        if home is None:
            raise InvalidJobError(
                f"no runner for jobs of kind {kind!r} is installed here; there are: {', '.join(kinds())}."
                f"{did_you_mean(kind, kinds())}"
            )
        module, _, name = home.partition(":")
        runner = _made[kind] = getattr(import_module(f"penstock.runners.{module}"), name)()
    return runner


def register(runner: Runner) -> None:
    """Add a runner, or put it in the place of the one that has its kind."""
    _made[runner.kind] = runner


def kinds() -> list[str]:
    """List the kinds that can be run here."""
    return sorted({*_HOMES, *_made})
