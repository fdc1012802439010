"""The closing table: what was tried where, and what was not."""

from __future__ import annotations

import pytest

from penstock.testing.conformance.closing import ClosingTable
from penstock.testing.harness import harness_for

ONE, TWO = harness_for("one://"), harness_for("two://")


@pytest.fixture
def table():
    return ClosingTable([ONE, TWO], {"three": "not installed"})


def report(test, engine, ledger, outcome="passed", when="call", variant=""):
    return pytest.TestReport(
        nodeid=f"suite/test_it.py::{test}[{engine}-{ledger}{variant}]",
        location=("suite/test_it.py", 1, test),
        keywords={},
        outcome=outcome,
        longrepr=None,
        when=when,
        user_properties=[("engine", engine), ("ledger", ledger)],
    )


def row(table, test):
    (found,) = [line.split()[1:] for line in table.lines() if line.startswith(f"test_it.py::{test} ")]
    return found


def test_a_cell_holds_the_ledgers_on_which_a_test_has_passed(table):
    for ledger in ("sqlite", "memory"):
        table.pytest_runtest_logreport(report("test_a", "one", ledger))
    table.pytest_runtest_logreport(report("test_a", "two", "redis"))
    assert row(table, "test_a") == ["ms", "r"]


def test_one_failed_variant_is_a_failed_test(table):
    for outcome, variant in (("passed", "-a"), ("failed", "-b"), ("passed", "-c")):
        table.pytest_runtest_logreport(report("test_a", "one", "sqlite", outcome, variant=variant))
    assert row(table, "test_a")[0] == "F"


def test_an_error_in_the_set_up_or_the_tear_down_is_a_failure(table):
    table.pytest_runtest_logreport(report("test_a", "one", "sqlite", "failed", when="setup"))
    table.pytest_runtest_logreport(report("test_a", "two", "sqlite"))
    table.pytest_runtest_logreport(report("test_a", "two", "sqlite", "failed", when="teardown"))
    assert row(table, "test_a") == ["F", "F"]


def test_what_was_skipped_or_not_run_is_told_and_counted(table):
    table.pytest_runtest_logreport(report("test_a", "one", "sqlite", "skipped", when="setup"))
    assert row(table, "test_a") == ["-", "?"]
    assert "1 tests x 2 engines, 1 cells not run" in table.lines()


def test_engines_that_are_missing_are_named(table):
    table.pytest_runtest_logreport(report("test_a", "one", "sqlite"))
    assert table.lines()[-1] == "conformance: tested one, two; missing: three (not installed)"
