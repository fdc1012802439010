"""What a backend can do, by transport. Each flag is read in ``gateway.py`` and has a conformance test."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Support(StrEnum):
    """How a capability is had."""

    NATIVE = "native"
    """The engine does it."""
    EMULATED = "emulated"
    """We do it above the engine."""
    ABSENT = "absent"
    """Asking for it raises `UnsupportedError` before anything is written."""


class Capabilities(msgspec.Struct, frozen=True, kw_only=True):
    """One value per flag; the field docstrings are the text of the generated tables."""

    priority: Support
    """0 to 9, higher first, among the messages that wait in one queue."""
    withdraw: Support
    """A message can be taken back from the engine before a worker has it."""
    depth: Support
    """The engine can say how many messages wait in a queue."""
    bulk: Support
    """Many messages are handed over in one trip, all or none."""
    workers: Support
    """Other processes can take the messages. Absent: they run in the process that publishes them."""
    persistent: Support
    """Waiting messages survive the end of every process of ours."""


FLAGS: tuple[str, ...] = Capabilities.__struct_fields__
