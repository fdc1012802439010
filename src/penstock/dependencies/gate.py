"""Asks a job's limits and admissions in the worker, before its body; see `penstock.admission`.

This module is loaded by every worker; what it asks is loaded only where a task has limits.
"""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.body import Ended
from penstock.core.exceptions import LedgerError
from penstock.signatures import plan_of
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.dependencies.asked import Asked, Slots
    from penstock.job.models import Job

logger = logging.getLogger("penstock.dependencies")

_MISSING = "(not given)"


class LimitsGate:
    """The gate of one process. ``wake`` is to publish a job when its time has come, to the ms."""

    def __init__(
        self, ledger: Callable[[], Ledger], slots: Callable[[], Slots], wake: Callable[[str, float], None]
    ) -> None:
        self._ledger = ledger
        self._slots = slots
        self._wake = wake
        self._making = threading.Lock()
        self._made: Asked | None = None

    def concerns(self, job: Job) -> bool:
        """See `Gate.concerns`."""
        return bool(_admissions(job))

    def enter(self, job: Job) -> Ended | None:
        """See `Gate.enter`."""
        from penstock.dependencies.asked import Asked
        from penstock.runners.errors import describe_error

        with self._making:
            asked = self._made = self._made or Asked(self._ledger, self._slots)
        arguments = _arguments(job)
        for needed, name in sorted(_admissions(job), key=lambda pair: asked.order(pair[0])):
            try:
                argument = None if name is None else arguments.get(name, _MISSING)
                ended = asked.ask(needed, job, name, argument, arguments)
                if ended is None:
                    continue
                if ended.how == "blocked" and ended.wait_s is not None and ended.held is None:
                    self._wake(job.id, ended.wait_s)
            except LedgerError:
                asked.leave(job)
                raise
            except Exception as error:  # noqa: BLE001 - a user's own admission may raise anything
                ended = Ended(how="raised", error=describe_error(error))
            asked.leave(job)
            return ended
        return None

    def leave(self, job: Job) -> None:
        """See `Gate.leave`."""
        if self._made is not None:
            self._made.leave(job)


def _admissions(job: Job) -> Any:
    if job.kind != "task" or "uncalled_for" not in sys.modules:
        return ()
    task = TASKS.get(job.name)
    if task is None or not task.depends:
        return ()
    from penstock.dependencies.declared import declared_by

    return declared_by(task.fn).admissions


def _arguments(job: Job) -> dict[str, Any]:
    """Return a job's arguments by name, as they are stored."""
    task = TASKS[job.name]
    try:
        spec = json.loads(job.spec)
        return plan_of(task.fn, task.name, task.signature).by_name(spec.get("args", []), spec.get("kwargs", {}))
    except (ValueError, TypeError, AttributeError, RecursionError, msgspec.MsgspecError):
        return {}  # the runner will say what is wrong with them
