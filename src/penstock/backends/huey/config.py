"""``[engines.huey]``: what can be set about Huey."""

from __future__ import annotations

import msgspec


class HueySettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of Huey on SQLite and on Redis."""

    mirror_failures: bool = True
    """Send Huey's signal SIGNAL_ERROR, with the first line of the error, for an attempt that failed."""
    poll_s: float = 0.02
    """SQLite: how soon an idle worker looks again."""
    block_s: float = 0.5
    """Redis: how long one blocking look for a message takes; a stop waits for it."""
    connect_timeout_s: float = 5.0
    """Redis: how long a connection may take to open."""
    answer_timeout_s: float = 20.0
    """How long Redis may take to answer before its connection counts as lost, and another is opened."""
