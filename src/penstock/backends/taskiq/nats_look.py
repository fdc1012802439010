"""What may be wrong with a NATS server that carries messages."""

# nats-py's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import asyncio
from typing import Any

import nats
from nats.errors import Error as NatsError
from nats.js.api import StorageType
from nats.js.errors import NotFoundError, ServiceUnavailableError

from penstock.core.base import Finding
from penstock.servers.findings import PATIENCE_S, unreachable, well


def token(name: str) -> str:
    """Write a name as one token of a subject, which a dot would end."""
    return name.replace("%", "%25").replace(".", "%2E")


async def connect(url: str, *, timeout_s: float, silent_s: float = 20.0) -> Any:
    """Connect once: an outage is ours to wait out, and what goes wrong is raised by the verb that is under way.

    A connection over which nothing has come for ``silent_s`` is closed; nats-py's own figure is six minutes.
    """
    return await nats.connect(
        url, allow_reconnect=False, connect_timeout=max(1, int(timeout_s)), error_cb=_quiet,
        ping_interval=silent_s / 3, max_outstanding_pings=2,  # type: ignore[arg-type]  # it is slept for
        max_reconnect_attempts=1, reconnect_time_wait=0,  # of the first connection; the default is 60 in two minutes
    )  # fmt: skip


async def look(url: str, stream: str) -> list[Finding]:
    """Look at the server over a connection of its own, and at the stream. Raises nothing."""
    client: Any = None
    try:
        async with asyncio.timeout(2 * PATIENCE_S):
            client = await connect(url, timeout_s=PATIENCE_S)
            found = [well(f"NATS {client.connected_server_version}", "taskiq", "nats-py")]
            return found + await _stream(client.jetstream(timeout=PATIENCE_S), stream)
    except (NatsError, TimeoutError, OSError, ValueError) as error:
        told = error if str(error) else Exception(f"no answer within {PATIENCE_S:g} s")
        return [unreachable(told, "is NATS up and reachable, and is the URL right?")]
    finally:
        if client is not None:
            await client.close()


async def _stream(jetstream: Any, name: str) -> list[Finding]:
    try:
        await jetstream.account_info()
        info = await jetstream.stream_info(name)
    except NotFoundError:
        return []  # made by whoever comes first
    except (ServiceUnavailableError, NatsError) as error:
        told = f"JetStream is not to be had ({error or type(error).__name__}): nothing carries messages"
        return [Finding(name="jetstream", level="error", told=told, hint="start the server with: nats-server -js")]
    if info.config.storage == StorageType.MEMORY:
        told = f"stream {name} lies in memory: a restart of NATS loses what waits, until the sweep publishes it again"
        hint = "delete the stream: it is made anew, in files"
        return [Finding(name="stream", level="warning", told=told, hint=hint)]
    return []


async def _quiet(_error: Exception) -> None:
    """Without it nats-py would log."""
