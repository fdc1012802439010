"""`penstock worker` that ends by itself: recycled by its parent, finished, bound; and who can run what."""

from __future__ import annotations

import json
import re

import pytest
from test_worker_processes import Shop, alive, ended, hold, nap, shop  # noqa: F401 - a fixture


def test_a_process_that_had_its_jobs_is_replaced_and_none_is_lost(shop: Shop):  # noqa: F811
    jobs = shop.queue.enqueue_many([nap.call(seconds=0) for _ in range(6)])
    parent = shop.worker("--processes=2", "--max-jobs-per-process=2", "--max-jobs=6")
    code, _, err = ended(parent)
    assert code == 0, err
    pids = {job.result() for job in jobs}
    assert len(pids) == 4  # two, then one, in each of two places
    assert "another takes its place" in err


def test_a_process_that_has_grown_too_large_is_replaced(shop: Shop):  # noqa: F811
    parent = shop.worker("--processes=1", "--max-memory=1MB", "--json")
    shop.queue.enqueue(nap.call(seconds=0)).result(30)
    code, out, _ = ended(parent)
    last = json.loads(out.splitlines()[-1])
    assert (code, last["event"]) == (0, "ended")
    assert re.fullmatch(r".* of memory, over 1 MB", last["recycled"])


def test_until_finished_is_a_flag(shop: Shop):  # noqa: F811
    job = shop.queue.enqueue(nap.options(delay="1s").call(seconds=0))
    code, _, err = ended(shop.worker("--until-finished"))
    assert (code, job.state) == (0, "succeeded"), err


def test_at_most_is_a_flag(shop: Shop):  # noqa: F811
    shop.queue.enqueue_many([nap.call(seconds=0) for _ in range(3)])
    assert ended(shop.worker("--at-most", "several.nap=1"))[0] == 0
    assert shop.queue.counts() == {"succeeded": 1, "cancelled": 2}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--at-most", "nap"], "--at-most takes NAME=N"),
        (["--at-most", "nap=1", "--processes=2"], "--at-most counts in one process"),
        (["--task-concurrency", "nap=0"], "--task-concurrency takes NAME=N with a number from 1"),
        (["--max-memory", "much"], "--max-memory: 'much' is not an amount of memory"),
    ],
)
def test_what_makes_no_sense_is_told(shop: Shop, words, told):  # noqa: F811
    code, _, err = ended(shop.worker(*words))
    assert code == 2
    assert told in err


def test_workers_tell_what_they_can_run(shop: Shop):  # noqa: F811
    shop.worker("--task-concurrency", "several.nap=1")
    (worker,) = shop.ready(1)
    assert {"several.hold", "several.nap"} <= set(worker.tasks)
    assert [found.id for found in shop.queue.workers_for(nap)] == [worker.id]
    assert shop.queue.workers_for("several.unknown") == []
