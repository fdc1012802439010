"""Results: what a body returned is what a waiter gets."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest

from penstock.client import JobQueue
from penstock.testing.conformance.bodies import give, give_text
from penstock.testing.conformance.waiting import final
from penstock.testing.harness import WorkerThread

StartWorker = Callable[..., WorkerThread]


PLAIN: list[Any] = [
    None, True, 0, -7, 2**53, 1.5, "", "Grüße 🌊", [], [1, [2, [3]]], {"a": {"b": [None, 1.25]}},
]  # fmt: skip


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_plain_values_come_back_as_they_went(queue: JobQueue, start_worker: StartWorker, isolation: str) -> None:
    start_worker(concurrency=1)  # one child process serves them all
    jobs = queue.enqueue_many([give.options(isolation=isolation).call(value=value) for value in PLAIN])
    assert [job.result(20) for job in jobs] == PLAIN


@pytest.mark.parametrize("size", [100, 40_000, 3_000_000])
def test_a_large_value_lies_outside_the_ledger_and_comes_back(
    queue: JobQueue, start_worker: StartWorker, size: int
) -> None:
    start_worker()
    job = queue.enqueue(give_text, size=size)
    assert job.result(20) == "x" * size
    row = final(queue, job)
    assert row.result is not None
    assert len(row.result) < 36_000
    assert (len(row.result) < size) == (size > 32_768)


@pytest.mark.parametrize(
    "value",
    [
        date(2013, 1, 2),
        datetime(2013, 1, 2, 3, 4, 5, tzinfo=UTC),
        timedelta(seconds=90),
        Decimal("1.10"),
        UUID("018f4e0c-5a3e-7cc0-8000-000000000001"),
        b"\x00\xff",
        (1, 2),
        {3, 4},
    ],
    ids=lambda value: type(value).__name__,
)
def test_an_input_of_a_richer_plain_type_arrives_or_is_refused_by_name(
    queue: JobQueue, start_worker: StartWorker, value: Any
) -> None:
    from penstock.core.exceptions import PayloadError

    start_worker()
    try:
        job = queue.enqueue(give, value=value)
    except PayloadError as error:
        assert type(value).__name__ in str(error)  # noqa: PT017 - either is right, silence is not
        return
    assert job.result(20) is not None
