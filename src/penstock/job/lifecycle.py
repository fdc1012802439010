"""Which state comes next: the only place where that is decided.

`TRANSITIONS` is the whole protocol: for each event the states it may start from, the states it may lead to, and
the guards that the ledger checks *in the same statement* as the write. A ledger derives its statements from this
table, so a guard cannot be forgotten in one of them; the diagram in ``dev_docs/lifecycle.md`` is derived too.
A transition is made by a constructor below and written by `Ledger.apply`; nobody else sets a state.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING

import msgspec

from penstock.job.retries import ANY

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.job.models import ErrorInfo, Job


class State(StrEnum):
    """What the ledger stores. The last three are final: they never change again."""

    QUEUED = "queued"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def final(self) -> bool:
        """Whether a job in this state is over for good."""
        return self in FINAL


FINAL = frozenset({State.SUCCEEDED, State.FAILED, State.CANCELLED})


class Reason(StrEnum):
    """Why a job is `failed`."""

    ERROR = "error"
    TIMEOUT = "timeout"
    CRASH_LOOP = "crash_loop"
    UNKNOWN_TASK = "unknown_task"
    INVALID = "invalid"
    EXPIRED = "expired"


class Event(StrEnum):
    """What may happen to a job. The T-numbers are those of the protocol in ``dev_docs/architecture.md``."""

    ENQUEUE = "enqueue"  # T1
    CLAIM = "claim"  # T2
    BEAT = "beat"  # T3
    SUCCEED = "succeed"  # T4
    RETRY = "retry"  # T5, budget left
    FAIL = "fail"  # T5, no budget left or not worth another try
    RELEASE = "release"  # T6
    RESCUE = "rescue"  # T7, by any sweeper
    CRASH = "crash"  # T7, by the parent of a child that died
    PUBLISH = "publish"  # T8
    CANCEL = "cancel"  # T9
    REQUEST_CANCEL = "request_cancel"  # T10
    STOP = "stop"  # T11
    PURGE = "purge"  # T12
    HOLD = "hold"  # T13
    ADMIT = "admit"  # T14
    WAKE = "wake"  # T15
    EXPIRE = "expire"  # T16


class Guard(StrEnum):
    """What must hold, beside the state, for a transition to be written."""

    DUE = "due"  # scheduled_at has come
    ADMITTED = "admitted"  # nothing holds the job back
    FENCE = "fence"  # the row's attempt is the one that the writer owns or has seen
    LEASE_OVER = "lease_over"
    CANCEL_ASKED = "cancel_asked"
    SEEN = "seen"  # nobody published since the writer looked
    OLD = "old"  # finished longer ago than the retention
    HELD = "held"  # it is held for the very reason that the writer has seen
    FRESH = "fresh"  # it may still begin, or began before
    STALE = "stale"  # it never began, and may no longer


class Rule(msgspec.Struct, frozen=True):
    """One line of the protocol."""

    number: str
    start: tuple[State, ...]
    to: tuple[State, ...]
    guards: tuple[Guard, ...] = ()
    who: str = ""


_Q, _R, _S, _F, _C = State
TRANSITIONS: dict[Event, Rule] = {
    Event.ENQUEUE: Rule("T1", (), (_Q,), (), "client"),
    Event.CLAIM: Rule("T2", (_Q,), (_R,), (Guard.DUE, Guard.ADMITTED, Guard.FRESH), "worker with a message"),
    Event.BEAT: Rule("T3", (_R,), (_R,), (Guard.FENCE,), "owner"),
    Event.SUCCEED: Rule("T4", (_R,), (_S,), (Guard.FENCE,), "owner"),
    Event.RETRY: Rule("T5", (_R,), (_Q, _C), (Guard.FENCE,), "owner"),
    Event.FAIL: Rule("T5", (_R,), (_F, _C), (Guard.FENCE,), "owner"),
    Event.RELEASE: Rule("T6", (_R,), (_Q, _C), (Guard.FENCE,), "owner"),
    Event.RESCUE: Rule("T7", (_R,), (_Q, _F, _C), (Guard.FENCE, Guard.LEASE_OVER), "any sweeper"),
    Event.CRASH: Rule("T7", (_R,), (_Q, _F, _C), (Guard.FENCE,), "parent of a dead child"),
    Event.PUBLISH: Rule("T8", (_Q,), (_Q,), (Guard.DUE, Guard.ADMITTED, Guard.SEEN), "any sweeper"),
    Event.CANCEL: Rule("T9", (_Q,), (_C,), (), "anyone allowed"),
    Event.REQUEST_CANCEL: Rule("T10", (_R,), (_R,), (), "anyone allowed"),
    Event.STOP: Rule("T11", (_R,), (_C,), (Guard.FENCE, Guard.CANCEL_ASKED), "owner"),
    Event.PURGE: Rule("T12", (_S, _F, _C), (), (Guard.OLD,), "purge"),
    Event.HOLD: Rule("T13", (_Q,), (_Q,), (Guard.ADMITTED,), "anyone allowed"),
    Event.ADMIT: Rule("T14", (_Q,), (_Q,), (Guard.HELD,), "anyone allowed"),
    Event.WAKE: Rule("T15", (_Q,), (_Q,), (Guard.ADMITTED,), "anyone allowed"),
    Event.EXPIRE: Rule("T16", (_Q,), (_F,), (Guard.STALE,), "any sweeper"),
}


class Transition(msgspec.Struct, frozen=True, kw_only=True):
    """One guarded change of one row, ready to be written. Made only by the constructors below.

    ``to`` is the new state, ``to_if_cancelled`` the one that takes its place when a cancel was asked for
    meanwhile: that race is settled inside the write. Durations are relative to the ledger's clock.
    """

    event: Event
    job_id: str
    to: State
    to_if_cancelled: State | None = None
    attempt: int | None = None
    """The fence: written only while the row's attempt is this one."""
    publishes: int | None = None
    """For PUBLISH: the publish count that the sweeper saw."""
    owner: str | None = None
    lease_s: float | None = None
    delay_s: float = 0.0
    """For a return to `queued`: how long until the job is due again. For PUBLISH: until the next publish."""
    reason: str | None = None
    error: ErrorInfo | None = None
    result: bytes | None = None
    note: str | None = None
    """Why a queued job waits, for people; cleared by the next claim."""
    held: str | None = None
    """Why the job is not admitted from now on; for ADMIT, why it has not been."""
    begun: bool = True
    """For RELEASE: whether the body began. A job whose body never did still has to begin by its time."""


