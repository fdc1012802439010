from __future__ import annotations

import os
import re
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from test_isolation import a_job, eventually, is_alive

from penstock import Discard, JobQueue, RetryLater, Snooze
from penstock.body import Interrupt
from penstock.core.exceptions import ArgumentsError
from penstock.job.models import LogLine
from penstock.run import JobInterrupted, Run
from penstock.runners.command import CommandFailed, CommandNotFoundError, CommandRunner, command_spec


def execute(*argv: str, told: list[Any] | None = None, interrupt: Interrupt | None = None, **kwargs: Any) -> Any:
    job = a_job("command", argv[0], command_spec(argv, **kwargs))
    run = Run(job, emit=(told if told is not None else []).append, interrupt=interrupt or Interrupt())
    try:
        return CommandRunner().execute(job, run)
    finally:
        run.close()


def test_a_string_is_refused_with_the_list_that_it_may_stand_for() -> None:
    with pytest.raises(ArgumentsError, match=r"\['ls', '-l', 'my file'\]"):
        command_spec("ls -l 'my file'")


@pytest.mark.parametrize("argv", [[], [""], ["echo", 1], ["echo", "a\0b"]])
def test_what_is_no_argument_list_is_refused(argv: Any) -> None:
    with pytest.raises((ArgumentsError, TypeError)):
        command_spec(argv)


@pytest.mark.parametrize("env", [{"A": 1}, {"": "x"}, {"A=B": "x"}])
def test_what_is_no_environment_is_refused(env: Any) -> None:
    with pytest.raises(ArgumentsError):
        command_spec(["env"], env=env)


def test_arguments_reach_the_program_unchanged() -> None:
    assert execute("printf", "%s", "$HOME; `ls` 'x'")["output"] == "$HOME; `ls` 'x'"


def test_folder_and_environment_are_the_specs(tmp_path: Path) -> None:
    output = execute("sh", "-c", 'pwd; echo "$SHOP"', cwd=str(tmp_path), env={"SHOP": "eu"})["output"]
    assert output == f"{tmp_path}\neu\n"


def test_the_program_sees_an_empty_stdin() -> None:
    assert execute("cat") == {"exit_code": 0, "output": ""}


def test_output_becomes_lines_of_its_stream() -> None:
    told: list[Any] = []
    execute("sh", "-c", "echo one; echo two >&2; printf three", told=told)
    lines = {(line.source, line.text) for line in told if isinstance(line, LogLine)}
    assert lines == {("stdout", "one"), ("stderr", "two"), ("stdout", "three")}


def test_another_exit_status_than_0_fails_with_the_last_output() -> None:
    with pytest.raises(CommandFailed, match=r"^exit status 3:\nlast words$"):
        execute("sh", "-c", "echo last words; exit 3")


def test_a_program_killed_by_a_signal_fails_with_its_name() -> None:
    with pytest.raises(CommandFailed, match="killed by SIGKILL"):
        execute("sh", "-c", "kill -9 $$")


def test_a_missing_program_is_named_and_not_tried_again() -> None:
    with pytest.raises(CommandNotFoundError, match="no-such-program") as caught:
        execute("no-such-program")
    assert caught.value.retryable is False


def test_a_missing_folder_is_named() -> None:
    with pytest.raises(CommandNotFoundError, match="cannot run in /no/such/folder"):
        execute("true", cwd="/no/such/folder")


def test_only_the_end_of_a_long_output_is_the_result() -> None:
    output = execute("seq", "1", "100000")["output"]
    assert len(output) == 8192
    assert output.endswith("99999\n100000\n")


def test_a_descendant_that_keeps_the_output_open_does_not_keep_the_job(tmp_path: Path) -> None:
    started = time.monotonic()
    execute("sh", "-c", f"sleep 30 & echo $! > {tmp_path / 'pid'}")
    assert time.monotonic() - started < 5
    os.kill(int((tmp_path / "pid").read_text()), 9)


