"""What the pages show is run: each page's blocks in order, in one empty folder.

- ``python`` is a script; the comments behind its ``print`` calls are what it must print. A block whose first line is a
  comment that names a file (``# jobs/shop.py``) is written there instead.
- ``toml`` must be a valid configuration; the variables and secrets that it names are there.
- ``console``: its ``$ penstock ...`` and ``$ cd ...`` lines are run and must exit 0.
- The word ``norun`` behind the language leaves a block out; what needs more than an empty folder says so with it.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "dev_docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"#\s*([\w./-]+\.(?:py|toml|yml|yaml))\s*\n")
VARIABLE = re.compile(r"(?:env:|\$\{)(\w+)")
SECRET = re.compile(r"file:/[\w/.-]+")
PRINTED = re.compile(r"print\(.*\)\s+# (.+)$", re.MULTILINE)
KINDS = ("python", "toml", "console")


class Block(NamedTuple):
    language: str
    code: str
    line: int


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text()
    return [
        Block(found[1], found[3], text[: found.start()].count("\n") + 2)
        for found in FENCE.finditer(text)
        if found[1] in KINDS and "norun" not in found[2]
    ]


def run(command: list[str], folder: Path) -> str:
    told = subprocess.run(
        command, cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=100,
        stdin=subprocess.DEVNULL, env={**os.environ, "NO_COLOR": "1", "COLUMNS": "120"},
    )  # fmt: skip
    assert told.returncode == 0, f"{shlex.join(command)}\nexit {told.returncode}\n{told.stdout}"
    return told.stdout


def run_python(block: Block, folder: Path) -> None:
    if named := FILE.match(block.code):
        file = folder / named[1]
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.code)
        return
    script = folder / f"line_{block.line}.py"
    script.write_text(block.code)
    printed = run([sys.executable, script.name], folder).splitlines()
    expected = PRINTED.findall(block.code)
    assert [line for line in printed if line in expected] == expected, printed


def check_toml(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from penstock import settings

    apart = folder / f"line_{block.line}"
    apart.mkdir()
    named = FILE.match(block.code)
    (apart / "secret").write_text("a secret")
    code = SECRET.sub(f"file:{apart / 'secret'}", block.code)
    (apart / ("pyproject.toml" if named and named[1] == "pyproject.toml" else "penstock.toml")).write_text(code)
    for variable in VARIABLE.findall(block.code):
        monkeypatch.setenv(variable, "0123456789abcdef" if "KEY" in variable else "inline://")
    settings.load(apart)


def run_console(block: Block, folder: Path) -> Path:
    for line in block.code.splitlines():
        if not line.startswith("$ "):
            continue
        command, *arguments = shlex.split(line[2:], comments=True)
        if command == "cd":
            folder = folder / arguments[0]
        elif command == "penstock":
            run([sys.executable, "-m", "penstock", *arguments], folder)
        else:
            pytest.fail(f"a console block runs {command}; mark the block norun")
    return folder


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.exists() and blocks_of(page)], ids=lambda page: page.name
)
def test_what_a_page_shows_works(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path
    for block in blocks_of(page):
        if block.language == "python":
            run_python(block, folder)
        elif block.language == "toml":
            check_toml(block, folder, monkeypatch)
        else:
            run_console(block, folder)


@pytest.mark.parametrize("page", [page for page in PAGES if page.exists()], ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text())
    assert [target for target in targets if not (page.parent / target).exists()] == []
