"""``[engines.rq]``: what can be set about RQ."""

from __future__ import annotations

import msgspec


class RqSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of RQ on Redis."""

    mirror_failures: bool = True
    """Show a failed attempt as a failed RQ job, with the first line of its error."""
    result_ttl_s: int = 60
    """How long RQ's own tools show a finished attempt; 0: it is gone at once."""
    failure_ttl_s: int = 3600
    """How long they show a failed one; RQ's own default is a year."""
    shown: int = 1000
    """How many finished, and how many failed, attempts of a queue and priority they show at most: about 1.5 kB each."""
    message_ttl_s: int = 604_800
    """How long a message may wait; a job that still waits then is published again."""
    heartbeat_s: float = 20.0
    """How often a worker tells RQ that its attempts are alive."""
    abandon_after_s: float = 60.0
    """How long after a heartbeat that did not come RQ's tools give an attempt up; RQ's own figure."""
    maintenance_s: float = 60.0
    """How often a worker takes what is over out of RQ's lists."""
    block_s: float = 0.5
    """How long one blocking look for a message takes; a stop waits for it."""
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 20.0
    """How long Redis may take to answer before its connection counts as lost, and another is opened."""
