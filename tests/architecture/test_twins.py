"""Every verb that blocks has an awaitable twin, which is that verb in a thread and nothing more."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

from penstock.client import JobQueue
from penstock.handle import JobHandle
from penstock.sources.decorators import BoundTask, Task

# No input or output, so nothing to await; or a way of working, which is not for a loop.
NO_TWIN = {
    JobQueue: {
        "pipeline",
        "command",
        "worker",
        "on_change",
        "load_tasks",
        "has_loaded",
        "resubmit",
        "captured",
        "kill_children",
        "close_shared",
    },
    JobHandle: {"events"},  # what it returns asks, for `for` and for `async for`
    Task: {"call", "options"},
    BoundTask: {"call", "options"},
}
TWIN_OF = {"wait": "await_"}  # `await` is taken by the language
CLASSES = list(NO_TWIN)


def _verbs(owner):
    return {
        name: member
        for name, member in inspect.getmembers(owner)
        if inspect.isfunction(member) and not name.startswith("_") and not inspect.iscoroutinefunction(member)
    }


def _twins(owner):
    return {
        name
        for name, member in inspect.getmembers(owner)
        if inspect.iscoroutinefunction(member) and not name.startswith("_")
    }


PAIRS = [
    pytest.param(owner, name, TWIN_OF.get(name, f"a{name}"), id=f"{owner.__name__}.{name}")
    for owner in CLASSES
    for name in _verbs(owner)
    if name not in NO_TWIN[owner]
]


@pytest.mark.parametrize(("owner", "verb", "twin"), PAIRS)
def test_a_verb_has_a_twin_of_the_same_signature(owner, verb, twin):
    assert hasattr(owner, twin), f"{owner.__name__}.{verb} blocks and has no twin {twin}"
    assert inspect.signature(getattr(owner, twin)) == inspect.signature(getattr(owner, verb))


@pytest.mark.parametrize(("owner", "verb", "twin"), PAIRS)
def test_a_twin_is_its_verb_in_a_thread(owner, verb, twin):
    tree = ast.parse(textwrap.dedent(inspect.getsource(getattr(owner, twin))))
    body = [n for n in tree.body[0].body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
    body = [n for n in body if not isinstance(n, ast.ImportFrom)]
    assert len(body) == 1
    assert ast.unparse(body[0]).startswith(f"return await in_thread(self.{verb}")


@pytest.mark.parametrize("owner", CLASSES)
def test_there_is_no_twin_without_its_verb(owner):
    paired = {TWIN_OF.get(name, f"a{name}") for name in _verbs(owner) if name not in NO_TWIN[owner]}
    assert _twins(owner) == paired
