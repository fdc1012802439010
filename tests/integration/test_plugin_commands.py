"""An installed package adds commands to ``penstock``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_shell import Shell, process_as_before  # noqa: F401 - a fixture

from penstock import registry

PLUGIN = '''
from typing import Annotated
from cyclopts import Parameter
from penstock.cli.session import Session
from penstock.core.exceptions import QueueFullError
from penstock.core.hookspecs import hookimpl

def sales_report(day: str, /, *, copies: int = 1, session: Annotated[Session, Parameter(parse=False)]) -> int:
    """Print the sales of a day. Then some more.

    Args:
        day: Which.
        copies: How often.
        session: Handed in by the parser.
    """
    for _ in range(copies):
        session.document({"day": day, "jobs": session.look().counts()})
    return 7 if day == "holiday" else 0

def ping() -> None:
    """Answer."""
    print("pong")

def full() -> None:
    raise QueueFullError("etl", 3, 1)

@hookimpl
def cli_commands():
    return {COMMANDS}
'''
GOOD = '{"sales-report": sales_report, "ping": ping, "full": full}'


@pytest.fixture
def install(tmp_path: Path, monkeypatch):
    """Put a package there as pip would."""
    site, project = tmp_path / "site", tmp_path / "project"
    project.mkdir()
    monkeypatch.chdir(project)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "nobody"))

    def put(commands: str, text: str = PLUGIN) -> Path:
        info = site / "shop_cli-1.0.dist-info"
        info.mkdir(parents=True, exist_ok=True)
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: shop-cli\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text("[penstock.plugins]\nshop = shop_cli\n")
        (site / "shop_cli.py").write_text(text.replace("{COMMANDS}", commands))
        monkeypatch.syspath_prepend(str(site))
        registry.plugins.cache_clear()
        return site

    yield put
    registry.plugins.cache_clear()
    sys.modules.pop("shop_cli", None)


@pytest.fixture
def shell(capfd) -> Shell:
    return Shell(capfd)


def test_a_package_that_is_installed_adds_its_commands(install):
    path = os.pathsep.join([str(install(GOOD)), os.environ.get("PYTHONPATH", "")])
    told = subprocess.run(
        [sys.executable, "-m", "penstock", "ping"], env={**os.environ, "PYTHONPATH": path}, text=True, timeout=60,
        check=False, capture_output=True,
    )  # fmt: skip
    assert (told.returncode, told.stdout) == (0, "pong\n"), told.stderr


def test_a_command_of_a_package_works_as_ours_do(install, shell):
    install(GOOD)
    assert shell("--json", "sales-report", "today", "--copies", "2") == 0
    assert [json.loads(line) for line in shell.out.splitlines()] == 2 * [{"day": "today", "jobs": {}}]
    assert shell("sales-report", "holiday") == 7
    assert shell("full") == 75
    assert "queue 'etl' is full" in shell.err


def test_it_stands_on_the_help_page_and_has_one_of_its_own(install, shell):
    install(GOOD)
    assert shell("--help") == 0
    assert "Plugins\n  sales-report Print the sales of a day\n  ping         Answer" in shell.out
    assert shell("sales-report", "--help") == 0
    assert "How often." in shell.out


@pytest.mark.parametrize(
    ("commands", "told"),
    [
        ('{"jobs": ping}', "which there is already"),
        ('{"Sales Report": ping}', "write a-z"),
        ('{"report": 7}', "is no function"),
        ("1 / 0", "cannot be used: ZeroDivisionError"),
    ],
)
def test_a_plugin_that_is_wrong_is_told_and_stops_none_of_our_commands(install, shell, commands, told):
    install(commands)
    assert shell("report") == 3
    assert told in shell.err
    assert shell("--help") == 0
    assert (told in shell.err, "Start" in shell.out) == (True, True)


def test_a_plugin_that_cannot_be_imported_stops_none_of_our_commands(install, shell):
    install("", "import no_such_module\n")
    assert shell("jobs") == 0
    assert shell("report") == 3
    assert "No module named 'no_such_module'" in shell.err
