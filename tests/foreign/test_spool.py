"""A stranger's package, installed by pip as any other, joins by its entry point alone and keeps the whole contract.

It is installed by ``pip install --target``, from its own pyproject.toml, without network: setuptools, which builds it,
is in the development environment. A virtual environment of its own would need every dependency of penstock over again
from somewhere; a folder that is put on PYTHONPATH shows the same entry point to the same interpreter.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from penstock.core.capabilities import FLAGS

HERE = Path(__file__).parent
PACKAGE = HERE / "penstock-spool"
URL = "spool://{folder}/spool"
LEDGER = "sqlite:///{folder}/ledger.db"  # one is enough: the ledgers have tests of their own


def install(source: Path, site: Path) -> Path:
    told = subprocess.run(
        [
            sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--no-build-isolation",
            "--disable-pip-version-check", "--target", str(site), str(source),
        ],
        text=True, timeout=120, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout
    return site


def copied(folder: Path) -> Path:
    """Copy the package: setuptools leaves what it built beside the source."""
    return shutil.copytree(
        PACKAGE, folder / "source", ignore=shutil.ignore_patterns("build", "*.egg-info", "__pycache__")
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    return install(copied(folder), folder / "site")


def run(site: Path, folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env={**os.environ, "PYTHONPATH": str(site), "NO_COLOR": "1"},
        text=True, timeout=900, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip


def run_suite(site: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    suite = ("pytest", "--pyargs", "penstock.testing.conformance", "--backend", URL, "--ledger", LEDGER)
    return run(site, folder, *suite, "-q", "-p", "no:cacheprovider", "--color=no", *arguments)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_stranger_passes_the_whole_suite(site, tmp_path):
    told = run_suite(site, tmp_path)
    assert told.returncode == 0, told.stdout[-20_000:]
    closing = told.stdout.splitlines()[-1]
    passed = re.search(r"(\d+) passed", closing)
    assert passed is not None, closing
    assert int(passed[1]) > 100, closing
    assert re.search(r"failed|error|skipped|deselected", closing) is None, closing


def test_the_command_lists_the_stranger_with_its_capabilities(site, tmp_path):
    told = run(site, tmp_path, "penstock", "backends", "--json")
    assert told.returncode == 0, told.stdout
    (row,) = [row for row in map(json.loads, told.stdout.splitlines()) if row.get("scheme") == "spool"]
    assert row["installed"] is True
    assert row["capabilities"] == {
        flag: {"bulk": "emulated", "withdraw": "absent"}.get(flag, "native") for flag in FLAGS
    }


def test_the_doctor_looks_at_the_stranger(site, tmp_path):
    told = run(site, tmp_path, "penstock", "doctor", "--backend", f"spool://{tmp_path}/spool")
    assert told.returncode == 0, told.stdout
    assert re.search(r"^ok\s+engine\s+spool://.+: 0 messages wait", told.stdout, re.MULTILINE), told.stdout


def test_the_doctor_says_that_the_strangers_engine_is_not_there(site, tmp_path):
    (tmp_path / "file").touch()
    told = run(site, tmp_path, "penstock", "doctor", "--backend", f"spool://{tmp_path}/file/spool")
    assert told.returncode == 4, told.stdout
    assert "Not a directory" in told.stdout


def test_a_setting_of_the_strangers_own_is_checked(site, tmp_path):
    (tmp_path / "penstock.toml").write_text('backend = "spool:///tmp/spool"\n[engines.spool]\npol_s = 1\n')
    told = run(site, tmp_path, "penstock", "doctor")
    assert told.returncode == 3, told.stdout
    assert "[engines.spool]" in told.stdout
    assert "pol_s" in told.stdout


LIES = {
    "workers, where each process sees only its own messages": (
        "test_another_process_takes_the_messages_or_the_publishing_one_runs_them",
        "/ context.namespace",
        "/ context.namespace / str(__import__('os').getpid())",
    ),
    "no workers, where others take the messages": (
        "test_another_process_takes_the_messages_or_the_publishing_one_runs_them",
        "workers=Support.NATIVE",
        "workers=Support.ABSENT",
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("lie", LIES)
def test_a_stranger_whose_capabilities_promise_what_it_does_not_do_is_caught(tmp_path, lie):
    test, honest, lying = LIES[lie]
    source = copied(tmp_path)
    module = source / "src/penstock_spool.py"
    assert module.read_text().count(honest) == 1
    module.write_text(module.read_text().replace(honest, lying))
    told = run_suite(install(source, tmp_path / "site"), tmp_path, "-k", test)
    assert told.returncode == 1, told.stdout
    assert re.search(rf"^FAILED .*::{test}\[", told.stdout, re.MULTILINE), told.stdout


def test_no_file_of_penstock_names_the_stranger():
    source = HERE.parents[1] / "src"
    naming = [path for path in source.rglob("*.py") if re.search(r"\bspool\b|penstock_spool", path.read_text())]
    assert naming == []


def test_the_guide_shows_the_whole_package():
    page = (HERE.parents[1] / "dev_docs/backend_guide.md").read_text()
    shown: dict[str, list[str]] = {}
    for found in re.finditer(r"^```\w+\n# ([\w./-]+)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        shown.setdefault(found[1], []).extend(line for line in found[2].splitlines() if line.strip())
    files = [PACKAGE / "pyproject.toml", *PACKAGE.rglob("*.py")]
    package = {
        str(file.relative_to(PACKAGE)): [line for line in file.read_text().splitlines() if line.strip()]
        for file in files
        if "build" not in file.parts
    }
    assert {name: lines for name, lines in shown.items() if name in package} == package
