"""Every extra is tried in an environment of its own."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def checks(monkeypatch):
    monkeypatch.setattr(sys, "path", [str(ROOT / "tools"), *sys.path])
    import clean_installs

    return clean_installs.CHECKS


def test_each_extra_has_a_clean_install(checks):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    tried = {extra for check in checks for extra in check.extras.split(",") if extra}
    assert tried == set(project["optional-dependencies"])
