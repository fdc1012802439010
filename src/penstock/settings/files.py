"""Find the project's file by walking up, and read TOML with the line of each key."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

import msgspec

from penstock.core.exceptions import ConfigError
from penstock.settings.layers import Layer, flatten

LARGEST_BYTES = 1024 * 1024
"""Of a file of settings: a larger one is something else."""
_AT_LINE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")
_HEADER = re.compile(r"\s*\[{1,2}\s*(?P<path>[^\[\]]+?)\s*\]{1,2}\s*(?:#.*)?$")
_KEY = re.compile(
    r"""\s*(?P<path>(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*="""
)
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")


class Found(msgspec.Struct, frozen=True):
    """What walking up came upon. ``file`` None with a ``folder``: a FlowerPower project without settings of ours."""

    folder: Path
    file: Path | None
    flowerpower: bool = False


def find(start: Path, conf: str = "conf") -> Found | None:
    """Return the nearest project at or above ``start``: per folder penstock.toml, pyproject.toml, then FlowerPower.

    A pyproject.toml counts only with a ``[tool.penstock]``; a folder with conf/project.yml always.
    """
    for folder in (start, *start.parents):
        flowerpower = is_flowerpower(folder, conf)
        if (file := folder / "penstock.toml").is_file():
            return Found(folder, file, flowerpower)
        if (file := folder / "pyproject.toml").is_file() and _speaks_of_penstock(file):
            return Found(folder, file, flowerpower)
        if flowerpower:
            return Found(folder, None, flowerpower)
    return None


def is_flowerpower(folder: Path, conf: str = "conf") -> bool:
    """Whether a folder is a FlowerPower project: it has a conf/project.yml (``FP_CONFIG_DIR`` renames conf)."""
    return any((folder / conf / f"project{suffix}").is_file() for suffix in (".yml", ".yaml"))


def read_toml(file: Path, label: str) -> Layer:
    """Read a file of settings; of a pyproject.toml its ``[tool.penstock]``.

    Raises:
        ConfigError: unreadable, not TOML (with line and column), or an unknown key (with its line).
    """
    text = _text(file, label)
    whole = _parsed(text, label)
    lines = dict(_key_lines(text))
    tool = ("tool", "penstock") if file.name == "pyproject.toml" else ()
    values: Any = whole
    for name in tool:
        values = cast("Mapping[str, Any]", values).get(name) if isinstance(values, Mapping) else None
    if not isinstance(values, Mapping):
        raise ConfigError(f"{label}: there is no table [tool.penstock]")

    def place(path: tuple[str, ...]) -> str:
        full = (*tool, *path)
        line = next((lines[full[:n]] for n in range(len(full), len(tool), -1) if full[:n] in lines), None)
        return f"{label}:{line}" if line else label

    return flatten(cast("Mapping[str, Any]", values), place, prefix="tool.penstock." if tool else "")


def _text(file: Path, label: str) -> str:
    try:
        with file.open("rb") as opened:
            raw = opened.read(LARGEST_BYTES + 1)
        if len(raw) > LARGEST_BYTES:
            raise ConfigError(f"{label}: larger than {LARGEST_BYTES:,} bytes: that is no file of settings")
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{label}: not UTF-8 at byte {error.start}") from None
    except OSError as error:
        raise ConfigError(f"{label}: cannot be read: {error.strerror}") from error


def _parsed(text: str, label: str) -> dict[str, Any]:
    import tomllib

    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{label}: not TOML: nested too deep") from None
    except tomllib.TOMLDecodeError as error:
        told = str(error)
        at = _AT_LINE.search(told)
        if at is None:
            raise ConfigError(f"{label}: not TOML: {told}") from None
        line = at[1] or str(text.count("\n") + 1)
        column = f":{at[2]}" if at[2] else ""
        raise ConfigError(f"{label}:{line}{column}: not TOML: {told[: at.start()]}") from None


def _speaks_of_penstock(pyproject: Path) -> bool:
    """Whether the file has a ``[tool.penstock]``; a broken one counts only if it seems to."""
    import tomllib

    try:
        if pyproject.stat().st_size > LARGEST_BYTES:
            return False
        text = pyproject.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return False
    if "penstock" not in text:
        return False
    try:
        tool = tomllib.loads(text).get("tool")
    except (tomllib.TOMLDecodeError, RecursionError):
        return re.search(r"^\s*\[\s*tool\s*\.\s*penstock\b", text, re.MULTILINE) is not None
    return isinstance(tool, dict) and "penstock" in tool


def _key_lines(text: str) -> Iterator[tuple[tuple[str, ...], int]]:
    """Yield where each table and key of a valid TOML text begins; keys of inline tables count as their table's."""
    table: tuple[str, ...] = ()
    closing: str | None = None  # inside a text of several lines: the quotes that end it
    for number, line in enumerate(text.splitlines(), 1):
        if closing is not None:
            if line.count(closing) % 2:
                closing = None
            continue
        if header := _HEADER.match(line):
            table = _path(header["path"])
            yield table, number
        elif key := _KEY.match(line):
            yield (*table, *_path(key["path"])), number
        closing = next((quotes for quotes in ('"""', "'''") if line.count(quotes) % 2), None)


def _path(text: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in _PART.findall(text))
