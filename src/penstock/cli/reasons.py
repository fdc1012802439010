"""``explain`` and ``audit``: why a job is where it is, and who did what by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from penstock.cli import refs, show
from penstock.cli.failures import OK, UsageError
from penstock.cli.lists import since_of
from penstock.cli.session import Session

if TYPE_CHECKING:
    from rich.text import Text

    from penstock.audit import Entry

_OPTIONAL = Parameter(show_default=False)
_SIGNS = {"ok": ("·", ""), "warning": ("!", "yellow"), "error": ("✗", "red")}
AUDIT_COLUMNS = ("at", "actor", "verb", "subject", "why", "details")


def explain(ref: str, /, *, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """Say why a job is where it is, in plain words, and what to do next.

    Args:
        ref: The job's id, a unique beginning of it, or a name for its latest job.
        session: Handed in by the parser.
    """
    queue = session.look()
    told = queue.explain(refs.find(queue, ref))
    if session.json:
        fields = {name: getattr(told, name) for name in told.__struct_fields__}
        session.document({"schema": "penstock.job.explanation/1", "told": told.told, **fields})
        return OK
    if not session.pretty:
        session.write(f"{told.state}\t{told.job_id}\t{told.name}")
        for point in told.points:
            session.write("\t".join([point.level, point.name, " ".join(point.told.split()), point.hint]))
        return OK
    from rich.text import Text

    print_ = session.console.print
    print_(Text.assemble(show.state_text(told.state), "  ", (told.name, "bold"), "  ", (told.job_id, "dim")))
    for point in told.points:
        sign, style = _SIGNS[point.level]
        print_(Text.assemble((f"{sign} ", style), (point.told, style)))
        if point.hint:
            print_(Text(f"  next: {point.hint}", style="dim"))
    return OK


def audit(
    *,
    since: Annotated[str | None, _OPTIONAL] = None,
    subject: Annotated[str | None, _OPTIONAL] = None,
    verb: Annotated[str | None, _OPTIONAL] = None,
    actor: Annotated[str | None, _OPTIONAL] = None,
    limit: Annotated[int, Parameter(name=["--limit", "-n"])] = 100,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """List what was done by hand, newest first: who, when, what, why.

    Args:
        since: Only what was done within this time, such as 24h, or since an ISO 8601 time with its zone.
        subject: Only what was done to this: a job's id or the beginning of it, a schedule's name.
        verb: Only this, as the command is called: cancel, retry, "schedules pause".
        actor: Only what this one did.
        limit: At most so many.
        session: Handed in by the parser.
    """
    if limit < 1:
        raise UsageError(f"--limit takes a number over 0, not {limit}")
    queue = session.look()
    found = queue.audit(since=since_of(since, queue), subject=subject, verb=verb, actor=actor, limit=limit)
    if session.json:
        for entry in found:
            fields = {name: getattr(entry, name) for name in entry.__struct_fields__}
            session.document({"schema": "penstock.audit/1", **fields})
    elif not session.pretty:
        session.rows(AUDIT_COLUMNS, ([show.iso(e.at), e.actor, e.verb, e.subject, e.why, _details(e)] for e in found))
    elif not found:
        session.say("nobody has done anything by hand, as far as is known")
    else:
        from rich.text import Text

        now = queue.now()
        rows: list[list[Text | str]] = [
            [show.ago(e.at, now), e.actor, Text(e.verb, style="bold"), e.subject, e.why, Text(_details(e), style="dim")]
            for e in found
        ]
        header = ("when", "who", "did", "to", "why", "")
        session.console.print(show.table(header, rows, width=session.console.width, gives=[5, 4, 3, 1]))
    return OK


def _details(entry: Entry) -> str:
    return " ".join(f"{name}={value}" for name, value in entry.details.items())
