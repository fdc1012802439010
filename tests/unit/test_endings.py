"""How long a job waits that a worker has handed back because it does not know the task."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from penstock.endings import Elsewhere

JOB = SimpleNamespace(id="job-1", name="sales", created_at=datetime.now(UTC))


@pytest.fixture
def elsewhere():
    return Elsewhere()


def test_a_job_that_nobody_can_run_waits_long(elsewhere):
    assert [elsewhere.delay_s(JOB) for _ in range(2)] == [15, 15]


def test_a_job_that_another_worker_can_run_is_passed_on_soon(elsewhere):
    elsewhere.tasks = frozenset({"sales"})
    assert elsewhere.delay_s(JOB) <= 0.25


def test_a_job_that_comes_back_again_and_again_waits_longer_each_time(elsewhere):
    elsewhere.tasks = frozenset({"sales"})
    waits = [elsewhere.delay_s(JOB) for _ in range(20)]
    assert waits == sorted(waits)
    assert waits[-1] == 15
