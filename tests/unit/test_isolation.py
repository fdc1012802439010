from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import child_bodies as bodies
import pytest

from penstock.body import Ended, Interrupt
from penstock.core.config import LimitsConfig
from penstock.core.exceptions import PayloadError
from penstock.job.lifecycle import State
from penstock.job.models import Job, LogLine, Progress
from penstock.payload import encode_spec
from penstock.results import ResultStore
from penstock.runners import runner_for
from penstock.runners.command import command_spec
from penstock.runners.isolation import ChildPool, fingerprint
from penstock.runners.task import task_spec

NOW = datetime.now(UTC)


def a_job(kind: str, name: str, spec: Any) -> Job:
    return Job(
        id="job-1", kind=kind, name=name, spec=encode_spec(spec), state=State.RUNNING, created_at=NOW,
        scheduled_at=NOW, attempt=1,
    )  # fmt: skip


def call(task: Any, *args: Any, **kwargs: Any) -> Job:
    return a_job("task", task.name, task_spec(task, args, kwargs))


def command(*argv: str, **kwargs: Any) -> Job:
    return a_job("command", argv[0], command_spec(argv, **kwargs))


def eventually(true: Callable[[], Any], within_s: float = 10.0) -> None:
    until = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < until, "it did not come true"
        time.sleep(0.005)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


class Bench:
    def __init__(self, folder: Path, **settings: Any) -> None:
        self.folder = folder
        self.reports: list[Any] = []
        self.interrupt = Interrupt()
        given = {"cancel_grace_s": 1.0, **settings}
        self.pool = ChildPool(results_url=str(folder / "results"), **given)

    def run(self, job: Job, *, timeout_s: float | None = None, setup: dict[str, Any] | None = None, key="") -> Ended:
        runner = runner_for(job.kind)
        return self.pool.run(
            job, key=key or runner.child_key(job), setup={**runner.child_setup(job), **(setup or {})},
            emit=self.reports.append, interrupt=self.interrupt, timeout_s=timeout_s,
        )  # fmt: skip

    def value(self, job: Job, **kwargs: Any) -> Any:
        ended = self.run(job, **kwargs)
        assert ended.how == "returned", ended
        return ResultStore(self.folder / "results").decode(ended.result)

    def in_background(self, job: Job, **kwargs: Any) -> Callable[[], Ended]:
        ended: list[Ended] = []
        thread = threading.Thread(target=lambda: ended.append(self.run(job, **kwargs)))
        thread.start()

        def wait() -> Ended:
            thread.join(20)
            return ended[0]

        return wait

    def lines(self, source: str = "") -> list[str]:
        return [r.text for r in self.reports if isinstance(r, LogLine) and source in ("", r.source)]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.pool.close()
    made.interrupt.close()


def test_a_child_is_used_again_for_the_same_key(bench: Bench) -> None:
    assert bench.value(call(bodies.child_pid)) == bench.value(call(bodies.child_pid))


def test_jobs_with_different_keys_never_share_a_process(bench: Bench) -> None:
    one = bench.value(call(bodies.child_pid), key="one")
    assert bench.value(call(bodies.child_pid), key="two") != one


def test_jobs_with_different_setups_never_share_a_process(bench: Bench) -> None:
    one = bench.value(call(bodies.child_pid))
    assert bench.value(call(bodies.child_pid), setup={"cwd": "/"}) != one


def test_a_child_is_replaced_after_its_number_of_jobs(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_jobs_per_child=2)
    pids = [bench.value(call(bodies.child_pid)) for _ in range(3)]
    bench.pool.close()
    bench.interrupt.close()
    assert pids[0] == pids[1] != pids[2]


def test_a_child_that_has_grown_too_large_is_replaced_after_its_job(tmp_path: Path) -> None:
    for most, same in ((1_000_000, False), (10_000_000_000, True)):
        bench = Bench(tmp_path, max_memory_bytes=most)
        pids = {bench.value(call(bodies.child_pid)) for _ in range(2)}
        bench.pool.close()
        bench.interrupt.close()
        assert (len(pids) == 1) is same


def test_a_child_is_replaced_when_its_code_changed(bench: Bench, tmp_path: Path) -> None:
    code = tmp_path / "code.py"
    code.write_text("x = 1")
    setup = {"watch": [str(tmp_path)]}
    before = bench.value(call(bodies.child_pid), setup=setup)
    code.write_text("x = 10")
    assert bench.value(call(bodies.child_pid), setup=setup) != before


