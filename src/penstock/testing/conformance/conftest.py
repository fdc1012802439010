"""Fixtures of the suite: every test runs on each harness and each ledger that the command line names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.testing.conformance import bodies
from penstock.testing.conformance.record import Record
from penstock.testing.harness import (
    HARNESSES,
    LEDGERS,
    Harness,
    WorkerProcess,
    WorkerThread,
    harness_for,
    named_harness,
)

if TYPE_CHECKING:
    from penstock.client import JobQueue

_REQUIRE = "PENSTOCK_REQUIRE_SERVICES"
"""Set to 1 where everything is said to be there: what is missing fails then, and is skipped otherwise."""


def pytest_configure(config: pytest.Config) -> None:
    """Register the suite's marker."""
    config.addinivalue_line("markers", "capability(flag): the test says what a capability flag means")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say what could not be tested here: an engine that is missing must not look like one that passed."""
    missing = {found.name: why for found in _harnesses(config) if (why := found.available()) is not None}
    tested = ", ".join(found.name for found in _harnesses(config) if found.name not in missing)
    terminalreporter.write_line(f"conformance: tested {tested or 'nothing'}; missing: {_told_missing(missing)}")


def _told_missing(missing: dict[str, str]) -> str:
    return "; ".join(f"{name} ({why})" for name, why in missing.items()) or "nothing"


def _harnesses(config: pytest.Config) -> list[type[Harness]]:
    urls, named = _told(config, "--backend"), _told(config, "--harness")
    return [*map(harness_for, urls), *map(named_harness, named)] or list(HARNESSES)


def _told(config: pytest.Config, option: str) -> list[str]:
    """Return an option's values; none when the suite is run without its options (see ``plugin.py``)."""
    return config.getoption(option, default=None) or []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every pair of engine and ledger that it can mean something for."""
    if "where" not in metafunc.fixturenames:
        return
    ledgers = _told(metafunc.config, "--ledger") or list(LEDGERS)
    if "start_process" in metafunc.fixturenames:
        # A ledger in memory belongs to one process.
        ledgers = [url for url in ledgers if not url.startswith("memory:")] or [LEDGERS[-1]]
    pairs: list[Any] = []
    for harness in _harnesses(metafunc.config):
        why_not = None if os.environ.get(_REQUIRE) == "1" else harness.available()
        marks = [pytest.mark.skip(reason=f"{harness.name}: {why_not}")] if why_not else []
        pairs.extend(
            pytest.param((harness, url), id=f"{harness.name}-{url.partition(':')[0]}", marks=marks) for url in ledgers
        )
    metafunc.parametrize("where", pairs)


@pytest.fixture
def harness(where: tuple[type[Harness], str], tmp_path: Path) -> Iterator[Harness]:
    """The engine under test, empty."""
    if (why_not := where[0].available()) is not None:
        pytest.fail(f"{where[0].name} is required here ({_REQUIRE}=1) and missing: {why_not}")
    made = where[0](tmp_path)
    yield made
    made.reset()


@pytest.fixture
def open_queue(harness: Harness, where: tuple[type[Harness], str], tmp_path: Path) -> Iterator[Callable[..., JobQueue]]:
    """Open further queues on the same engine and ledger; keywords are fields of `Config`."""
    opened: list[JobQueue] = []

    def make(*, ledger: str = where[1], **changes: Any) -> JobQueue:
        url = ledger.replace("{folder}", str(tmp_path))
        made = harness.queue(url, **{"tasks": (bodies.MODULE,), **changes})
        opened.append(made)
        return made

    yield make
    harness.reset()  # first the workers, then what they share
    for made in opened:
        made.close()


@pytest.fixture
def queue(open_queue: Callable[..., JobQueue]) -> JobQueue:
    """A queue on the engine under test."""
    return open_queue()


@pytest.fixture
def start_worker(harness: Harness, queue: JobQueue) -> Callable[..., WorkerThread]:
    """Start workers in this process; all are stopped after the test."""

    def start(on: JobQueue | None = None, **options: Any) -> WorkerThread:
        return harness.start_worker(on or queue, **options)

    return start


@pytest.fixture
def start_process(harness: Harness, queue: JobQueue) -> Callable[..., WorkerProcess]:
    """Start ``penstock worker`` processes; all are ended after the test."""

    def start(*arguments: str, on: JobQueue | None = None, **environ: str) -> WorkerProcess:
        return harness.start_process(on or queue, *arguments, **environ)

    return start


@pytest.fixture
def record(tmp_path: Path) -> Record:
    """What bodies wrote during the test."""
    return Record(tmp_path)
