"""Listing jobs of the Redis ledger, newest id first: the narrowest index is walked, the rows are looked at."""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from datetime import datetime
from itertools import groupby, islice
from typing import Any

import msgspec

from penstock.job.lifecycle import FINAL, State
from penstock.job.models import Job, JobQuery
from penstock.ledger import matching, redis_reads, redis_rows
from penstock.ledger.redis_server import RedisServer

_PAGE = 500
_FEW = 10_000
"""So many ids are fetched and sorted here; more are walked in their order instead, and looked at one by one."""
_FEW_NAMES = 100
_STORED: dict[str, str] = {
    "scheduled": "queued",
    "blocked": "queued",
    "retrying": "queued",
    "cancelling": "running",
    "overdue": "running",
}
"""The stored state that a shown one is derived from, where it has another name."""


def find(server: RedisServer, query: JobQuery, now: datetime) -> list[Job]:
    """See `Ledger.find`; the shown states have been checked."""
    name = None if query.name is None else matching.glob(query.name)
    ids = (job_id for job_id, _ in groupby(heapq.merge(*_sources(server, query, name, now), reverse=True)))
    found: list[Job] = []
    stored = {_STORED.get(shown, shown) for shown in query.states}
    size = max(1, min(_PAGE, query.limit))
    while len(found) < query.limit and (page := list(islice(ids, size))):
        found += [job for job in _rows(server, page, stored) if matching.fits(job, query, name, now)]
        size = _PAGE  # most do not fit: look at more at a time
    return found[: query.limit]


def _rows(server: RedisServer, ids: list[bytes], states: set[str]) -> list[Job]:
    found = server.run(redis_reads.ROWS, msgspec.msgpack.encode([i.decode() for i in ids]), *sorted(states))
    return [redis_rows.job_of(flat) for flat in found]


def _sources(
    server: RedisServer, query: JobQuery, name: re.Pattern[str] | None, now: datetime
) -> list[Iterator[bytes]]:
    """Return walks, each newest first, that together come by every job that may fit."""

    def walks(*keys: str) -> list[Iterator[bytes]]:
        return [_walk(server, server.prefix + key, query) for key in keys]

    if query.ids is not None:
        return [_fitting({job_id.encode() for job_id in query.ids}, query)]
    if query.key is not None:
        return walks(f"key:{query.key}")
    if query.parent_id is not None:
        return walks(f"parent:{query.parent_id}")
    if query.since is not None:
        since = query.since.timestamp()
        return [_by_time(server, [("created", since, "+inf")], query)]
    if query.name is not None and name is not None:
        if not set("*?") & set(query.name):
            return walks(f"name:{query.name}")
        names = [known for known in _members(server, "names") if name.fullmatch(known)]
        if len(names) <= _FEW_NAMES:
            return walks(*(f"name:{known}" for known in names))
    return _of_states(server, query, now)


def _of_states(server: RedisServer, query: JobQuery, now: datetime) -> list[Iterator[bytes]]:
    if not query.states:
        return [_walk(server, f"{server.prefix}state:{state}", query) for state in State]
    sources: list[Iterator[bytes]] = []
    stored = set[str]()
    seconds = repr(now.timestamp())
    until_now, from_now_on, always = ("-inf", seconds), (f"({seconds}", "+inf"), ("-inf", "+inf")
    by_time = {
        "scheduled": (("wait", from_now_on),),
        "queued": (("wait", until_now), ("retry", until_now)),
        "retrying": (("retry", from_now_on),),
        "blocked": (("blocked", always), ("held", always)),
    }
    queues = _members(server, "queues")
    for shown in dict.fromkeys(query.states):
        if shown in FINAL:
            stored.add(shown)
        elif shown not in by_time:
            stored.add("running")  # few: as many as there are hands
        else:
            ranges = [(f"queue:{queue}:{kind}", *span) for queue in queues for kind, span in by_time[shown]]
            if _count(server, ranges) > _FEW:
                stored.add("queued")
            else:
                sources.append(_by_time(server, ranges, query))
    return sources + [_walk(server, f"{server.prefix}state:{state}", query) for state in stored]


def _walk(server: RedisServer, key: str, query: JobQuery) -> Iterator[bytes]:
    """Walk a set of ids from the last to the first, page by page; what comes and goes meanwhile may be missed."""
    first = "-" if query.id_prefix is None else f"[{query.id_prefix}"
    last = "+" if query.id_prefix is None else f"[{query.id_prefix}\x7f"  # ids are ASCII
    if query.before is not None and (query.id_prefix is None or query.before <= f"{query.id_prefix}\x7f"):
        last = f"({query.before}"
    while True:
        page: list[bytes] = server.call(
            lambda client, _again, last=last: client.zrevrangebylex(key, last, first, start=0, num=_PAGE)
        )
        yield from page
        if len(page) < _PAGE:
            return
        last = b"(" + page[-1]


_Ranges = list[tuple[str, Any, Any]]


def _count(server: RedisServer, ranges: _Ranges) -> int:
    def work(client: Any, _again: bool) -> list[int]:
        with client.pipeline(transaction=False) as pipe:
            for key, low, high in ranges:
                pipe.zcount(server.prefix + key, low, high)
            return pipe.execute()

    return sum(server.call(work))


def _by_time(server: RedisServer, ranges: _Ranges, query: JobQuery) -> Iterator[bytes]:
    """Fetch the ids in ranges of time, and sort them: the last id first."""

    def work(client: Any, _again: bool) -> list[list[bytes]]:
        with client.pipeline(transaction=False) as pipe:
            for key, low, high in ranges:
                pipe.zrangebyscore(server.prefix + key, low, high)
            return pipe.execute()

    return _fitting({job_id for page in server.call(work) for job_id in page}, query)


def _fitting(ids: set[bytes], query: JobQuery) -> Iterator[bytes]:
    prefix = (query.id_prefix or "").encode()
    before = None if query.before is None else query.before.encode()
    fitting = (i for i in ids if i.startswith(prefix) and (before is None or i < before))
    return iter(sorted(fitting, reverse=True))


def _members(server: RedisServer, key: str) -> list[str]:
    found = server.call(lambda client, _again: client.smembers(server.prefix + key))
    return [member.decode() for member in found]