def test_the_fingerprint_ignores_files_that_are_not_code(tmp_path: Path) -> None:
    before = fingerprint([str(tmp_path)])
    (tmp_path / "data.csv").write_text("1")
    (tmp_path / ".hidden").mkdir()
    (tmp_path / ".hidden" / "a.py").write_text("1")
    assert fingerprint([str(tmp_path)]) == before


def test_no_more_children_wait_than_allowed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, max_idle=1)
    for key in ("one", "two"):
        bench.run(call(bodies.child_pid), key=key)
    assert len(bench.pool.pids) == 1
    bench.pool.close()
    bench.interrupt.close()


def test_what_a_body_tells_arrives_as_reports(bench: Bench) -> None:
    assert bench.value(call(bodies.child_talks)) == "told"
    assert Progress(job_id="job-1", attempt=1, progress=0.5, message="half way") in bench.reports or (
        Progress(job_id="job-1", attempt=1, progress=0.5) in bench.reports
    )
    assert (bench.lines("shop"), bench.lines("stdout")) == (["logged"], ["printed", "from a program"])


def test_reports_arrive_while_the_body_runs(bench: Bench) -> None:
    wait = bench.in_background(command("sh", "-c", "echo now; exec sleep 30"))
    eventually(lambda: bench.lines("stdout") == ["now"])
    bench.interrupt.set("cancelled")
    assert wait().how == "cancelled"


def test_a_large_result_crosses_the_pipe_as_a_ref_only(bench: Bench) -> None:
    ended = bench.run(call(bodies.child_returns_a_table))
    assert ended.result is not None
    assert len(ended.result) < 1000
    assert ResultStore(bench.folder / "results").decode(ended.result).a.sum() == 3


@pytest.mark.parametrize("body", [bodies.child_sleeps, bodies.child_sleeps_async])
def test_a_body_over_its_timeout_may_clean_up(bench: Bench, tmp_path: Path, body: Any) -> None:
    mark = tmp_path / "mark"
    ended = bench.run(call(body, str(mark)), timeout_s=0.3)
    assert (ended.how, mark.read_text()) == ("timeout", "cleaned up")
    assert ended.error is not None
    assert "0.3 s" in ended.error.message


def test_a_body_that_ignores_its_timeout_is_killed(bench: Bench, tmp_path: Path) -> None:
    started = time.monotonic()
    ended = bench.run(call(bodies.child_ignores_stops, str(tmp_path / "mark")), timeout_s=0.2)
    assert ended.how == "timeout"
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("cause", ["cancelled", "released"])
def test_an_interrupt_ends_a_body_with_its_cause(bench: Bench, tmp_path: Path, cause: Any) -> None:
    mark = tmp_path / "mark"
    wait = bench.in_background(call(bodies.child_sleeps, str(mark)))
    eventually(mark.exists)
    bench.interrupt.set(cause)
    assert (wait().how, mark.read_text()) == (cause, "cleaned up")


