"""``strike``, ``restore``, ``pause``, ``resume`` and ``rules``: which jobs may not begin, until somebody says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from cyclopts import Parameter

from penstock.cli import show
from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session
from penstock.core.secrets import mask_data
from penstock.job.steering import Strike

if TYPE_CHECKING:
    from penstock.job.steering import Rule
    from penstock.strikes import Struck

_OPTIONAL = Parameter(show_default=False)
_WORDS = ("==", "!=", "<=", ">=", "<", ">", " between ", " in ")
COLUMNS = ("rule", "kind", "drop", "by", "at", "why")


def strike(
    task: str | None = None,
    condition: str | None = None,
    /,
    *,
    drop: Annotated[bool, Parameter(negative="", show_default=False)] = False,
    why: Annotated[str, _OPTIONAL] = "",
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Let no job of a task begin, anywhere, or where an argument compares so, until restore.

    penstock strike report; penstock strike report "customer == acme"; penstock strike "*" "day between [1, 5]".
    Jobs that meet it wait as blocked. What runs already runs on.

    Args:
        task: A task, a pipeline or a command, by its name; "*" for all of them.
        condition: NAME OP VALUE with == != < <= > >= between in. A VALUE is JSON where it parses, else text.
        drop: Cancel what meets it, instead of letting it wait.
        why: Why, for others; it stands in the audit.
        session: Handed in by the parser.
    """
    name, compared = _meant(task, condition)
    done = session.queue().strike(name, *compared, drop=drop, why=why)
    return _told(session, done, "dropped" if drop else "held")


def restore(
    task: str | None = None,
    condition: str | None = None,
    /,
    *,
    why: Annotated[str, _OPTIONAL] = "",
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Take a strike back, said as it was made: the jobs that wait for it go on.

    Args:
        task: As the strike named it.
        condition: As the strike named it.
        why: Why, for others; it stands in the audit.
        session: Handed in by the parser.
    """
    name, compared = _meant(task, condition)
    return _told(session, session.queue().restore(name, *compared, why=why), "admitted")


def pause(
    what: str,
    name: str,
    /,
    *,
    why: Annotated[str, _OPTIONAL] = "",
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Let no job of a queue or of a task begin, or a worker take none, until resume. It survives restarts.

    Args:
        what: queue, task or worker.
        name: Its name; a worker's id as `penstock workers` tells it, or its host.
        why: Why, for others; it stands in the audit.
        session: Handed in by the parser.
    """
    return _told(session, session.queue().pause(**_of(what, name), why=why), "held")


def resume(
    what: str,
    name: str,
    /,
    *,
    why: Annotated[str, _OPTIONAL] = "",
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Take a pause back: the jobs that wait for it go on.

    Args:
        what: queue, task or worker.
        name: As the pause named it.
        why: Why, for others; it stands in the audit.
        session: Handed in by the parser.
    """
    return _told(session, session.queue().resume(**_of(what, name), why=why), "admitted")


def rules(*, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """List the strikes and pauses that hold.

    Args:
        session: Handed in by the parser.
    """
    queue = session.look()
    found = queue.rules()
    if session.json:
        for rule in found:
            session.document({"schema": "penstock.rule/1", **_fields(rule)})
    elif not session.pretty:
        at = {rule.name: show.iso(rule.at) if rule.at is not None else "" for rule in found}
        session.rows(COLUMNS, ([str(r), _kind(r), str(r.drop).lower(), r.by, at[r.name], r.why] for r in found))
    elif not found:
        session.say("nothing is struck, nothing is paused")
    else:
        now = queue.now()
        session.console.print(
            show.table(
                ("holds", "since", "by", "why"),
                [
                    [rule.held, show.ago(rule.at, now) if rule.at is not None else "", rule.by, rule.why]
                    for rule in found
                ],
                width=session.console.width,
                gives=[3, 0, 2],
            )
        )
    return OK


def _meant(task: str | None, condition: str | None) -> tuple[str | None, tuple[Any, ...]]:
    if task is None:
        raise UsageError('name a task, or "*" with a condition: penstock strike report "customer == acme"')
    name = None if task == "*" else task
    if condition is None:
        if name is None:
            raise UsageError('to stop everything, pause the queues; "*" needs a condition, such as "customer == acme"')
        return name, ()
    for word in _WORDS:
        parameter, found, text = condition.partition(word)
        if found and parameter.strip().isidentifier():
            return name, (parameter.strip(), word.strip(), _value(text.strip()))
    raise UsageError(f"{condition!r} is no condition; write NAME OP VALUE, with {', '.join(w.strip() for w in _WORDS)}")


def _value(text: str) -> Any:
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _of(what: str, name: str) -> dict[str, str]:
    if what not in ("queue", "task", "worker"):
        raise UsageError(f"say what {name!r} is: queue, task or worker; not {what!r}")
    return {what: name}


def _told(session: Session, done: Struck, what: str) -> int:
    if session.json:
        session.document(
            {"schema": "penstock.rule/1", **_fields(done.rule), "jobs": done.jobs, "done": what, "doubt": done.doubt}
        )
    elif not session.pretty:
        session.write(f"{done.rule}\t{done.jobs}")
    else:
        jobs = "1 job" if done.jobs == 1 else f"{done.jobs:,} jobs"
        session.write(f"{done.rule}: {jobs} {'let go on' if what == 'admitted' else what}")
    if done.doubt:
        session.warn(f"it holds for what may come: {done.doubt}")
    return OK


def _kind(rule: Rule) -> str:
    return rule.held.partition(":")[0]


def _fields(rule: Rule) -> dict[str, Any]:
    fields = msgspec.to_builtins(rule)
    if isinstance(rule, Strike) and rule.parameter is not None and "value" in fields:
        fields["value"] = mask_data({rule.parameter: fields["value"]})[rule.parameter]
    return {"rule": str(rule), "kind": _kind(rule), "by": rule.by, "why": rule.why, **fields}
