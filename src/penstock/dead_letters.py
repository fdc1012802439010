"""Dead letters: jobs that failed for good, until somebody has them run again.

That a failed job was requeued is a record beside it: its row is final, and the job that came of it may be purged before
it. The record is written after that job, whose tick key names the failed one: of two who requeue it at once, one makes
the job, and a crash in between leaves a letter that is answered with the job that is there.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import audit
from penstock.core.config import seconds
from penstock.core.durations import Duration, parse_duration_s
from penstock.core.exceptions import InvalidJobError, JobNotFoundError, TransitionRefusedError, did_you_mean
from penstock.core.records import Change, Record
from penstock.handle import JobHandle
from penstock.job.lifecycle import Reason, State
from penstock.job.limits import FIELD, limits_entry, limits_of
from penstock.job.models import Intent, Job, JobQuery, Outcome, new_job_id
from penstock.job.slots import FIELD as SLOTS
from penstock.job.slots import slots_entry
from penstock.options import JobOptions
from penstock.payload import encode_spec
from penstock.readable import read
from penstock.runners import runner_for
from penstock.submission import record

if TYPE_CHECKING:
    from penstock.client import JobQueue

_KIND = "requeued"
_PAGE = 200
_FILTERS = (
    "task", "name", "queue", "kind", "key", "tag", "metadata", "id_prefix", "parent_id", "since", "reason", "before",
)  # fmt: skip
_SAME = ("queue", "priority", "max_attempts", "max_crashes", "isolation", "tags", "key")


class Requeued(msgspec.Struct, frozen=True, kw_only=True):
    """What `requeue_all` did, or with ``dry_run`` would do."""

    found: int
    """How many dead letters fitted the query."""
    requeued: int
    """How many of them are jobs again."""
    kept: int = 0
    """How many were left because a live job with the same key stands in their place."""
    refused: dict[str, str] = {}
    """Those that cannot run again as they are, by id, with the reason."""
    jobs: tuple[str, ...] = ()
    """The ids of the new jobs; with ``dry_run`` those of the dead letters."""
    dry_run: bool = False


class _Mark(msgspec.Struct, frozen=True):
    """The body of a record: the newest job that a failed one became, and how many there were."""

    job: str
    times: int = 1


_mark = msgspec.json.Decoder(_Mark)


def listed(queue: JobQueue, /, *, limit: int | None = 50, **filters: Any) -> Iterator[Job]:
    """Yield failed jobs that nobody has requeued yet, newest first.

    Raises:
        InvalidJobError: an unknown filter, or a value that makes no sense; says which there are.
    """
    if limit is not None and limit < 1:
        raise InvalidJobError(f"limit: {limit!r} is no number of jobs; write 1 or more")
    query, reason = _query(queue, filters)
    while True:
        page = queue.ledger.find(query)
        for job in page:
            if (reason is None or job.reason == reason) and _record(queue, job.id) is None:
                yield job
                limit = None if limit is None else limit - 1
                if limit == 0:
                    return
        if len(page) < _PAGE:
            return
        query = msgspec.structs.replace(query, before=page[-1].id)


def requeue(
    queue: JobQueue,
    job_id: str,
    inputs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    *,
    why: str | None = None,
) -> JobHandle:
    """Submit a final job again, with some of its inputs and options changed; see `JobQueue.requeue`."""
    job = queue.job(job_id).refresh()
    if not job.state.final:
        raise TransitionRefusedError(job.id, "requeue", f"{job.state}, not final")
    queue.signer.check(job)
    asked = JobOptions.parse(options or {})
    spec = job.spec
    if inputs is not None and not isinstance(inputs, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise InvalidJobError(f"inputs: {inputs!r} is not a mapping of names and values")
    if inputs:
        spec = encode_spec(runner_for(job.kind).edited(job, inputs), queue.config.limits)
    seen = _record(queue, job.id)
    if seen is not None and (live := _live(queue, seen)) is not None:
        return JobHandle(queue, live, Outcome.KEPT)
    (again,) = _submit(queue, [_intent(job, asked, spec, seen)])
    if again.job.parent_id == job.id:
        _note(queue, [(job, seen, again.id)])
        changed = ", ".join(sorted(inputs or {})) or None
        audit.note(queue, "requeue", job.id, why=why, name=job.name, job=again.id, changed=changed)
    return again


def requeue_all(
    queue: JobQueue, /, *, dry_run: bool = False, limit: int | None = None, why: str | None = None,
    options: Mapping[str, Any] | None = None, **filters: Any,
) -> Requeued:  # fmt: skip
    """Requeue every dead letter that fits, the oldest first; see `JobQueue.requeue_all`."""
    asked = JobOptions.parse(options or {})
    if asked.job_id is not None or asked.key is not None:
        raise InvalidJobError("job_id and key belong to one job; requeue that one alone")
    # Looked for before the first is made: one that fails again at once is not found a second time.
    ids = [job.id for job in listed(queue, limit=limit, **filters)]
    if dry_run:
        return Requeued(found=len(ids), requeued=0, jobs=tuple(ids), dry_run=True)
    ids.reverse()
    made: list[str] = []
    kept = 0
    refused: dict[str, str] = {}
    for at in range(0, len(ids), _PAGE):
        fit: list[Job] = []
        for job_id in ids[at : at + _PAGE]:
            try:
                job = queue.ledger.get(job_id)
                queue.signer.check(job)
                fit.append(job)
            except (JobNotFoundError, InvalidJobError) as error:
                refused[job_id] = str(error)
        again = _submit(queue, [_intent(job, asked, job.spec, None) for job in fit])
        became = [(job, handle) for job, handle in zip(fit, again, strict=True) if handle.job.parent_id == job.id]
        _note(queue, [(job, None, handle.id) for job, handle in became])
        new = [handle.id for handle in again if handle.outcome is not None and handle.outcome.made]
        made += new
        kept += len(fit) - len(new)
    if made:
        told = {name: getattr(value, "name", value) for name, value in filters.items()}
        audit.note(queue, "requeue", "dead letters", why=why, requeued=len(made), **told)
    return Requeued(found=len(ids), requeued=len(made), kept=kept, refused=refused, jobs=tuple(made))


def resubmit(queue: JobQueue, job: Job) -> JobHandle:
    """Submit a job's input again as a new job, whatever became of it; a failed one is no dead letter any more."""
    queue.signer.check(job)
    (again,) = _submit(queue, [msgspec.structs.replace(_intent(job, JobOptions(), job.spec, None), tick_key=None)])
    if job.state is State.FAILED and again.job.parent_id == job.id:
        _note(queue, [(job, _record(queue, job.id), again.id)])
    return again


