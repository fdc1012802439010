"""Makes the next job of a task that runs again and again, and the first one of those that workers begin by themselves.

Loaded by every worker; it reads no declaration where no task has any.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from penstock.core.exceptions import LedgerError, PenstockError
from penstock.job.models import Intent, Job, JobQuery, Outcome, new_job_id
from penstock.job.schedules import BACKFILL, FIRE_AT, FOLLOWS, INTERVAL_START, MANUAL, SCHEDULE
from penstock.signing import FIELD
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.body import Next
    from penstock.client import JobQueue
    from penstock.dependencies.perpetual import Perpetual
    from penstock.job.models import Submission
    from penstock.sources.decorators import Task

logger = logging.getLogger("penstock.dependencies")

_OVER = ("returned", "raised", "timeout", "crashed", "dropped")
_TRIES_S = 600.0
_LATEST = 20
_SOON_S = 60.0
"""What is due later need not be to the moment, and is left to the sweep."""
_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 2.0
_OF_ONE_JOB = frozenset({SCHEDULE, FIRE_AT, INTERVAL_START, MANUAL, FOLLOWS, BACKFILL, FIELD})


class Successors:
    """What follows the jobs that end in this process."""

    def __init__(
        self, queue: Callable[[], JobQueue], wake: Callable[[str, float], None] = lambda _job_id, _wait_s: None
    ) -> None:
        """``wake`` is to publish a job when its time has come, where that is before a sweep would look."""
        self._queue = queue
        self._wake = wake
        self._closed = threading.Event()

    def close(self) -> None:
        """Try no longer to make what could not be made."""
        self._closed.set()

    def concerns(self, job: Job) -> bool:
        """Whether the job's task runs again and again."""
        return job.kind == "task" and "uncalled_for" in sys.modules and _perpetual(TASKS.get(job.name)) is not None

    def make(self, job: Job, how: str, said: Next | None) -> Callable[[], None] | None:
        """Make the job that follows one that is over; return what is to be called when its end is recorded.

        Without a key it is made at once, so that no death between two writes can end the chain: it exists once,
        however often this is called for one job. A key is free only when the job that has it is final.
        """
        perpetual = _perpetual(TASKS.get(job.name))
        if perpetual is None or how not in _OVER or (said is not None and said.cancelled):
            return None
        if job.key is None and job.unique_key is None:
            try:
                wanted = self._intent(job, perpetual, said)
                if wanted.at is None and self._queue().gateway.in_process:
                    return self._later(job, perpetual, said)  # it would run here and now, within this one
                self._record(wanted)
            except LedgerError as error:
                logger.warning("the job after %s %s is not made yet: %s", job.name, job.id, error)
            except (PenstockError, ValueError) as error:
                logger.error("job %s %s has no successor: %s", job.name, job.id, error)
                return None
            else:
                return None
        return self._later(job, perpetual, said)

    def _later(self, job: Job, perpetual: Perpetual, said: Next | None) -> Callable[[], None]:
        def later() -> None:
            # Not in the thread that has told the end: it may be that of a loop, or of the ledger's writer.
            arguments = (job, perpetual, said)
            threading.Thread(target=self._insist, args=arguments, name="penstock-again", daemon=True).start()

        return later

    def follow(self, job: Job) -> None:
        """Make the job that follows one whose process is gone, and that is final. Never raises."""
        if (later := self.make(job, "crashed", None)) is not None:
            later()

    def _insist(self, job: Job, perpetual: Perpetual, said: Next | None) -> None:
        until, pause_s = time.monotonic() + _TRIES_S, _PAUSE_S
        while time.monotonic() < until and not self._closed.is_set():
            try:
                made = self._record(self._intent(job, perpetual, said))
            except LedgerError as error:
                logger.info("the job after %s %s is not made yet: %s", job.name, job.id, error)
            except (PenstockError, ValueError) as error:
                logger.error("job %s %s has no successor: %s", job.name, job.id, error)
                return
            else:
                if made.outcome is not Outcome.KEPT or made.job.id != job.id:
                    return
            self._closed.wait(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        logger.warning("job %s %s has no successor: the ledger did not take it", job.name, job.id)

    def _record(self, wanted: Intent) -> Submission:
        from penstock.submission import record

        queue = self._queue()
        (made,) = record(queue, [wanted])
        if wanted.at is not None and made.outcome is not Outcome.KEPT and not queue.gateway.in_process:
            wait_s = (wanted.at - queue.ledger.now()).total_seconds()
            if wait_s < _SOON_S:
                self._wake(made.job.id, max(0.0, wait_s))
        return made

    def _intent(self, job: Job, perpetual: Perpetual, said: Next | None) -> Intent:
        now = self._queue().ledger.now()
        due = perpetual.changed(said.every_s if said else None).next_at(now, job.started_at)
        if said is not None and said.at is not None:
            due = said.at
        elif said is not None and said.in_s is not None:
            due = now + timedelta(seconds=said.in_s)
        asked: dict[str, Any] = {name: getattr(job, name) for name in Intent.__struct_fields__ if hasattr(job, name)}
        asked |= {
            "id": new_job_id(),
            "parent_id": job.id,
            "tick_key": f"again:{job.id}",
            "metadata": _kept(job.metadata),
            "at": due if due > now else None,
            "held": None,
            "expires_at": None,
        }
        if said is not None and said.spec is not None:
            asked["spec"] = said.spec
        return Intent(**asked)


def seed(queue: JobQueue, *, rest_s: float = 30.0) -> None:
    """Make the first job of each automatic task that has no live one, nor one that ended less than ``rest_s`` ago.

    The latter may be about to make its next one. Raises `LedgerError`.
    """
    if "uncalled_for" not in sys.modules:
        return
    for task in list(TASKS.values()):
        perpetual = _perpetual(task)
        if perpetual is None or not perpetual.automatic:
            continue
        key, now = f"automatic:{task.name}", queue.ledger.now()
        if any(_is_fresh(job, now, rest_s) for job in queue.ledger.find(_latest(task)) if job.key == key):
            continue
        try:
            queue.enqueue(task.options(key=key, at=perpetual.first_at(now)))
        except LedgerError:
            raise
        except (PenstockError, ValueError) as error:
            logger.warning("task %s is not begun: %s", task.name, error)


def _latest(task: Task[..., Any]) -> JobQuery:
    # By name, for which there is an index, and not by key.
    return JobQuery(name=task.name, limit=_LATEST)


def _is_fresh(job: Job, now: datetime, rest_s: float) -> bool:
    return job.finished_at is None or (now - job.finished_at).total_seconds() < rest_s


def _perpetual(task: Task[..., Any] | None) -> Perpetual | None:
    if task is None or not task.depends:
        return None
    from penstock.dependencies.declared import declared_by

    return declared_by(task.fn).perpetual


def _kept(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return what of a job's metadata holds for the next one: signatures are made anew, fire times are its own."""
    return {name: value for name, value in metadata.items() if name not in _OF_ONE_JOB}
