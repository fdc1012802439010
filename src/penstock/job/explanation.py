"""Why a job is where it is, in plain words, and what to do next. Pure: facts go in, findings come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Literal

import msgspec

from penstock.core.durations import format_duration
from penstock.job.lifecycle import Reason, State, shown_state
from penstock.job.models import Attempt, ErrorInfo, Job, WorkerInfo

Level = Literal["ok", "warning", "error"]


class Point(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to know. ``hint`` says what to do about it; empty when there is nothing to do."""

    name: str
    level: Level
    told: str
    hint: str = ""


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why a job is where it is: the reason first, then what else matters."""

    job_id: str
    name: str
    queue: str
    state: str
    at: datetime
    points: tuple[Point, ...]

    @property
    def told(self) -> str:
        """The reason, in a sentence."""
        return self.points[0].told


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a job and of what it needs."""

    now: datetime
    job: Job
    engine: str
    """The engine's URL, without secrets."""
    in_process: bool = False
    """Jobs run in the process that submits them, and nowhere else."""
    attempts: tuple[Attempt, ...] = ()
    workers: tuple[WorkerInfo, ...] = ()
    """Those that live."""
    depth: int | None = None
    engine_trouble: str = ""
    ahead: int = 0
    """How many older jobs of its queue are due and not begun, up to `AHEAD_MAX`."""
    signature: str = ""
    """Why a worker with this configuration would refuse it; empty when it would not."""
    decided: tuple[str, ...] = ()
    """Strikes and pauses that hold it back, each in a sentence."""
    asked: tuple[str, ...] = ()
    """What people did to it, each in a line, the newest first."""
    retries: tuple[tuple[str, str], ...] = ()
    """The jobs that were made of it again, the newest first: id and shown state."""
    grace_s: float = 30.0
    """For how long a message that nobody takes is waited for before it is published again."""
    lease_s: float = 60.0


AHEAD_MAX = 1_000


def explain(facts: Facts) -> Explanation:
    """Say why."""
    job = facts.job
    state = shown_state(job, facts.now)
    return Explanation(
        job_id=job.id, name=job.name, queue=job.queue, state=state, at=facts.now, points=tuple(_OF[state](facts)),
    )  # fmt: skip


# -- it waits -------------------------------------------------------------------------------------------------------


def _scheduled(facts: Facts) -> Iterator[Point]:
    yield Point(
        name="due", level="ok",
        told=f"It is scheduled for {_instant(facts.job.scheduled_at)}, {_in(facts, facts.job.scheduled_at)}, "
        "and begins no earlier.",
    )  # fmt: skip
    yield from _who_can(facts)


def _retrying(facts: Facts) -> Iterator[Point]:
    job = facts.job
    last = facts.attempts[-1] if facts.attempts else None
    due = f"The next try is due at {_instant(job.scheduled_at)}, {_in(facts, job.scheduled_at)}."
    if last is not None and last.outcome in ("error", "timeout"):
        left = job.max_attempts - job.errors
        told = f"Try {last.number} failed{_when(facts, last.finished_at)}: {_error(last.error)}. {due}"
        told += f" {job.errors} of {job.max_attempts} tries are spent, {left} left."
        yield Point(
            name="retry", level="warning", told=told,
            hint=f"penstock logs {job.id} --attempt {last.number}",
        )  # fmt: skip
    elif last is not None and last.outcome == "crashed":
        told = f"Try {last.number} lost its process{_when(facts, last.finished_at)}: {_error(last.error)}. {due}"
        yield Point(
            name="crash", level="warning", told=f"{told} After {job.max_crashes} crashes it fails; this was number "
            f"{job.crashes}.",
        )  # fmt: skip
    else:
        yield Point(name="handed back", level="ok", told=f"Its worker handed it back unfinished. {due}")
    yield from _who_can(facts)


def _blocked(facts: Facts) -> Iterator[Point]:
    job = facts.job
    if facts.decided:
        hint = "penstock snapshot shows what holds; penstock restore, or penstock resume, ends it"
        yield Point(name="decided", level="warning", told=" ".join(facts.decided), hint=hint)
    if job.held is not None:
        hint = "" if facts.decided else "it goes on when that is over; penstock cancel takes it away"
        yield Point(name="held", level="warning", told=f"It is held back: {job.held}.", hint=hint)
    if job.note is not None:
        again = f"It is offered again {_in(facts, job.scheduled_at)}." if job.scheduled_at > facts.now else ""
        hint = ""
        if "security.signing_keys" in job.note:
            hint = "give its workers that key: the same security.signing_keys as where it was submitted"
        yield Point(name="note", level="warning", told=f"It waits: {job.note.rstrip('.')}. {again}".rstrip(), hint=hint)
    yield from _who_can(facts)


