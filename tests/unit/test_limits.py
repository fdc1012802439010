"""Memory, CPU time and open files of one job's process: held, named when they are hit, and not carried on."""

from __future__ import annotations

import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import limit_bodies as bodies
import pytest
from msgspec.structs import replace
from test_isolation import Bench, call, command

from penstock import JobQueue, task
from penstock.core.config import Config, Defaults
from penstock.core.exceptions import ConfigError, InvalidJobError
from penstock.job.limits import Limits, limits_entry, limits_of
from penstock.job.models import Job
from penstock.options import JobOptions
from penstock.runners import confine

ROOM_MB = 4000
"""Address space in which a child of ours certainly has room."""


def within(job: Job, **limits: int) -> Job:
    return replace(job, metadata=limits_entry(limits))


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.pool.close()
    made.interrupt.close()


def error_of(bench: Bench, job: Job, how: str = "raised") -> tuple[str, str]:
    ended = bench.run(job)
    assert ended.how == how, ended
    assert ended.error is not None
    return ended.error.type, ended.error.message


# -- in a child -----------------------------------------------------------------------------------------------------


def test_a_body_that_takes_too_much_memory_is_told_of_its_limit(bench: Bench) -> None:
    job = within(call(bodies.takes_memory, 2 * ROOM_MB), memory_bytes=ROOM_MB * bodies.MB)
    kind, told = error_of(bench, job)
    assert kind == "MemoryError"
    assert "max_memory 4 GB" in told


def test_a_body_within_its_limits_returns(bench: Bench) -> None:
    job = within(call(bodies.takes_memory, 1), memory_bytes=ROOM_MB * bodies.MB, cpu_s=60, open_files=64)
    assert bench.value(job) == bodies.MB


def test_a_body_that_dies_for_want_of_memory_is_a_crash_that_names_the_limit(bench: Bench) -> None:
    job = within(call(bodies.takes_memory_in_c, 2 * ROOM_MB), memory_bytes=ROOM_MB * bodies.MB)
    _, told = error_of(bench, job, "crashed")
    assert "SIGSEGV" in told
    assert "max_memory 4 GB" in told
    assert "about to take it" in told


def test_a_body_that_takes_too_much_cpu_time_is_ended(bench: Bench) -> None:
    kind, told = error_of(bench, within(call(bodies.burns_cpu), cpu_s=1))
    assert kind == "CpuLimitExceeded"
    assert "max_cpu 1.0 s" in told


def test_cpu_time_is_counted_from_the_start_of_the_body(bench: Bench) -> None:
    for _ in range(3):
        pid, _, cpu_s, _ = bench.value(within(call(bodies.limits_now), cpu_s=7))
    assert pid in bench.pool.pids
    assert 7 <= cpu_s <= 9


def test_a_body_that_opens_too_many_files_is_told_of_its_limit(bench: Bench) -> None:
    kind, told = error_of(bench, within(call(bodies.opens_files, 100), open_files=32))
    assert kind == "OSError"
    assert "max_open_files 32" in told


def test_a_child_carries_no_limit_to_its_next_job(bench: Bench) -> None:
    before = bench.value(call(bodies.limits_now))
    bench.value(within(call(bodies.takes_memory, 1), memory_bytes=ROOM_MB * bodies.MB, cpu_s=60, open_files=64))
    bench.run(within(call(bodies.opens_files, 100), open_files=32))
    assert bench.value(call(bodies.limits_now)) == before


def test_a_program_that_a_body_starts_has_the_limits_too(bench: Bench) -> None:
    assert bench.value(within(call(bodies.starts_a_program), open_files=64)) == "64"


def test_a_limit_that_the_process_is_over_before_its_body_is_refused(bench: Bench) -> None:
    ended = bench.run(within(call(bodies.takes_memory, 1), memory_bytes=1_000_000))
    assert ended.error is not None
    assert (ended.how, ended.error.type, ended.retryable) == ("raised", "LimitNotPossibleError", False)
    assert "before the body begins" in ended.error.message


# -- of a command ---------------------------------------------------------------------------------------------------


def test_a_command_has_the_limits_of_its_job_and_our_child_has_not(bench: Bench) -> None:
    before = bench.value(call(bodies.limits_now), key="command")[1:]
    code = "import resource as r; print(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CPU))"
    value = bench.value(within(command(sys.executable, "-c", code), open_files=64, cpu_s=5))
    assert value["output"] == "(64, 64) (5, 5)\n"
    assert bench.value(call(bodies.limits_now), key="command")[1:] == before


