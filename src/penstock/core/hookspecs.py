"""The plugin hooks (pluggy).

A backend joins by an entry point in the group ``penstock.backends``, whose name is the backend's; everything else by
one in ``penstock.plugins``. Nothing of either is imported before it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import pluggy

if TYPE_CHECKING:
    from penstock.core.base import AsyncBackend, Backend
    from penstock.core.running import Runner
    from penstock.job.lifecycle import Transition
    from penstock.job.models import Job

PROJECT = "penstock"
GROUP = "penstock.backends"
PLUGINS = "penstock.plugins"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec(firstresult=True)
def backend_class() -> type[Backend] | type[AsyncBackend]:  # type: ignore[empty-body]
    """Return the backend class of this plugin. The entry point's name is the backend's name."""


@hookspec
def runners() -> list[Runner]:  # type: ignore[empty-body]
    """Return runners for further kinds of spec."""


@hookspec
def job_file_types() -> Mapping[str, Callable[[Any, Mapping[str, Any]], Any]]:  # type: ignore[empty-body]
    """Return further types of the ``task`` of a job file.

    Each is a function of the `JobQueue` and the table without its ``type``; it returns a `Call` (as
    ``queue.command(...)`` does) and raises ValueError, in words for whoever wrote the file.
    """


@hookspec
def cli_commands() -> Mapping[str, Callable[..., Any]]:  # type: ignore[empty-body]
    """Return further commands of ``penstock``, by name.

    Each is a function as cyclopts takes it: its parameters are the command's, the first line of its docstring stands
    on the help page, and what it returns is the exit code (an int; else 0). A parameter ``session``, annotated
    ``Annotated[Session, Parameter(parse=False)]`` (`penstock.cli.session.Session`), is handed in: it has the queue,
    the global options, and ways to write. A `PenstockError` becomes a line on stderr and its exit code.
    """


@hookspec
def job_changed(job: Job, transition: Transition) -> None:
    """A transition of this process was written. Called after the write; what it raises is logged and dropped."""
