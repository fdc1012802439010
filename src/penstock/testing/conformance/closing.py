"""The closing table of a run: every test beside every engine, so that what was not tried can be seen."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from penstock.testing.harness import Harness

_FAILED, _SKIPPED, _NOT_RUN = "F", "-", "?"
_ENGINE, _LEDGER = "engine", "ledger"


def tell_pair(item: pytest.Item) -> None:
    """Write engine and ledger of a test where its reports carry them, from one process to another too."""
    callspec = getattr(item, "callspec", None)
    if callspec is not None and "where" in callspec.params:
        harness, ledger = callspec.params["where"]
        item.user_properties += [(_ENGINE, harness.name), (_LEDGER, ledger_name(ledger))]


def ledger_name(template: str) -> str:
    """Return what a ledger's URL, or template of one, is called in reports: ``sqlite``, ``redis``, ..."""
    return template.partition(":")[0].strip("{}")


class ClosingTable:
    """Collects the outcomes of a run and prints them: a row for each test, a column for each engine.

    A cell holds the first letters of the ledgers on which every variant of the test has passed.
    """

    def __init__(self, harnesses: Sequence[type[Harness]], missing: dict[str, str]) -> None:
        self._engines = list(dict.fromkeys(harness.name for harness in harnesses))
        self._missing = {**missing, **{h.name: why for h in harnesses if (why := h.available()) is not None}}
        self._outcomes: dict[tuple[str, str], dict[str, str]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take one report; of the variants and phases of a test the worst counts."""
        told = dict(report.user_properties)
        if _ENGINE not in told or (report.when != "call" and report.passed):
            return
        test = report.nodeid.partition("[")[0].rpartition("/")[2]
        cell = self._outcomes.setdefault((test, str(told[_ENGINE])), {})
        ledger = str(told[_LEDGER])
        letter = {"passed": ledger[0], "skipped": _SKIPPED}.get(report.outcome, _FAILED)
        if cell.get(ledger) != _FAILED and (letter != ledger[0] or ledger not in cell):
            cell[ledger] = letter

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and what could not be tested: what is missing must not look like what passed."""
        if not self._outcomes:
            return
        terminalreporter.section("conformance")
        for line in self.lines():
            terminalreporter.write_line(line)

    def lines(self) -> list[str]:
        """Return the table."""
        tests = sorted({test for test, _ in self._outcomes})
        name_width = max(map(len, tests))
        widths = [max(len(self._cell(test, engine)) for test in [*tests, ""]) for engine in self._engines]
        widths = [max(width, len(str(number))) for number, width in enumerate(widths, 1)]

        def row(name: str, cells: Sequence[str]) -> str:
            padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
            return f"{name.ljust(name_width)}  {'  '.join(padded)}".rstrip()

        letters = "m memory, s sqlite, r redis, p postgres"
        numbers = [str(number) for number in range(1, len(self._engines) + 1)]
        blank = sum(self._cell(test, engine) == _NOT_RUN for test in tests for engine in self._engines)
        return [
            "engines: " + ", ".join(f"{number} {name}" for number, name in zip(numbers, self._engines, strict=True)),
            f"passed on the ledgers: {letters}; {_FAILED} failed, {_SKIPPED} skipped, {_NOT_RUN} not run",
            row("", numbers),
            *(row(test, [self._cell(test, engine) for engine in self._engines]) for test in tests),
            f"{len(tests)} tests x {len(self._engines)} engines, {blank} cells not run",
            f"conformance: tested {', '.join(self._tested()) or 'nothing'}; missing: {self._told_missing()}",
        ]

    def _cell(self, test: str, engine: str) -> str:
        outcomes = self._outcomes.get((test, engine), {})
        return "".join(outcomes[ledger] for ledger in sorted(outcomes)) or _NOT_RUN

    def _tested(self) -> list[str]:
        return [engine for engine in self._engines if engine not in self._missing]

    def _told_missing(self) -> str:
        return "; ".join(f"{name} ({why})" for name, why in self._missing.items()) or "nothing"
