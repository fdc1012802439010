"""``[engines.saq]``: what can be set about SAQ."""

from __future__ import annotations

import msgspec


class SaqSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of SAQ on Redis and on Postgres."""

    mirror_failures: bool = True
    """Whether a failed attempt shows as failed in SAQ's web app; it is never tried again by SAQ."""
    finished_ttl_s: int = 600
    """How long SAQ shows what has ended; 600 s is its own default."""
    heartbeat_s: int = 60
    """How long after its worker's last sign of life SAQ forgets a job. The ledger's lease decides the rest."""
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 20.0
    """How long Redis or Postgres may take to answer before its connection counts as lost, and another is opened."""
    postgres_connections: int = 10
    """The most connections that a process holds open on Postgres."""
