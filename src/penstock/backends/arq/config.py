"""``[engines.arq]``: what can be set about ARQ."""

from __future__ import annotations

import msgspec


class ArqSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of ARQ."""

    mirror_failures: bool = True
    """Whether ARQ keeps a failed result of a failed attempt; it is never tried again by ARQ."""
    failed_ttl_s: int = 600
    """How long such a result is kept. Others never are."""
    poll_s: float = 0.02
    """How often an idle worker looks for messages; ARQ's own default is 0.5 s."""
    lock_s: float = 30.0
    """How long after its worker's last sign of life a message goes to another; ARQ's own lock is never renewed."""
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 20.0
    """How long Redis may take to answer before its connection counts as lost, and another is opened."""
