"""``[engines.dramatiq]``: what can be set about Dramatiq."""

from __future__ import annotations

import msgspec


class DramatiqSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of Dramatiq on Redis and on RabbitMQ."""

    mirror_failures: bool = True
    """Put the message of a failed attempt into the dead letters, with the first line of its error as its traceback."""
    failure_ttl_s: int = 3600
    """How long a dead letter stays; Dramatiq's own default is seven days."""
    heartbeat_s: float = 15.0
    """Redis: how often a worker tells that it is alive, and takes back what a dead one held."""
    heartbeat_timeout_s: float = 60.0
    """Redis: when a worker that does not tell counts as dead."""
    ack_after_s: float = 600.0
    """RabbitMQ: when the message of a long attempt is acknowledged while it runs; the server gives up on an
    unacknowledged one after 30 minutes (its ``consumer_timeout``)."""
    poll_s: float = 0.25
    """How soon an idle worker looks again if nothing wakes it."""
    connect_timeout_s: float = 5.0
    answer_timeout_s: float = 20.0
    """How long Redis or RabbitMQ may take to answer before its connection counts as lost, and another is opened."""