def _submit(queue: JobQueue, intents: Sequence[Intent]) -> list[JobHandle]:
    return [JobHandle(queue, told.job, told.outcome) for told in record(queue, intents)]


# -- the query ------------------------------------------------------------------------------------------------------


def _query(queue: JobQueue, filters: Mapping[str, Any]) -> tuple[JobQuery, str | None]:
    for name in filters:
        if name not in _FILTERS:
            raise InvalidJobError(
                f"dead letters are not found by {name!r}; there are: {', '.join(_FILTERS)}."
                f"{did_you_mean(name, _FILTERS)}"
            )
    given = {name: value for name, value in filters.items() if value is not None}
    reason = given.pop("reason", None)
    known = [one.value for one in Reason]
    if reason is not None and reason not in known:
        raise InvalidJobError(
            f"no job fails by {reason!r}; there are: {', '.join(known)}.{did_you_mean(str(reason), known)}"
        )
    if "task" in given:
        given["name"] = getattr(given["task"], "name", given["task"])
        del given["task"]
    if "metadata" in given:
        given["metadata"] = JobOptions.parse({"metadata": given["metadata"]}).metadata
    if "since" in given:
        given["since"] = _since(queue, given["since"])
    return JobQuery(states=("failed",), limit=_PAGE, **given), None if reason is None else str(reason)


def _since(queue: JobQueue, value: datetime | Duration) -> datetime:
    if isinstance(value, datetime):
        if value.utcoffset() is None:
            raise InvalidJobError(f"since: {value.isoformat()} has no time zone, and none is assumed")
        return value
    try:
        if (ago_s := parse_duration_s(value)) < 0:
            raise ValueError(f"{value!r} is in the future; write how long ago, such as '24h'")
        return queue.now() - timedelta(seconds=ago_s)
    except (ValueError, OverflowError) as error:
        raise InvalidJobError(f"since: {error}") from None


