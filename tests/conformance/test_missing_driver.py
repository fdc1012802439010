"""A ledger whose driver is not installed is a reason to skip, and an error where everything is required."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from penstock.testing.harness import not_here

ADVICE = {
    "{redis}": 'the ledger on redis needs redis. Run: pip install "penstock[redis]"',
    "{postgres}": 'the ledger on postgres needs psycopg. Run: pip install "penstock[postgres]"',
}
SERVERS = '{"redis": "redis://127.0.0.1:1", "postgres": "postgres://127.0.0.1:1"}'  # said to be there, never asked
HIDE = "import sys\nsys.modules['psycopg'] = None\n"


@pytest.fixture
def without_drivers(monkeypatch):
    monkeypatch.setenv("PENSTOCK_TEST_SERVERS", SERVERS)
    for driver in ("redis", "psycopg"):
        monkeypatch.setitem(sys.modules, driver, None)


@pytest.mark.parametrize("ledger", ADVICE)
def test_a_ledger_without_its_driver_is_not_here_and_says_what_to_install(without_drivers, ledger):
    assert not_here(ledger) == ADVICE[ledger]


def test_the_drivers_of_a_ledger_are_no_matter_to_a_backend(without_drivers):
    assert not_here("rq+{redis}") is None


@pytest.mark.parametrize(("required", "ended"), [("", "skipped"), ("1", "error")])
def test_the_suite_skips_such_a_ledger_and_fails_where_it_is_required(tmp_path, required, ended):
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    told = subprocess.run(
        [
            sys.executable, "-m", "pytest", "--pyargs", "penstock.testing.conformance", "--backend", "inline://",
            "--ledger", "{postgres}", "-k", "test_every_flag_has_one", "-ra", "-q", "-p", "no:cacheprovider",
            "--color=no",
        ],
        cwd=tmp_path, text=True, timeout=60, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
        env={
            **os.environ, "PYTHONPATH": str(tmp_path), "PENSTOCK_TEST_SERVERS": SERVERS,
            "PENSTOCK_REQUIRE_SERVICES": required, "COLUMNS": "200",
        },
    )  # fmt: skip
    assert f"1 {ended}" in told.stdout.splitlines()[-1], told.stdout
    assert ADVICE["{postgres}"] in told.stdout
