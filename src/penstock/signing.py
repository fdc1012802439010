"""Signatures of jobs: with keys, a worker runs only what somebody who has a key has submitted.

For ledgers that others can write. HMAC-SHA256 over version, namespace, job id, kind, name and the digest of the input.
It travels in the job's metadata, so that each ledger keeps it. Not covered: when, where and how often a job runs.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from typing import Literal

import msgspec

from penstock.core.exceptions import InvalidJobError
from penstock.job.models import Intent, Job

KEY_MIN = 16
"""Characters: a key that can be guessed proves nothing."""
RESERVED = "penstock."
"""What the names of our own entries in a job's metadata begin with."""
FIELD = f"{RESERVED}signature"
_VERSION = "1"
_ID_LETTERS = 12


class Problem(msgspec.Struct, frozen=True):
    """Why a job is not to be run. ``unknown_key``: another worker may have the key that this one lacks."""

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
        name, key = next(iter(self._keys.items()))
        signature = f"{_VERSION}.{name}.{self._mac(key, intent)}"
        return msgspec.structs.replace(intent, metadata={**intent.metadata, FIELD: signature})

    def problem(self, job: Job) -> Problem | None:
        """Say why a job must not run here; None: it may."""
        if not self._keys:
            return None
        signature = job.metadata.get(FIELD)
        if signature is None:
            told = "the job is not signed, and this worker runs signed jobs only (security.signing_keys)"
            return Problem("unsigned", told)
        version, _, rest = signature.partition(".")
        name, _, mac = rest.partition(".")
        key = self._keys.get(name)
        if version == _VERSION and key is None:
            told = f"the job is signed with the key {name[:_ID_LETTERS]!r}, which this worker does not have"
            return Problem("unknown_key", f"{told} (it has: {', '.join(self._keys)}; security.signing_keys)")
        if version != _VERSION or key is None or not hmac.compare_digest(mac.encode(), self._mac(key, job).encode()):
            told = "the job's signature does not fit it: its input, task, id or namespace is not what was signed"
            return Problem("forged", told)
        return None

    def check(self, job: Job) -> None:
        """Raise `InvalidJobError` for a job that must not be signed anew: nobody with a key has submitted it."""
        if (problem := self.problem(job)) is not None:
            raise InvalidJobError(f"job {job.id} cannot be submitted again: {problem.told}")

    def _mac(self, key: bytes, job: Intent | Job) -> str:
        digest = hashlib.sha256(job.spec).hexdigest()
        signed = msgspec.json.encode([_VERSION, self._namespace, job.id, job.kind, job.name, digest])
        return hmac.new(key, signed, hashlib.sha256).hexdigest()


def key_id(key: str) -> str:
    """Name a key without telling anything of it: what a signature says it was made with."""
    return hmac.new(key.strip().encode(), b"penstock key id", hashlib.sha256).hexdigest()[:_ID_LETTERS]
