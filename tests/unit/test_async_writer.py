"""Group commit, and how a loop hears of it."""

from __future__ import annotations

import asyncio
import threading
from functools import partial

import pytest

from penstock import JobQueue, bridge, task
from penstock.core.exceptions import LedgerError
from penstock.job import lifecycle
from penstock.ledger.memory import MemoryLedger
from penstock.writer import Writer


@task(name="writer.nothing")
def nothing() -> None:
    """Do nothing."""


@pytest.fixture
def ledger(tmp_path):
    with JobQueue("inline://", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        queue.made = [job.id for job in queue.enqueue_many([nothing.options(delay="1ms").call() for _ in range(300)])]
        yield queue


@pytest.fixture
def writer(ledger):
    made = Writer(ledger.ledger)
    yield made
    made.close()


def claim(job_id):
    return lifecycle.claim(job_id, owner="me", lease_s=60)


def test_what_is_posted_is_written_by_another_thread(ledger, writer):
    said = threading.Event()
    threads = []

    def done(applied, error):
        threads.append(threading.current_thread().name)
        said.set()

    writer.post(claim(ledger.made[0]), done)
    assert said.wait(5)
    assert threads == ["penstock-writer"]


def test_each_of_many_answers_reaches_its_own_future(ledger, writer):
    async def main():
        return await asyncio.gather(*(bridge.answer(partial(writer.post, claim(job))) for job in ledger.made))

    answers = asyncio.run(main())
    assert [applied.job.id for applied in answers] == ledger.made


def test_two_loops_at_once_hear_of_their_own(ledger, writer):
    heard: dict[int, list[str]] = {}

    def loop(part):
        async def main():
            jobs = ledger.made[part::2]
            answers = await asyncio.gather(*(bridge.answer(partial(writer.post, claim(job))) for job in jobs))
            heard[part] = [applied.job.id for applied in answers]

        asyncio.run(main())

    threads = [threading.Thread(target=loop, args=(part,)) for part in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert heard == {0: ledger.made[0::2], 1: ledger.made[1::2]}


def test_an_error_of_the_ledger_is_raised_where_it_is_waited_for():
    class Broken(MemoryLedger):
        def apply(self, transition):
            raise LedgerError("broken")

    writer = Writer(Broken())
    with pytest.raises(LedgerError, match="broken"):
        asyncio.run(bridge.answer(partial(writer.post, claim("x"))))
    writer.close()


def test_closing_writes_what_waits(ledger, writer):
    answers = []
    for job in ledger.made:
        writer.post(claim(job), lambda applied, error: answers.append(applied))
    writer.close()
    assert len(answers) == len(ledger.made)


def test_an_answer_for_a_loop_that_is_gone_harms_nobody(ledger, writer):
    kept = []

    async def main():
        asking = asyncio.ensure_future(bridge.answer(kept.append))
        await asyncio.sleep(0)
        asking.cancel()

    asyncio.run(main())
    kept[0](None, None)
