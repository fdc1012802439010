"""Every error that penstock raises.

::

    PenstockError
    ├── ConfigError                     a setting is wrong: the file, the line, the key
    │   ├── UnknownBackendError         no such backend; says which there are
    │   └── BackendNotInstalledError    also ImportError; says the pip line
    ├── InvalidJobError                 also ValueError; refused before anything was written
    │   ├── UnknownTaskError            also LookupError
    │   ├── UnknownPipelineError        also LookupError
    │   ├── ArgumentsError              also TypeError; names the parameter
    │   ├── PayloadError                too large, too deep, or not plain data
    │   └── InvalidScheduleError        an option of a schedule is wrong
    ├── DuplicateJobError               a job with that key is there (on_conflict="raise"); nothing was written
    ├── QueueFullError                  too many jobs wait in the queue; nothing was written, try again later
    ├── UnsupportedError                the backend cannot do that; raised before anything was written
    ├── BackendError                    engine or broker trouble; the original is in __cause__
    │   └── BackendUnavailableError     trying again may help
    ├── LedgerError                     ledger trouble; the original is in __cause__
    │   ├── LedgerUnavailableError      trying again may help
    │   └── NewerLedgerError            a newer penstock has it, whose schema leaves this one out
    ├── JobNotFoundError                also LookupError
    ├── ScheduleNotFoundError           also LookupError; says what there is
    ├── ScheduleDeclaredError           a file declares the schedule: it is changed there
    ├── RuleNotFoundError               also LookupError; there is no such strike or pause
    ├── TransitionRefusedError          the job was not in a state that allows this
    │   └── StaleAttemptError           another attempt owns the job by now
    ├── ResultError                     a stored result cannot be had (never made, dropped, damaged)
    └── JobFailedError · JobCancelledError · ResultTimeoutError (also TimeoutError)
                                        raised only to somebody who waits for a result
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any

from penstock.core.secrets import mask_text


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ``" Did you mean 'x'?"`` for the nearest known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" Did you mean {near[0]!r}?" if near else ""


class PenstockError(Exception):
    """Base of all errors of this package. What is known to be secret is hidden in its message: drivers quote URLs."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*(mask_text(told) if isinstance(told, str) else told for told in args))


class ConfigError(PenstockError):
    """A setting is wrong. The message names where it stands and what would be right."""


class UnknownBackendError(ConfigError):
    """No backend of that name (or no transport of that scheme) is known."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        super().__init__(f"no backend named {name!r}; known: {', '.join(known) or 'none'}.{did_you_mean(name, known)}")
        self.name = name


class BackendNotInstalledError(ConfigError, ImportError):
    """The backend is known, its engine is not installed."""

    def __init__(self, name: str, extra: str | None = None) -> None:
        ConfigError.__init__(self, f'backend {name!r} is not installed. Run: pip install "penstock[{extra or name}]"')


class InvalidJobError(PenstockError, ValueError):
    """The job was refused before anything was written; raised in a worker, it ends the job without another try."""

    retryable = False


class UnknownTaskError(InvalidJobError, LookupError):
    """No task of that name is registered."""

    def __init__(self, name: str, known: Iterable[str], hint: str = "") -> None:
        known = sorted(known)
        listed = (
            f"known: {', '.join(known[:12])}{', ...' if len(known) > 12 else ''}"
            if known
            else ("no tasks are registered; name their modules or folders in `tasks` (or --tasks)")
        )
        super().__init__(f"no task named {name!r}; {listed}.{did_you_mean(name, known)}{hint}")
        self.name = name


class UnknownPipelineError(InvalidJobError, LookupError):
    """The project has no pipeline of that name."""

    def __init__(self, name: str, known: Iterable[str], where: str) -> None:
        known = sorted(known)
        super().__init__(
            f"no pipeline named {name!r} in {where}; there are: {', '.join(known) or 'none'}."
            f"{did_you_mean(name, known)}"
        )
        self.name = name


class ArgumentsError(InvalidJobError, TypeError):
    """The arguments do not fit the task's signature. The message names the parameter."""


class PayloadError(InvalidJobError):
    """The input is too large, too deep, or not plain data."""


class InvalidScheduleError(InvalidJobError):
    """An option of a schedule is wrong; nothing was written."""


