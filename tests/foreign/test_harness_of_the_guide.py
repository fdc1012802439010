"""The harness that the guide shows is a harness."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "dev_docs/backend_guide.md"


@pytest.mark.servers
@pytest.mark.skipif(shutil.which("redis-server") is None, reason="no redis-server on PATH")
def test_the_suite_runs_on_the_harness_of_the_guide(tmp_path):
    block = re.search(r"^```python\n(# redis_harness\.py\n.*?)^```$", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    assert block is not None
    (tmp_path / "redis_harness.py").write_text(block[1])
    suite = ["--pyargs", "penstock.testing.conformance", "--harness", "redis_harness:OwnRedis"]
    told = subprocess.run(
        [
            sys.executable, "-m", "pytest", *suite, "--ledger", "sqlite:///{folder}/ledger.db", "-q",
            "-p", "no:cacheprovider", "--color=no", "-k", "test_depth or test_an_engine_that_is_down",
        ],
        cwd=tmp_path, text=True, timeout=100, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
    )  # fmt: skip
    assert told.returncode == 0, told.stdout
    assert re.search(r"\b3 passed", told.stdout), told.stdout
