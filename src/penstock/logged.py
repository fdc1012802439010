"""`Logged`: which arguments of a task the log of its workers shows; all others it hides."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

from penstock.arguments import arguments_of
from penstock.core.secrets import mask_data
from penstock.signatures import annotations_of
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.job.models import Job

logger = logging.getLogger("penstock.execution")

_LONGEST = 200


class Logged:
    """Marks a parameter whose argument is shown when a worker logs that a job begins.

    ``Annotated[int, Logged]``, or ``Annotated[list[str], Logged(length_only=True)]`` for how many there are. What is
    secret, by its name or as a `Secret`, is hidden all the same.
    """

    def __init__(self, length_only: bool = False) -> None:
        self.length_only = length_only

    def shown(self, name: str, value: Any) -> str:
        """Return what the log shows of an argument, which is plain data."""
        if self.length_only and isinstance(value, str | list | tuple | dict):
            length = len(cast("list[Any]", value))
            return f"{{len {length}}}" if isinstance(value, dict) else f"[len {length}]"
        text = repr(mask_data(value, name=name))
        return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def log_call(job: Job) -> None:
    """Log that a job begins, where its task has parameters that are `Logged`."""
    if job.kind != "task" or not logger.isEnabledFor(logging.INFO):
        return
    task = TASKS.get(job.name)
    marks = None if task is None else _marks_of(task.fn)
    if task is None or not marks:
        return
    given = arguments_of(job.kind, job.name, job.spec)
    told = [
        f"{name}={marks[name].shown(name, given[name]) if name in marks else '...'}"
        for name in task.signature.parameters
        if name in given
    ]
    logger.info("%s(%s) begins: job %s, attempt %d", job.name, ", ".join(told), job.id, job.attempt)


_marks: dict[Callable[..., Any], Mapping[str, Logged]] = {}


def _marks_of(fn: Callable[..., Any]) -> Mapping[str, Logged]:
    found = _marks.get(fn)
    if found is None:
        found = _marks[fn] = {
            name: mark if isinstance(mark, Logged) else Logged()
            for name, annotation in annotations_of(fn, extras=True).items()
            for mark in getattr(annotation, "__metadata__", ())
            if isinstance(mark, Logged) or mark is Logged
        }
    return found


__all__ = ["Logged", "log_call"]
