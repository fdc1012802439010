"""Group commit: shared transactions, an answer of its own for each, nothing left behind."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import pytest

from penstock.core.base import Applied
from penstock.core.exceptions import LedgerUnavailableError
from penstock.job import lifecycle
from penstock.job.lifecycle import State, Transition
from penstock.job.models import Intent, new_job_id
from penstock.ledger import open_ledger
from penstock.ledger.memory import MemoryLedger
from penstock.writer import Writer


class SlowLedger:
    """Holds each write until it is let go, so that company gathers; counts the writes."""

    def __init__(self) -> None:
        self.inner = MemoryLedger()
        self.sizes: list[int] = []
        self.inside = threading.Event()
        self.go_on = threading.Event()
        self.broken = False

    def apply(self, transition: Transition) -> Applied | None:
        return self.apply_many([transition])[0]

    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        self.sizes.append(len(transitions))
        self.inside.set()
        assert self.go_on.wait(10)
        if self.broken:
            raise LedgerUnavailableError("gone")
        return self.inner.apply_many(transitions)


@pytest.fixture
def ledger() -> SlowLedger:
    return SlowLedger()


def queued(ledger: SlowLedger, count: int) -> list[str]:
    intents = [Intent(id=new_job_id(), kind="task", name="n", spec=b"{}") for _ in range(count)]
    return [submission.job.id for submission in ledger.inner.insert(intents, grace_s=30)]


def claim(job_id: str) -> Transition:
    return lifecycle.claim(job_id, owner="w", lease_s=60)


def in_threads(writer: Writer, job_ids: Sequence[str], answers: dict[str, Any]) -> list[threading.Thread]:
    def ask(job_id: str) -> None:
        try:
            answers[job_id] = writer.apply(claim(job_id))
        except LedgerUnavailableError as error:
            answers[job_id] = error

    threads = [threading.Thread(target=ask, args=(job_id,)) for job_id in job_ids]
    for thread in threads:
        thread.start()
    return threads


def gathered(writer: Writer, count: int) -> None:
    done = threading.Event()
    while len(writer._waiting) < count:
        assert not done.wait(0.001)


def test_what_comes_while_somebody_writes_goes_in_one_transaction(ledger: SlowLedger) -> None:
    writer, answers = Writer(ledger), {}
    first, *others = queued(ledger, 6)
    threads = in_threads(writer, [first], answers)
    assert ledger.inside.wait(10)
    threads += in_threads(writer, others, answers)
    gathered(writer, 5)
    ledger.go_on.set()
    for thread in threads:
        thread.join(10)
    assert ledger.sizes == [1, 5]


def test_each_transition_has_an_answer_of_its_own(ledger: SlowLedger) -> None:
    ledger.go_on.set()
    there, gone = queued(ledger, 1)[0], new_job_id()
    answers = Writer(ledger).apply_all([claim(there), claim(gone), claim(there)])
    assert [answer is not None for answer in answers] == [True, False, False]


def test_an_idle_ledger_is_written_before_submit_returns(ledger: SlowLedger) -> None:
    ledger.go_on.set()
    (job_id,) = queued(ledger, 1)
    told: list[Applied | None] = []
    Writer(ledger).submit(claim(job_id), lambda applied, _error: told.append(applied))
    assert [applied.state for applied in told if applied] == [State.RUNNING]


def test_what_is_submitted_while_somebody_writes_is_written_by_them(ledger: SlowLedger) -> None:
    writer, told = Writer(ledger), threading.Event()
    first, second = queued(ledger, 2)
    threads = in_threads(writer, [first], {})
    assert ledger.inside.wait(10)
    writer.submit(claim(second), lambda _applied, _error: told.set())
    assert not told.is_set()
    ledger.go_on.set()
    assert told.wait(10)
    threads[0].join(10)


def test_an_error_of_the_ledger_reaches_everybody_who_waits(ledger: SlowLedger) -> None:
    writer, answers = Writer(ledger), {}
    job_ids = queued(ledger, 4)
    ledger.broken = True
    threads = in_threads(writer, job_ids, answers)
    ledger.go_on.set()
    for thread in threads:
        thread.join(10)
    assert all(isinstance(answers[job_id], LedgerUnavailableError) for job_id in job_ids)


def test_ten_threads_lose_no_transition(tmp_path: Any) -> None:
    ledger = open_ledger(f"sqlite:///{tmp_path}/ledger.db")
    intents = [Intent(id=new_job_id(), kind="task", name="n", spec=b"{}") for _ in range(500)]
    ledger.insert(intents, grace_s=30)
    writer = Writer(ledger)
    refused: list[str] = []

    def work(own: Sequence[Intent]) -> None:
        for intent in own:
            assert writer.apply(claim(intent.id)) is not None
            writer.submit(
                lifecycle.succeed(intent.id, attempt=1),
                lambda applied, _error, job_id=intent.id: refused.append(job_id) if applied is None else None,
            )

    threads = [threading.Thread(target=work, args=(intents[n::10],)) for n in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert (ledger.counts(), refused) == ({"succeeded": 500}, [])
    ledger.close()
