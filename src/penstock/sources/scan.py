"""Load the tasks that the configuration names: folders of files, single files, modules.

Only what is named there is ever run; nothing is loaded because a message or a row speaks of it.
"""

from __future__ import annotations

import errno
import os
import stat
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from penstock.sources import imports, loading
from penstock.sources.decorators import TASKS
from penstock.sources.loading import LoadError, Source

__all__ = ["LoadError", "Loaded", "load_tasks"]

LARGEST_BYTES = 1024 * 1024
_LOADED: dict[str, Source] = {}
"""What has run in this process, by absolute path or by module name."""
_BROKEN: dict[str, tuple[bytes, LoadError]] = {}
"""Files that failed when they ran last: the digest of what they held, and the error."""
_LOCK = threading.RLock()


class Loaded(msgspec.Struct, frozen=True):
    """What `load_tasks` found."""

    tasks: dict[str, tuple[str, ...]]
    """The names of the tasks by file (relative to the root where it lies in it) or module."""
    errors: tuple[LoadError, ...]
    changed: tuple[str, ...]
    """The files and modules that ran in this call: new ones and changed ones."""


def load_tasks(
    entries: Sequence[str],
    *,
    root: Path,
    timeout_s: float = 60.0,
    trust_world_writable: bool = False,
    again: bool = True,
    kept: Mapping[str, str] | None = None,
) -> Loaded:
    """Load folders (``jobs/``), files (``jobs/etl.py``) and modules (``shop.tasks``); their tasks register.

    Of a folder every ``*.py`` below it is run, except hidden files and folders, names that begin with ``_``,
    virtual environments, and links that lead out of the project. A file that fails, exits or takes longer
    than ``timeout_s`` (watched in the main thread only) is an error in the answer and stops no other file; so is one
    of more than `LARGEST_BYTES`, and one that any user of this machine may change, unless ``trust_world_writable``.
    What ran before and is unchanged does not run again. A changed file replaces its tasks; if it fails, its
    earlier tasks stay. Tasks of files that have vanished from a folder are forgotten.

    A file that failed and is unchanged runs ``again`` unless that is said to be of no use, and never if it took too
    long. ``kept`` are the last good versions that another process has of files: each runs where its file fails.

    The root is put at the front of ``sys.path``, as ``python -m`` does with the current folder.
    """
    with _LOCK:
        return _Scan(root.resolve(), timeout_s, trust_world_writable, again, kept or {}).run(entries)


def kept_text(file: str) -> str | None:
    """Return the content of a file as it ran last, if the file has changed since; None: it has not, or never ran."""
    known = _LOADED.get(file)
    if known is None or known.seen is None or known.seen == _seen(Path(file)):
        return None
    return known.text.decode(errors="surrogateescape")