def _queued(facts: Facts) -> Iterator[Point]:
    job = facts.job
    if facts.in_process:
        yield Point(
            name="engine", level="warning",
            told="Jobs run in the process that submits them here (inline://), and the one that submitted it is gone, "
            "or has not waited for it: no worker will ever come.",
            hint="run it again with: penstock run, or choose an engine with workers (`backend`)",
        )  # fmt: skip
        return
    since = _ago(facts, job.scheduled_at)
    many = f"{AHEAD_MAX:,} or more" if facts.ahead >= AHEAD_MAX else f"{facts.ahead:,}"
    told = f"It has been due for {since}; {many} older jobs of queue {job.queue} wait too."
    waits = [f"It has been due for {since}, and is the first of queue {job.queue}." if not facts.ahead else told]
    yield Point(name="queued", level="ok", told=waits[0])
    yield from _decided(facts)
    yield from _who_can(facts)
    yield _message(facts)


def _decided(facts: Facts) -> Iterator[Point]:
    if facts.decided:
        hint = "penstock restore, or penstock resume, ends it"
        yield Point(name="decided", level="warning", told=" ".join(facts.decided), hint=hint)


def _message(facts: Facts) -> Point:
    job = facts.job
    if facts.engine_trouble:
        hint = "is the broker running? penstock doctor"
        return Point(name="message", level="error", told=f"The engine: {facts.engine_trouble}", hint=hint)
    holds = "" if facts.depth is None else f" The engine holds {facts.depth:,} messages of this queue."
    if not job.publishes or job.published_at is None:
        told = "Its message has not been published yet: the next sweep of a worker does."
        return Point(name="message", level="ok", told=told + holds)
    times = "once" if job.publishes == 1 else f"{job.publishes} times"
    again = (
        ""
        if job.publish_due_at is None
        else f" If nobody takes it, it is published again {_in(facts, job.publish_due_at)}."
    )
    told = f"Its message was published {times}, last {_ago(facts, job.published_at)} ago.{again}{holds}"
    return Point(name="message", level="warning" if job.publishes > 2 else "ok", told=told)


def _who_can(facts: Facts) -> Iterator[Point]:
    """Tell what stands between a job that waits and a worker."""
    job = facts.job
    if facts.signature:
        hint = "submit it again from where the key is: penstock retry works on final jobs, so cancel it first"
        yield Point(
            name="signature", level="error", told=f"Workers here would refuse it: {facts.signature}.", hint=hint
        )
    if facts.in_process:
        return
    here = [worker for worker in facts.workers if worker.backend == facts.engine]
    listening = [worker for worker in here if job.queue in worker.queues]
    able = [worker for worker in listening if _can(worker, job)]
    if not facts.workers:
        yield Point(name="workers", level="warning", told="No worker is alive.", hint=_start(job))
    elif not here:
        engines = ", ".join(sorted({worker.backend for worker in facts.workers}))
        hint = "give the workers and those who submit one `backend`"
        yield Point(
            name="workers", level="warning", told=f"No worker works on {facts.engine}; those alive work on {engines}.",
            hint=hint,
        )  # fmt: skip
    elif not listening:
        queues = ", ".join(sorted({queue for worker in here for queue in worker.queues}))
        told = f"No worker listens to queue {job.queue}; those alive listen to {queues}."
        yield Point(name="workers", level="warning", told=told, hint=_start(job))
    elif not able:
        told = f"No worker of queue {job.queue} has the task {job.name}."
        hint = f"start one that has it: penstock worker {job.queue} --tasks MODULE; was the task renamed?"
        yield Point(name="workers", level="warning", told=told, hint=hint)
    else:
        yield _busy(facts, able)


