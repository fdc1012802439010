"""A connection that falls silent, without an end or an error: each engine's worker finds out, and opens another."""

from __future__ import annotations

import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from silent_proxy import SilentProxy

from penstock import JobQueue, task
from penstock.client import PublishWarning
from penstock.core.exceptions import LedgerUnavailableError
from penstock.ledger import open_ledger, postgres_server
from penstock.testing import services
from penstock.testing.harness import WorkerThread, not_here, short_config, wait_until

pytestmark = pytest.mark.servers

TRANSPORTS = (
    "rq+{redis}", "saq+{redis}", "saq+{postgres}", "arq+{redis}", "huey+{redis}", "dramatiq+{redis}",
    "dramatiq+{rabbitmq}", "taskiq+{redis}", "taskiq+{nats}", "taskiq+{rabbitmq}",
)  # fmt: skip


@task(name="silent.noop")
def noop() -> None:
    """Do nothing."""


@pytest.fixture(params=TRANSPORTS)
def transport(request: pytest.FixtureRequest) -> str:
    if (why_not := not_here(request.param)) is not None:
        pytest.skip(why_not)
    return request.param


@pytest.fixture
def proxy(transport: str) -> Iterator[SilentProxy]:
    made = SilentProxy(services.url(transport.partition("{")[2].rstrip("}")))
    yield made
    made.close()


@pytest.fixture
def behind(transport: str, proxy: SilentProxy, tmp_path: Path) -> Iterator[JobQueue]:
    """A queue whose engine is reached by the proxy, and is to be given up after one second."""
    engine = transport.partition("+")[0]
    config = short_config(
        backend=f"{engine}+{proxy.url}",
        ledger="sqlite:///ledger.db",
        namespace=f"silent{tmp_path.name[-8:]}",
        engines={engine: {"answer_timeout_s": 1.0}},
    )
    with JobQueue(config=config, root=tmp_path) as queue:
        yield queue


def test_a_worker_whose_engine_falls_silent_connects_again_and_goes_on(
    transport: str, behind: JobQueue, proxy: SilentProxy
) -> None:
    worker = WorkerThread(behind, concurrency=2)
    direct: Any = transport.partition("{")[2].rstrip("}")
    backend = transport.partition("{")[0] + services.url(direct)
    try:
        behind.enqueue(noop).wait(20)
        proxy.fall_silent()
        known = proxy.accepted
        with JobQueue(config=msgspec.structs.replace(behind.config, backend=backend), root=behind.root) as publisher:
            # What the dead connection has taken with it is published again by a sweep.
            job = publisher.enqueue(noop)
            wait_until(lambda: job.state == "succeeded", 40, "the job has run")
        assert proxy.accepted > known
    finally:
        worker.stop(grace_s=2)


def test_a_publisher_whose_connections_have_fallen_silent_publishes_again_on_new_ones(
    behind: JobQueue, proxy: SilentProxy
) -> None:
    def is_published() -> bool:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always", PublishWarning)
            behind.enqueue(noop)
        return not told

    assert is_published()
    proxy.fall_silent()
    wait_until(is_published, 40, "a job is published without a warning")


def test_a_postgres_ledger_that_falls_silent_behind_a_proxy_is_asked_again(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "_SILENT_S", 1.0)
    proxy = SilentProxy(postgres_url)
    ledger = open_ledger(f"{proxy.url}?schema=silent_{tmp_path.name[-8:]}")
    try:
        assert ledger.counts() == {}
        proxy.fall_silent()
        began = time.monotonic()
        assert ledger.counts() == {}
        assert time.monotonic() - began > 0.9  # the first answer never came
    finally:
        ledger.close()
        proxy.close()


def test_a_postgres_ledger_that_stays_silent_says_so(
    postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(postgres_server, "_SILENT_S", 0.2)
    ledger = open_ledger(f"{postgres_url}?schema=silent_{tmp_path.name[-8:]}")
    try:
        with pytest.raises(LedgerUnavailableError, match=r"no answer within 0\.2 s"):
            ledger._server.call(lambda connection, _again: connection.execute("SELECT pg_sleep(2)"))
    finally:
        ledger.close()
