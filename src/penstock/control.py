"""What people decide while jobs run, and what they ask: each verb is a line, the work is done in the room it names."""

from __future__ import annotations

from penstock.rooms import Rooms


class Controls(Rooms):
    """The part of `JobQueue` that steers what is there already. Every blocking verb has an a-twin."""
