from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from penstock.body import Interrupt
from penstock.job.lifecycle import State
from penstock.job.models import Job, LogLine, Progress
from penstock.lines import MAX_BYTES, MAX_LINE_BYTES, MAX_LINES, TAIL_BYTES
from penstock.run import JobInterrupted, Run, current_run

NOW = datetime.now(UTC)
JOB = Job(
    id="job-1", kind="task", name="hello", spec=b"{}", state=State.RUNNING, created_at=NOW, scheduled_at=NOW, attempt=2
)


@pytest.fixture
def told() -> list[Any]:
    return []


@pytest.fixture
def run(told: list[Any]) -> Run:
    return Run(JOB, emit=told.append, interrupt=Interrupt())


def texts(told: list[Any]) -> list[str]:
    return [report.text for report in told if isinstance(report, LogLine)]


def test_a_run_knows_its_attempt(run: Run) -> None:
    assert (run.job_id, run.attempt, run.name, run.idempotency_key) == ("job-1", 2, "hello", "job-1")
    assert run.started_at.utcoffset() == timedelta(0)


def test_progress_is_told_when_it_is_set(run: Run, told: list[Any]) -> None:
    run.progress = 0.25
    assert run.progress == 0.25
    assert told == [Progress(job_id="job-1", attempt=2, progress=0.25)]


def test_progress_is_clamped_not_refused(run: Run) -> None:
    run.progress = 1.0000001
    assert run.progress == 1.0


def test_progress_that_is_no_number_is_refused(run: Run) -> None:
    with pytest.raises(ValueError, match="nan"):
        run.progress = float("nan")


def test_tiny_steps_of_progress_are_not_each_told(run: Run, told: list[Any]) -> None:
    for step in range(100_001):
        run.progress = step / 100_000
    assert len(told) <= 1_001
    assert told[-1].progress == 1.0


def test_the_last_progress_is_told_at_the_end(run: Run, told: list[Any]) -> None:
    run.progress = 0.5
    run.progress = 0.5001
    run.close()
    assert told[-1].progress == 0.5001


def test_a_message_is_told_once(run: Run, told: list[Any]) -> None:
    run.message = "loading"
    run.message = "loading"
    assert told == [Progress(job_id="job-1", attempt=2, message="loading")]


def test_a_logged_line_belongs_to_the_attempt(run: Run, told: list[Any]) -> None:
    run.log("hello", "warning")
    (line,) = told
    assert (line.job_id, line.attempt, line.level, line.text) == ("job-1", 2, "WARNING", "hello")


def test_check_raises_only_after_a_stop_was_asked_for(told: list[Any]) -> None:
    interrupt = Interrupt()
    run = Run(JOB, emit=told.append, interrupt=interrupt)
    run.check()
    interrupt.set("cancelled")
    assert run.cancelled
    with pytest.raises(JobInterrupted) as caught:
        run.check()
    assert caught.value.cause == "cancelled"


def test_an_interrupt_raised_from_outside_finds_its_cause(told: list[Any]) -> None:
    interrupt = Interrupt()
    interrupt.set("released")
    token = current_run.set(Run(JOB, emit=told.append, interrupt=interrupt))
    assert JobInterrupted().cause == "released"
    current_run.reset(token)


def test_an_interrupt_is_not_swallowed_by_except_exception() -> None:
    assert not issubclass(JobInterrupted, Exception)


def test_of_lines_over_the_limit_the_last_are_kept_and_the_others_counted(run: Run, told: list[Any]) -> None:
    for number in range(MAX_LINES + 1000):
        run.log(f"{number:0256}")
    run.close()
    kept = texts(told)
    told_at = next(at for at, text in enumerate(kept) if not text.isdigit())
    assert (kept[0], kept[-1]) == (f"{0:0256}", f"{MAX_LINES + 999:0256}")
    assert sum(len(text) for text in kept[:told_at]) == MAX_BYTES
    assert sum(len(text) for text in kept[told_at + 1 :]) == TAIL_BYTES
    assert kept[told_at].startswith(f"{MAX_LINES + 1000 - (len(kept) - 1)} lines (")
    assert "limits.log_max_bytes" in kept[told_at]


def test_a_long_line_is_cut_and_says_so(run: Run, told: list[Any]) -> None:
    run.log("ä" * MAX_LINE_BYTES)
    (text,) = texts(told)
    assert len(text.encode()) <= MAX_LINE_BYTES
    assert text.endswith(f"[line cut: {2 * MAX_LINE_BYTES:,} bytes]")


def test_a_line_without_an_end_is_kept_at_the_end(run: Run, told: list[Any]) -> None:
    run.lines.feed("stdout", "no newline")
    assert texts(told) == []
    run.close()
    assert texts(told) == ["no newline"]


def test_a_redrawn_line_is_kept_as_a_terminal_would_show_it(run: Run, told: list[Any]) -> None:
    run.lines.feed("stderr", "10 %\r50 %\r100 %\n")
    assert texts(told) == ["100 %"]


def test_a_progress_bar_that_never_ends_its_line_does_not_grow(run: Run, told: list[Any]) -> None:
    for number in range(20_000):
        run.lines.feed("stderr", f"\r{number}")
    run.close()
    assert texts(told) == ["19999"]


def test_a_character_split_over_two_reads_stays_whole(run: Run, told: list[Any]) -> None:
    raw = "ä\n".encode()
    run.lines.feed_bytes("stdout", raw[:1])
    run.lines.feed_bytes("stdout", raw[1:])
    assert texts(told) == ["ä"]


def test_lone_surrogates_become_escapes(run: Run, told: list[Any]) -> None:
    run.log("bad \udc80")
    assert texts(told) == ["bad \\udc80"]
