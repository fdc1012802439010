"""What may be wrong with a Redis that holds rows of a ledger or messages of an engine."""

# redis-py's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
from typing import Any, Literal

import redis
import redis.exceptions

from penstock.core.base import Finding
from penstock.servers import redis_client
from penstock.servers.findings import PATIENCE_S, clock, unreachable, well

_NEARLY_FULL = 0.9

Held = Literal["rows", "messages"]
"""A lost message is published again later; a lost row is a lost job."""


def look(url: str, *packages: str, holds: Held, namespace: str = "") -> list[Finding]:
    """Look at the server (of a cluster: the one node that holds the namespace) over a connection of its own.

    Answers within some seconds and raises nothing.
    """
    try:
        pool = redis_client.pool(url, namespace=namespace, connect_timeout_s=PATIENCE_S, socket_timeout=PATIENCE_S)
        with redis.Redis.from_pool(pool) as client:
            asked: Any = client
            return _told(asked, holds, packages)
    except (redis.RedisError, OSError, ValueError) as error:
        return [unreachable(error, "is Redis up and reachable, and is the URL right?")]


def _told(client: Any, holds: Held, packages: tuple[str, ...]) -> list[Finding]:
    found: list[Finding] = []
    try:
        info: dict[str, Any] = client.info()
        seconds, micros = client.time()
    except redis.exceptions.NoPermissionError:
        client.ping()
        told = "answers, but this user may not look at its settings"
        return [well("Redis", *packages), Finding(name="settings", level="ok", told=told)]
    found.append(well(f"Redis {info.get('redis_version', '')}", *packages))
    found += _memory(info, holds)
    found += _disk(client, info, holds)
    if info.get("role") == "slave":
        told = "this server is a replica, which takes no writes"
        found.append(Finding(name="role", level="error", told=told, hint="name the master, or use redis+sentinel://"))
    if holds == "messages":  # the ledger's own time is looked at for every ledger
        found += clock(seconds + micros / 1e6)
    return found


def _memory(info: dict[str, Any], holds: Held) -> list[Finding]:
    policy = str(info.get("maxmemory_policy", ""))
    evicts = policy.startswith("allkeys-") or (holds == "messages" and policy.startswith("volatile-"))
    if evicts:
        lost = "messages wait for the sweep that publishes them again" if holds == "messages" else "jobs are lost"
        told = f"keys are evicted when memory is full (maxmemory-policy {policy}): {lost}"
        level = "warning" if holds == "messages" else "error"
        return [Finding(name="memory", level=level, told=told, hint="CONFIG SET maxmemory-policy noeviction")]
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if limit and used > _NEARLY_FULL * limit:
        told = f"{used / limit:.0%} of maxmemory is used; when it is full, nothing more is taken"
        return [Finding(name="memory", level="warning", told=told, hint="raise maxmemory, or keep less history")]
    return []


def _disk(client: Any, info: dict[str, Any], holds: Held) -> list[Finding]:
    broken = [name for name in ("aof_last_write_status", "rdb_last_bgsave_status") if info.get(name, "ok") != "ok"]
    if broken:
        told = f"Redis could not write to its disk ({', '.join(broken)}); it may take nothing more"
        return [Finding(name="disk", level="error", told=told, hint="look at its log, and at the room on its disk")]
    if info.get("aof_enabled", 1):
        return []
    saves = True
    with contextlib.suppress(redis.ResponseError):  # this user may not ask, or the provider forbids it
        saves = bool(client.config_get("save").get("save"))
    hint = "CONFIG SET appendonly yes, and in its configuration file"
    if not saves:
        lost = "what waits is then published again by the sweep" if holds == "messages" else "every job is lost"
        return [Finding(name="disk", level="warning", told=f"nothing is kept on disk: at a restart {lost}", hint=hint)]
    if holds == "rows":
        told = "only snapshots are kept on disk: a restart loses the newest jobs"
        return [Finding(name="disk", level="warning", told=told, hint=hint)]
    return []
