"""The help page, and what is loaded to print it."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from penstock import __version__
from penstock.cli.commands import COMMANDS, GLOBALS, help_page
from penstock.cli.dispatch import dispatch
from penstock.cli.main import main

HEAVY = (
    "cyclopts", "rich", "msgspec", "huey", "sqlite3", "fsspec", "asyncio", "pluggy", "hamilton", "flowerpower",
    "pandas", "penstock.client", "penstock.ledger", "penstock.backends", "penstock.runners", "penstock.settings",
)  # fmt: skip


def loaded_by(words: list[str]) -> set[str]:
    code = f"import sys; from penstock.cli.main import main; main({words!r}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    return set(done.stderr.split())


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["help"]])
def test_the_help_page_is_printed(words, capsys):
    assert main(words) == 0
    assert capsys.readouterr().out.startswith("penstock runs data pipelines")


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_printed(word, capsys):
    assert main([word]) == 0
    assert capsys.readouterr().out.strip() == __version__


@pytest.mark.parametrize("word", ["--help", "--version"])
def test_help_and_version_load_neither_parser_nor_engine_nor_ledger(word):
    assert loaded_by([word]) & set(HEAVY) == set()


def test_a_command_s_help_loads_neither_engine_nor_framework():
    loaded = loaded_by(["worker", "--help"])
    assert not loaded & {"huey", "hamilton", "flowerpower", "pandas", "fsspec", "penstock.backends.huey"}


def test_python_m_penstock_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "penstock", "--version"], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == __version__


def test_the_page_fits_80_columns_and_has_no_colours_in_a_pipe():
    page = help_page(color=False)
    assert max(len(line) for line in page.splitlines()) <= 80
    assert "\x1b" not in page
    assert "\x1b" in help_page(color=True)


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_on_the_page_has_a_help_of_its_own(command, capsys):
    assert dispatch([*command.name.split(), "--help"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert out.startswith(f"Usage: penstock {command.name}")


def test_the_page_lists_the_global_options_that_the_parser_knows(capsys):
    dispatch(["jobs", "--help"])
    everywhere = capsys.readouterr().out.partition("Everywhere")[2]
    known = set(re.findall(r"--[a-z-]+", everywhere))
    listed = {option for options, _ in GLOBALS for option in re.findall(r"--[a-z-]+", options)}
    assert known == listed - {"--help", "--version"}
