"""Job files: what a folder of ``*.json`` and ``*.toml`` says, each file one job with its schedule.

A file is read and checked here; whether its task exists is asked by who has the queue.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from penstock.sources.loading import LoadError

LARGEST_BYTES = 1024 * 1024
SUFFIXES = (".json", ".toml")
_TOML_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_YOUNG_NS = 3_000_000_000
"""A file that was changed so shortly before it was read may change again and keep its time: clocks of disks lag."""


class JobFile(msgspec.Struct, frozen=True):
    """A job file that can be read: who it is, when it runs, what it runs, and everything else that it says."""

    path: Path
    text: str
    job_id: str
    schedule: str
    task: dict[str, Any]
    description: str = ""
    options: dict[str, Any] = {}

    def error(self, kind: str, told: str, *keys: str) -> LoadError:
        """Tell what is wrong with it, with the line of the innermost of these nested keys."""
        return LoadError(str(self.path), kind, f"line {line_of(self.text, keys)}: {told}")


class Look(msgspec.Struct, frozen=True):
    """What a folder held at one moment, by path."""

    files: dict[str, JobFile]
    errors: dict[str, LoadError]
    """Of files that cannot be read, and of the folder itself."""
    complete: bool = True
    """False: the folder could not be looked at, so a file that is not here may still be there."""


class Wrong(Exception):  # noqa: N818 - says what it is about
    """Something in a file is not as it must be; ``keys`` say where."""

    def __init__(self, told: str, *keys: str, line: int | None = None, kind: str = "InvalidJobFile") -> None:
        super().__init__(told)
        self.keys = keys
        self.line = line
        self.kind = kind


class JobsFolder:
    """Reads one folder again and again; a file that has not changed is not read twice."""

    def __init__(self, folder: Path, *, trust_world_writable: bool = False) -> None:
        self.folder = folder
        self._trusting = trust_world_writable
        self._known: dict[str, tuple[tuple[int, ...], JobFile | LoadError]] = {}

    def look(self) -> Look:
        """Read what is new or changed. Raises nothing: what is wrong is in the answer."""
        try:
            self._refuse_open(self.folder, self.folder.stat())
            names = sorted(entry.name for entry in os.scandir(self.folder))
        except Wrong as wrong:
            return Look({}, {str(self.folder): LoadError(str(self.folder), wrong.kind, str(wrong))}, complete=False)
        except OSError as error:
            told = f"the folder of job files cannot be read: {error.strerror}; its jobs stay as they are"
            return Look({}, {str(self.folder): LoadError(str(self.folder), type(error).__name__, told)}, complete=False)
        seen: dict[str, JobFile | LoadError] = {}
        real_folder = self.folder.resolve()
        for name in names:
            if name.startswith(".") or not name.endswith(SUFFIXES):
                continue
            path = self.folder / name
            found = self._file(path, real_folder)
            if found is not None:
                seen[str(path)] = found
        self._known = {path: known for path, known in self._known.items() if path in seen}
        return Look(
            {path: found for path, found in seen.items() if isinstance(found, JobFile)},
            {path: found for path, found in seen.items() if isinstance(found, LoadError)},
        )

    def _file(self, path: Path, real_folder: Path) -> JobFile | LoadError | None:
        """Return what a file says; None: it is gone by now."""
        try:
            status = path.stat()
            mark = (
                status.st_mtime_ns,
                status.st_ctime_ns,
                status.st_size,
                status.st_ino,
                status.st_dev,
                status.st_mode,
            )
            known = self._known.get(str(path))
            if known is not None and known[0] == mark:
                return known[1]
            if not path.resolve().is_relative_to(real_folder):
                told = f"it is a link to {path.resolve()}, out of {self.folder}; copy the file into the folder"
                raise Wrong(told, kind="OutsideRoot")
            self._refuse_open(path, status)
            raw, mark, read_ns = self._bytes(path)
        except FileNotFoundError:
            return LoadError(str(path), "NotFound", "it is a link that leads nowhere") if path.is_symlink() else None
        except Wrong as wrong:
            return LoadError(str(path), wrong.kind, str(wrong))
        except OSError as error:
            return LoadError(str(path), type(error).__name__, f"it cannot be read: {error.strerror}")
        found = read(path, raw)
        if read_ns - mark[0] > _YOUNG_NS:
            self._known[str(path)] = (mark, found)
        elif known is not None and known[1] == found:
            return known[1]
        return found

    @staticmethod
    def _bytes(path: Path) -> tuple[bytes, tuple[int, ...], int]:
        # Without O_NONBLOCK the opening of a named pipe waits for a writer for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as opened:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise Wrong("it is no regular file", kind="NotAFile")
            if status.st_size > LARGEST_BYTES:
                raise Wrong(f"larger than {LARGEST_BYTES:,} bytes: that is no job file", kind="TooLarge")
            raw = opened.read(LARGEST_BYTES + 1)
        mark = (status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev, status.st_mode)
        return raw, mark, _now_ns()

    def _refuse_open(self, path: Path, status: os.stat_result) -> None:
        if status.st_mode & stat.S_IWOTH and not self._trusting:
            raise Wrong(
                f"any user of this machine may change {path}, so nothing in it is run; chmod o-w {path}, or set "
                "security.trust_world_writable = true",
                kind="WorldWritable",
            )


def _now_ns() -> int:
    import time

    return time.time_ns()


# -- one file ---------------------------------------------------------------------------------------------------------


def read(path: Path, raw: bytes) -> JobFile | LoadError:
    """Read the content of one file."""
    text = ""
    try:
        text = _text(raw)
        data = _json(text) if path.suffix == ".json" else _toml(text)
        return _job_file(path, text, data)
    except Wrong as wrong:
        line = wrong.line or line_of(text, wrong.keys)
        return LoadError(str(path), wrong.kind, f"line {line}: {wrong}")
    except RecursionError:
        return LoadError(str(path), "InvalidJobFile", "line 1: nested too deep")


def _text(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise Wrong(f"not UTF-8 at byte {error.start}", line=line, kind="UnicodeDecodeError") from None


def _json(text: str) -> Any:
    def pairs(found: list[tuple[str, Any]]) -> dict[str, Any]:
        table = dict(found)
        if len(table) != len(found):
            names = [name for name, _ in found]
            twice = next(name for name in names if names.count(name) > 1)
            raise Wrong(f"{twice!r} is there twice", twice)
        return table

    def constant(word: str) -> Any:
        raise Wrong(f"{word} is no JSON")

    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        end = len(text.rstrip())
        told = f"not JSON: {error.msg} (column {error.colno})" if error.pos < end else "not JSON: it ends too early"
        line = text.count("\n", 0, min(error.pos, end)) + 1
        raise Wrong(told if end else "the file is empty", line=line, kind="JSONDecodeError") from None
    except ValueError as error:  # an integer of more digits than Python reads
        raise Wrong(f"not JSON: {error}", kind="JSONDecodeError") from None


def _toml(text: str) -> Any:
    if not text.strip():
        raise Wrong("the file is empty", line=1, kind="TOMLDecodeError")
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        told = str(error)
        at = _TOML_AT.search(told)
        line = int(at[1]) if at and at[1] else text.rstrip().count("\n") + 1
        column = f" (column {at[2]})" if at and at[2] else ""
        told = told[: at.start()] if at else told
        raise Wrong(f"not TOML: {told}{column}", line=line, kind="TOMLDecodeError") from None


def _job_file(path: Path, text: str, data: Any) -> JobFile:
    if not isinstance(data, Mapping):
        raise Wrong("a job file holds one table: job_id, schedule, task ...", line=1)
    table = cast("Mapping[str, Any]", data)
    for key in ("job_id", "schedule", "task"):
        if key not in table:
            raise Wrong(f"{key} is missing", line=1)
    job_id, schedule, task = table["job_id"], table["schedule"], table["task"]
    description = table.get("description") or ""
    if not isinstance(job_id, str):
        raise Wrong(f"job_id is {job_id!r:.100}; write a text", "job_id")
    if hasattr(schedule, "isoformat") and not hasattr(schedule, "tzinfo"):
        schedule = f"{schedule.isoformat()}T00:00"  # TOML's own kind of day
    elif hasattr(schedule, "isoformat"):
        schedule = schedule.isoformat()
    if not isinstance(schedule, str) or not schedule.strip():
        raise Wrong(f"schedule is {schedule!r:.100}; write a text such as '*/5 * * * *'", "schedule")
    if not isinstance(description, str):
        raise Wrong(f"description is {description!r:.100}; write a text", "description")
    if not isinstance(task, Mapping):
        raise Wrong('task is no table; write "task": {"type": "execute_command", "command": "echo hi"}', "task")
    known = ("job_id", "schedule", "task", "description")
    options = {name: value for name, value in table.items() if name not in known}
    return JobFile(path, text, job_id, schedule, dict(cast("Mapping[str, Any]", task)), description, options)


def line_of(text: str, keys: tuple[str, ...]) -> int:
    """Return the line of nested keys in JSON or TOML, as far as they are found, each behind the one before."""
    at = 0
    for key in keys:
        word = re.escape(key)
        found = re.compile(
            rf"""(["']){word}\1\s*[:=]|^\s*{word}\s*[=.]|^\s*\[\s*{word}\s*[\].]""", re.MULTILINE
        ).search(text, at)
        if found is None:
            continue
        at = found.start() + len(found[0]) - len(found[0].lstrip())
    return text.count("\n", 0, at) + 1
