"""Fixtures of the suite: every test runs on each harness and each ledger that the command line names."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from penstock.testing import services
from penstock.testing.conformance import bodies
from penstock.testing.conformance.closing import ClosingTable, ledger_name, tell_pair
from penstock.testing.conformance.record import Record
from penstock.testing.harness import (
    CALM,
    Harness,
    WorkerProcess,
    WorkerThread,
    filled,
    harness_for,
    named_harness,
    not_here,
    servers_of,
)
from penstock.testing.transports import LEDGERS, MEMORY, SQLITE, ledgers_for, transports

if TYPE_CHECKING:
    from penstock.client import JobQueue

_HARNESSES = pytest.StashKey[tuple[list[type[Harness]], dict[str, str]]]()


def pytest_configure(config: pytest.Config) -> None:
    """Register the suite's markers; start the servers where several processes will share them."""
    config.addinivalue_line("markers", "capability(flag): the test says what a capability flag means")
    config.addinivalue_line("markers", "servers: the test needs a server")
    config.addinivalue_line("markers", "calm: no sweep publishes a message again during the test")
    services.share_in(config)
    if not hasattr(config, "workerinput"):  # under pytest-xdist only the one that gathers the reports tells
        config.pluginmanager.register(ClosingTable(*_harnesses(config)), "penstock-closing-table")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Let the closing table know where a test ran."""
    tell_pair(item)


def _harnesses(config: pytest.Config) -> tuple[list[type[Harness]], dict[str, str]]:
    if _HARNESSES not in config.stash:
        urls, named = _told(config, "--backend"), _told(config, "--harness")
        told = [*map(harness_for, urls), *map(named_harness, named)]
        config.stash[_HARNESSES] = (told, {}) if told else transports()
    return config.stash[_HARNESSES]


def _told(config: pytest.Config, option: str) -> list[str]:
    """Return an option's values; none when the suite is run without its options (see ``plugin.py``)."""
    return config.getoption(option, default=None) or []


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each test on every pair of engine and ledger that it can mean something for."""
    if "where" not in metafunc.fixturenames:
        return
    config = metafunc.config
    harnesses, _ = _harnesses(config)
    chosen = ledgers_for(harnesses)
    pairs: list[Any] = []
    for harness in harnesses:
        ledgers: Sequence[str] = _told(config, "--ledger") or chosen[harness]
        if config.getoption("--every-ledger", default=False):
            ledgers = LEDGERS
        if "start_process" in metafunc.fixturenames:
            # A ledger in memory belongs to one process.
            ledgers = [url for url in ledgers if url != MEMORY] or [SQLITE]
        pairs.extend(_pair(harness, ledger) for ledger in ledgers)
    metafunc.parametrize("where", pairs)


def _pair(harness: type[Harness], ledger: str) -> Any:
    marks: list[Any] = []
    if harness.needs_server or servers_of(ledger):
        marks.append(pytest.mark.servers)
    if (why_not := None if services.required() else harness.available() or not_here(ledger)) is not None:
        marks.append(pytest.mark.skip(reason=f"{harness.name}: {why_not}"))
    return pytest.param((harness, ledger), id=f"{harness.name}-{ledger_name(ledger)}", marks=marks)


@pytest.fixture
def harness(where: tuple[type[Harness], str], tmp_path: Path) -> Iterator[Harness]:
    """The engine under test, empty."""
    if (why_not := where[0].available() or not_here(where[1])) is not None:
        pytest.fail(f"{where[0].name} is required here (PENSTOCK_REQUIRE_SERVICES=1) and missing: {why_not}")
    made = where[0](tmp_path)
    yield made
    made.reset()


@pytest.fixture
def open_queue(harness: Harness, where: tuple[type[Harness], str], tmp_path: Path) -> Iterator[Callable[..., JobQueue]]:
    """Open further queues on the same engine and ledger; keywords are fields of `Config`."""
    opened: list[JobQueue] = []

    def make(*, ledger: str = where[1], **changes: Any) -> JobQueue:
        made = harness.queue(filled(ledger, tmp_path), **{"tasks": (bodies.MODULE,), **changes})
        opened.append(made)
        return made

    yield make
    harness.reset()  # first the workers, then what they share
    for made in opened:
        made.close()


@pytest.fixture
def queue(open_queue: Callable[..., JobQueue], request: pytest.FixtureRequest) -> JobQueue:
    """A queue on the engine under test; in a test that is marked ``calm`` no sweep publishes anything again."""
    return open_queue(sweep=CALM) if request.node.get_closest_marker("calm") else open_queue()


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
