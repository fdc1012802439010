"""How the end of an attempt is told to the ledger, and in one line to the engine."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from penstock.body import Ended
from penstock.core.secrets import mask_text
from penstock.job import lifecycle
from penstock.job.lifecycle import Event, Reason, Transition
from penstock.job.models import ErrorInfo, Job, secrets_of

MISSING = "Missing"
"""The type of the error with which an attempt is handed back whose task is not known here."""
_FIRST_LINE_MAX = 500
"""Letters of an error that go back to the engine: its screens show a line, its stores need not hold more."""
_UNKNOWN_S = 15.0
_PASSED_ON_S, _PASSED_ON_TIMES = 0.25, 8
_REMEMBERED = 1000
_TIMEOUT = ("TimeoutError", "OSError", "Exception", "BaseException")


class Elsewhere:
    """How long a job waits whose task is not known here, so that another worker can have it."""

    def __init__(self) -> None:
        self.tasks: frozenset[str] = frozenset()
        """What other workers that live can run, as they last told."""
        self._times: Counter[str] = Counter()

    def delay_s(self, job: Job) -> float:
        """Return a short wait where somebody else can run it; in time a longer one: he may be busy for hours."""
        if job.name not in self.tasks:
            return _UNKNOWN_S
        if len(self._times) > _REMEMBERED:
            self._times.clear()
        self._times[job.id] += 1
        return min(_PASSED_ON_S * 2 ** max(0, self._times[job.id] - _PASSED_ON_TIMES), _UNKNOWN_S)


def counts_for_itself(job: Job, ended: Ended) -> bool:
    """Whether `ending` has to know the errors of the attempts before."""
    return bool(job.backoff.rules) and job.errors > 0 and ended.how in ("raised", "timeout")


def ending(job: Job, ended: Ended, elsewhere: Elsewhere, earlier: Sequence[ErrorInfo] | None = ()) -> Transition:
    """Return how the ledger is to be told. ``earlier``: the errors before; None: they could not be had."""
    match ended.how:
        case "returned":
            return lifecycle.succeed(job.id, attempt=job.attempt, result=ended.result)
        case "raised":
            error = _error(job, ended)
            reason = Reason.ERROR if ended.retryable or ended.discarded else Reason.INVALID
            told = lifecycle.fail(
                job, error=error, reason=reason, retryable=ended.retryable, wait_s=ended.wait_s, earlier=earlier
            )
            if told.event is Event.FAIL and ended.wait_s is not None:
                last = f"{error.message}; no try is left (max_attempts is {job.max_attempts})"
                return msgspec.structs.replace(told, error=msgspec.structs.replace(error, message=last))
            return told
        case "timeout":
            return lifecycle.fail(job, error=_error(job, ended), reason=Reason.TIMEOUT, earlier=earlier)
        case "crashed":
            return lifecycle.rescue(job, error=ended.error, by_parent=True)
        case "cancelled" | "dropped":
            return lifecycle.stop(job.id, attempt=job.attempt)
        case "released":
            # A body that was stopped has an error too: how it took the interrupt. Its job is due again at once.
            if ended.error is not None and ended.error.type == MISSING:
                delay_s = elsewhere.delay_s(job)
                note = f"{ended.error.message}; the job waits for a worker that can run it"
                return lifecycle.release(job.id, attempt=job.attempt, delay_s=delay_s, note=note, begun=False)
            return lifecycle.release(job.id, attempt=job.attempt, begun=ended.begun)
        case "snoozed" | "blocked":
            return lifecycle.release(
                job.id, attempt=job.attempt, delay_s=ended.wait_s or 0.0, note=ended.note, held=ended.held,
                begun=ended.how == "snoozed",
            )  # fmt: skip
        case "lost":
            # Stopped because its lease could not be kept. Where nobody has taken the job meanwhile it is handed back,
            # as an outage is no fault of its own; else the guard refuses this.
            return lifecycle.release(job.id, attempt=job.attempt)


def veiled(job: Job, ended: Ended) -> Ended:
    """Hide secrets in what a body's error says: those of this process, and those of the job's own input."""
    error = ended.error
    if error is None:
        if ended.note is None:
            return ended
        return msgspec.structs.replace(ended, note=mask_text(ended.note, secrets_of(job)))
    secrets = secrets_of(job)
    hidden = msgspec.structs.replace(
        error, message=mask_text(error.message, secrets), traceback=mask_text(error.traceback, secrets)
    )
    return msgspec.structs.replace(ended, error=hidden)


def first_line(job: Job, ended: Ended) -> str | None:
    """Tell in one line how an attempt failed; None when it did not."""
    if ended.how not in ("raised", "timeout", "crashed"):
        return None
    error = _error(job, ended)
    told = f"{error.type}: {error.message}" if error.message else error.type
    return told.strip().partition("\n")[0][:_FIRST_LINE_MAX]


def _error(job: Job, ended: Ended) -> ErrorInfo:
    """Return the error of an attempt that failed, told even where the body left none."""
    if ended.error is not None:
        return ended.error
    if ended.how == "timeout":
        return ErrorInfo("JobTimeout", f"ran longer than its timeout of {job.timeout_s:g} s", bases=_TIMEOUT)
    return ErrorInfo("Crashed", "its process died") if ended.how == "crashed" else ErrorInfo("Error", "")
