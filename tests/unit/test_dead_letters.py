"""Jobs that failed for good: listed, looked at, put right, run again."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import msgspec
import pytest

from penstock import JobQueue, task
from penstock.core.config import Config, SecurityConfig
from penstock.core.exceptions import ArgumentsError, InvalidJobError, TransitionRefusedError
from penstock.job.lifecycle import State


@pytest.fixture(params=["memory://", "sqlite:///ledger.db"])
def queue(request, tmp_path: Path) -> Iterator[JobQueue]:
    with JobQueue("inline://", ledger=request.param, root=tmp_path) as queue:
        yield queue


@pytest.fixture
def divide():
    @task(name="letters.divide", queue="math", tags=["sum"])
    def divide(a: int, b: int, day: date | None = None) -> float:
        return a / b

    return divide


def ids(handles) -> list[str]:
    return [handle.id for handle in handles]


def test_a_failed_job_is_a_dead_letter_until_it_is_requeued(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    queue.enqueue(divide, 1, 1)
    assert ids(queue.dead_letters()) == [failed.id]
    again = queue.requeue(failed.id)
    assert (again.outcome, again.job.parent_id) == ("created", failed.id)
    assert ids(queue.dead_letters()) == [again.id]  # it has failed in its turn


def test_inputs_are_put_right_by_their_names(queue, divide):
    failed = queue.enqueue(divide, 6, b=0)
    again = queue.requeue(failed.id, inputs={"b": 3, "day": "2026-11-21"})
    assert again.result() == 2.0
    assert msgspec.json.decode(again.job.spec) == {"args": [6], "kwargs": {"b": 3, "day": "2026-11-21"}}
    assert queue.dead_letters() == []


def test_an_argument_that_went_by_its_place_is_put_right_there(queue, divide):
    failed = queue.enqueue(divide, 6, 0)
    assert queue.requeue(failed.id, inputs={"b": 2}).result() == 3.0


@pytest.mark.parametrize("inputs", [{"b": "three"}, {"c": 1}])
def test_inputs_that_do_not_fit_are_refused_and_the_letter_stays(queue, divide, inputs):
    failed = queue.enqueue(divide, 1, 0)
    with pytest.raises(ArgumentsError, match=r"letters\.divide"):
        queue.requeue(failed.id, inputs=inputs)
    assert ids(queue.dead_letters()) == [failed.id]


def test_a_command_is_put_right_by_its_parts(queue, tmp_path):
    failed = queue.enqueue_command(["sh", "-c", 'echo "$WHO"; exit 1'], env={"WHO": "ada"}, isolation="inline")
    again = queue.requeue(failed.id, inputs={"argv": ["sh", "-c", 'echo "$WHO"; pwd'], "cwd": str(tmp_path)})
    assert again.result()["output"] == f"ada\n{tmp_path}\n"


@pytest.mark.parametrize(
    ("inputs", "told"),
    [
        ({"arg": ["true"]}, "Did you mean 'argv'"),
        ({"argv": "true"}, "not a line for a shell"),
        ({"argv": 5}, "do not fit"),
        ({"argv": []}, "at least the name of a program"),
        ({"cwd": 5}, "do not fit"),
        ({"env": {"A": 1}}, "not a str"),
        ({"env": "A=1"}, "do not fit"),
        ({"on_exit": {"75": "later"}}, "says nothing"),
        (5, "is not a mapping"),
    ],
)
def test_parts_that_are_no_command_s_are_refused_and_the_letter_stays(queue, inputs, told):
    failed = queue.enqueue_command(["false"], isolation="inline")
    with pytest.raises(InvalidJobError, match=told):
        queue.requeue(failed.id, inputs=inputs)
    assert ids(queue.dead_letters()) == [failed.id]


def test_options_are_changed_and_all_others_stay(queue, divide):
    failed = queue.enqueue(divide.options(metadata={"team": "a"}, retry_on={OSError: 3}).call(1, 0))
    again = queue.requeue(failed.id, delay="1h", max_attempts=4, timeout="5s", metadata={"by": "me"}).job
    before = failed.job
    assert (again.queue, again.tags, again.backoff) == (before.queue, before.tags, before.backoff)
    assert (again.max_attempts, again.timeout_s) == (4, 5.0)
    assert again.metadata == {"team": "a", "by": "me"}
    assert again.scheduled_at > queue.now()


def test_what_waits_already_is_not_requeued_twice(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    first, second = (queue.requeue(failed.id, delay="1h") for _ in range(2))
    assert (second.outcome, second.id) == ("kept", first.id)


def test_what_failed_again_can_be_requeued_from_the_first_letter(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    assert [queue.requeue(failed.id).outcome for _ in range(3)] == ["created"] * 3


def test_of_many_who_requeue_at_once_one_makes_the_job(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    ready = threading.Barrier(4)
    seen: list[str] = []

    def press() -> None:
        ready.wait()
        seen.append(queue.requeue(failed.id, delay="1h").id)

    threads = [threading.Thread(target=press) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(seen), len(set(seen))) == (4, 1)


def test_a_job_that_is_not_final_cannot_be_requeued(queue, divide):
    waiting = queue.enqueue(divide.options(delay="1h").call(1, 0))
    with pytest.raises(TransitionRefusedError, match="cannot requeue"):
        queue.requeue(waiting.id)


def test_a_letter_with_a_live_namesake_is_answered_with_that_one(queue, divide):
    failed = queue.enqueue(divide.options(key="k").call(1, 0))
    live = queue.enqueue(divide.options(key="k", delay="1h").call(1, 1))
    again = queue.requeue(failed.id)
    assert (again.id, again.outcome) == (live.id, "kept")
    assert ids(queue.dead_letters()) == [failed.id]


def test_a_retry_takes_a_job_off_the_list(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    again = failed.retry()
    assert ids(queue.dead_letters()) == [again.id]


def test_a_letter_stays_requeued_when_its_job_is_purged(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    queue.requeue(failed.id, inputs={"b": 1})
    queue.ledger.purge(State("succeeded"), older_than_s=-1, limit=10)
    assert queue.dead_letters() == []


def test_a_forged_letter_is_not_signed_anew(tmp_path, divide):
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as plain:
        failed = plain.enqueue(divide, 1, 0)
        signing = Config(security=SecurityConfig(signing_keys=("0123456789abcdef",)))
        with JobQueue("inline://", ledger=plain.ledger, config=signing, root=tmp_path) as strict:
            with pytest.raises(InvalidJobError, match="cannot be submitted again"):
                strict.requeue(failed.id)
            told = strict.requeue_all()
            assert (told.found, told.requeued, list(told.refused)) == (1, 0, [failed.id])


def test_a_requeue_stands_in_the_audit_trail(queue, divide):
    failed = queue.enqueue(divide, 1, 0)
    again = queue.requeue(failed.id, inputs={"b": 1}, why="b was wrong")
    (entry,) = queue.audit(verb="requeue")
    assert (entry.subject, entry.why) == (failed.id, "b was wrong")
    assert entry.details == {"name": "letters.divide", "job": again.id, "changed": "b"}
    queue.enqueue(divide, 2, 0)
    queue.requeue_all(queue="math", why="again", options={"delay": "1h"})
    assert queue.audit(verb="requeue")[0].details == {"requeued": "1", "queue": "math"}


# -- many -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def letters(queue, divide):
    @task(name="letters.other", queue="else")
    def other() -> None:
        raise OSError("disk")

    made = [queue.enqueue(divide, number, 0, metadata={"team": "etl", "n": str(number)}) for number in range(3)]
    return [*made, queue.enqueue(other)]


@pytest.mark.parametrize(
    ("filters", "count"),
    [
        ({}, 4),
        ({"task": "letters.divide"}, 3),
        ({"task": "letters.*"}, 4),
        ({"queue": "else"}, 1),
        ({"tag": "sum"}, 3),
        ({"metadata": {"team": "etl"}}, 3),
        ({"metadata": {"team": "etl", "n": "2"}, "since": "1h", "tag": "sum"}, 1),
        ({"metadata": {"team": "web"}}, 0),
        ({"since": "1h"}, 4),
        ({"since": "0s"}, 0),
        ({"reason": "error"}, 4),
        ({"reason": "timeout"}, 0),
        ({"limit": 2}, 2),
    ],
)
def test_letters_are_found_by(queue, letters, filters, count):
    assert len(queue.dead_letters(**filters)) == count
    assert queue.requeue_all(dry_run=True, **filters).found == count


@pytest.mark.parametrize(
    ("filters", "told"),
    [
        ({"taks": "a"}, "Did you mean 'task'"),
        ({"reason": "eror"}, "Did you mean 'error'"),
        ({"since": "soon"}, "since: "),
        ({"since": "-1h"}, "is in the future"),
        ({"limit": -1}, "write 1 or more"),
        ({"metadata": "team"}, "metadata: 'team' is not a mapping"),
    ],
)
def test_a_filter_that_makes_no_sense_is_told(queue, filters, told):
    with pytest.raises(InvalidJobError, match=told):
        queue.dead_letters(**filters)


def test_a_dry_run_changes_nothing(queue, letters):
    told = queue.requeue_all(dry_run=True)
    assert (told.found, told.requeued, set(told.jobs)) == (4, 0, {letter.id for letter in letters})
    assert len(queue.dead_letters()) == 4


def test_all_that_fit_are_requeued_once_and_the_oldest_first(queue, letters):
    told = queue.requeue_all(task="letters.divide", options={"delay": "1h"})
    assert (told.found, told.requeued, told.kept, told.refused) == (3, 3, 0, {})
    parents = [queue.job(job_id).job.parent_id for job_id in told.jobs]
    assert parents == ids(letters[:3])
    assert ids(queue.dead_letters()) == [letters[3].id]


def test_those_that_fail_again_at_once_are_not_requeued_for_ever(queue, letters):
    assert queue.requeue_all().requeued == 4
    assert queue.counts() == {"failed": 8}
    assert len(queue.dead_letters()) == 4


def test_more_than_a_batch_is_requeued(tmp_path, divide):
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        queue.enqueue_many([divide.call(number, 0) for number in range(450)])
        told = queue.requeue_all(options={"delay": "1h"})
        assert (told.found, told.requeued, queue.dead_letters()) == (450, 450, [])


def test_a_requeue_takes_concurrency_keys_off(queue, divide):
    failed = queue.enqueue(divide, 1, 0, limits={"db": 1}, metadata={"team": "etl"})
    again = queue.requeue(failed.id, inputs={"b": 1}, limits={})
    assert again.job.metadata == {"team": "etl"}
