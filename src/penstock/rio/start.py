"""Whether an app begins anew or one more process of it joins: the first of several that start at once finds out."""

from __future__ import annotations

import os
from collections.abc import Collection
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import msgspec

from penstock.core.records import Change
from penstock.job.models import Instant
from penstock.readable import read

if TYPE_CHECKING:
    from penstock.client import JobQueue

KIND = "rio-start"
_STARTING = timedelta(seconds=30)
"""How long a process on another host may take from its claim until it is listed as a worker."""


class _Start(msgspec.Struct, frozen=True):
    owner: str
    """Empty: it has ended in order."""
    at: Instant


_decoder = msgspec.json.Decoder(_Start)


def begins_anew(queue: JobQueue, source: str, lane: str, tasks: Collection[str]) -> bool:
    """Whether no other process of the app with these tasks is alive; of several that ask at once, one is told so."""
    records, now = queue.ledger.records, queue.ledger.now()
    seen = records.get(KIND, source)
    others = [w for w in queue.workers() if lane in w.queues and not set(tasks).isdisjoint(w.tasks) and _lives(w.id)]
    if others:
        return False
    start = read(seen, _decoder)
    if start is not None and start.owner not in ("", queue.owner) and _is_starting(start, now):
        return False
    body = msgspec.json.encode(_Start(queue.owner, now))
    return bool(records.write([Change(kind=KIND, name=source, seen=seen.version if seen else 0, body=body)])[0])


def ended(queue: JobQueue, source: str) -> None:
    """Note that the process which has begun the app is gone: the next one begins it anew."""
    records = queue.ledger.records
    seen = records.get(KIND, source)
    start = read(seen, _decoder)
    if seen is not None and start is not None and start.owner == queue.owner:
        body = msgspec.json.encode(_Start("", queue.ledger.now()))
        records.write([Change(kind=KIND, name=source, seen=seen.version, body=body)])


def _is_starting(start: _Start, now: datetime) -> bool:
    return now - start.at < _STARTING and _lives(start.owner)


def _lives(owner: str) -> bool:
    """Whether a process may be alive: one of another host always may; see `models.worker_id` for the form."""
    host, _, rest = owner.partition(":")
    pid = rest.partition(":")[0]
    if host != os.uname().nodename or not pid.isdecimal():
        return True
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
