"""Who may import whom, and what a plain import loads."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HEAVY = {
    "huey", "rq", "saq", "arq", "taskiq", "dramatiq",
    "redis", "psycopg", "asyncpg", "sqlite3",
    "starlette", "uvicorn", "textual", "rio", "rich", "cyclopts",
    "hamilton", "flowerpower", "pandas", "polars", "pyarrow", "numpy", "fsspec", "pytest",
}  # fmt: skip


def _loaded_by(code: str) -> set[str]:
    told = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys, json; print(json.dumps(sorted(sys.modules)))"],
        capture_output=True, text=True, check=True, timeout=30,
    )  # fmt: skip
    return {name.partition(".")[0] for name in json.loads(told.stdout.splitlines()[-1])}


def test_importing_penstock_loads_no_engine_driver_or_framework():
    assert _loaded_by("import penstock") & HEAVY == set()


def test_using_the_public_names_loads_no_engine_driver_or_framework():
    assert _loaded_by("from penstock import *") & HEAVY == set()


def test_the_pytest_plugin_loads_nothing_of_the_engine_room():
    bare = _loaded_by("import pytest")
    assert _loaded_by("import penstock.testing.plugin") - bare - {"penstock"} == set()


def test_submitting_to_the_embedded_engine_loads_no_pipeline_framework(tmp_path):
    code = f"""
from penstock import JobQueue, task
@task
def hello(): pass
with JobQueue("huey+sqlite:///{tmp_path}/q.db", ledger="sqlite:///{tmp_path}/l.db", root={str(tmp_path)!r}) as queue:
    queue.enqueue(hello)
"""
    submitting = {"hamilton", "flowerpower", "pandas", "polars", "pyarrow", "numpy", "rich", "cyclopts"}
    assert _loaded_by(code) & submitting == set()


def test_a_child_process_starts_without_looking_for_plugins():
    assert _loaded_by("import penstock.runners.child") & {"pluggy", *HEAVY} == set()


def test_the_floors_of_the_house_hold():
    tool = Path(sys.executable).parent / "lint-imports"
    if not tool.exists():
        pytest.fail("import-linter is not installed: make venv")
    told = subprocess.run([str(tool), "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert told.returncode == 0, told.stdout + told.stderr
