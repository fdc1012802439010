"""The judge of what ran: a file that bodies append to, never the ledger."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import msgspec

from penstock.testing.harness import wait_until


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One line: a body started, ended, or noted something else. ``at_s`` is the machine's monotonic clock."""

    event: str
    label: str
    job_id: str
    attempt: int
    pid: int
    thread: int
    at_s: float


def write(file: str, event: str, label: str, job_id: str, attempt: int) -> None:
    """Append one line; O_APPEND makes lines of several processes whole."""
    entry = Entry(
        event=event, label=label, job_id=job_id, attempt=attempt,
        pid=os.getpid(), thread=threading.get_ident(), at_s=time.monotonic(),
    )  # fmt: skip
    line = msgspec.json.encode(entry) + b"\n"
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)


class Record:
    """Reads what bodies wrote."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = str(folder / "record.jsonl")

    def entries(self, event: str | None = None, label: str | None = None) -> list[Entry]:
        """Return the lines so far, oldest first."""
        try:
            lines = Path(self.file).read_bytes().splitlines()
        except FileNotFoundError:
            return []
        entries = [msgspec.json.decode(line, type=Entry) for line in lines]
        return [e for e in entries if event in (None, e.event) and label in (None, e.label)]

    def starts(self, label: str | None = None) -> list[Entry]:
        """Return the starts of bodies."""
        return self.entries("start", label)

    def ends(self, label: str | None = None) -> list[Entry]:
        """Return the ends of bodies."""
        return self.entries("end", label)

    def wait_started(self, label: str | None = None, count: int = 1, timeout_s: float = 20.0) -> list[Entry]:
        """Wait until that many bodies have started."""
        what = f"{count} bodies have started{f' with label {label}' if label else ''}"
        wait_until(lambda: len(self.starts(label)) >= count, timeout_s, what)
        return self.starts(label)

    def gate(self, name: str = "gate") -> Path:
        """Name a file that held bodies wait for; ``open_gate`` makes it."""
        return self.folder / f"{name}.open"

    def open_gate(self, name: str = "gate") -> None:
        """Let the bodies go on that wait at this gate."""
        self.gate(name).touch()
