"""What the tests of every engine need: a queue on the harness of the module, and a record of what bodies did."""

from __future__ import annotations

import pytest

from penstock.testing.conformance import bodies
from penstock.testing.conformance.record import Record
from penstock.testing.harness import CALM


@pytest.fixture
def record(tmp_path) -> Record:
    return Record(tmp_path)


@pytest.fixture
def open_queue(harness, tmp_path):
    """Open a queue in calm weather; keywords are the engine's own settings."""
    opened = []

    def make(**settings):
        engines = {harness.url.partition("+")[0]: settings}
        ledger = f"sqlite:///{tmp_path}/ledger.db"
        opened.append(harness.queue(ledger, tasks=(bodies.MODULE,), sweep=CALM, engines=engines))
        return opened[-1]

    yield make
    harness.reset()
    for queue in opened:
        queue.close()