def _busy(facts: Facts, able: list[WorkerInfo]) -> Point:
    ill = [worker for worker in able if worker.trouble]
    names = ", ".join(worker.id for worker in able[:3]) + (", ..." if len(able) > 3 else "")
    if len(ill) == len(able):
        told = f"Whoever can run it is ill: {'; '.join(f'{worker.id}: {worker.trouble}' for worker in ill[:3])}."
        return Point(name="workers", level="warning", told=told, hint="look at their logs; penstock doctor")
    if all(worker.running >= worker.concurrency for worker in able):
        told = f"{len(able)} can run it and all are busy: {names}."
        hint = "start another one, or give them more --concurrency"
        return Point(name="workers", level="ok", told=told, hint=hint)
    late_s = (facts.now - facts.job.scheduled_at).total_seconds()
    if facts.job.state is State.QUEUED and late_s > 2 * facts.grace_s and facts.ahead == 0:
        told = f"{len(able)} can run it and have room, and none has taken it: {names}."
        return Point(name="workers", level="warning", told=told, hint="look at their logs; penstock doctor")
    return Point(name="workers", level="ok", told=f"{len(able)} can run it: {names}.")


def _can(worker: WorkerInfo, job: Job) -> bool:
    return job.kind != "task" or job.name in worker.tasks


def _start(job: Job) -> str:
    return f"start one: penstock worker {job.queue}"


# -- it runs --------------------------------------------------------------------------------------------------------


def _running(facts: Facts) -> Iterator[Point]:
    job = facts.job
    yield Point(
        name="running", level="ok",
        told=f"{_worker(job)} has been running try {job.attempt} for {_ago(facts, job.started_at)}"
        f"{_progress(job)}.",
    )  # fmt: skip
    yield _lease(facts)
    if job.timeout_s is not None and job.started_at is not None:
        left_s = job.timeout_s - (facts.now - job.started_at).total_seconds()
        told = f"Its timeout of {format_duration(job.timeout_s)} ends it in {format_duration(left_s)}."
        late = f"Its timeout of {format_duration(job.timeout_s)} is over: its worker is stopping it."
        yield Point(name="timeout", level="ok" if left_s > 0 else "warning", told=told if left_s > 0 else late)


def _cancelling(facts: Facts) -> Iterator[Point]:
    job = facts.job
    told = f"It runs, and was asked to stop {_ago(facts, job.cancel_requested_at)} ago; {_worker(job)} is stopping it."
    hint = "a body that heeds nobody is killed only with isolation process; restarting its worker ends it"
    asked_s = 0.0 if job.cancel_requested_at is None else (facts.now - job.cancel_requested_at).total_seconds()
    slow = asked_s > facts.lease_s
    yield Point(name="cancelling", level="warning" if slow else "ok", told=told, hint=hint if slow else "")
    yield from _asked(facts)
    yield _lease(facts)


def _overdue(facts: Facts) -> Iterator[Point]:
    job = facts.job
    hint = "" if facts.workers else f"no worker is alive to take it back; {_start(job)}"
    yield Point(
        name="overdue", level="warning",
        told=f"{_worker(job)} has given no sign of life: its lease on try {job.attempt} ended "
        f"{_ago(facts, job.lease_until)} ago. A live worker takes the job back and tries again (crash "
        f"{job.crashes + 1} of at most {job.max_crashes}).",
        hint=hint,
    )  # fmt: skip


def _lease(facts: Facts) -> Point:
    job = facts.job
    holder = next((worker for worker in facts.workers if worker.id == job.owner), None)
    left = "" if job.lease_until is None else f"its lease ends {_in(facts, job.lease_until)} unless it is renewed"
    if holder is None:
        told = f"That worker is not on the list of those alive; {left}, and then another one takes the job."
        # Who runs a job in its own process, as penstock run does, is on no list.
        return Point(name="lease", level="ok", told=told)
    trouble = f" It says: {holder.trouble}." if holder.trouble else ""
    told = f"It was seen {_ago(facts, holder.seen_at)} ago; {left}.{trouble}"
    return Point(name="lease", level="warning" if trouble else "ok", told=told)


# -- it is over -----------------------------------------------------------------------------------------------------


def _succeeded(facts: Facts) -> Iterator[Point]:
    job = facts.job
    took = f" It took {_ago(facts, job.started_at, job.finished_at)}." if job.started_at is not None else ""
    tried = f" It was try {job.attempt}." if job.attempt > 1 else ""
    yield Point(
        name="succeeded", level="ok", told=f"It succeeded {_ago(facts, job.finished_at)} ago.{took}{tried}",
        hint=f"penstock result {job.id}",
    )  # fmt: skip
    yield from _again(facts)


