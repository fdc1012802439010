"""Why a job is where it is, in plain words, and what to do next. Pure: facts go in, findings come out."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from penstock.core.durations import format_duration
from penstock.job import facts as say
from penstock.job import waiting
from penstock.job.facts import Explanation, Facts, Point
from penstock.job.lifecycle import Reason, State, shown_state


def explain(facts: Facts) -> Explanation:
    """Say why."""
    job = facts.job
    state = shown_state(job, facts.now)
    return Explanation(
        job_id=job.id, name=job.name, queue=job.queue, state=state, at=facts.now, points=tuple(_OF[state](facts)),
    )  # fmt: skip


# -- it runs --------------------------------------------------------------------------------------------------------


def _running(facts: Facts) -> Iterator[Point]:
    job = facts.job
    yield Point(
        name="running", level="ok",
        told=f"{say.worker(job)} has been running try {job.attempt} for {say.ago(facts, job.started_at)}"
        f"{say.progress(job)}.",
    )  # fmt: skip
    yield _lease(facts)
    if job.timeout_s is not None and job.started_at is not None:
        left_s = job.timeout_s - (facts.now - job.started_at).total_seconds()
        told = f"Its timeout of {format_duration(job.timeout_s)} ends it in {format_duration(left_s)}."
        late = f"Its timeout of {format_duration(job.timeout_s)} is over: its worker is stopping it."
        yield Point(name="timeout", level="ok" if left_s > 0 else "warning", told=told if left_s > 0 else late)


def _cancelling(facts: Facts) -> Iterator[Point]:
    job = facts.job
    asked = say.ago(facts, job.cancel_requested_at)
    told = f"It runs, and was asked to stop {asked} ago; {say.worker(job)} is stopping it."
    hint = "a body that heeds nobody is killed only with isolation process; restarting its worker ends it"
    asked_s = 0.0 if job.cancel_requested_at is None else (facts.now - job.cancel_requested_at).total_seconds()
    slow = asked_s > facts.lease_s
    yield Point(name="cancelling", level="warning" if slow else "ok", told=told, hint=hint if slow else "")
    yield from _asked(facts)
    yield _lease(facts)


def _overdue(facts: Facts) -> Iterator[Point]:
    job = facts.job
    hint = "" if facts.workers else f"no worker is alive to take it back; {waiting.start(job)}"
    yield Point(
        name="overdue", level="warning",
        told=f"{say.worker(job)} has given no sign of life: its lease on try {job.attempt} ended "
        f"{say.ago(facts, job.lease_until)} ago. A live worker takes the job back and tries again (crash "
        f"{job.crashes + 1} of at most {job.max_crashes}).",
        hint=hint,
    )  # fmt: skip


def _lease(facts: Facts) -> Point:
    job = facts.job
    holder = next((worker for worker in facts.workers if worker.id == job.owner), None)
    left = "" if job.lease_until is None else f"its lease ends {say.ahead(facts, job.lease_until)} unless it is renewed"
    if holder is None:
        told = f"That worker is not on the list of those alive; {left}, and then another one takes the job."
        # Who runs a job in its own process, as penstock run does, is on no list.
        return Point(name="lease", level="ok", told=told)
    trouble = f" It says: {holder.trouble}." if holder.trouble else ""
    told = f"It was seen {say.ago(facts, holder.seen_at)} ago; {left}.{trouble}"
    return Point(name="lease", level="warning" if trouble else "ok", told=told)


# -- it is over -----------------------------------------------------------------------------------------------------


def _succeeded(facts: Facts) -> Iterator[Point]:
    job = facts.job
    took = f" It took {say.ago(facts, job.started_at, job.finished_at)}." if job.started_at is not None else ""
    tried = f" It was try {job.attempt}." if job.attempt > 1 else ""
    yield Point(
        name="succeeded", level="ok", told=f"It succeeded {say.ago(facts, job.finished_at)} ago.{took}{tried}",
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
    if job.reason in (Reason.ERROR, Reason.TIMEOUT) and job.errors < job.max_attempts:
        why = why.replace("no try is left", "such an error is not tried again")
    error = f" {say.error(job.error)}." if job.error is not None else ""
    yield Point(
        name="failed", level="error", told=f"It failed {say.ago(facts, job.finished_at)} ago: {why}.{error}",
        hint="" if facts.retries else hint.format(id=job.id),
    )  # fmt: skip
    told = f"{job.errors} of {job.max_attempts} tries ended in an error, {job.crashes} of {job.max_crashes} in a crash."
    yield Point(name="tries", level="ok", told=told)
    yield from _again(facts)


_CALLED_OFF = {
    "struck": " A strike that drops jobs met it.",
    "replaced": " A newer job took its place.",
}


def _cancelled(facts: Facts) -> Iterator[Point]:
    job = facts.job
    off = facts.called_off
    let_begin = job.cancel_requested_at is not None and off != "struck" and not off.startswith("dropped")
    begun = f"while try {job.attempt} ran" if let_begin else "before it began"
    why = _CALLED_OFF.get(off) or (f" It was {off.rstrip('.')}." if off else "")
    told = f"It was cancelled {begun}, {say.ago(facts, job.finished_at)} ago.{why}"
    hint = "" if facts.retries else f"penstock retry {job.id} runs it after all"
    yield Point(name="cancelled", level="ok", told=told, hint=hint)
    yield from _asked(facts)
    yield from _again(facts)


def _asked(facts: Facts) -> Iterator[Point]:
    if facts.asked:
        yield Point(name="audit", level="ok", told=f"By hand: {'; '.join(facts.asked)}.")
    elif facts.job.state is State.CANCELLED and not facts.called_off:
        told = "No one's action is written down: a schedule called it off, or the entry is gone."
        yield Point(name="audit", level="ok", told=told)


def _again(facts: Facts) -> Iterator[Point]:
    if facts.retries:
        newest, state = facts.retries[0]
        others = f" ({len(facts.retries)} times in all)" if len(facts.retries) > 1 else ""
        told = f"It was submitted again as {newest}, which is {state}{others}."
        yield Point(name="again", level="ok", told=told, hint=f"penstock explain {newest}")


_OF: dict[str, Callable[[Facts], Iterator[Point]]] = {
    "scheduled": waiting.scheduled,
    "queued": waiting.queued,
    "blocked": waiting.blocked,
    "running": _running,
    "retrying": waiting.retrying,
    "cancelling": _cancelling,
    "overdue": _overdue,
    "succeeded": _succeeded,
    "failed": _failed,
    "cancelled": _cancelled,
}
