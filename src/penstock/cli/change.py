"""``cancel`` and ``retry``: verbs for one or many jobs; one that fails does not keep the others back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

from cyclopts import Parameter

from penstock.cli import refs, show
from penstock.cli.failures import OK, tell
from penstock.cli.session import Session
from penstock.client import JobQueue
from penstock.core.exceptions import PenstockError
from penstock.handle import CancelOutcome, JobHandle

_SAID = {
    CancelOutcome.CANCELLED: "cancelled before it started",
    CancelOutcome.REQUESTED: "runs; its worker was asked to stop it",
    CancelOutcome.FINISHED: "was final already and stays what it is",
}


def cancel(
    first: str,
    /,
    *more: str,
    why: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Cancel jobs: queued ones at once; running ones are stopped by their worker, killed after a grace.

    Args:
        first: A job's id, a unique beginning of it, or a name for its latest job.
        more: Further ones.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """

    def verb(handle: JobHandle) -> tuple[dict[str, Any], str]:
        outcome = handle.cancel(why=why)
        return {
            "id": handle.id,
            "name": handle.name,
            "outcome": outcome.value,
        }, f"{handle.id}  {handle.name}: {_SAID[outcome]}"

    return _for_each(session, session.queue(), [first, *more], verb)


def retry(
    first: str,
    /,
    *more: str,
    why: Annotated[str | None, Parameter(show_default=False)] = None,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Run final jobs again: each becomes a new job with the same input, linked to the old one.

    Prints the new jobs' ids.

    Args:
        first: A job's id, a unique beginning of it, or a name for its latest job.
        more: Further ones.
        why: The reason, for the audit trail.
        session: Handed in by the parser.
    """
    queue = session.queue()

    def verb(handle: JobHandle) -> tuple[dict[str, Any], str]:
        with queue.captured(echo=session.verbose > 0):
            again = handle.retry(why=why)
        document = {**show.job_document(again.job, queue.now()), "outcome": str(again.outcome)}
        return document, f"{again.id}  {again.name}: again of {handle.id}" if session.pretty else again.id

    return _for_each(session, queue, [first, *more], verb)


def _for_each(
    session: Session, queue: JobQueue, words: Sequence[str], verb: Callable[[JobHandle], tuple[dict[str, Any], str]]
) -> int:
    """Apply a verb to each REF; the exit code is that of the first error."""
    code = OK
    # Names are looked up first: a retry makes a new latest job.
    found: list[JobHandle] = []
    for word in words:
        try:
            found.append(refs.find(queue, word))
        except PenstockError as error:
            code = _told(session, error) if code == OK else (_told(session, error), code)[1]
    for handle in found:
        try:
            document, line = verb(handle)
        except PenstockError as error:
            code = _told(session, error) if code == OK else (_told(session, error), code)[1]
            continue
        if session.json:
            session.document(document)
        else:
            session.write(line)
    return code


def _told(session: Session, error: PenstockError) -> int:
    return tell(error, as_json=session.json, verbose=session.verbose > 0)
