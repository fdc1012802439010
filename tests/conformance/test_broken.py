"""The suite fails each broken backend, by the test that names the fault."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent

FAULTS = {
    "forgets": "test_in_calm_weather_every_message_arrives_exactly_once",
    "doubles": "test_in_calm_weather_every_message_arrives_exactly_once",
    "haunts": "test_a_stopped_worker_runs_nothing_that_is_published_afterwards",
    "levels": "test_of_the_waiting_messages_the_highest_priority_goes_first",
    "lies": "test_depth_counts_the_messages_that_wait_in_one_queue",
    "leaks": "test_no_foreign_exception_leaves_a_backend",
    "clings": "test_a_withdrawn_message_does_not_arrive",
    "overfills": "test_a_worker_takes_no_more_bodies_at_once_than_its_concurrency",
    "hoards": "test_what_a_worker_had_not_begun_waits_on_when_it_leaves",
}


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Path:
    """Make the toy a package that is installed: its entry point is found as any stranger's would be."""
    site = tmp_path_factory.mktemp("site")
    metadata = site / "toy-1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1\n")
    (metadata / "entry_points.txt").write_text("[penstock.backends]\ntoy = toy\n")
    (site / "toy.py").write_text((HERE / "toy.py").read_text())
    return site


def run_suite(installed: Path, folder: Path, fault: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable, "-m", "pytest", "--pyargs", "penstock.testing.conformance",
            "--backend", f"toy+{fault}://{{folder}}/engine", "--ledger", "memory://",
            "-q", "-p", "no:cacheprovider", "--color=no", *arguments,
        ],
        cwd=folder, env={**os.environ, "PYTHONPATH": str(installed)}, text=True, timeout=300,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.mark.parametrize(("fault", "test"), FAULTS.items(), ids=FAULTS)
def test_a_broken_backend_fails_by_name(installed, tmp_path, fault, test):
    told = run_suite(installed, tmp_path, fault, "-k", test)
    assert told.returncode == 1, told.stdout
    assert re.search(rf"^(FAILED|ERROR) .*::{test}\[", told.stdout, re.MULTILINE), told.stdout


def test_every_fault_of_the_toy_is_tried():
    sys.path.insert(0, str(HERE))
    try:
        import toy
    finally:
        sys.path.remove(str(HERE))
    assert set(FAULTS) == set(toy.FAULTS)
