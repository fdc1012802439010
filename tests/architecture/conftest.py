"""The source as syntax trees, for tests that read instead of run."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
SRC = ROOT / "src" / "penstock"


class Module(NamedTuple):
    name: str
    """As a path within the package: ``job/lifecycle.py``."""
    text: str
    tree: ast.Module

    def under(self, *folders: str) -> bool:
        return self.name.startswith(tuple(f"{folder}/" for folder in folders))

    def where(self, node: ast.AST) -> str:
        return f"{self.name}:{getattr(node, 'lineno', '?')}"


def _with_parents(tree: ast.Module) -> ast.Module:
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            child.parent = node  # type: ignore[attr-defined]
    return tree


@pytest.fixture(scope="session")
def modules() -> list[Module]:
    """Every module of the package."""
    return [
        Module(path.relative_to(SRC).as_posix(), text, _with_parents(ast.parse(text)))
        for path in sorted(SRC.rglob("*.py"))
        for text in [path.read_text()]
    ]


@pytest.fixture(scope="session")
def rooms(modules: list[Module]) -> list[Module]:
    """Every module but the shipped tests."""
    return [module for module in modules if not module.under("testing/conformance")]
