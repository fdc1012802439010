"""Why a job has not begun: its time, its last try, what holds it back, its message, who could run it."""

from __future__ import annotations

from collections.abc import Iterator

from penstock.job import facts as say
from penstock.job.facts import AHEAD_MAX, Facts, Point
from penstock.job.lifecycle import State
from penstock.job.models import Job, WorkerInfo
from penstock.job.steering import HELD_BY_RULE

_UNFINISHED = "Its last try ended unfinished: its body asked to go on later, or its worker was stopped."


def scheduled(facts: Facts) -> Iterator[Point]:
    """Of a job for later."""
    yield Point(
        name="due", level="ok",
        told=f"It is scheduled for {say.instant(facts.job.scheduled_at)}, {say.ahead(facts, facts.job.scheduled_at)}, "
        "and begins no earlier.",
    )  # fmt: skip
    yield from _decided(facts)
    yield from _expires(facts)
    yield from _who_can(facts)


def retrying(facts: Facts) -> Iterator[Point]:
    """Of a job that had a try, and waits for the next."""
    job = facts.job
    last = facts.attempts[-1] if facts.attempts else None
    due = f"The next try is due at {say.instant(job.scheduled_at)}, {say.ahead(facts, job.scheduled_at)}."
    if last is not None and last.outcome in ("error", "timeout"):
        left = job.max_attempts - job.errors
        told = f"Try {last.number} failed{say.when(facts, last.finished_at)}: {say.error(last.error)}. {due}"
        told += (
            f" {job.errors} so far ended in an error; how many may depends on the error."
            if job.backoff.has_rules
            else f" {job.errors} of {job.max_attempts} tries are spent, {left} left."
        )
        yield Point(
            name="retry", level="warning", told=told,
            hint=f"penstock logs {job.id} --attempt {last.number}",
        )  # fmt: skip
    elif last is not None and last.outcome == "crashed":
        told = f"Try {last.number} lost its process{say.when(facts, last.finished_at)}: {say.error(last.error)}. {due}"
        yield Point(
            name="crash", level="warning", told=f"{told} After {job.max_crashes} crashes it fails; this was number "
            f"{job.crashes}.",
        )  # fmt: skip
    else:
        yield Point(name="handed back", level="ok", told=f"{_UNFINISHED} {due}")
    yield from _decided(facts)
    yield from _who_can(facts)


def blocked(facts: Facts) -> Iterator[Point]:
    """Of a job that something holds back."""
    job = facts.job
    yield from _decided(facts)
    full = [slot for slot in facts.slots if len(slot.held_by) >= slot.most]
    if job.held is not None and not (facts.decided and job.held.startswith(HELD_BY_RULE)):
        hint = "it goes on when that is over; penstock cancel takes it away"
        if full:
            hint = f"they give their slots back when they end: penstock explain {full[0].held_by[0]}"
        if job.held.startswith(HELD_BY_RULE):
            hint = "nothing is decided so any more: it goes on with the next sweep of a worker"
        yield Point(name="held", level="warning", told=f"It is held back: {job.held}.", hint=hint)
    for slot in full:
        told = f"At most {slot.most} with the key {slot.key!r} run at once; now: {say.some(slot.held_by)}."
        yield Point(name="slots", level="ok", told=told)
    if job.note is not None:
        again = f"It is offered again {say.ahead(facts, job.scheduled_at)}." if job.scheduled_at > facts.now else ""
        hint = ""
        if "security.signing_keys" in job.note:
            hint = "give its workers that key: the same security.signing_keys as where it was submitted"
        note = job.note.rstrip(".")
        told = f"It {note}" if note.startswith("waits ") else f"It waits: {note}"
        yield Point(name="note", level="warning", told=f"{told}. {again}".rstrip(), hint=hint)
    yield from _expires(facts)
    yield from _who_can(facts)


def _expires(facts: Facts) -> Iterator[Point]:
    job = facts.job
    if job.expires_at is not None and job.attempt == 0:
        until = f"{say.instant(job.expires_at)} ({say.ahead(facts, job.expires_at)})"
        told = f"If nobody has begun it by {until}, it fails as expired."
        yield Point(name="expires", level="ok", told=told)


def queued(facts: Facts) -> Iterator[Point]:
    """Of a job that is due and has not begun."""
    job = facts.job
    if facts.in_process:
        yield Point(
            name="engine", level="warning",
            told="Jobs run in the process that submits them here (inline://), and the one that submitted it is gone, "
            "or has not waited for it: no worker will ever come.",
            hint="run it again with: penstock run, or choose an engine with workers (`backend`)",
        )  # fmt: skip
        return
    since = say.ago(facts, job.scheduled_at)
    many = f"{AHEAD_MAX:,} or more" if facts.ahead >= AHEAD_MAX else f"{facts.ahead:,}"
    older = "1 older job" if facts.ahead == 1 else f"{many} older jobs"
    told = f"It has been due for {since}; {older} of queue {job.queue} wait{'s' if facts.ahead == 1 else ''} too."
    waits = [f"It has been due for {since}, and is the first of queue {job.queue}." if not facts.ahead else told]
    yield Point(name="queued", level="ok", told=waits[0])
    yield from _decided(facts)
    yield from _expires(facts)
    yield from _who_can(facts)
    yield _message(facts)


def _decided(facts: Facts) -> Iterator[Point]:
    for one in facts.decided:
        yield Point(name="decided", level="warning", told=one.told, hint=one.ends)


def _message(facts: Facts) -> Point:
    job = facts.job
    if facts.engine_trouble:
        hint = "is the broker running? penstock doctor"
        return Point(name="message", level="error", told=f"The engine: {facts.engine_trouble}", hint=hint)
    holds = "" if facts.depth is None else f" The engine holds {say.number(facts.depth, 'message')} of this queue."
    if not job.publishes or job.published_at is None:
        told = "Its message has not been published yet: the next sweep of a worker does."
        return Point(name="message", level="ok", told=told + holds)
    times = "once" if job.publishes == 1 else f"{job.publishes} times"
    again = (
        ""
        if job.publish_due_at is None
        else f" If nobody takes it, it is published again {say.ahead(facts, job.publish_due_at)}."
    )
    told = f"Its message was published {times}, last {say.ago(facts, job.published_at)} ago.{again}{holds}"
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
        yield Point(name="workers", level="warning", told="No worker is alive.", hint=start(job))
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
        yield Point(name="workers", level="warning", told=told, hint=start(job))
    elif not able:
        told = f"No worker of queue {job.queue} has the task {job.name}."
        hint = f"start one that has it: penstock worker {job.queue} --tasks MODULE; was the task renamed?"
        yield Point(name="workers", level="warning", told=told, hint=hint)
    else:
        yield _busy(facts, able)


def _busy(facts: Facts, able: list[WorkerInfo]) -> Point:
    if all(worker.id in facts.resting for worker in able):
        told = f"Whoever can run it is paused: {say.some([worker.id for worker in able])}."
        return Point(
            name="workers",
            level="warning",
            told=told,
            hint=f"penstock resume worker {able[0].id}, or its host; or start another one",
        )
    able = [worker for worker in able if worker.id not in facts.resting]
    ill = [worker for worker in able if worker.trouble]
    names = say.some([worker.id for worker in able])
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


def start(job: Job) -> str:
    """Say how to start a worker for a job."""
    return f"start one: penstock worker {job.queue}"
