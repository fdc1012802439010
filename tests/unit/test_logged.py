"""Arguments are hidden in the log of a worker, but for those that are meant to be seen."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import closing
from typing import Annotated, Any

import pytest

from penstock import Depends, JobQueue, Logged, Secret, task


@pytest.fixture
def queue(caplog: pytest.LogCaptureFixture) -> Iterator[JobQueue]:
    caplog.set_level(logging.INFO, "penstock.execution")
    with closing(JobQueue("inline://", ledger="memory://")) as opened:
        yield opened


def begun(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.message.partition(": job ")[0] for record in caplog.records if " begins: job " in record.message]


def test_what_is_marked_is_shown_and_nothing_else(queue, caplog):
    @task
    def welcome(
        customer: Annotated[int, Logged],
        addresses: Annotated[list[str], Logged(length_only=True)],
        more: Annotated[dict[str, int], Logged(length_only=True)],
        card: str,
        db: Any = Depends(dict),
        plan: Annotated[str, Logged()] = "free",
    ) -> None: ...

    job = queue.enqueue(welcome, 7, ["a", "b"], card="4111", more={"x": 1})
    assert begun(caplog) == ["welcome(customer=7, addresses=[len 2], more={len 1}, card=..., plan='free') begins"]
    assert f"job {job.id}, attempt 1" in caplog.text


def test_an_async_body_is_told_of_too(queue, caplog):
    @task
    async def awaits(*names: Annotated[str, Logged], **more: str) -> None: ...

    queue.enqueue(awaits, "ada", "bob", x="y").result(10)
    assert begun(caplog) == ["awaits(names=['ada', 'bob'], more=...) begins"]


def test_what_is_secret_stays_hidden_where_it_is_marked(queue, caplog):
    @task
    def signs_in(
        password: Annotated[str, Logged], word: Annotated[Secret, Logged], note: Annotated[str, Logged]
    ) -> None: ...

    queue.enqueue(signs_in, password="hunter2-hunter2", word=Secret("open sesame"), note="two\nlines").result(10)
    assert "hunter2" not in caplog.text
    assert "sesame" not in caplog.text
    assert "note='two\\nlines'" in caplog.text


def test_a_task_without_a_mark_is_not_told_of(queue, caplog):
    @task
    def quiet(card: str) -> None: ...

    queue.enqueue(quiet, "4111").result(10)
    assert begun(caplog) == []


def test_a_long_argument_is_cut(queue, caplog):
    @task
    def reads(text: Annotated[str, Logged]) -> None: ...

    queue.enqueue(reads, "x" * 1000).result(10)
    assert len(begun(caplog)[0]) < 300


def test_an_annotation_that_cannot_be_read_hides_its_own_argument_alone(queue, caplog):
    def doubtful(one: Annotated[int, Logged], other: Annotated[Nowhere, Logged]) -> None: ...  # noqa: F821

    with pytest.warns(UserWarning, match="annotation of 'other'"):
        queue.enqueue(task(doubtful), 1, 2).result(10)
    assert begun(caplog) == ["doubtful(one=1, other=...) begins"]