class _Scan:
    """One call of `load_tasks`."""

    def __init__(self, root: Path, timeout_s: float, trusting: bool, again: bool, kept: Mapping[str, str]) -> None:
        self._trusting = trusting
        self._again = again
        self._kept = kept
        self._root = root
        self._timeout_s = timeout_s
        self._tasks: dict[str, tuple[str, ...]] = {}
        self._errors: list[LoadError] = []
        self._changed: list[str] = []
        self._modules: dict[str, str] = {}
        self._failed: set[Path] = set()
        self._running = {
            file: name
            for name, module in list(sys.modules.items())
            if isinstance(file := getattr(module, "__file__", None), str) and not name.startswith("__mp")
        }

    def run(self, entries: Sequence[str]) -> Loaded:
        if entries and str(self._root) not in sys.path and not ("" in sys.path and Path.cwd() == self._root):
            sys.path.insert(0, str(self._root))
        imports.forget_changed(_LOADED, _BROKEN)
        for entry in dict.fromkeys(entries):
            path = self._root / Path(entry).expanduser()
            if entry.endswith("/") or path.is_dir():
                self._folder(entry, path)
            elif entry.endswith(".py") or "/" in entry:
                self._one_file(entry, path)
            else:
                self._module(entry)
        imports.note(_LOADED)
        names: dict[str, list[str]] = {}
        for name, task in TASKS.items():
            names.setdefault(task.__module__, []).append(name)
        self._tasks |= {shown: tuple(names.get(module, ())) for shown, module in self._modules.items()}
        return Loaded(self._tasks, tuple(self._errors), tuple(self._changed))

    # -- folders and files --------------------------------------------------------------------------------

    def _folder(self, entry: str, folder: Path) -> None:
        if not folder.is_dir():
            self._errors.append(LoadError(entry, "NotFound", f"there is no folder {folder}"))
            return
        folder = folder.resolve()
        base = self._base(folder)
        seen: set[Path] = set()
        for file in self._files(folder, folder if not folder.is_relative_to(self._root) else self._root, set()):
            seen.add(file)
            self._file(file, base)
        for known in [path for path in _LOADED if path.startswith(f"{folder}{os.sep}")]:
            if Path(known) not in seen and not Path(known).exists():
                loading.forget(_LOADED.pop(known))
                _BROKEN.pop(known, None)

    def _files(self, folder: Path, boundary: Path, visited: set[Path]) -> Iterator[Path]:
        """Yield the files to load, in a fixed order, each once."""
        visited.add(folder.resolve())
        if self._anybody_may_change(folder):
            return
        try:
            entries = sorted(folder.iterdir())
        except OSError as error:
            self._errors.append(LoadError(self._shown(folder), type(error).__name__, str(error)))
            return
        for path in entries:
            if path.name.startswith((".", "__pycache__")) or not (path.is_dir() or path.suffix == ".py"):
                continue
            try:
                real = Path(os.path.realpath(path, strict=True))
            except OSError as error:
                if path.is_symlink():  # else it is gone by now
                    where = "to itself" if error.errno == errno.ELOOP else "nowhere"
                    self._tell(path, "NotFound", f"it is a link that leads {where}")
                continue
            if self._leads_out(path, real, boundary) or real in visited:
                continue
            elif path.is_dir():
                if not (path / "pyvenv.cfg").exists():
                    yield from self._files(path, boundary, visited)
            elif path.is_file() and not path.name.startswith("_"):
                visited.add(real)
                yield path

    def _one_file(self, entry: str, path: Path) -> None:
        if not path.is_file():
            self._errors.append(LoadError(entry, "NotFound", f"there is no file {path}"))
            return
        path = path.parent.resolve() / path.name
        if not self._anybody_may_replace(path):
            self._file(path, self._base(path.parent))

    def _base(self, folder: Path) -> Path:
        """Return the folder that relative imports may reach up to: above all packages, within the root."""
        while (folder / "__init__.py").is_file() and folder not in (self._root, folder.parent):
            folder = folder.parent
        return folder

    def _anybody_may_change(self, path: Path) -> bool:
        """Tell of a file or folder that every user of this machine may write to: it may hold anybody's code."""
        if self._trusting:
            return False
        try:
            writable = path.stat().st_mode & stat.S_IWOTH
        except OSError:
            return False  # told when it is read
        if writable:
            told = (
                f"any user of this machine may change {path}, so nothing in it is run; chmod o-w {path}, or set "
                "security.trust_world_writable = true"
            )
            self._tell(path, "WorldWritable", told)
        return bool(writable)

    def _tell(self, path: Path, kind: str, told: str) -> None:
        error = LoadError(self._shown(path), kind, told)
        if error not in self._errors:  # of a package once, however many files it has
            self._errors.append(error)

    def _anybody_may_replace(self, file: Path) -> bool:
        """Tell of a file in a folder where every user may put another in its place; under a sticky bit nobody may."""
        sticky = file.parent.stat().st_mode & stat.S_ISVTX
        return not sticky and self._anybody_may_change(file.parent)

    def _leads_out(self, path: Path, real: Path, boundary: Path) -> bool:
        """Tell of a link that leads out of the folder that is searched."""
        if real.is_relative_to(boundary):
            return False
        told = f"it is a link to {real}, out of {boundary}; name that folder in `tasks` to load it"
        self._tell(path, "OutsideRoot", told)
        return True

    def _is_refused(self, file: Path) -> bool:
        """Tell of a file that is not to be run, whatever it says."""
        if self._anybody_may_change(file):
            return True
        if file.stat().st_size <= LARGEST_BYTES:
            return False
        told = f"{file} is larger than {LARGEST_BYTES:,} bytes: that is no file of tasks"
        self._tell(file, "TooLarge", told)
        return True

    def _file(self, file: Path, base: Path) -> None:
        shown = self._shown(file)
        if self._is_refused(file):
            return
        try:
            name = self._parents(file, base)
            if name is None:
                return
            if file.name != "__init__.py":
                name = loading.child_name(name, file.stem)
            self._run_file(name, file)
        except (Exception, SystemExit, loading.TooSlowError) as error:  # noqa: BLE001 - one bad file stops no other
            self._errors.append(loading.error_of(shown, error))
        known = _LOADED.get(str(file))
        if known is not None:
            self._tasks[shown] = ()
            self._modules[shown] = known.module

    def _parents(self, file: Path, base: Path) -> str | None:
        """Load the packages around a file; return the name of the innermost, None if one of them fails."""
        name = loading.package_of(base)
        for depth in range(1, len(file.parent.relative_to(base).parts) + 1):
            folder = base.joinpath(*file.parent.relative_to(base).parts[:depth])
            init = folder / "__init__.py"
            if not init.is_file():
                name = loading.plain_package(name, folder)
                continue
            name = loading.child_name(name, folder.name)
            if init not in self._failed:
                try:
                    if not self._package_is_refused(folder, init, base):
                        self._run_file(name, init)
                        continue
                    self._failed.add(init)
                except (Exception, SystemExit, loading.TooSlowError) as error:  # noqa: BLE001 - see _file
                    self._failed.add(init)
                    self._errors.append(loading.error_of(self._shown(init), error))
            told = f"not loaded, because {self._shown(init)} failed"
            self._errors.append(LoadError(self._shown(file), "ImportError", told))
            return None
        return name

    def _package_is_refused(self, folder: Path, init: Path, base: Path) -> bool:
        """Tell of a package whose own file is not to be run: the names of files alone do not lead to it."""
        boundary = self._root if base.is_relative_to(self._root) else base
        real = init.resolve()
        return self._leads_out(init, real, boundary) or self._anybody_may_replace(init) or self._is_refused(init)

    def _run_file(self, name: str, file: Path) -> None:
        key = str(file)
        seen, text = _seen(file), file.read_bytes()
        digest = loading.digest_of(text)
        known = _LOADED.get(key)
        if known is not None and known.digest == digest:
            _BROKEN.pop(key, None)
            _LOADED[key] = msgspec.structs.replace(known, seen=seen)
            return
        if known is None and (running := self._running.get(key) or (name if name in sys.modules else None)):
            _LOADED[key] = Source(running, digest)  # it runs as __main__, or another file has imported it
            return
        if known is not None and known.module.startswith(loading.PRIVATE):
            name = known.module
        broken = _BROKEN.get(key)
        if broken is not None and broken[0] == digest and (broken[1].type == "TooSlow" or not self._again):
            raise loading.StillBrokenError(broken[1])
        replaces = known.module if known else None
        try:
            loading.run_file(name, file, replaces=replaces, timeout_s=self._timeout_s, text=text)
        except (Exception, SystemExit, loading.TooSlowError) as error:
            _BROKEN[key] = (digest, loading.error_of(self._shown(file), error))
            if known is None and (good := self._kept.get(key)) is not None:
                text = good.encode(errors="surrogateescape")
                loading.run_file(name, file, replaces=None, timeout_s=self._timeout_s, text=text)
                _LOADED[key] = Source(name, loading.digest_of(text), text)
            raise
        _BROKEN.pop(key, None)
        _LOADED[key] = Source(name, digest, text, seen)
        self._changed.append(self._shown(file))

    # -- modules ------------------------------------------------------------------------------------------

    def _module(self, name: str) -> None:
        if not all(part.isidentifier() for part in name.split(".")):
            told = f"{name!r} is no module, and there is no such file or folder in {self._root}"
            self._errors.append(LoadError(name, "NotFound", told))
            return
        known = _LOADED.get(name)
        try:
            digest = _digest_of_module(name)
            if known is None or digest != known.digest:
                was_there = name in sys.modules
                module = loading.run_module(name, again=known is not None, timeout_s=self._timeout_s)
                _LOADED[name] = Source(module.__name__, _digest_of_module(name))
                if known is not None or not was_there:
                    self._changed.append(name)
        except ModuleNotFoundError as error:
            if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
                told = f"there is no module {name!r} in {self._root} or among the installed packages"
                self._errors.append(LoadError(name, "NotFound", told))
            else:
                self._errors.append(loading.error_of(name, error))
        except (Exception, SystemExit, loading.TooSlowError) as error:  # noqa: BLE001 - see _file
            self._errors.append(loading.error_of(name, error))
        if name in _LOADED:
            self._tasks[name] = tuple(loading.tasks_of(name, below=True))

    def _shown(self, path: Path) -> str:
        return str(path.relative_to(self._root)) if path.is_relative_to(self._root) else str(path)


def _seen(file: Path) -> tuple[int, int] | None:
    try:
        found = file.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _digest_of_module(name: str) -> bytes:
    file = getattr(sys.modules.get(name), "__file__", None)
    return loading.digest_of(Path(file).read_bytes()) if isinstance(file, str) and file.endswith(".py") else b""
