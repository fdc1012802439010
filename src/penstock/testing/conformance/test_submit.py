"""Submitting: what is accepted runs once; what is refused leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from penstock.client import JobQueue
from penstock.core.exceptions import ArgumentsError, InvalidJobError, PayloadError, UnknownTaskError
from penstock.job.lifecycle import State
from penstock.job.models import JobQuery, Outcome, new_job_id
from penstock.testing.conformance.bodies import anote, give, note
from penstock.testing.conformance.record import Record
from penstock.testing.conformance.waiting import all_final
from penstock.testing.harness import CALM, WorkerThread

StartWorker = Callable[..., WorkerThread]


def test_a_job_runs_and_its_result_comes_back(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    job = queue.enqueue(note, file=record.file, label="one")
    assert job.outcome is Outcome.CREATED
    assert job.result(20) == "one"
    assert job.state == "succeeded"


def test_a_job_submitted_before_any_worker_runs_when_one_comes(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    job = queue.enqueue(note, file=record.file, label="early")
    start_worker()
    assert job.result(20) == "early"


def test_in_calm_weather_every_message_arrives_exactly_once(
    open_queue: Callable[..., JobQueue], start_worker: StartWorker, record: Record
) -> None:
    queue = open_queue(sweep=CALM)
    worker = start_worker(queue)
    jobs = queue.enqueue_many([note.call(file=record.file, label=str(n)) for n in range(60)])
    all_final(queue, jobs, timeout_s=10)
    carried = worker.counts()
    here = queue.execution.counts
    assert carried.get("claimed", 0) + here["claimed"] == 60
    assert carried.get("refused", 0) + here["refused"] == 0
    assert carried.get("published_again", 0) == 0


def test_each_of_many_bodies_starts_exactly_once(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker(concurrency=4)
    start_worker(concurrency=4)
    calls = [(note if n % 2 else anote).call(file=record.file, label=str(n)) for n in range(100)]
    jobs = queue.enqueue_many(calls)
    assert {job.state for job in all_final(queue, jobs)} == {State.SUCCEEDED}
    assert sorted(int(entry.label) for entry in record.starts()) == list(range(100))


def test_enqueue_many_answers_in_order_with_an_outcome_each(queue: JobQueue, record: Record) -> None:
    queue.enqueue(note.options(key="taken", delay="1h"), file=record.file)
    calls = [
        note.options(delay="1h", **({"key": "taken"} if n == 2 else {})).call(file=record.file, label=str(n))
        for n in range(5)
    ]
    jobs = queue.enqueue_many(calls)
    created, kept = Outcome.CREATED, Outcome.KEPT
    assert [job.outcome for job in jobs] == [created, created, kept, created, created]
    for n, job in enumerate(jobs):
        if job.outcome is created:
            assert f'"label":"{n}"'.encode() in job.job.spec.replace(b" ", b"")


def test_enqueue_many_refuses_all_when_one_is_wrong(queue: JobQueue, record: Record) -> None:
    good = note.call(file=record.file)

    def calls() -> Any:
        yield good
        yield note.call(file=record.file, nonsense=1)

    with pytest.raises(ArgumentsError, match="nonsense"):
        queue.enqueue_many(calls())
    assert queue.ledger.find(JobQuery()) == []
    assert record.starts() == []


def test_the_key_of_a_live_job_keeps_that_job(queue: JobQueue, record: Record) -> None:
    first = queue.enqueue(note, file=record.file, key="the one", delay="1h")
    second = queue.enqueue(note, file=record.file, key="the one", delay="1h")
    assert (first.outcome, second.outcome) == (Outcome.CREATED, Outcome.KEPT)
    assert second.id == first.id
    assert len(queue.ledger.find(JobQuery())) == 1


def test_the_key_of_a_final_job_is_free(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    first = queue.enqueue(note, file=record.file, key="again")
    first.wait(20)
    second = queue.enqueue(note, file=record.file, key="again")
    assert second.outcome is Outcome.CREATED
    second.wait(20)
    assert len(record.starts()) == 2


def test_the_same_job_id_again_is_the_same_job(queue: JobQueue, start_worker: StartWorker, record: Record) -> None:
    start_worker()
    job_id = new_job_id()
    jobs = [queue.enqueue(note, file=record.file, job_id=job_id) for _ in range(3)]
    all_final(queue, jobs)
    assert [job.outcome for job in jobs] == [Outcome.CREATED, Outcome.KEPT, Outcome.KEPT]
    assert len(record.starts()) == 1


def test_a_final_job_run_again_is_a_new_job_with_a_parent(
    queue: JobQueue, start_worker: StartWorker, record: Record
) -> None:
    start_worker()
    first = queue.enqueue(note, file=record.file, label="again")
    first.wait(20)
    second = first.retry()
    assert second.result(20) == "again"
    assert second.job.parent_id == first.id
    assert first.state == "succeeded"


class Frame:
    """Stands for a DataFrame: the suite needs no pandas."""


def _deep(levels: int) -> Any:
    value: Any = 0
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "error"),
    [
        pytest.param(Frame(), PayloadError, id="an object"),
        pytest.param(print, PayloadError, id="a callable"),
        pytest.param("x" * 300_000, PayloadError, id="too large"),
        pytest.param(_deep(80), PayloadError, id="too deep"),
        pytest.param(_deep(20_000), PayloadError, id="far too deep"),
    ],
)
def test_input_that_is_not_plain_data_is_refused_before_anything_is_written(
    queue: JobQueue, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error):
        queue.enqueue(give, value=value)
    assert queue.ledger.find(JobQuery()) == []


def test_a_data_frame_as_input_is_refused_with_the_way_out(queue: JobQueue) -> None:
    pandas = pytest.importorskip("pandas")
    with pytest.raises(PayloadError, match=r"(?i)store|file|save"):
        queue.enqueue(give, value=pandas.DataFrame({"a": [1]}))
    assert queue.ledger.find(JobQuery()) == []


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"delay": -1}, id="a negative delay"),
        pytest.param({"at": datetime(2030, 1, 1)}, id="a naive datetime"),  # noqa: DTZ001 - that is the point
        pytest.param({"priority": 10}, id="a priority out of range"),
        pytest.param({"max_attempts": 0}, id="no attempt at all"),
        pytest.param({"timeout": "soon"}, id="a timeout that is no duration"),
        pytest.param({"queue": "no spaces"}, id="a queue's name with a space"),
        pytest.param({"job_id": "../../etc"}, id="a job id with slashes"),
    ],
)
def test_a_wrong_option_is_refused_before_anything_is_written(
    queue: JobQueue, record: Record, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidJobError):
        queue.enqueue(note, file=record.file, **options)
    assert queue.ledger.find(JobQuery()) == []
    assert record.starts() == []


def test_an_unknown_task_is_refused_with_the_nearest_name(queue: JobQueue) -> None:
    with pytest.raises(UnknownTaskError, match=r"conformance\.note"):
        queue.enqueue("conformance.notte")
    assert queue.ledger.find(JobQuery()) == []


def test_a_missing_argument_is_refused_by_name(queue: JobQueue) -> None:
    with pytest.raises(ArgumentsError, match="file"):
        queue.enqueue(note)
    assert queue.ledger.find(JobQuery()) == []