def test_a_lost_lease_kills_at_once(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    wait = bench.in_background(call(bodies.child_sleeps, str(mark)))
    eventually(lambda: mark.exists() and mark.read_text() == "began")
    bench.interrupt.set("lost")
    assert (wait().how, mark.read_text()) == ("lost", "began")


def test_a_body_sees_that_it_was_asked_to_stop(bench: Bench) -> None:
    wait = bench.in_background(call(bodies.child_stops_itself_when_asked))
    eventually(lambda: bench.pool.pids)
    bench.interrupt.set("cancelled")
    assert wait().how == "cancelled"


def test_an_interrupt_that_was_thrown_before_starts_nothing(bench: Bench) -> None:
    bench.interrupt.set("cancelled")
    assert bench.run(call(bodies.child_pid)).how == "cancelled"
    assert bench.pool.pids == set()


def test_a_stopped_child_is_not_used_again(bench: Bench, tmp_path: Path) -> None:
    before = bench.value(call(bodies.child_pid))
    bench.run(call(bodies.child_sleeps, str(tmp_path / "mark")), timeout_s=0.1)
    assert bench.value(call(bodies.child_pid)) != before
    assert not is_alive(before)


def test_a_sigterm_from_somebody_else_does_not_stop_a_body(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    wait = bench.in_background(call(bodies.child_sleeps, str(mark), 1.0))
    eventually(mark.exists)
    (pid,) = bench.pool.pids
    os.kill(pid, signal.SIGTERM)
    assert wait().how == "returned"


def test_programs_that_a_body_started_die_with_it(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    wait = bench.in_background(call(bodies.child_starts_a_program, str(mark)))
    eventually(lambda: mark.exists() and mark.read_text())
    bench.interrupt.set("lost")
    wait()
    eventually(lambda: not is_alive(int(mark.read_text())))


@pytest.mark.parametrize(
    ("how", "told"), [("exit", "exit status 7"), ("kill", "killed by SIGKILL"), ("segfault", "killed by SIGSEGV")]
)
def test_a_death_is_told_with_its_cause(bench: Bench, how: str, told: str) -> None:
    ended = bench.run(call(bodies.child_dies, how))
    assert ended.how == "crashed"
    assert ended.error is not None
    assert told in ended.error.message
    assert "last words" in bench.lines("stdout")


@pytest.mark.parametrize("how", ["exit", "kill", "segfault", "segfault deep down"])
def test_the_error_of_a_death_holds_the_last_words(bench: Bench, how: str) -> None:
    ended = bench.run(call(bodies.child_dies, how))
    assert ended.error is not None
    assert "last words" in ended.error.message


def test_a_death_is_noticed_within_a_second(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    wait = bench.in_background(call(bodies.child_starts_a_program, str(mark)))
    eventually(lambda: mark.exists() and mark.read_text())
    (pid,) = bench.pool.pids
    killed_at = time.monotonic()
    os.kill(pid, signal.SIGKILL)
    assert wait().how == "crashed"
    assert time.monotonic() - killed_at < 1


def test_a_child_that_died_idle_costs_no_job(bench: Bench) -> None:
    pid = bench.value(call(bodies.child_pid))
    os.kill(pid, signal.SIGKILL)
    eventually(lambda: not is_alive(pid))
    assert bench.value(call(bodies.child_pid)) != pid


def test_sys_exit_in_a_body_is_an_error_and_the_child_survives(bench: Bench) -> None:
    pid = bench.value(call(bodies.child_pid))
    ended = bench.run(call(bodies.child_raises, "sys.exit"))
    assert ended.error is not None
    assert (ended.how, ended.error.type, ended.error.message) == ("raised", "SystemExit", "3")
    assert bench.value(call(bodies.child_pid)) == pid


def test_an_error_carries_the_bodys_own_frames_and_no_values(bench: Bench) -> None:
    ended = bench.run(call(bodies.child_raises, "value"))
    assert ended.error is not None
    assert (ended.error.type, ended.error.bases) == ("ValueError", ("Exception", "BaseException"))
    assert "child_bodies.py" in ended.error.traceback
    assert "child.py" not in ended.error.traceback
    assert ended.error.message == "not \\udc80 text"


def test_an_exception_without_a_printable_message_is_told_all_the_same(bench: Bench) -> None:
    ended = bench.run(call(bodies.child_raises, "str"))
    assert ended.error is not None
    assert ended.error.type == "Mute"


def test_a_body_cannot_break_the_conversation(bench: Bench) -> None:
    assert bench.value(call(bodies.child_breaks_things)) == "ok"
    assert bench.lines() == ["still heard"]
    assert bench.value(call(bodies.child_talks)) == "told"


def test_output_that_is_not_utf8_is_kept_as_escapes(bench: Bench) -> None:
    bench.run(call(bodies.child_writes_bytes))
    assert (bench.lines("stdout"), bench.lines("stderr")) == (["caf\\xe9"], ["raw \\xff"])


def test_of_a_flood_of_lines_the_beginning_and_the_end_are_kept(tmp_path: Path) -> None:
    bench = Bench(tmp_path, limits=LimitsConfig(log_max_bytes=1000))
    bench.run(call(bodies.child_floods))
    assert (bench.lines("stdout")[0], bench.lines("stdout")[-1]) == ("0", "11999")
    assert " lines (" in bench.lines("penstock")[0]
    bench.pool.close()


def test_a_thread_that_outlives_its_job_does_not_disturb_the_next(bench: Bench, tmp_path: Path) -> None:
    pid = bench.value(call(bodies.child_pid))
    bench.run(call(bodies.child_leaves_a_thread, str(tmp_path / "mark")))
    bench.reports.clear()
    eventually((tmp_path / "mark").exists)
    assert bench.value(call(bodies.child_pid)) == pid
    assert bench.lines() == []


def test_a_module_that_does_not_import_is_told_and_not_tried_again(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "broken_tasks.py").write_text("import no_such_package_anywhere\n")
    ended = bench.run(call(bodies.child_pid), setup={"module": "broken_tasks", "sys_path": [str(tmp_path)]})
    assert (ended.how, ended.retryable) == ("raised", False)
    assert ended.error is not None
    assert ended.error.type == "ModuleNotFoundError"
    assert "broken_tasks.py" in ended.error.traceback


def test_a_task_of_a_script_is_found_without_running_its_main_part(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from penstock import task\n"
        "@task\ndef of_script(): return 41\n"
        "if __name__ == '__main__': raise SystemExit('ran')\n"
    )
    job = a_job("task", "of_script", task_spec(bodies.child_pid, (), {}))
    assert bench.value(job, setup={"script": str(script)}) == 41


def test_a_script_that_submits_at_its_top_level_is_refused_in_the_child(bench: Bench, tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        "from penstock.payload import encode_spec\n"
        "from penstock.runners.task import TaskSpec\n"
        "encode_spec(TaskSpec())\n"
    )
    ended = bench.run(call(bodies.child_pid), setup={"script": str(script)})
    assert ended.error is not None
    assert ended.error.type == PayloadError.__name__
    assert "__main__" in ended.error.message


def test_a_child_loads_the_configured_folders(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "jobs").mkdir()
    (tmp_path / "jobs" / "etl.py").write_text("from penstock import task\n@task\ndef of_folder(): return 42\n")
    (tmp_path / "jobs" / "bad.py").write_text("import no_such_package_anywhere\n")
    job = a_job("task", "of_folder", task_spec(bodies.child_pid, (), {}))
    assert bench.value(job, setup={"tasks": ["jobs/"], "root": str(tmp_path)}) == 42


def test_a_task_whose_file_fails_in_the_child_is_told_with_the_reason(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "bad.py").write_text("import no_such_package_anywhere\n")
    job = a_job("task", "of_bad_file", task_spec(bodies.child_pid, (), {}))
    ended = bench.run(job, setup={"tasks": ["bad.py"], "root": str(tmp_path)})
    assert ended.error is not None
    assert (ended.retryable, ended.error.type) == (False, "UnknownTaskError")
    assert "no_such_package_anywhere" in ended.error.message


def test_a_child_that_is_never_ready_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "hangs.py").write_text("import time\ntime.sleep(60)\n")
    bench = Bench(tmp_path, start_limit_s=0.5)
    ended = bench.run(call(bodies.child_pid), setup={"module": "hangs", "sys_path": [str(tmp_path)]})
    bench.pool.close()
    bench.interrupt.close()
    assert ended.how == "raised"
    assert ended.error is not None
    assert "not ready" in ended.error.message


def test_commands_stream_their_output_and_leave_their_end(bench: Bench) -> None:
    value = bench.value(command("sh", "-c", "echo out; sleep 0.1; echo err >&2"))
    assert value == {"exit_code": 0, "output": "out\nerr\n"}
    assert (bench.lines("stdout"), bench.lines("stderr")) == (["out"], ["err"])


def test_a_timeout_kills_everything_a_command_started(bench: Bench, tmp_path: Path) -> None:
    mark = tmp_path / "pid"
    ended = bench.run(
        command("sh", "-c", f"trap '' TERM; sh -c 'trap \"\" TERM; echo $$ > {mark}; while :; do sleep 1; done'"),
        timeout_s=0.5,
    )
    assert ended.how == "timeout"
    eventually(lambda: not is_alive(int(mark.read_text())))


WORKER = """
import sys, threading
sys.path.insert(0, {here!r})
import test_isolation as t
from pathlib import Path
bench = t.Bench(Path({folder!r}))
jobs = [t.call(t.bodies.child_ignores_stops, {body!r}), t.command("sh", "-c", "echo $$ > {program}; exec sleep 60")]
for job in jobs:
    threading.Thread(target=bench.run, args=(job,)).start()
t.eventually(lambda: Path({body!r}).exists() and Path({program!r}).exists() and Path({program!r}).read_text())
print(*bench.pool.pids, Path({program!r}).read_text().strip(), flush=True)
"""


def test_children_and_programs_die_with_a_killed_worker(tmp_path: Path) -> None:
    code = WORKER.format(
        here=str(Path(__file__).parent), folder=str(tmp_path), body=str(tmp_path / "b"), program=str(tmp_path / "p")
    )
    worker = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert worker.stdout is not None
    pids = [int(word) for word in worker.stdout.readline().split()]
    worker.kill()
    worker.wait()
    worker.stdout.close()
    assert len(pids) == 3
    eventually(lambda: not any(is_alive(pid) for pid in pids), within_s=2)


def test_closing_ends_idle_and_busy_children(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    idle = bench.value(call(bodies.child_pid), key="idle")
    wait = bench.in_background(call(bodies.child_ignores_stops, str(tmp_path / "mark")))
    eventually((tmp_path / "mark").exists)
    pids = bench.pool.pids
    bench.pool.close()
    bench.interrupt.close()
    assert wait().how == "crashed"
    assert idle in pids
    assert not any(is_alive(pid) for pid in pids)
