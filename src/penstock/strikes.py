"""Strikes and pauses, as people make them and take them back. They are kept in the ledger: all processes obey them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from penstock import audit
from penstock.core.exceptions import InvalidJobError, LedgerError, RuleNotFoundError, did_you_mean
from penstock.core.records import Change
from penstock.core.secrets import mask_text
from penstock.job.models import NAME, QUEUE, JobQuery
from penstock.job.steering import KIND, Pause, Rule, Strike
from penstock.sources.decorators import TASKS, Task

if TYPE_CHECKING:
    from penstock.rooms import Rooms

_TRIES = 20


class Struck(msgspec.Struct, frozen=True):
    """A rule that has been made or taken back, and how many jobs that waited it has held, dropped or let go on."""

    rule: Rule
    jobs: int
    doubt: str = ""
    """Why it may be that it meets nothing: a name that nothing here has. Empty where there is no reason to think so."""


def strike(
    rooms: Rooms,
    task: Any,
    parameter: str | None,
    operator: str,
    value: Any,
    *,
    drop: bool,
    why: str,
) -> Struck:
    """See `Controls.strike`."""
    rule = Strike.of(_task_name(task), parameter, operator, value, drop=drop, why=why)
    return _make(rooms, rule)


def restore(rooms: Rooms, task: Any, parameter: str | None, operator: str, value: Any, *, why: str) -> Struck:
    """See `Controls.restore`."""
    return _take_back(rooms, Strike.of(_task_name(task), parameter, operator, value), why)


def pause(rooms: Rooms, *, queue: str | None, task: Any, worker: str | None, why: str) -> Struck:
    """See `Controls.pause`."""
    return _make(rooms, _pause_of(queue, task, worker, why))


def resume(rooms: Rooms, *, queue: str | None, task: Any, worker: str | None, why: str) -> Struck:
    """See `Controls.resume`."""
    return _take_back(rooms, _pause_of(queue, task, worker, ""), why)


def _make(rooms: Rooms, rule: Rule) -> Struck:
    records = rooms.ledger.records
    rule = msgspec.structs.replace(rule, at=rooms.ledger.now(), by=audit.actor())
    for _ in range(_TRIES):
        there = records.get(KIND, rule.name)
        change = Change(kind=KIND, name=rule.name, seen=there.version if there else 0, body=msgspec.json.encode(rule))
        if records.write([change])[0]:
            rooms.steering.read()
            rooms.load_tasks()  # by them what was passed by position has a name; the rule holds already
            held = rooms.steering.hold(rule)
            verb = "strike" if isinstance(rule, Strike) else "pause"
            told = {"dropped": held} if rule.drop else {"held": held}
            audit.note_all(rooms, verb, {str(rule): told}, why=rule.why)
            return Struck(rule, held, _doubt(rooms, rule))
    raise LedgerError(f"{rule.held} cannot be written: somebody changes it again and again")


def _take_back(rooms: Rooms, rule: Rule, why: str) -> Struck:
    records = rooms.ledger.records
    for _ in range(_TRIES):
        there = records.get(KIND, rule.name)
        if there is None:
            raise RuleNotFoundError(rule.held, (known.held for known in rooms.steering.read()))
        if records.write([Change(kind=KIND, name=rule.name, seen=there.version, body=None)])[0]:
            rooms.steering.read()
            admitted = rooms.steering.admit(rule.held)
            if admitted:
                rooms.sweeper.publish_due()
            verb = "restore" if isinstance(rule, Strike) else "resume"
            audit.note(rooms, verb, str(rule), why=why, admitted=admitted)
            return Struck(rule, admitted)
    raise LedgerError(f"{rule.held} cannot be taken back: somebody changes it again and again")


def _doubt(rooms: Rooms, rule: Rule) -> str:
    workers = rooms.ledger.workers()
    if isinstance(rule, Pause) and rule.what == "worker":
        return "" if any(rule.rests(worker.id) for worker in workers) else f"no worker that lives is named {rule.of!r}"
    if isinstance(rule, Pause) and rule.what == "queue":
        what, name = "queue", rule.of
        known = {*rooms.config.worker.queues, *(queue for worker in workers for queue in worker.queues)}
        there = JobQuery(queue=name, limit=1)
    else:
        what, name = "task, pipeline or command", rule.task if isinstance(rule, Strike) else rule.of
        known = {*TASKS.names(), *(one for worker in workers for one in (*worker.tasks, *worker.pipelines))}
        there = JobQuery(name=name, limit=1)
    if name is None:
        return ""
    if name not in known and not rooms.ledger.find(there):
        return f"no {what} {name!r} is known, and no job has it.{did_you_mean(name, known)}"
    task = TASKS.get(name) if isinstance(rule, Strike) and rule.parameter is not None else None
    if task is None or not isinstance(rule, Strike):
        return ""
    parameters = task.signature.parameters
    if rule.parameter in parameters or any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return ""
    return f"{task.name} has no argument {rule.parameter!r} here.{did_you_mean(rule.parameter or '', parameters)}"


def _pause_of(queue: str | None, task: Any, worker: str | None, why: str) -> Pause:
    given = [
        (what, of) for what, of in (("queue", queue), ("task", _task_name(task)), ("worker", worker)) if of is not None
    ]
    if len(given) != 1:
        raise InvalidJobError("say what is meant, one of: queue=..., task=..., worker=...")
    ((what, of),) = given
    if what == "queue" and not QUEUE.fullmatch(of):
        raise InvalidJobError(f"{of!r} is not a queue's name: 1 to 64 of A-Z a-z 0-9 _ . -")
    if what != "queue" and not NAME.fullmatch(of):
        raise InvalidJobError(f"{of!r} is not the name of a {what}")
    return Pause(what=what, of=of, why=mask_text(why))  # type: ignore[arg-type]


def _task_name(task: Any) -> str | None:
    if task is None or isinstance(task, str):
        return task
    if isinstance(task, Task):
        return task.name  # type: ignore[no-any-return]
    raise InvalidJobError(f"{task!r} is neither a task nor its name")
