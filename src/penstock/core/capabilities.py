"""What can be had on which transport: what an engine does, and what is done above all of them.

Each flag is read in ``gateway.py`` and has a conformance test; each feature has one in ``tests/unit/test_features.py``.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Support(StrEnum):
    """How a capability is had."""

    NATIVE = "native"
    """The engine does it."""
    EMULATED = "emulated"
    """We do it above the engine."""
    ABSENT = "absent"
    """Asking for it raises `UnsupportedError` before anything is written."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """One value per flag; the field docstrings are the text of the generated tables."""

    priority: Support
    """0 to 9, higher first, among the messages that wait in one queue."""
    withdraw: Support
    """A message can be taken back from the engine before a worker has it."""
    depth: Support
    """The engine can say how many messages wait in a queue."""
    bulk: Support
    """Many messages are handed over in one trip, all or none."""
    workers: Support
    """Other processes can take the messages. Absent: they run in the process that publishes them."""
    persistent: Support
    """Waiting messages survive the end of every process of ours."""


FLAGS: tuple[str, ...] = Capabilities.__struct_fields__


class Feature(msgspec.Struct, frozen=True):
    """What is done above the engines, and so in the same way on all of them."""

    name: str
    said: str
    """How one asks for it."""
    needs: str | None = None
    """The flag without which there is nothing to do: absent where that is absent."""

    def on(self, capabilities: Capabilities) -> Support:
        """Return how it is had on a transport that can do this."""
        without = self.needs is not None and getattr(capabilities, self.needs) is Support.ABSENT
        return Support.ABSENT if without else Support.EMULATED


FEATURES: tuple[Feature, ...] = (
    Feature("delays", "`delay=`, `at=`"),
    Feature("retries", "`max_attempts=`, `backoff=`, `retry_on=`, `RetryLater`, `Snooze`"),
    Feature("timeouts", "`timeout=`"),
    Feature("cancel of a running job", "`job.cancel()`"),
    Feature("`async def` bodies", "`async def`"),
    Feature("bodies in processes of their own", '`isolation="process"`'),
    Feature("results, logs, progress", "`job.result()`, `job.logs()`, `run.progress`"),
    Feature("events", "`job.events()`, `penstock watch`"),
    Feature("uniqueness", "`key=`, `unique=`, `on_conflict=`"),
    Feature("expiry", "`expires=`"),
    Feature("concurrency keys", "`limits=`, `ConcurrencyLimit`"),
    Feature("rate limits", "`RateLimit`, `Cooldown`, `Debounce`"),
    Feature("dependencies as parameters", "`Depends`, `Shared`"),
    Feature("jobs that follow themselves", "`Perpetual`"),
    Feature("schedules and backfills", "`queue.schedule()`, `queue.backfill()`"),
    Feature("strikes and pauses", "`queue.strike()`, `queue.pause()`"),
    Feature("dead letters", "`queue.dead_letters()`, `queue.requeue()`"),
    Feature("snapshot, explanation, audit", "`queue.snapshot()`, `queue.explain()`, `queue.audit()`"),
    Feature("a caller's own transaction", "`enqueue(..., connection=)`, ledgers on SQL", "workers"),
    Feature("several processes", "`penstock worker --processes`", "workers"),
)
