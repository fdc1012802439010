"""What holds for every test: real servers for those that ask for one, and no task left behind for the next."""

from __future__ import annotations

import logging
import signal
from collections.abc import Callable
from typing import Any

import pytest

from penstock.sources.decorators import TASKS
from penstock.testing import services


def pytest_configure(config: pytest.Config) -> None:
    services.share_in(config)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell lets what it starts with `&` ignore Ctrl-C, and so would every process that a test presses it for.
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def tasks_of_this_test():
    """Forget the tasks that a test has registered: their names are those of the process, not of the test."""
    before = dict(TASKS)
    yield
    TASKS._tasks.clear()
    TASKS._tasks.update(before)


@pytest.fixture(autouse=True)
def levels_of_this_test():
    """Set back the levels of logging that a command sets: they are those of its process, which goes on here."""
    before = [(logger, logger.level) for logger in (logging.getLogger(), logging.getLogger("penstock"))]
    yield
    for logger, level in before:
        logger.setLevel(level)


_SERVED = {"redis", "postgres", "nats", "rabbitmq"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what needs a server: by its fixtures, or by the ledger that it is parametrised with."""
    for item in items:
        fixtures = {name.removesuffix("_url") for name in getattr(item, "fixturenames", ())}
        given = getattr(getattr(item, "callspec", None), "params", {}).values()
        params = {value for value in given if isinstance(value, str)}
        whole = item.path.stem.startswith(("test_backend_", "test_redis_", "test_postgres_", "test_server_"))
        if whole or item.path.stem in ("test_services", "test_joined_transaction") or (fixtures | params) & _SERVED:
            item.add_marker("servers")


def _url(name: str, server: Callable[[], str]) -> str:
    if (why_not := services.available(name)) is not None:
        pytest.skip(why_not)
    return server()


@pytest.fixture(scope="session")
def redis_url() -> str:
    return _url("redis", services.redis_server)


@pytest.fixture(scope="session")
def postgres_url() -> str:
    return _url("postgres", services.postgres_server)


@pytest.fixture(scope="session")
def nats_url() -> str:
    return _url("nats", services.nats_server)


@pytest.fixture(scope="session")
def rabbitmq_url() -> str:
    return _url("rabbitmq", services.rabbitmq_server)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Where everything is required a test that was skipped has failed, whatever it was skipped for."""
    reporter: Any = session.config.pluginmanager.get_plugin("terminalreporter")
    if services.required() and reporter is not None and reporter.stats.get("skipped") and session.exitstatus == 0:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = services.tell_skipped()
    if lines:
        terminalreporter.section("services that are missing here", sep="!", red=True, bold=True)
        for line in lines:
            terminalreporter.line(line, red=True)
