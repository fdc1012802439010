"""T1: jobs are recorded, then handed to the engine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.core.config import seconds
from penstock.core.exceptions import BackendError, UnsupportedError
from penstock.gateway import message_for
from penstock.job.models import Intent, Outcome, Submission

if TYPE_CHECKING:
    from penstock.rooms import Rooms


class PublishWarning(UserWarning):
    """A job is recorded, but its message could not be handed to the engine; a sweep will publish it."""


def record(rooms: Rooms, intents: Sequence[Intent], connection: object | None = None) -> list[Submission]:
    """Insert jobs that have been checked, in one transaction, and publish those that are new and due.

    Raises:
        UnsupportedError: the backend cannot do what was asked, or the ledger cannot join that connection.
        QueueFullError: as many jobs wait as may.
        DuplicateJobError: a job of that key is there, and ``on_conflict`` says to raise. In all cases nothing was
            written.

    Warns:
        PublishWarning: the engine could not be reached.
    """
    if not intents:
        return []
    rooms.gateway.check(intents)
    if connection is not None and rooms.gateway.in_process:
        # Nobody sweeps there: what is not pushed now would never run.
        raise UnsupportedError(rooms.gateway.scheme, "workers", " Enqueue after your commit, without connection=.")
    submissions = rooms.ledger.insert(
        [rooms.signer.signed(wanted) for wanted in intents], grace_s=seconds(rooms.config.sweep.publish_grace),
        connection=connection, max_queued=rooms.config.limits.queued_max(wanted.queue for wanted in intents),
    )  # fmt: skip
    messages = [message_for(s.job) for s in submissions if s.outcome.made and s.job.publishes]
    if messages:
        try:
            rooms.gateway.publish(messages)
        except BackendError as error:
            warnings.warn(
                f"{len(messages)} jobs are recorded but not published yet ({error}); "
                "a worker's sweep will publish them",
                PublishWarning,
                stacklevel=5,
            )
    return [
        msgspec.structs.replace(s, outcome=Outcome.BLOCKED) if s.outcome.made and s.job.held is not None else s
        for s in submissions
    ]
