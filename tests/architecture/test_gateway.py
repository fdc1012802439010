"""The seam to the engines: one caller, one reader for each capability, nobody asks which engine it is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import penstock.testing.conformance
from penstock.core.base import AsyncBackend, Backend
from penstock.core.capabilities import FLAGS

ENGINES = ("rq", "saq", "arq", "taskiq", "huey", "dramatiq", "inline")
VERBS = ("publish", "withdraw", "depth", "work", "stop", "close")
SUITE = Path(penstock.testing.conformance.__file__).parent


def test_both_colours_have_the_same_verbs():
    assert Backend.__abstractmethods__ == AsyncBackend.__abstractmethods__ == {*VERBS, "capabilities_of"}


def test_a_backend_is_called_by_the_gateway_alone(rooms):
    callers = {
        module.name
        for module in rooms
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in (*VERBS, "inspect")
        and re.search(r"\b_?backend$", ast.unparse(node.func.value))
    }
    # The bridge is the gateway's arm: it lends an async backend the sync verbs.
    assert callers <= {"gateway.py", "bridge.py"}


def test_only_the_gateway_makes_a_backend(rooms):
    makers = {
        module.name
        for module in rooms
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("bridge.synchronous")
    }
    assert makers == {"gateway.py"}


def test_every_capability_has_one_reader_and_it_is_the_gateway(rooms):
    readers = {flag: [] for flag in FLAGS}
    for module in rooms:
        for node in ast.walk(module.tree):
            if (
                isinstance(node, ast.Attribute)
                and node.attr in FLAGS
                and ast.unparse(node.value).endswith("capabilities")
            ):
                readers[node.attr].append(module.name)
    assert readers == {flag: ["gateway.py"] for flag in FLAGS}


def _decorated_with(name: str) -> set[str]:
    return {
        decorator.args[0].value
        for file in SUITE.glob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef)
        for decorator in node.decorator_list
        if isinstance(decorator, ast.Call) and getattr(decorator.func, "id", "") == name
    }


def test_every_capability_has_a_conformance_test():
    tested = _decorated_with("requires") | _decorated_with("either_way")
    assert tested == set(FLAGS)


def test_the_conformance_suite_names_no_engine():
    engine = re.compile(rf"\b({'|'.join(e for e in ENGINES if e != 'inline')}|inline:)\b")
    named = [
        f"{file.name}:{number}: {line.strip()}"
        for file in SUITE.glob("*.py")
        for number, line in enumerate(file.read_text().splitlines(), 1)
        if engine.search(line)
    ]
    assert named == []


def _asks_for_an_end(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and ast.unparse(node.func).endswith((".startswith", ".endswith"))


# The old `job_queue:` block of another project's files spells engines in its own way; that is read, not decided.
READS_OLD_FILES = "sources/job_queue.py"


def test_nobody_asks_which_engine_it_is(rooms):
    """``isolation == "inline"`` is about a body, not about the engine of that name."""
    asked = []
    for module in rooms:
        if module.under("backends") or module.name == READS_OLD_FILES:
            continue
        for node in ast.walk(module.tree):
            if not (isinstance(node, ast.Compare | ast.MatchValue) or _asks_for_an_end(node)):
                continue
            text = ast.unparse(node)
            constants = {c.value for c in ast.walk(node) if isinstance(c, ast.Constant) and isinstance(c.value, str)}
            named = {c for c in constants if re.match(rf"({'|'.join(ENGINES)})(\+|:|$)", c)}
            if named and not (named == {"inline"} and ("isolation" in text or "process" in constants)):
                asked.append(f"{module.where(node)}: {text}")
    assert asked == []


def test_nobody_asks_a_backend_for_its_class_or_its_attributes(rooms):
    asked = [
        module.where(node)
        for module in rooms
        if module.name not in ("bridge.py", READS_OLD_FILES)
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("hasattr", "isinstance")
        and node.args
        and re.search(r"\b_?backend$", ast.unparse(node.args[0]))
    ]
    assert asked == []
