"""``[engines.taskiq]``: what can be set about TaskIQ."""

from __future__ import annotations

import msgspec


class TaskiqSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of TaskIQ on each of its brokers."""

    mirror_failures: bool = True
    """Whether a failed attempt ends with an error for TaskIQ too; it is never tried again by TaskIQ."""
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 20.0
    """How long the broker may take to answer before its connection counts as lost, and another is opened."""
