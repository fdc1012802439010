"""What a look over the folders of tasks finds: scheduled functions, and files that cannot be loaded."""

from __future__ import annotations

import msgspec

from penstock.job.models import Instant

SCAN_ERROR = "scan_error"
"""What kind of record a file is in the ledger that could not be loaded; its name is the file's path."""
SCAN = "scan"
"""What kind of record the newest scan of a project is; its name is the project's folder."""


class ScanError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A file that could not be loaded, since when, and why."""

    file: str
    """Relative to the project's folder where it lies in it; the name of a module."""
    type: str
    message: str
    traceback: str = ""
    line: int | None = None
    at: Instant
    """When it was first found so."""
    entry: str = ""
    """What of ``tasks`` it belongs to."""
    root: str = ""
    active: bool = False
    """Its last good version goes on."""
    waits: bool = False
    """Its schedules go on, but nobody who told this has a version of it that can run: jobs wait until it is well."""

    @property
    def told(self) -> str:
        """It in one line."""
        line = f" line {self.line}" if self.line is not None else ""
        first = (self.message.strip().splitlines() or [""])[0]
        note = " (old version active)" if self.active else " (its jobs wait)" if self.waits else ""
        return f"{self.file}: {self.type}{line}: {first}{note}"


class Found(msgspec.Struct, frozen=True, kw_only=True):
    """A schedule that a function asks for. ``did``: created, changed, kept; or why it is not made."""

    name: str
    task: str
    where: str
    rule: str = ""
    did: str = ""


class Scan(msgspec.Struct, frozen=True, kw_only=True):
    """What one look over the folders found."""

    at: Instant
    root: str
    files: int = 0
    functions: int = 0
    """How many functions are scheduled."""
    schedules: tuple[Found, ...] = ()
    removed: tuple[str, ...] = ()
    """Schedules whose functions are gone."""
    changed: tuple[str, ...] = ()
    """Files that ran: new ones and changed ones."""
    errors: tuple[ScanError, ...] = ()
    took_s: float = 0.0


class LastScan(msgspec.Struct, frozen=True, kw_only=True):
    """What the ledger knows of the newest scan of a project, by whichever process."""

    at: Instant
    root: str
    files: int
    functions: int
    errors: int
    took_s: float
    by: str
