"""What may be wrong with the disk that a SQLite file lies on."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from penstock.core.base import Finding

MOUNTS = Path("/proc/mounts")
_ROOM_BYTES = 64 * 1024 * 1024
_NETWORK = frozenset(
    {
        "nfs",
        "nfs4",
        "cifs",
        "smb3",
        "smbfs",
        "ncpfs",
        "9p",
        "afs",
        "ceph",
        "glusterfs",
        "lustre",
        "fuse",
        "fuseblk",
    }
)


def network_file_system(path: Path, mounts: str) -> str | None:
    """Name the network (or FUSE) file system that ``path`` lies on, going by the text of ``/proc/mounts``."""
    best, kind = -1, ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        # The kernel writes a blank in a mount point as \040.
        point = fields[1].replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")
        # Of two mounts on one point the later hides the earlier.
        if len(point) >= best and (path == Path(point) or Path(point) in path.parents):
            best, kind = len(point), fields[2]
    return kind if kind in _NETWORK or kind.startswith("fuse.") else None


def cannot_make(path: Path) -> str | None:
    """Say why a file that is not there could not be made, folders included; None: it could."""
    there = next((folder for folder in path.absolute().parents if folder.exists()), None)
    if there is None or not there.is_dir():
        return f"{there} is no folder"
    if not os.access(there, os.W_OK | os.X_OK):
        return f"{there} may not be written"
    return None


def mounts() -> str:
    """Return the text of ``/proc/mounts``; empty where there is none: not Linux."""
    try:
        return MOUNTS.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def look(path: Path) -> list[Finding]:
    """Look at where a SQLite file lies, or will."""
    folder = path if path.is_dir() else path.parent
    found: list[Finding] = []
    kind = network_file_system(path.resolve(), mounts())
    if kind is not None:
        told = f"{path} lies on a {kind} file system, where SQLite's write-ahead log can corrupt it"
        hint = "put it on a local disk; for several hosts use a server"
        found.append(Finding(name="file system", level="warning", told=told, hint=hint))
    try:
        free_bytes = shutil.disk_usage(folder).free
    except OSError:
        return found  # there is no folder yet
    if free_bytes < _ROOM_BYTES:
        told = f"{free_bytes // 1024**2} MB are left on the disk of {path}"
        found.append(Finding(name="disk", level="warning", told=told, hint="make room: a full disk takes no jobs"))
    return found