def test_a_command_over_its_limit_names_it(bench: Bench) -> None:
    code = f"bytearray({2 * ROOM_MB} * 10**6)"
    job = within(command(sys.executable, "-c", code), memory_bytes=ROOM_MB * bodies.MB)
    kind, told = error_of(bench, job)
    assert kind == "CommandFailed"
    assert "max_memory 4 GB" in told
    assert "MemoryError" in told


# -- where there is nothing to limit with ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("resource", None, Limits(open_files=64)),
        ("sys", type("mac", (), {"platform": "darwin"}), Limits(memory_bytes=1)),
    ],
)
def test_a_limit_is_refused_where_the_system_has_none(
    monkeypatch: pytest.MonkeyPatch, name: str, value: Any, limits: Limits
) -> None:
    monkeypatch.setattr(confine, name, value)
    with pytest.raises(confine.LimitNotPossibleError, match=str(limits)):
        confine.confiner(limits)


def test_a_machine_that_refuses_is_told_and_nothing_stays_changed() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with pytest.raises(confine.LimitNotPossibleError), confine.confined(Limits(open_files=64, memory_bytes=1)):
        pass
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == before


# -- as an option ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "limits"),
    [
        ({"max_memory": "512MB"}, Limits(memory_bytes=512_000_000)),
        ({"max_memory": "1.5 GiB"}, Limits(memory_bytes=1_610_612_736)),
        ({"max_memory": 2_000_000}, Limits(memory_bytes=2_000_000)),
        ({"max_cpu": "1m30s"}, Limits(cpu_s=90)),
        ({"max_cpu": 1.2}, Limits(cpu_s=2)),
        ({"max_open_files": 64}, Limits(open_files=64)),
        ({"max_memory": "none"}, None),
    ],
)
def test_a_limit_is_kept_with_its_job(tmp_path: Path, given: dict[str, Any], limits: Limits | None) -> None:
    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        job = queue.enqueue(bodies.limits_now, isolation="process", **given)
        assert limits_of(queue.ledger.get(job.id)) == limits


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("max_memory", "much", "write '512MB'"),
        ("max_memory", 1000, "from 1 MB"),
        ("max_cpu", "100ms", "the shortest CPU time"),
        ("max_open_files", 3, "from 16"),
        ("max_open_files", True, "from 16"),
    ],
)
def test_a_wrong_limit_is_refused_by_name(name: str, value: Any, told: str) -> None:
    with pytest.raises(InvalidJobError, match=f"{name}: .*{told}"):
        JobOptions.parse({name: value})


@pytest.mark.parametrize("body", [bodies.takes_memory, bodies.takes_memory_async])
def test_a_limit_moves_a_task_into_a_process_of_its_own(tmp_path: Path, body: Any) -> None:
    with JobQueue("inline://", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        job = queue.enqueue(body, 2 * ROOM_MB, max_memory=ROOM_MB * bodies.MB)
        assert job.job.isolation == "process"
        error = job.refresh().error
        assert error is not None
        assert "max_memory 4 GB" in error.message


def test_a_limit_of_what_runs_in_the_worker_is_refused(tmp_path: Path) -> None:
    @task
    def nowhere_else() -> None:
        """Only this process has it."""

    with JobQueue("huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", root=tmp_path) as queue:
        with pytest.raises(InvalidJobError, match="isolation='process'"):
            queue.enqueue(bodies.takes_memory, 1, max_memory="1GB", isolation="inline")
        with pytest.raises(InvalidJobError, match="a function within a function"):
            queue.enqueue(nowhere_else, max_cpu="5s")
        assert queue.counts() == {}


def test_a_limit_of_the_project_holds_for_children_alone(tmp_path: Path) -> None:
    config = Config(
        backend="huey+sqlite:///queue.db", ledger="sqlite:///ledger.db", defaults=Defaults(max_memory="1GB")
    )
    with JobQueue(config=config, root=tmp_path) as queue:
        inline = queue.enqueue(bodies.limits_now)
        apart = queue.enqueue(bodies.limits_now, isolation="process")
        free = queue.enqueue(bodies.limits_now, isolation="process", max_memory="none")
        assert inline.job.isolation == "inline"
        assert [limits_of(job.job) for job in (inline, apart, free)] == [None, Limits(memory_bytes=10**9), None]


def test_a_wrong_limit_of_the_project_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "penstock.toml").write_text('[defaults]\nmax_cpu = "1ms"\n')
    with pytest.raises(ConfigError, match=r"penstock.toml:2: .*max_cpu.*the shortest CPU time"):
        JobQueue.from_config(tmp_path)
