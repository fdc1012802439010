"""Relative paths in settings start at the project's folder, not where somebody happens to stand."""

from __future__ import annotations

from pathlib import Path

import msgspec

from penstock.core.config import Config


def anchored(config: Config, root: Path) -> Config:
    """Return the config with absolute paths: those of SQLite URLs, results, task files and folders, projects.

    What is absolute already stays, so doing it twice changes nothing. ``~`` is the home folder.
    """
    return msgspec.structs.replace(
        config,
        backend=anchored_url(config.backend, root),
        ledger=anchored_url(config.ledger, root),
        results=anchored_url(config.results, root) if "://" in config.results else _absolute(config.results, root),
        projects=tuple(one if "://" in one else _absolute(one, root) for one in config.projects),
        tasks=tuple(anchored_entry(one, root) for one in config.tasks),
        jobs_dir=None if config.jobs_dir is None else _absolute(config.jobs_dir, root),
    )


def anchored_url(url: str, root: Path) -> str:
    """Make the path of a ``sqlite:///x`` or ``huey+sqlite:///x`` absolute; every other URL stays as it is."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.rpartition("+")[2] != "sqlite" or not rest.startswith("/"):
        return url
    path, mark, query = rest[1:].partition("?")
    if not path or path.startswith(":"):
        return url
    return f"{scheme}:///{_absolute(path, root)}{mark}{query}"


def anchored_entry(entry: str, root: Path) -> str:
    """Make an entry of ``tasks`` absolute if it is a folder (then it ends in ``/``) or a file; modules stay."""
    if not is_path(entry, root):
        return entry
    path = _absolute(entry, root)
    return path if path.endswith(".py") and not entry.endswith("/") else path.rstrip("/") + "/"


def is_path(entry: str, root: Path) -> bool:
    """Whether an entry of ``tasks`` is a folder or a file rather than the name of a module."""
    return "/" in entry or entry.endswith(".py") or entry in (".", "~") or (root / entry).is_dir()


def _absolute(path: str, root: Path) -> str:
    return str((root / Path(path).expanduser()).absolute())
