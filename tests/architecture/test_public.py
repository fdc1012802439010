"""The public names are exactly those that are written down."""

from __future__ import annotations

import ast

import pytest

import penstock


def test_all_is_what_can_be_had():
    assert set(penstock.__all__) == set(penstock._HOMES)
    assert len(penstock.__all__) == len(set(penstock.__all__))
    for name in penstock.__all__:
        assert getattr(penstock, name) is not None


def test_what_a_type_checker_sees_is_what_can_be_had(modules):
    (init,) = (module for module in modules if module.name == "__init__.py")
    guarded = next(n for n in init.tree.body if isinstance(n, ast.If))
    seen = {
        alias.asname or alias.name: node.module.removeprefix("penstock.")
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert seen == penstock._HOMES


def test_dir_shows_the_public_names():
    assert set(dir(penstock)) == {*penstock.__all__, "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="Nonsense"):
        penstock.Nonsense  # noqa: B018