class QueueFullError(PenstockError):
    """As many jobs wait in a queue as may; nothing was written. Trying again later may help."""

    def __init__(self, queue: str, limit: int, wanted: int) -> None:
        jobs = "the job" if wanted == 1 else f"the {wanted:,} jobs"
        super().__init__(
            f"queue {queue!r} is full: at most {limit:,} jobs may wait there (limits.max_queued), and {jobs} would not "
            "fit; try again later, or start more workers"
        )
        self.queue = queue
        self.limit = limit


class DuplicateJobError(PenstockError):
    """Another job stands in the way of one that was to be the only one of its key; nothing was written."""

    def __init__(self, key: str, job_id: str, state: str) -> None:
        super().__init__(
            f"job {job_id} ({state}) has the key {key!r} already; wait for it, or enqueue with on_conflict='keep' or "
            "'replace'"
        )
        self.key = key
        self.job_id = job_id


class UnsupportedError(PenstockError):
    """The backend lacks a capability. Raised before anything was written."""

    def __init__(self, backend: str, capability: str, hint: str = "") -> None:
        super().__init__(f"{backend} cannot do that: capability {capability!r} is absent.{hint}")
        self.backend = backend
        self.capability = capability


class BackendError(PenstockError):
    """The engine or its broker failed; the engine's own exception is in ``__cause__``."""


class BackendUnavailableError(BackendError):
    """The broker cannot be reached; trying again may help."""


class LedgerError(PenstockError):
    """The ledger failed; the driver's own exception is in ``__cause__``."""


class LedgerUnavailableError(LedgerError):
    """The ledger cannot be reached or opened; trying again may help."""


class NewerLedgerError(LedgerError):
    """A newer penstock has brought the ledger to a schema that leaves this one out; nothing may be written there."""


class ScheduleNotFoundError(PenstockError, LookupError):
    """There is no schedule of that name."""

    def __init__(self, name: str, known: Iterable[str]) -> None:
        known = sorted(known)
        shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
        super().__init__(f"no schedule {name!r}; there are: {shown or 'none'}.{did_you_mean(name, known)}")
        self.name = name


class ScheduleDeclaredError(PenstockError):
    """Somebody else declares the schedule: what is said there would come back."""

    def __init__(self, name: str, where: str) -> None:
        told = f"it is declared in {where}; change it there" if where else "it was made by hand; remove that one first"
        super().__init__(f"schedule {name!r} cannot be changed here: {told}, or pause it")
        self.name = name


class JobNotFoundError(PenstockError, LookupError):
    """The ledger has no such job: it never existed here, or it was purged."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"no job {job_id!r} in this ledger")
        self.job_id = job_id


class RuleNotFoundError(PenstockError, LookupError):
    """There is no such strike or pause to take back; the message says which there are."""

    def __init__(self, wanted: str, known: Iterable[str]) -> None:
        there = sorted(known)
        listed = "; ".join(there) or "none"
        super().__init__(f"{wanted} is not there to be taken back; there are: {listed}.{did_you_mean(wanted, there)}")


class TransitionRefusedError(PenstockError):
    """The ledger refused a transition: the job was not in a state that allows it."""

    def __init__(self, job_id: str, event: str, found: str) -> None:
        super().__init__(f"cannot {event} job {job_id}: it is {found}")
        self.job_id = job_id
        self.event = event
        self.found = found


class StaleAttemptError(TransitionRefusedError):
    """Another attempt owns the job by now; what this attempt did is not recorded."""


class ResultError(PenstockError):
    """A stored result cannot be had: it was dropped, deleted, or is damaged."""


class JobFailedError(PenstockError):
    """The job has failed for good. ``reason`` and ``error`` say how."""

    def __init__(self, job_id: str, reason: str, error: Any = None) -> None:
        told = f": {error.type}: {error.message}" if error is not None else ""
        super().__init__(f"job {job_id} failed ({reason}){told}")
        self.job_id = job_id
        self.reason = reason
        self.error = error


class JobCancelledError(PenstockError):
    """The job was cancelled; it has no result."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} was cancelled")
        self.job_id = job_id


class ResultTimeoutError(PenstockError, TimeoutError):
    """The job was not final when the waiter's time was over; the job itself goes on."""

    def __init__(self, job_id: str, timeout_s: float, state: str) -> None:
        super().__init__(f"job {job_id} is still {state} after {timeout_s:g} s")
        self.job_id = job_id
