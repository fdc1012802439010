"""Why a job is where it is: each branch, from facts that are given."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from msgspec.structs import replace

from penstock.job.explanation import explain
from penstock.job.facts import AHEAD_MAX, Decided, Explanation, Facts, Slot
from penstock.job.lifecycle import SHOWN_STATES, State
from penstock.job.models import Attempt, ErrorInfo, Job, WorkerInfo
from penstock.job.retries import RetryPolicy, RetryRule

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
ENGINE = "rq+redis://localhost/0"


def ago(seconds: float) -> datetime:
    return NOW - timedelta(seconds=seconds)


JOB = Job(
    id="job-1", kind="task", name="sales", spec=b"{}", queue="etl", state=State.QUEUED, created_at=ago(90),
    scheduled_at=ago(60), publishes=1, published_at=ago(60), publish_due_at=ago(-30), max_attempts=3,
)  # fmt: skip
WORKER = WorkerInfo(
    id="host:1:ab", host="host", pid=1, backend=ENGINE, queues=("etl",), concurrency=4, started_at=ago(900),
    seen_at=ago(3), tasks=("sales",),
)  # fmt: skip
RUNNING: dict[str, Any] = {
    "state": State.RUNNING, "attempt": 1, "owner": WORKER.id, "started_at": ago(30), "lease_until": ago(-45),
}  # fmt: skip
ERROR = ErrorInfo("ValueError", "no such column\nand more")


def told(job: Job, **facts: Any) -> Explanation:
    return explain(Facts(**{"now": NOW, "job": job, "engine": ENGINE, "workers": (WORKER,), "depth": 7, **facts}))


def points(explanation: Explanation) -> dict[str, str]:
    return {point.name: f"{point.level}: {point.told} {point.hint}".strip() for point in explanation.points}


def attempt(outcome: Any, number: int = 1, error: ErrorInfo | None = ERROR) -> Attempt:
    return Attempt(
        job_id="job-1", number=number, worker=WORKER.id, started_at=ago(40), finished_at=ago(20), outcome=outcome,
        error=error,
    )  # fmt: skip


# -- it waits ---------------------------------------------------------------------------------------------------------


def test_a_job_for_later_says_when() -> None:
    job = replace(JOB, scheduled_at=ago(-300))
    assert told(job).state == "scheduled"
    assert told(job).told == (
        "It is scheduled for 2026-11-21 12:05:00 UTC, in 5 m 0 s, and begins no earlier."
    )  # fmt: skip


def test_a_job_that_failed_says_which_try_why_and_when_the_next_is() -> None:
    job = replace(JOB, scheduled_at=ago(-10), attempt=1, errors=1, error=ERROR)
    explanation = told(job, attempts=(attempt("error"),))
    assert explanation.told == (
        "Try 1 failed 20.0 s ago: ValueError: no such column. The next try is due at 2026-11-21 12:00:10 UTC, "
        "in 10.0 s. 1 of 3 tries are spent, 2 left."
    )
    assert explanation.points[0].hint == "penstock logs job-1 --attempt 1"


def test_a_job_that_lost_its_process_says_so() -> None:
    job = replace(JOB, scheduled_at=ago(-10), attempt=1, crashes=1)
    explanation = told(job, attempts=(attempt("crashed", error=None),))
    assert "Try 1 lost its process" in explanation.told
    assert "After 3 crashes it fails; this was number 1." in explanation.told


def test_a_job_that_was_handed_back_says_so() -> None:
    job = replace(JOB, scheduled_at=ago(-10), attempt=1)
    assert "ended unfinished" in told(job, attempts=(attempt("released", error=None),)).told


def test_where_the_error_decides_how_many_tries_there_are_none_are_promised() -> None:
    backoff = RetryPolicy(rules=(RetryRule(name="ConnectionError", max_attempts=5),))
    job = replace(JOB, scheduled_at=ago(-10), attempt=1, errors=1, error=ERROR, backoff=backoff)
    explained = told(job, attempts=(attempt("error"),)).told
    assert explained.endswith("1 so far ended in an error; how many may depends on the error.")


def test_a_job_that_is_held_says_by_what() -> None:
    found = points(
        told(replace(JOB, held="struck: sales"), decided=(Decided("Struck: sales, by ada.", "penstock restore sales"),))
    )
    assert found["decided"].startswith("warning: Struck: sales, by ada. penstock restore")
    assert "held" not in found
    assert "penstock cancel" in points(told(replace(JOB, held="waits for a slot")))["held"]


def test_a_job_that_is_held_by_a_rule_that_is_gone_goes_on_soon() -> None:
    assert "goes on with the next sweep" in points(told(replace(JOB, held="paused: queue etl")))["held"]


def test_a_job_that_waits_for_a_slot_says_who_has_it() -> None:
    slots = (Slot("db", 2, ("job-7", "job-8")), Slot("free", 1))
    found = points(told(replace(JOB, held="waits for a slot of 'db' (at most 2 at once)"), slots=slots))
    assert found["held"].endswith("they give their slots back when they end: penstock explain job-7")
    assert found["slots"] == "ok: At most 2 with the key 'db' run at once; now: job-7, job-8."


def test_a_job_that_may_expire_says_when() -> None:
    found = points(told(replace(JOB, expires_at=ago(-90))))["expires"]
    assert found == "ok: If nobody has begun it by 2026-11-21 12:01:30 UTC (in 1 m 30 s), it fails as expired."


def test_a_job_that_waits_with_a_note_tells_it_and_when_it_is_offered_again() -> None:
    job = replace(JOB, note="no task named 'sales'; known: none.", attempt=1, scheduled_at=ago(-15))
    assert (
        points(told(job))["note"]
        == "warning: It waits: no task named 'sales'; known: none. It is offered again in 15.0 s."
    )


def test_a_worker_without_the_signing_key_is_told_of() -> None:
    note = "the job is signed with the key 'ab12', which this worker does not have (it has: x; security.signing_keys)"
    assert "give its workers that key" in points(told(replace(JOB, note=note)))["note"]


def test_a_job_whose_signature_nobody_here_takes_is_told_of() -> None:
    found = points(told(JOB, signature="the job is not signed"))["signature"]
    assert found.startswith("error: Workers here would refuse it: the job is not signed.")


def test_a_queued_job_says_how_many_are_before_it() -> None:
    assert told(JOB).told == "It has been due for 1 m 0 s, and is the first of queue etl."
    assert told(JOB, ahead=12).told == "It has been due for 1 m 0 s; 12 older jobs of queue etl wait too."
    assert "1,000 or more older jobs" in told(JOB, ahead=AHEAD_MAX).told


def test_a_queued_job_tells_of_its_message() -> None:
    assert points(told(JOB))["message"] == (
        "ok: Its message was published once, last 1 m 0 s ago. If nobody takes it, it is published again in 30.0 s. "
        "The engine holds 7 messages of this queue."
    )


def test_a_message_that_was_published_often_is_a_warning() -> None:
    assert points(told(replace(JOB, publishes=4), depth=None))["message"].startswith(
        "warning: Its message was published 4"
    )


def test_a_message_that_is_not_out_yet_is_told() -> None:
    job = replace(JOB, publishes=0, published_at=None)
    assert "has not been published yet" in points(told(job))["message"]


def test_an_engine_that_does_not_answer_is_an_error() -> None:
    found = points(told(JOB, depth=None, engine_trouble="connection refused"))["message"]
    assert found == "error: The engine: connection refused is the broker running? penstock doctor"


def test_a_queued_job_where_no_worker_ever_comes_says_so() -> None:
    explanation = told(JOB, in_process=True, workers=())
    assert [point.name for point in explanation.points] == ["engine"]
    assert "no worker will ever come" in explanation.told


def test_a_decision_that_holds_back_a_queued_job_is_told() -> None:
    rule = Decided("Queue etl is paused.", "penstock resume queue etl")
    assert points(told(JOB, decided=(rule,)))["decided"] == "warning: Queue etl is paused. penstock resume queue etl"


def test_each_decision_that_holds_back_a_job_is_told() -> None:
    rules = (Decided("Queue etl is paused.", "a"), Decided("Struck: sales.", "b"))
    job = replace(JOB, held="paused: queue etl")
    found = [(p.told, p.hint) for p in told(job, decided=rules).points if p.name == "decided"]
    assert found == [("Queue etl is paused.", "a"), ("Struck: sales.", "b")]


def test_a_job_that_waits_for_its_next_try_tells_what_will_hold_it_then() -> None:
    job = replace(JOB, attempt=1, errors=1, scheduled_at=ago(-30))
    explanation = told(
        job, attempts=(attempt("error"),), decided=(Decided("Struck: sales.", "penstock restore sales"),)
    )
    assert explanation.state == "retrying"
    assert points(explanation)["decided"] == "warning: Struck: sales. penstock restore sales"


@pytest.mark.parametrize(
    ("workers", "wanted"),
    [
        ((), "warning: No worker is alive. start one: penstock worker etl"),
        ((replace(WORKER, backend="saq+redis://x"),), f"warning: No worker works on {ENGINE}; those alive work on saq"),
        (
            (replace(WORKER, queues=("other",)),),
            "warning: No worker listens to queue etl; those alive listen to other.",
        ),
        ((replace(WORKER, tasks=("else",)),), "warning: No worker of queue etl has the task sales."),
        ((replace(WORKER, running=4),), "ok: 1 can run it and all are busy: host:1:ab."),
        (
            (replace(WORKER, trouble="engine: silent"),),
            "warning: Whoever can run it is ill: host:1:ab: engine: silent.",
        ),
        ((WORKER,), "ok: 1 can run it: host:1:ab."),
        (
            (replace(WORKER, id="resting:1"),),
            "warning: Whoever can run it is paused: resting:1. penstock resume worker resting:1",
        ),
        ((replace(WORKER, id="resting:1"), WORKER), "ok: 1 can run it: host:1:ab."),
    ],
)
def test_what_stands_between_a_job_and_a_worker(workers: tuple[WorkerInfo, ...], wanted: str) -> None:
    found = points(told(JOB, workers=workers, resting=frozenset({"resting:1"})))
    assert found["workers"].startswith(wanted)


def test_workers_with_room_that_take_nothing_are_a_warning() -> None:
    found = points(told(replace(JOB, scheduled_at=ago(90))))["workers"]
    assert found.startswith("warning: 1 can run it and have room, and none has taken it")


def test_any_worker_of_the_queue_can_run_what_is_no_task() -> None:
    assert points(told(replace(JOB, kind="command", name="ls")))["workers"].startswith("ok: 1 can run it")


# -- it runs ----------------------------------------------------------------------------------------------------------


def test_a_running_job_says_where_since_when_how_far_and_until_when() -> None:
    job = replace(JOB, **RUNNING, progress=0.43, message="image 43", nodes_done=1, nodes_total=3, timeout_s=60.0)
    explanation = told(job)
    assert explanation.told == (
        "Worker host:1:ab has been running try 1 for 30.0 s: 43%, 1 of 3 nodes, image 43."
    )  # fmt: skip
    found = points(explanation)
    assert found["lease"] == "ok: It was seen 3.0 s ago; its lease ends in 45.0 s unless it is renewed."
    assert found["timeout"] == "ok: Its timeout of 1 m 0 s ends it in 30.0 s."


def test_a_job_past_its_timeout_is_being_stopped() -> None:
    assert points(told(replace(JOB, **RUNNING, timeout_s=20.0)))["timeout"].startswith(
        "warning: Its timeout of 20.0 s is over"
    )


def test_an_ill_worker_is_told_of_and_one_on_no_list_is_no_trouble() -> None:
    ill = replace(WORKER, trouble="ledger: away")
    assert points(told(replace(JOB, **RUNNING), workers=(ill,)))["lease"].startswith("warning:")
    assert "not on the list of those alive" in points(told(replace(JOB, **RUNNING), workers=()))["lease"]


def test_a_job_that_was_asked_to_stop_says_when_and_by_whom() -> None:
    job = replace(JOB, **RUNNING, cancel_requested_at=ago(5))
    found = points(told(job, asked=("cancel by ada 5.0 s ago (wrong day)",)))
    assert found["cancelling"].startswith(
        "ok: It runs, and was asked to stop 5.0 s ago; Worker host:1:ab is stopping it."
    )
    assert found["audit"] == "ok: By hand: cancel by ada 5.0 s ago (wrong day)."


def test_a_job_that_does_not_stop_is_a_warning() -> None:
    assert "isolation process" in points(told(replace(JOB, **RUNNING, cancel_requested_at=ago(100))))["cancelling"]


def test_a_job_whose_worker_is_gone_says_who_takes_it_back() -> None:
    job = replace(JOB, **{**RUNNING, "lease_until": ago(12)})
    explanation = told(job)
    assert explanation.state == "overdue"
    assert "its lease on try 1 ended 12.0 s ago" in explanation.told
    assert "(crash 1 of at most 3)" in explanation.told
    assert "no worker is alive to take it back" in told(job, workers=()).points[0].hint


# -- it is over -------------------------------------------------------------------------------------------------------


def test_a_job_that_succeeded_says_how_long_it_took() -> None:
    job = replace(JOB, state=State.SUCCEEDED, started_at=ago(8), finished_at=ago(5), attempt=2)
    explanation = told(job)
    assert explanation.told == "It succeeded 5.0 s ago. It took 3.0 s. It was try 2."
    assert explanation.points[0].hint == "penstock result job-1"


@pytest.mark.parametrize(
    ("reason", "wanted"),
    [
        ("error", "its body raised, and no try is left. ValueError: no such column."),
        ("timeout", "it ran longer than its timeout"),
        ("crash_loop", "its process died under it again and again"),
        ("unknown_task", "no worker has its task"),
        ("invalid", "its input can never run"),
        ("expired", "nobody began it before it expired"),
        ("of the future", "(of the future)"),
    ],
)
def test_a_job_that_failed_says_why(reason: str, wanted: str) -> None:
    job = replace(JOB, state=State.FAILED, reason=reason, error=ERROR, finished_at=ago(5), errors=3, attempt=3)
    explanation = told(job)
    assert wanted in explanation.told
    assert explanation.points[0].level == "error"
    assert explanation.points[0].hint
    assert points(explanation)["tries"] == "ok: 3 of 3 tries ended in an error, 0 of 3 in a crash."


def test_a_failed_job_that_was_submitted_again_names_the_newest() -> None:
    job = replace(JOB, state=State.FAILED, reason="error", finished_at=ago(5))
    found = points(told(job, retries=(("job-9", "running"), ("job-8", "failed"))))
    assert found["again"] == (
        "ok: It was submitted again as job-9, which is running (2 times in all). penstock explain job-9"
    )
    assert "penstock retry" not in found["failed"]


def test_a_cancelled_job_says_by_whom() -> None:
    job = replace(JOB, state=State.CANCELLED, finished_at=ago(5))
    explanation = told(job, asked=("cancel by ada 5.0 s ago",))
    assert explanation.told == "It was cancelled before it began, 5.0 s ago."
    assert points(explanation)["audit"] == "ok: By hand: cancel by ada 5.0 s ago."
    assert "No one's action is written down" in points(told(job))["audit"]


@pytest.mark.parametrize(
    ("by", "wanted"), [("struck", "A strike that drops"), ("replaced", "A newer job took its place")]
)
def test_a_job_that_was_called_off_says_by_what(by: str, wanted: str) -> None:
    found = points(told(replace(JOB, state=State.CANCELLED, finished_at=ago(5)), called_off=by))
    assert wanted in found["cancelled"]
    assert "audit" not in found


def test_a_job_that_a_limit_has_dropped_says_so_and_that_it_did_not_begin() -> None:
    job = replace(JOB, **{**RUNNING, "state": State.CANCELLED}, cancel_requested_at=ago(6), finished_at=ago(5))
    found = points(told(job, called_off="dropped: no more than 1 in 30 s on rate"))
    assert found["cancelled"].startswith(
        "ok: It was cancelled before it began, 5.0 s ago. It was dropped: no more than 1 in 30 s on rate."
    )
    assert "audit" not in found


def test_an_error_that_is_not_tried_again_does_not_say_that_no_try_is_left() -> None:
    job = replace(JOB, state=State.FAILED, reason="error", errors=1, finished_at=ago(5), error=ERROR)
    assert "its body raised, and such an error is not tried again." in points(told(job))["failed"]


def test_a_job_that_was_stopped_while_it_ran_says_so() -> None:
    job = replace(JOB, **{**RUNNING, "state": State.CANCELLED}, cancel_requested_at=ago(6), finished_at=ago(5))
    assert told(job).told == "It was cancelled while try 1 ran, 5.0 s ago."


def test_every_shown_state_has_its_words() -> None:
    from penstock.job import explanation

    assert set(explanation._OF) == set(SHOWN_STATES)  # pyright: ignore[reportPrivateUsage]
