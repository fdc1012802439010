"""Signatures of jobs and schedules: with keys, a worker runs only what somebody who has a key has submitted.

For ledgers that others can write. HMAC-SHA256 over version, namespace, job id, kind, name, the digest of the input, and
what decides how the body runs: isolation, timeout, and all metadata (limits, the schedule and its fire time, the user's
own). It travels in the job's metadata, so that each ledger keeps it. Not covered: when, where and how often a job runs.

A schedule's plan is signed too: whoever makes its jobs signs those, and must know that somebody with a key wanted them.

Version 1 of the signature left out how the body runs. It is not taken: whoever could change those jobs could take off
their limits.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from penstock.core.exceptions import InvalidJobError, InvalidScheduleError

if TYPE_CHECKING:
    from penstock.job.models import Intent, Job
    from penstock.job.schedules import Schedule

KEY_MIN = 16
"""Characters: a key that can be guessed proves nothing."""
RESERVED = "penstock."
"""What the names of our own entries in a job's metadata begin with."""
FIELD = f"{RESERVED}signature"
_VERSION = 2
_OLDER = frozenset(map(str, range(1, _VERSION)))
_NEWER = frozenset(map(str, range(_VERSION + 1, 100)))
_ID_LETTERS = 12


class Problem(msgspec.Struct, frozen=True):
    """Why a job is not to be run. ``unknown_key``: another worker may have the key, or the release, to check it."""

    kind: Literal["unsigned", "forged", "unknown_key"]
    told: str


class Signer:
    """Signs with the first key, takes the signature of each."""

    def __init__(self, keys: Sequence[str], namespace: str) -> None:
        self._keys = {key_id(key): key.strip().encode() for key in keys}
        self._namespace = namespace

    def signed(self, intent: Intent) -> Intent:
        """Return the intent with a signature, in the place of any that it had; without keys as it is."""
        if not self._keys:
            return intent
        signature = self._sign(self._what(intent))
        return msgspec.structs.replace(intent, metadata={**intent.metadata, FIELD: signature})

    def problem(self, job: Job) -> Problem | None:
        """Say why a job must not run here; None: it may."""
        return self._problem("job", job.metadata.get(FIELD), self._what(job)) if self._keys else None

    def check(self, job: Job) -> None:
        """Raise `InvalidJobError` for a job that must not be signed anew: nobody with a key has submitted it."""
        if (problem := self.problem(job)) is not None:
            raise InvalidJobError(f"job {job.id} cannot be submitted again: {problem.told}")

    def signed_schedule(self, schedule: Schedule) -> Schedule:
        """Return the schedule with a signature of its plan; without keys as it is."""
        if not self._keys:
            return schedule
        return msgspec.structs.replace(schedule, signature=self._sign(self._what_of_schedule(schedule)))

    def schedule_problem(self, schedule: Schedule) -> Problem | None:
        """Say why no jobs must be made, and signed, of a schedule; None: they may."""
        if not self._keys:
            return None
        return self._problem("schedule", schedule.signature, self._what_of_schedule(schedule))

    def check_schedule(self, schedule: Schedule) -> None:
        """Raise `InvalidScheduleError` for a schedule of which no job must be made, nor another plan."""
        if (problem := self.schedule_problem(schedule)) is not None:
            raise InvalidScheduleError(f"schedule {schedule.name}: {problem.told}; remove it and make it again")

    def _sign(self, what: tuple[Any, ...]) -> str:
        name, key = next(iter(self._keys.items()))
        return f"{_VERSION}.{name}.{_mac(key, what)}"

    def _problem(self, noun: str, signature: str | None, what: tuple[Any, ...]) -> Problem | None:
        if signature is None:
            told = (
                f"the {noun} is not signed, and there are keys here: only what is signed runs (security.signing_keys)"
            )
            return Problem("unsigned", told)
        version, _, rest = signature.partition(".")
        if version in _OLDER:
            told = (
                f"the {noun} was signed by an older penstock, whose signature did not cover its limits: submit it anew"
            )
            return Problem("forged", told)
        if version in _NEWER:
            return Problem("unknown_key", f"the {noun} was signed by a newer penstock than this one")
        name, _, mac = rest.partition(".")
        key = self._keys.get(name)
        if version == str(_VERSION) and key is None:
            told = f"the {noun} is signed with the key {name[:_ID_LETTERS]!r}, which is not known here"
            return Problem("unknown_key", f"{told} (there are: {', '.join(self._keys)}; security.signing_keys)")
        if key is None or not hmac.compare_digest(mac.encode(), _mac(key, what).encode()):
            told = (
                f"the {noun}'s signature does not fit it: its input, task, id, namespace, metadata, limits, timeout or "
                "isolation is not what was signed"
            )
            return Problem("forged", told)
        return None

    def _what(self, job: Intent | Job) -> tuple[Any, ...]:
        digest = hashlib.sha256(job.spec).hexdigest()
        timeout_s = None if job.timeout_s is None else float(job.timeout_s)
        metadata = sorted(item for item in job.metadata.items() if item[0] != FIELD)
        return (_VERSION, self._namespace, job.id, job.kind, job.name, digest, job.isolation, timeout_s, metadata)

    def _what_of_schedule(self, schedule: Schedule) -> tuple[Any, ...]:
        return ("schedule", _VERSION, self._namespace, schedule.name, schedule.plan)


def _mac(key: bytes, what: tuple[Any, ...]) -> str:
    return hmac.new(key, msgspec.json.encode(what), hashlib.sha256).hexdigest()


def key_id(key: str) -> str:
    """Name a key without telling anything of it: what a signature says it was made with."""
    return hmac.new(key.strip().encode(), b"penstock key id", hashlib.sha256).hexdigest()[:_ID_LETTERS]
