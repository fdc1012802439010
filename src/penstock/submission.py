"""T1: jobs are recorded, then handed to the engine."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec

from penstock.core.config import seconds
from penstock.core.exceptions import BackendError, UnsupportedError
from penstock.gateway import message_for
from penstock.job import lifecycle
from penstock.job.models import Intent, Outcome, Submission
from penstock.steering import STRUCK

if TYPE_CHECKING:
    from penstock.job.steering import Rule
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
    rules = [rooms.steering.rule_for(wanted) for wanted in intents] if rooms.steering.rules() else ()
    if rules:
        intents = [
            wanted if rule is None else msgspec.structs.replace(wanted, held=rule.held)
            for wanted, rule in zip(intents, rules, strict=True)
        ]
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
    return _held_back(rooms, submissions, rules) if rules else submissions


def _held_back(rooms: Rooms, submissions: Sequence[Submission], rules: Sequence[Rule | None]) -> list[Submission]:
    """Tell of those that a strike or a pause holds back; those that a strike drops are over already."""
    answers: list[Submission] = []
    for submission, rule in zip(submissions, rules, strict=True):
        if rule is None or not submission.outcome.made:
            answers.append(submission)
            continue
        job = submission.job
        if rule.drop and rooms.ledger.apply(lifecycle.cancel(job.id, reason=STRUCK)) is not None:
            job = rooms.ledger.get(job.id)
        answers.append(Submission(job, Outcome.BLOCKED))
    return answers
