"""A room is small. Past 300 lines it is a question, past 450 an answer."""

from __future__ import annotations

import warnings

import pytest

QUESTION = 300
TOO_LONG = 450


def _lines(module):
    return len(module.text.splitlines())


def test_no_file_is_too_long(modules):
    assert {m.name: _lines(m) for m in modules if _lines(m) > TOO_LONG} == {}


@pytest.mark.filterwarnings("default")
def test_long_files_are_told_of(modules):
    for module in modules:
        if _lines(module) > QUESTION:
            warnings.warn(f"{module.name} has {_lines(module)} lines: is it two rooms?", stacklevel=1)