_WHY: dict[str, tuple[str, str]] = {
    Reason.ERROR: ("its body raised, and no try is left", "penstock logs {id}; then penstock retry {id}"),
    Reason.TIMEOUT: (
        "it ran longer than its timeout, and no try is left",
        "give it more time, or look what it waits for: penstock logs {id}",
    ),
    Reason.CRASH_LOOP: (
        "its process died under it again and again",
        "out of memory, or a crash in C code? penstock logs {id}; max_memory bounds it",
    ),
    Reason.UNKNOWN_TASK: ("no worker has its task", "penstock tasks; then penstock retry {id}"),
    Reason.INVALID: ("its input can never run", "correct the input and submit it anew; penstock status {id} shows it"),
    Reason.EXPIRED: (
        "nobody began it before it expired", "start more workers, or let it expire later; penstock retry {id}"
    ),
}  # fmt: skip


def _failed(facts: Facts) -> Iterator[Point]:
    job = facts.job
    why, hint = _WHY.get(job.reason or "", (f"({job.reason})", "penstock logs {id}"))
    error = f" {_error(job.error)}." if job.error is not None else ""
    yield Point(
        name="failed", level="error", told=f"It failed {_ago(facts, job.finished_at)} ago: {why}.{error}",
        hint="" if facts.retries else hint.format(id=job.id),
    )  # fmt: skip
    told = f"{job.errors} of {job.max_attempts} tries ended in an error, {job.crashes} of {job.max_crashes} in a crash."
    yield Point(name="tries", level="ok", told=told)
    yield from _again(facts)


def _cancelled(facts: Facts) -> Iterator[Point]:
    job = facts.job
    begun = f"while try {job.attempt} ran" if job.cancel_requested_at is not None else "before it began"
    yield Point(
        name="cancelled", level="ok", told=f"It was cancelled {begun}, {_ago(facts, job.finished_at)} ago.",
        hint="" if facts.retries else f"penstock retry {job.id} runs it after all",
    )  # fmt: skip
    yield from _asked(facts)
    yield from _again(facts)


def _asked(facts: Facts) -> Iterator[Point]:
    if facts.asked:
        yield Point(name="audit", level="ok", told=f"By hand: {'; '.join(facts.asked)}.")
    elif facts.job.state is State.CANCELLED:
        told = "No one's action is written down: a schedule called it off, or the entry is gone."
        yield Point(name="audit", level="ok", told=told)


def _again(facts: Facts) -> Iterator[Point]:
    if facts.retries:
        newest, state = facts.retries[0]
        others = f" ({len(facts.retries)} times in all)" if len(facts.retries) > 1 else ""
        told = f"It was submitted again as {newest}, which is {state}{others}."
        yield Point(name="again", level="ok", told=told, hint=f"penstock explain {newest}")


_OF: dict[str, Callable[[Facts], Iterator[Point]]] = {
    "scheduled": _scheduled,
    "queued": _queued,
    "blocked": _blocked,
    "running": _running,
    "retrying": _retrying,
    "cancelling": _cancelling,
    "overdue": _overdue,
    "succeeded": _succeeded,
    "failed": _failed,
    "cancelled": _cancelled,
}


# -- words ----------------------------------------------------------------------------------------------------------


def _worker(job: Job) -> str:
    return f"Worker {job.owner}" if job.owner else "A worker"


def _progress(job: Job) -> str:
    parts = [
        f"{job.progress:.0%}" if job.progress is not None else "",
        f"{job.nodes_done or 0} of {job.nodes_total} nodes" if job.nodes_total else "",
        job.message or "",
    ]
    told = ", ".join(part for part in parts if part)
    return f": {told}" if told else ""


def _error(error: ErrorInfo | None) -> str:
    if error is None:
        return "no error was told"
    first = (error.message.strip().splitlines() or [""])[0]
    node = f"node {error.node}: " if error.node else ""
    return f"{node}{error.type}: {first}" if first else f"{node}{error.type}"


def _instant(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def _in(facts: Facts, at: datetime) -> str:
    left_s = (at - facts.now).total_seconds()
    return f"in {format_duration(left_s)}" if left_s > 0 else "now"


def _ago(facts: Facts, at: datetime | None, until: datetime | None = None) -> str:
    """Write how long it was from an instant to now, or to another one."""
    end = facts.now if until is None else until
    return "an unknown time" if at is None else format_duration(max(0.0, (end - at).total_seconds()))


def _when(facts: Facts, at: datetime | None) -> str:
    return "" if at is None else f" {_ago(facts, at)} ago"