def claim(job_id: str, *, owner: str, lease_s: float) -> Transition:
    """T2: a worker holding a message asks for the job."""
    return Transition(event=Event.CLAIM, job_id=job_id, to=State.RUNNING, owner=owner, lease_s=lease_s)


def beat(job_id: str, *, attempt: int, lease_s: float) -> Transition:
    """T3: the owner renews its lease; the answer tells whether a cancel was asked for."""
    return Transition(event=Event.BEAT, job_id=job_id, to=State.RUNNING, attempt=attempt, lease_s=lease_s)


def succeed(job_id: str, *, attempt: int, result: bytes | None = None) -> Transition:
    """T4: the body is done. A body that finished first has succeeded, cancel asked or not."""
    return Transition(event=Event.SUCCEED, job_id=job_id, to=State.SUCCEEDED, attempt=attempt, result=result)


def fail(
    job: Job,
    *,
    error: ErrorInfo,
    reason: Reason = Reason.ERROR,
    retryable: bool = True,
    wait_s: float | None = None,
    earlier: Sequence[ErrorInfo] | None = (),
    rand: Callable[[], float] = random.random,
) -> Transition:
    """T5: the body raised or ran past its timeout; queued again while the error budget lasts.

    ``job`` is the row as claimed: its ``errors`` cannot have changed under this attempt's fence. ``wait_s`` takes the
    place of its backoff's wait, and of what the backoff says of this error. ``earlier`` are the errors before this one,
    which is asked for where the backoff has rules that count for themselves; None: they could not be had, and this one
    counts as the first, as a try too many does less harm than one too few.
    """
    rule = job.backoff.rule_for(error) or (None if wait_s is None else ANY)
    errors, most = job.errors + 1, job.max_attempts
    if rule is not None and job.backoff.rules:
        errors, most = job.backoff.spent(rule, earlier or ()), rule.max_attempts or most
    if retryable and rule is not None and errors < most:
        return Transition(
            event=Event.RETRY,
            job_id=job.id,
            to=State.QUEUED,
            to_if_cancelled=State.CANCELLED,
            attempt=job.attempt,
            error=error,
            reason=reason,
            delay_s=(rule.backoff or job.backoff).delay_s(errors, rand) if wait_s is None else wait_s,
        )
    return Transition(
        event=Event.FAIL,
        job_id=job.id,
        to=State.FAILED,
        to_if_cancelled=State.CANCELLED,
        attempt=job.attempt,
        error=error,
        reason=reason,
    )