# -- the new job ----------------------------------------------------------------------------------------------------


def _intent(job: Job, options: JobOptions, spec: bytes, seen: Record | None) -> Intent:
    times = _times(seen)
    asked: dict[str, Any] = {name: getattr(job, name) for name in Intent.__struct_fields__ if hasattr(job, name)}
    asked |= {name: value for name in _SAME if (value := getattr(options, name)) is not None}
    asked |= {
        "id": options.job_id or new_job_id(),
        "parent_id": job.id,
        "tick_key": f"requeue:{job.id}:{times}",
        "spec": spec,
        "at": options.at,
        "delay_s": options.delay_s or 0.0,
        "backoff": _backoff(job, options),
        "metadata": {
            **_kept(job, options), **(options.metadata or {}), **_limits(job, options),
            **slots_entry(options.slots or {}),
        },
        "held": None,
        "expires_at": options.expires_at,
        "expires_s": None if options.expires_s is None or math.isinf(options.expires_s) else options.expires_s,
        "on_conflict": options.on_conflict or "keep",
    }  # fmt: skip
    if options.unique is not None:
        raise InvalidJobError("unique: a job that is requeued is what it was; give it a key=... instead")
    if options.timeout_s is not None:
        asked["timeout_s"] = None if math.isinf(options.timeout_s) else options.timeout_s
    return Intent(**asked)


def _kept(job: Job, options: JobOptions) -> dict[str, str]:
    """Return a job's metadata; without its concurrency keys, if other ones, or none, were asked for."""
    return {name: value for name, value in job.metadata.items() if options.slots is None or name != SLOTS}


def _backoff(job: Job, options: JobOptions) -> Any:
    policy = job.backoff if options.backoff is None else options.backoff.or_rules_of(job.backoff)
    return policy.with_rules(options.retry_on, options.discard_on)


def _limits(job: Job, options: JobOptions) -> dict[str, str]:
    asked = {
        "memory_bytes": options.max_memory_bytes, "cpu_s": options.max_cpu_s, "open_files": options.max_open_files,
    }  # fmt: skip
    given = {name: value for name, value in asked.items() if value is not None}
    if not given:
        return {}
    there = limits_of(job)
    before: dict[str, int] = {} if there is None else msgspec.to_builtins(there)
    # An entry without limits reads as none.
    return {FIELD: "{}"} | limits_entry({**before, **given})


# -- the records ----------------------------------------------------------------------------------------------------


def _record(queue: JobQueue, job_id: str) -> Record | None:
    return queue.ledger.records.get(_KIND, job_id)


def _live(queue: JobQueue, seen: Record) -> Job | None:
    """Return the job that a dead letter became, if it is not final yet."""
    mark = read(seen, _mark)
    try:
        job = None if mark is None else queue.ledger.get(mark.job)
    except JobNotFoundError:
        return None
    return None if job is None or job.state.final else job


def _times(seen: Record | None) -> int:
    mark = read(seen, _mark)
    return 0 if mark is None else mark.times


def _note(queue: JobQueue, became: Sequence[tuple[Job, Record | None, str]]) -> None:
    """Write down what failed jobs have become, and let go of what was written of jobs that are purged."""
    kept = timedelta(seconds=2 * seconds(queue.config.history.keep_failed))
    until = queue.now() + kept
    changes = [
        Change(
            kind=_KIND, name=job.id, seen=0 if seen is None else seen.version, due_at=until,
            body=msgspec.json.encode(_Mark(new, _times(seen) + 1)),
        )
        for job, seen, new in became
    ]  # fmt: skip
    for old in queue.ledger.records.due(_KIND, _PAGE):
        try:
            queue.ledger.get(old.name)
            changes.append(Change(kind=_KIND, name=old.name, seen=old.version, body=old.body, due_at=until))
        except JobNotFoundError:
            changes.append(Change(kind=_KIND, name=old.name, seen=old.version, body=None))
    queue.ledger.records.write(changes)
