"""What servers have in common when they are looked at: how long, which versions, how far their clock is off."""

from __future__ import annotations

import importlib.metadata
import time

from penstock.core.base import Finding
from penstock.core.durations import format_duration
from penstock.core.secrets import mask_url

PATIENCE_S = 3.0
"""How long a look waits for a server to answer."""
CLOCK_MAX_S = 2.0
"""More than this apart is told; nothing in the protocol depends on it, but logs and engines' own lists do."""


def versions(*packages: str) -> str:
    """Name these packages with their versions; one that is not installed is left out."""
    there: list[str] = []
    for package in packages:
        try:
            there.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return ", ".join(there)


def well(server: str, *packages: str) -> Finding:
    """Tell that a server answers, with its version and those of its client packages."""
    return Finding(name="server", level="ok", told=", ".join(filter(None, (server, versions(*packages)))))


def unreachable(error: Exception, hint: str) -> Finding:
    """Tell that a server does not answer."""
    told = mask_url(" ".join(str(error).split())) or type(error).__name__
    return Finding(name="server", level="error", told=told, hint=hint)


def clock(server_s: float) -> list[Finding]:
    """Compare a server's time, in seconds since 1970, with this machine's."""
    apart_s = abs(server_s - time.time())
    if apart_s <= CLOCK_MAX_S:
        return []
    told = f"this machine and the server are {format_duration(apart_s)} apart"
    return [Finding(name="clock", level="warning", told=told, hint="keep both on time: run NTP (chrony) on each")]


def full(reason: str) -> Finding:
    """Tell of a RabbitMQ that takes nothing: its memory or its disk is full."""
    hint = "make room, or raise vm_memory_high_watermark or lower disk_free_limit"
    return Finding(name="alarm", level="error", told=f"RabbitMQ takes no messages: {reason}", hint=hint)


def not_durable(queue: str) -> Finding:
    """Tell of a queue of RabbitMQ's that somebody else has made."""
    told = f"queue {queue} is not durable: a restart of RabbitMQ loses it, and its messages"
    return Finding(name=f"queue {queue}", level="error", told=told, hint="delete it: it is made anew")
