"""Follows what files of tasks import from beside them, relatively: it is loaded by nobody else, and may change too."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import msgspec

from penstock.sources import loading
from penstock.sources.loading import LoadError, Source

_IMPORTED: dict[str, bytes] = {}
"""Modules below a folder that the files in it have imported, by name, with the digest of their files."""


def note(loaded: Mapping[str, Source]) -> None:
    """Remember what files of tasks have imported from beside them: it is no such file, and may change all the same."""
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if name.startswith(loading.PRIVATE) and isinstance(file, str) and file not in loaded:
            _IMPORTED.setdefault(name, _digest(Path(file)))


def forget_changed(loaded: dict[str, Source], broken: dict[str, tuple[bytes, LoadError]]) -> None:
    """Let changed ones be imported anew, by all files of their folder: which of them import it, nobody knows."""
    changed = {
        name
        for name, digest in _IMPORTED.items()
        if name in sys.modules and _digest(Path(str(sys.modules[name].__file__))) != digest
    }
    for name in changed:
        del _IMPORTED[name]
        del sys.modules[name]
        parent, _, leaf = name.rpartition(".")
        vars(sys.modules.get(parent, sys)).pop(leaf, None)
    folders = tuple(f"{name.partition('.')[0]}." for name in changed)
    for key, source in list(loaded.items()):
        if folders and source.module.startswith(folders):
            loaded[key] = msgspec.structs.replace(source, digest=b"", seen=None)
            broken.pop(key, None)


def _digest(file: Path) -> bytes:
    try:
        return loading.digest_of(file.read_bytes())
    except OSError:
        return b""