def test_a_program_that_closes_its_output_is_waited_for(tmp_path: Path) -> None:
    execute("sh", "-c", f"exec >&- 2>&-; sleep 0.5; echo done > {tmp_path / 'mark'}")
    assert (tmp_path / "mark").exists()


def test_an_inline_command_is_ended_with_all_that_it_started(tmp_path: Path) -> None:
    interrupt = Interrupt()
    mark = tmp_path / "pid"

    def stop() -> None:
        eventually(lambda: mark.exists() and mark.read_text())
        interrupt.set("cancelled")

    threading.Thread(target=stop).start()
    with pytest.raises(JobInterrupted):
        execute("sh", "-c", f"sh -c 'echo $$ > {mark}; sleep 30'; true", interrupt=interrupt)
    eventually(lambda: not is_alive(int(mark.read_text())))


# -- what an exit status asks for ---------------------------------------------------------------------------------

BUSY = {75: "retry 5m", "69": "snooze 1h", 64: "discard"}


@pytest.mark.parametrize(
    ("status", "ask", "told"),
    [
        (75, RetryLater, "again in 5 m 0 s: exit status 75: the end"),
        (69, Snooze, "again in 1 h 0 m: exit status 69: the end"),
        (64, Discard, "exit status 64: the end"),
        (1, CommandFailed, "exit status 1:\nthe start\nthe end"),
    ],
)
def test_an_exit_status_asks_for_what_the_job_says_it_means(status: int, ask: type[Exception], told: str) -> None:
    with pytest.raises(ask) as caught:
        execute("sh", "-c", f"echo the start; echo the end; exit {status}", on_exit=BUSY)
    assert str(caught.value) == told


def test_no_exit_status_asks_for_anything_by_itself() -> None:
    with pytest.raises(CommandFailed):
        execute("sh", "-c", "exit 75")


@pytest.mark.parametrize("isolation", ["inline", "process"])
def test_a_command_that_snoozes_spends_no_try(isolation: str, tmp_path: Path) -> None:
    once = f"test -e {tmp_path}/mark && exit 0; touch {tmp_path}/mark; echo no file yet; exit 69"
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        job = queue.enqueue_command(["sh", "-c", once], on_exit={69: "snooze 1s"}, isolation=isolation)
        assert (job.state, job.job.note) == ("blocked", "exit status 69: no file yet")
        assert job.wait(30).state == "succeeded"
        assert (job.job.attempt, job.job.errors) == (2, 0)


def test_a_command_that_asks_for_later_spends_a_try_whatever_the_rules_say(tmp_path: Path) -> None:
    with JobQueue("inline://", ledger="memory://", root=tmp_path) as queue:
        job = queue.enqueue_command(
            ["sh", "-c", "exit 75"], on_exit={75: "retry 10ms"}, max_attempts=3, discard_on="CommandFailed"
        )
        assert job.wait(30).reason == "error"
        assert job.job.error is not None
        assert (job.job.attempt, job.job.error.type) == (3, "RetryLater")


@pytest.mark.parametrize(
    ("on_exit", "told"),
    [
        ({0: "retry 1s"}, "0 is not an exit status"),
        ({256: "discard"}, "256 is not an exit status"),
        ({True: "discard"}, "True is not an exit status"),
        ({"busy": "discard"}, "'busy' is not an exit status"),
        ({"\u0667\u0665": "discard"}, "is not an exit status"),
        ({75: "later"}, "exit status 75: 'later' says nothing of what is to come; write 'retry 5m'"),
        ({75: "retry"}, "exit status 75: 'retry' says nothing"),
        ({75: "retry soon"}, "exit status 75: 'soon' is not a duration"),
        ({75: "snooze -5m"}, "is negative"),
        ({75: 300}, "300 for exit status 75 is not a text"),
        ("75=retry 5m", "write a table"),
    ],
)
def test_an_exit_status_that_would_mean_nothing_is_refused(on_exit: Any, told: str) -> None:
    with pytest.raises(ArgumentsError, match=re.escape(told)):
        command_spec(["true"], on_exit=on_exit)
