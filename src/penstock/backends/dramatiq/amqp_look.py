"""What may be wrong with a RabbitMQ that carries messages, as far as a client sees it."""

# pika's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import contextlib
import copy
import time
import uuid
from collections.abc import Sequence
from typing import Any

import pika
from pika.exceptions import AMQPError, ChannelClosedByBroker

from penstock.core.base import Finding
from penstock.servers.findings import PATIENCE_S, full, not_durable, unreachable, well

_ALARM_S = 0.5
_NO_QUEUE, _OTHER_SETTINGS = 404, 406


def look(broker: Any, queues: Sequence[str]) -> list[Finding]:
    """Look at the server of our broker over a connection of its own, and at these queues. Raises nothing."""
    given = broker.parameters
    try:
        connection: Any = pika.BlockingConnection(
            [_patient(one) for one in (given if isinstance(given, list) else [given])]
        )
        try:
            properties = connection._impl.server_properties or {}  # noqa: SLF001 - the only place where pika keeps them
            found = [well(f"{_text(properties, 'product')} {_text(properties, 'version')}", "dramatiq", "pika")]
            if alarm := _alarm(connection):
                return found + alarm  # nothing more is read from this connection
            return found + [finding for queue in queues for finding in _queue(connection, broker.native(queue))]
        finally:
            with contextlib.suppress(AMQPError, OSError):
                connection.close()
    except (AMQPError, OSError) as error:
        return [unreachable(error if str(error) else Exception(repr(error)), "is RabbitMQ up, and is the URL right?")]


def _patient(given: Any) -> Any:
    """Shorten the waits of pika's connection parameters to those of a look."""
    parameters = copy.copy(given)
    parameters.socket_timeout = parameters.stack_timeout = parameters.blocked_connection_timeout = PATIENCE_S
    parameters.connection_attempts = 1
    return parameters


def _text(properties: dict[str, Any], name: str) -> str:
    value = properties.get(name, "")
    return value.decode() if isinstance(value, bytes) else str(value)


def _alarm(connection: Any) -> list[Finding]:
    """Publish to nobody: a server whose memory or disk is full tells that to those who publish."""
    told: list[str] = []

    def blocked(_connection: Any, frame: Any) -> None:
        told.append(str(frame.method.reason))

    connection.add_on_connection_blocked_callback(blocked)
    connection.channel().basic_publish("", f"penstock.doctor.{uuid.uuid4().hex}", b"")
    until = time.monotonic() + _ALARM_S
    while not told and time.monotonic() < until:
        connection.process_data_events(until - time.monotonic())  # returns at whatever comes first
    return [full(told[0])] if told else []


def _queue(connection: Any, queue: str) -> list[Finding]:
    try:
        connection.channel().queue_declare(queue, passive=True)
        connection.channel().queue_declare(queue, durable=True)  # of all that differs, durability is told first
    except ChannelClosedByBroker as error:
        if error.reply_code == _OTHER_SETTINGS and "'durable'" in str(error.reply_text):
            return [not_durable(queue)]
        if error.reply_code not in (_NO_QUEUE, _OTHER_SETTINGS):
            raise
    return []
