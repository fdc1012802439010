"""The command line called in this process, for tests of it."""

from __future__ import annotations

import json
import logging
import sys
import warnings

import pytest

from penstock.cli.main import main
from penstock.sources import scan
from penstock.sources.decorators import TASKS


@pytest.fixture(autouse=True)
def process_as_before(monkeypatch):
    """The command sets up logging and warnings for a whole process; put them, and the tasks, back."""
    tasks, path, modules, level = dict(TASKS), list(sys.path), set(sys.modules), logging.root.level
    handlers = list(logging.root.handlers)
    for name in tasks:
        TASKS.discard(name)  # a process of the command knows the project's tasks only; conftest.py puts these back
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)
    logging.getLogger("penstock").setLevel(logging.NOTSET)
    for name in set(TASKS) - set(tasks):
        TASKS.discard(name)
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith(("jobs", "_penstock")):
            del sys.modules[name]
    scan._LOADED.clear()


class Shell:
    """Calls the command and keeps what it said."""

    def __init__(self, capfd) -> None:
        self._capfd = capfd
        self.out = self.err = ""

    def __call__(self, *words: str) -> int:
        code = main(words)
        said = self._capfd.readouterr()
        self.out, self.err = said.out, said.err
        return code

    def json(self, *words: str) -> list[dict]:
        assert self(*words, "--json") == 0, self.err
        return [json.loads(line) for line in self.out.splitlines()]