def release(
    job_id: str,
    *,
    attempt: int,
    delay_s: float = 0.0,
    note: str | None = None,
    held: str | None = None,
    begun: bool = True,
) -> Transition:
    """T6: the owner hands the job back unfinished (shutdown, task unknown here, not admitted); no budget is spent."""
    return Transition(
        event=Event.RELEASE,
        job_id=job_id,
        to=State.QUEUED,
        to_if_cancelled=State.CANCELLED,
        attempt=attempt,
        delay_s=delay_s,
        note=note,
        held=held,
        begun=begun,
    )


def rescue(job: Job, *, error: ErrorInfo | None = None, by_parent: bool = False) -> Transition:
    """T7: the owner is gone. ``job`` is the row as the sweeper (or the dead child's parent) saw it.

    The crash budget is its own: `max_crashes` rescues, the last of which fails the job as a crash loop.
    """
    spent = job.crashes + 1 >= job.max_crashes
    return Transition(
        event=Event.CRASH if by_parent else Event.RESCUE,
        job_id=job.id,
        to=State.FAILED if spent else State.QUEUED,
        to_if_cancelled=State.CANCELLED,
        attempt=job.attempt,
        reason=Reason.CRASH_LOOP if spent else None,
        error=error,
    )


def publish(job: Job, *, grace_s: float, max_grace_s: float) -> Transition:
    """T8: elect one pusher for a job that is due and that nobody has claimed.

    The wait until the next push starts at ``grace_s`` and doubles up to ``max_grace_s``, so that an idle
    backlog is not pushed over and over.
    """
    wait_s = grace_s
    if job.published_at is not None and job.publish_due_at is not None:
        wait_s = 2 * (job.publish_due_at - job.published_at).total_seconds()
    return Transition(
        event=Event.PUBLISH,
        job_id=job.id,
        to=State.QUEUED,
        publishes=job.publishes,
        delay_s=min(max(wait_s, grace_s), max_grace_s),
    )


def cancel(job_id: str, *, reason: str | None = None) -> Transition:
    """T9: a queued job is cancelled at once; its message will be refused. ``reason`` is for its history."""
    return Transition(event=Event.CANCEL, job_id=job_id, to=State.CANCELLED, reason=reason)


def request_cancel(job_id: str, *, reason: str | None = None) -> Transition:
    """T10: ask the owner of a running job to stop it."""
    return Transition(event=Event.REQUEST_CANCEL, job_id=job_id, to=State.RUNNING, reason=reason)


def stop(job_id: str, *, attempt: int) -> Transition:
    """T11: the owner has stopped the body because a cancel was asked for."""
    return Transition(event=Event.STOP, job_id=job_id, to=State.CANCELLED, attempt=attempt)


def hold(job_id: str, *, why: str) -> Transition:
    """T13: a queued job is not admitted until somebody lets it go on; its message will be refused."""
    return Transition(event=Event.HOLD, job_id=job_id, to=State.QUEUED, held=why)


def admit(job_id: str, *, why: str) -> Transition:
    """T14: a job that is held for this reason may go on; it is published when it is due."""
    return Transition(event=Event.ADMIT, job_id=job_id, to=State.QUEUED, held=why)


def wake(job_id: str) -> Transition:
    """T15: a queued job is due now, whatever it waited for; it is published by the next sweep."""
    return Transition(event=Event.WAKE, job_id=job_id, to=State.QUEUED)


def expire(job_id: str, *, error: ErrorInfo) -> Transition:
    """T16: a job that did not begin in time has failed."""
    return Transition(event=Event.EXPIRE, job_id=job_id, to=State.FAILED, reason=Reason.EXPIRED, error=error)


def shown_state(job: Job, now: datetime) -> str:
    """Name the state that people are shown: stored ones, and those derived from times and requests."""
    if job.state is State.QUEUED:
        if job.held is not None or job.note is not None:
            return "blocked"
        if job.scheduled_at > now:
            return "retrying" if job.attempt > 0 else "scheduled"
        return "queued"
    if job.state is State.RUNNING:
        if job.cancel_requested_at is not None:
            return "cancelling"
        if job.lease_until is not None and job.lease_until < now:
            return "overdue"
    return job.state.value


SHOWN_STATES = (
    "scheduled",
    "queued",
    "blocked",
    "running",
    "retrying",
    "cancelling",
    "overdue",
    "succeeded",
    "failed",
    "cancelled",
)


def mermaid() -> str:
    """Draw `TRANSITIONS` as a mermaid state diagram."""
    lines = ["stateDiagram-v2"]
    for event, rule in TRANSITIONS.items():
        told = f"{rule.number} {event.value}"
        if rule.guards:
            told += f" [{', '.join(g.value for g in rule.guards)}]"
        for start in rule.start or ("[*]",):
            lines.extend(f"    {start} --> {to}: {told}" for to in rule.to or ("[*]",))
    return "\n".join(lines)
