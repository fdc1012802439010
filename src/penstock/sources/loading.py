"""Run one file or module so that its tasks register; run it again only when it has changed."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import signal
import sys
import threading
import time
import traceback
import types
from collections.abc import Generator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec, SourceFileLoader
from pathlib import Path
from typing import Any

import msgspec

from penstock.sources.decorators import TASKS, Task

PRIVATE = "_penstock_tasks_"
"""Files that are loaded by path live below modules of this name, so that no two of one stem clash."""


class LoadError(msgspec.Struct, frozen=True):
    """A file or module that could not be loaded; what it had registered before stays."""

    file: str
    """Relative to the project's root where it lies in it; a module's name for a module."""
    type: str
    message: str
    traceback: str = ""
    """Begins in the user's own code; empty where no code was reached."""
    line: int | None = None
    """Where in the file, if it was in the file."""


class Source(msgspec.Struct, frozen=True):
    """A file or module that has run: under which name, with which content."""

    module: str
    digest: bytes
    text: bytes = b""
    """The content itself, of a file that was run by its path."""
    seen: tuple[int, int] | None = None
    """The file's time of change, in nanoseconds, and its size, when it was read."""


class StillBrokenError(Exception):
    """A file that failed has not changed since; it is not run again. ``told`` is its error."""

    def __init__(self, told: LoadError) -> None:
        super().__init__(told.message)
        self.told = told


class TooSlowError(BaseException):
    """The file's time is over. Not an `Exception`: a file's own ``except Exception`` must not eat it."""


class _FreshLoader(SourceFileLoader):
    """Compiles what the file holds now: a cached ``.pyc`` is told apart by whole seconds and size only.

    Given a ``text``, it compiles that instead.
    """

    def __init__(self, fullname: str, path: str, text: bytes | None = None) -> None:
        super().__init__(fullname, path)
        self._text = text

    def get_code(self, fullname: str) -> types.CodeType:
        return self.source_to_code(self.get_data(self.path) if self._text is None else self._text, self.path)


def tasks_of(module: str, *, below: bool = False) -> dict[str, Task[Any, Any]]:
    """Return the registered tasks whose functions stand in a module (``below``: or in its submodules)."""
    return {
        name: task
        for name, task in TASKS.items()
        if task.__module__ == module or (below and task.__module__.startswith(f"{module}."))
    }


def digest_of(content: bytes) -> bytes:
    """Return a digest of a file's content."""
    return hashlib.sha256(content).digest()


def forget(source: Source) -> None:
    """Take the tasks of a file that is gone off the list."""
    for name in tasks_of(source.module):
        TASKS.discard(name)
    if source.module.startswith(PRIVATE):
        sys.modules.pop(source.module, None)


# -- files ------------------------------------------------------------------------------------------------


def package_of(base: Path) -> str:
    """Return the private package that stands for a folder, so that relative imports work below it."""
    name = PRIVATE + hashlib.sha256(str(base).encode()).hexdigest()[:10]
    _plain_package(name, base)
    return name


def child_name(parent: str, part: str) -> str:
    """Name what lies in a package's folder; a dot in a file's name is none between modules."""
    return f"{parent}.{part.replace('.', '_dot_')}"


def plain_package(parent: str, folder: Path) -> str:
    """Return the package of a folder without ``__init__.py``."""
    name = child_name(parent, folder.name)
    _plain_package(name, folder)
    return name


def run_file(name: str, file: Path, *, replaces: str | None, timeout_s: float, text: bytes | None = None) -> None:
    """Run a file as the module ``name``, in place of what had the name before and of the module ``replaces``.

    ``text`` is run in the place of what the file holds. Raises what the file raises; then the earlier module and its
    tasks are back in place.
    """
    is_package = file.name == "__init__.py"
    spec = importlib.util.spec_from_file_location(
        name,
        file,
        loader=_FreshLoader(name, str(file)),
        submodule_search_locations=[str(file.parent)] if is_package else None,
    )
    if spec is None:  # pragma: no cover - only without a loader
        raise ImportError(f"{file} cannot be loaded", name=name)
    module = importlib.util.module_from_spec(spec)
    before = sys.modules.get(name)
    with TASKS.replacing({name, replaces or name}), _deadline(timeout_s):
        sys.modules[name] = module
        try:
            _FreshLoader(name, str(file), text).exec_module(module)
        except BaseException:
            if before is None:
                sys.modules.pop(name, None)
            else:
                sys.modules[name] = before
            raise
    parent, _, leaf = name.rpartition(".")
    if parent in sys.modules:
        setattr(sys.modules[parent], leaf, module)


def _plain_package(name: str, folder: Path) -> None:
    if name in sys.modules:
        return
    module = types.ModuleType(name)
    module.__spec__ = ModuleSpec(name, None, is_package=True)
    module.__spec__.submodule_search_locations = [str(folder)]
    module.__path__ = [str(folder)]
    sys.modules[name] = module


# -- modules ----------------------------------------------------------------------------------------------


def run_module(name: str, *, again: bool, timeout_s: float) -> types.ModuleType:
    """Import a module, or run it once more in place; what it raises leaves its earlier state."""
    with _deadline(timeout_s):
        if not again or name not in sys.modules:
            return importlib.import_module(name)
        module = sys.modules[name]
        before = dict(vars(module))
        with TASKS.replacing({name}):
            try:
                _FreshLoader(name, str(module.__file__)).exec_module(module)
                return module
            except BaseException:
                vars(module).clear()
                vars(module).update(before)
                raise


# -- both -------------------------------------------------------------------------------------------------


@contextmanager
def _deadline(timeout_s: float) -> Generator[None]:
    """Stop the code inside after a time; works in the main thread only, where signals are handled.

    An alarm that was set before (by a test runner, say) goes on afterwards with what is left of it.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(_number: int, _frame: Any) -> None:
        raise TooSlowError(f"still loading after {timeout_s:g} s")

    handler = signal.signal(signal.SIGALRM, stop)
    left_s, every_s = signal.setitimer(signal.ITIMER_REAL, timeout_s)
    begun = time.monotonic()
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler if handler is not None else signal.SIG_DFL)
        if left_s:
            signal.setitimer(signal.ITIMER_REAL, max(left_s - (time.monotonic() - begun), 0.001), every_s)


def error_of(file: str, error: BaseException) -> LoadError:
    """Tell an exception of a file that was loaded; its traceback begins in the user's code."""
    if isinstance(error, StillBrokenError):
        return msgspec.structs.replace(error.told, file=file)
    if isinstance(error, SystemExit):
        message = f"it called sys.exit({'' if error.code is None else repr(error.code)}) while it was loaded"
    else:
        message = str(error) or type(error).__name__
    kind = "TooSlow" if isinstance(error, TooSlowError) else type(error).__name__
    return LoadError(file, kind, message, _traceback_of(error), _line_of(error, file))


def _line_of(error: BaseException, file: str) -> int | None:
    """Return the last line of the file that the error came through."""
    if isinstance(error, SyntaxError) and error.filename is not None and error.filename.endswith(file):
        return error.lineno
    found = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename.endswith(file)]
    return found[-1] if found else None


def _traceback_of(error: BaseException) -> str:
    trace = error.__traceback__
    while trace is not None and _is_machinery(trace.tb_frame.f_code.co_filename):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace))


def _is_machinery(filename: str) -> bool:
    folder = str(Path(__file__).parent)
    return filename.startswith((folder, "<frozen importlib")) or filename == importlib.__file__
