"""The pytest plugin: queues, workers, a scheduler and assertions, for the tests of whoever uses penstock.

It is loaded in every pytest run of every project that has penstock installed, so it imports nothing at the top.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from penstock.client import JobQueue
    from penstock.handle import JobHandle
    from penstock.testing.draining import Drained
    from penstock.testing.frozen import FrozenScheduler
    from penstock.worker import Worker

_SUITE = "penstock.testing.conformance"


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests(parser: pytest.Parser, args: list[str]) -> None:
    """Add the suite's own options, in the runs that name the suite: nobody else's options can clash with them.

    A conftest cannot do it: pytest reads the options before it loads the conftest of a ``--pyargs`` package.
    """
    if any(_SUITE in arg.replace("/", ".") for arg in args):
        from penstock.testing.harness import add_options

        add_options(parser)


@pytest.fixture
def job_queue(tmp_path: Path) -> Iterator[JobQueue]:
    """A `JobQueue` that runs each job within the enqueue call and forgets everything after the test.

    It is also what ``task.enqueue(...)`` uses during the test.
    """
    from penstock.client import JobQueue
    from penstock.core.config import Config

    config = Config(backend="inline://", ledger="memory://", results=str(tmp_path / "results"))
    with JobQueue(config=config, root=tmp_path) as queue:
        JobQueue.set_default(queue)
        try:
            yield queue
        finally:
            JobQueue.set_default(None)


@pytest.fixture
def waiting_queue(tmp_path: Path) -> Iterator[JobQueue]:
    """A `JobQueue` whose jobs wait until the test runs them, with the fixture ``drain`` or a worker of its own.

    It is also what ``task.enqueue(...)`` uses during the test.
    """
    from penstock.client import JobQueue
    from penstock.testing.harness import short_config

    config = short_config(
        backend=f"huey+sqlite:///{tmp_path / 'queue.db'}", ledger="memory://", results=str(tmp_path / "results")
    )
    with JobQueue(config=config, root=tmp_path) as queue:
        JobQueue.set_default(queue)
        try:
            yield queue
        finally:
            JobQueue.set_default(None)


@pytest.fixture
def assert_enqueued() -> Callable[..., list[JobHandle]]:
    """`penstock.testing.assert_enqueued` of the test's queue: ``assert_enqueued(greet, "Ada", delay="10m")``."""
    from penstock.testing import expectations

    return partial(expectations.assert_enqueued, None)


@pytest.fixture
def assert_not_enqueued() -> Callable[..., None]:
    """`penstock.testing.assert_not_enqueued` of the test's queue."""
    from penstock.testing import expectations

    return partial(expectations.assert_not_enqueued, None)


@pytest.fixture
def drain() -> Callable[..., Drained]:
    """`penstock.testing.drain` of the test's queue: ``drain(with_scheduled=True).failed == 0``."""
    from penstock.testing import draining

    return draining.drain


@pytest.fixture
def job_worker(tmp_path: Path) -> Iterator[Worker]:
    """A `Worker` that runs in the background on the embedded backend; its ``queue`` takes the jobs.

    Leases and sweeps are short, so that a lost job is back within seconds. ``task.enqueue(...)`` uses the same queue.
    """
    from penstock.client import JobQueue
    from penstock.testing.harness import short_config

    config = short_config(
        backend=f"huey+sqlite:///{tmp_path / 'queue.db'}",
        ledger=f"sqlite:///{tmp_path / 'ledger.db'}",
        results=str(tmp_path / "results"),
    )
    with JobQueue(config=config, root=tmp_path) as queue:
        JobQueue.set_default(queue)
        try:
            with queue.worker() as worker:
                yield worker
        finally:
            JobQueue.set_default(None)


@pytest.fixture
def frozen_scheduler(tmp_path: Path) -> Iterator[FrozenScheduler]:
    """A scheduler on a clock that stands still: ``frozen_scheduler.at("2026-10-25T00:00").advance("24h")``.

    It has the tasks and schedules of the project around the current folder, and those that are made on its ``queue``.
    Jobs run in the test's own process; everything is forgotten after the test.
    """
    from datetime import UTC, datetime

    from msgspec.structs import replace

    from penstock.client import JobQueue
    from penstock.ledger.memory import MemoryLedger
    from penstock.settings import load
    from penstock.testing.frozen import FrozenScheduler, VirtualClock

    clock = VirtualClock(datetime.now(UTC).replace(microsecond=0))
    project = load()
    config = replace(project.config, backend="inline://", ledger="memory://", results=str(tmp_path / "results"))
    with JobQueue(config=config, root=project.root, ledger=MemoryLedger(clock=clock)) as queue:
        JobQueue.set_default(queue)
        try:
            yield FrozenScheduler(queue, clock)
        finally:
            JobQueue.set_default(None)
