"""What a task's parameters depend on: resolved before the body, wherever it runs, and never an argument."""

from __future__ import annotations

import asyncio
import contextvars
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import asynccontextmanager, closing, contextmanager
from pathlib import Path
from typing import Annotated, Any

import dependency_bodies as bodies
import pytest

from penstock import (
    AdmissionBlocked,
    CompletionHandler,
    CurrentJob,
    CurrentQueue,
    CurrentWorker,
    Dependency,
    Depends,
    ExponentialRetry,
    FailureHandler,
    JobFailedError,
    JobQueue,
    Progress,
    RateLimit,
    Retry,
    Run,
    Runtime,
    Shared,
    TaskArgument,
    TaskLogger,
    TaskOutcome,
    Timeout,
    task,
)
from penstock.cli import arguments
from penstock.core.exceptions import ArgumentsError, ConfigError
from penstock.sources.decorators import TASKS
from penstock.testing.harness import wait_until


@pytest.fixture
def queue(tmp_path: Path) -> Iterator[JobQueue]:
    for body in vars(bodies).values():
        if hasattr(body, "enqueue"):
            TASKS.add(body)
    with closing(JobQueue("inline://", ledger=f"sqlite:///{tmp_path}/ledger.db", root=tmp_path)) as opened:
        yield opened


# -- what a call takes ------------------------------------------------------------------------------------------


def test_who_has_no_dependencies_does_not_load_the_library():
    code = "import sys, penstock; penstock.JobQueue; penstock.task(len); assert 'uncalled_for' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_what_a_task_depends_on_is_no_argument_of_a_call():
    @task
    def report(day: str, db: Any = Depends(dict), limit: int = 3, queue: Any = CurrentQueue()) -> None: ...

    assert arguments.signature(report) == "(day: 'str', limit: 'int' = 3) -> 'None'"
    with pytest.raises(ArgumentsError, match="'db' is what it depends on"):
        report.call("today", db=1)


def test_a_parameter_may_have_the_name_of_a_job_option(queue: JobQueue):
    @task
    def named(queue: Any = CurrentQueue(), timeout: Timeout = Timeout("5s")) -> str:
        return queue.config.backend

    assert queue.enqueue(named, queue="other", isolation="inline").result(10) == "inline://"


def test_an_annotation_may_say_what_supplies_a_parameter(queue: JobQueue):
    @task
    def annotated(name: str, size: Annotated[int, Depends(lambda: 7)]) -> list[Any]:
        return [name, size]

    assert queue.enqueue(annotated, "ada").result(10) == ["ada", 7]


def test_a_dependency_on_an_argument_that_there_is_not_is_refused_when_the_task_is_made():
    def account(user: str = TaskArgument()) -> str:
        return user

    with pytest.raises(ConfigError, match="asks for its argument 'user'"):

        @task
        def show(name: str, found: str = Depends(account)) -> None: ...


def test_a_dependency_may_ask_for_what_was_passed_beyond_the_parameters(queue: JobQueue):
    def account(user: str = TaskArgument()) -> str:
        return f"account of {user}"

    @task
    def show(found: str = Depends(account), **more: str) -> list[Any]:
        return [found, more]

    assert queue.enqueue(show, user="ada").result(10) == ["account of ada", {"user": "ada"}]


def test_two_of_what_there_may_be_one_of_are_refused():
    with pytest.raises(ConfigError, match="Only one Retry"):

        @task
        def twice(one: Retry = Retry(2), other: Retry = Retry(3)) -> None: ...


# -- bodies of both colours, here and in a child ----------------------------------------------------------------


@pytest.mark.parametrize("isolation", ["inline", "process"])
@pytest.mark.parametrize("body", [bodies.sync_body, bodies.async_body], ids=["sync", "async"])
def test_dependencies_of_both_colours_surround_a_body_of_either(queue, tmp_path, body, isolation):
    file = tmp_path / "notes"
    told = queue.enqueue(body, str(file), isolation=isolation).result(30)
    assert told["same thread"]
    assert sorted(file.read_text().split("\n")[:2]) == ["async opened", "sync opened"]
    assert file.read_text().split("\n")[2:] == ["body", "sync closed", "async closed", ""]


def test_what_is_shared_is_made_once_for_all_bodies_of_a_process(queue, tmp_path):
    told = [
        queue.enqueue(body, str(tmp_path / "notes")).result(10)["shared"]
        for body in (bodies.sync_body, bodies.async_body, bodies.sync_body)
    ]
    assert told[0] == told[1] == told[2]


def test_what_is_shared_is_closed_with_the_queue_and_made_anew_by_the_next(tmp_path):
    made: list[str] = []

    @contextmanager
    def connection() -> Iterator[int]:
        made.append("opened")
        yield len(made)
        made.append("closed")

    @task
    def uses(one: int = Shared(connection)) -> int:
        return one

    for _ in range(2):
        with closing(JobQueue("inline://", ledger="memory://", root=tmp_path)) as queue:
            queue.enqueue(uses)
            queue.enqueue(uses)
    assert made == ["opened", "closed", "opened", "closed"]


def test_the_queue_of_a_body_in_a_child_has_the_same_ledger(queue):
    made, mine = queue.enqueue(bodies.enqueues_another, isolation="process").result(30)
    assert queue.job(made).job.tags == (mine,)


def test_a_sync_resource_may_belong_to_the_thread_of_a_sync_body(queue):
    @contextmanager
    def database() -> Iterator[sqlite3.Connection]:
        with closing(sqlite3.connect(":memory:")) as connection:  # refuses other threads
            yield connection

    @task
    def counts(db: Any = Depends(database)) -> int:
        return db.execute("SELECT 41 + 1").fetchone()[0]

    assert queue.enqueue(counts).result(10) == 42


def test_a_sync_dependency_of_an_async_body_does_not_block_its_loop(queue):
    release = threading.Event()

    async def releases() -> None:
        asyncio.get_running_loop().call_later(0.01, release.set)

    def waits(_: None = Depends(releases)) -> bool:
        return release.wait(10)

    @task
    async def body(waited: bool = Depends(waits)) -> bool:
        return waited

    assert queue.enqueue(body).result(20) is True


def test_what_a_dependency_sets_in_its_context_is_set_for_the_body(queue):
    tenant: contextvars.ContextVar[str] = contextvars.ContextVar("tenant", default="nobody")

    async def chosen() -> None:
        tenant.set("ada")

    @task
    def reads(_: None = Depends(chosen)) -> str:
        return tenant.get()

    assert queue.enqueue(reads).result(10) == "ada"


def test_what_a_sync_dependency_sets_in_its_context_it_can_reset(queue):
    place: contextvars.ContextVar[str] = contextvars.ContextVar("place", default="nowhere")

    @contextmanager
    def at(there: str):
        token = place.set(there)
        try:
            yield
        finally:
            place.reset(token)
            left.append(place.get())

    @task
    def here(outer: None = Depends(at, there="outer"), inner: None = Depends(at, there="inner")) -> str:
        return place.get()

    @task
    async def ahere(outer: None = Depends(at, there="outer"), inner: None = Depends(at, there="inner")) -> str:
        return place.get()

    for body in (here, ahere):
        left: list[str] = []
        assert queue.enqueue(body).result(10) == "inner"
        assert left == ["outer", "nowhere"]


def test_one_resource_is_opened_once_for_all_that_ask_for_it(queue):
    opened: list[int] = []

    def connection() -> int:
        opened.append(1)
        return len(opened)

    def users(db: int = Depends(connection)) -> int:
        return db

    @task
    def body(one: int = Depends(connection), other: int = Depends(users)) -> list[int]:
        return [one, other]

    assert queue.enqueue(body).result(10) == [1, 1]


def test_a_body_that_raises_closes_what_it_depended_on_and_fails_by_its_own_error(queue):
    seen: list[str] = []

    @asynccontextmanager
    async def transaction():
        try:
            yield
        except ValueError:
            seen.append("rolled back")
            raise

    @task
    def fails(_: None = Depends(transaction)) -> None:
        raise ValueError("no good")

    with pytest.raises(JobFailedError, match="no good"):
        queue.enqueue(fails).result(10)
    assert seen == ["rolled back"]


def test_a_dependency_that_raises_fails_the_job_and_names_its_parameter(queue):
    def broken() -> None:
        raise LookupError("no such account")

    @task
    def never(account: None = Depends(broken)) -> None:
        raise AssertionError

    job = queue.enqueue(never).wait(10)
    assert job.error is not None
    assert job.error.type == "LookupError"
    assert "'account'" in job.error.traceback


def test_a_body_that_exits_fails_its_job_and_leaves_the_loop_to_the_next(queue):
    @task
    def leaves(_: dict[str, int] = Depends(dict)) -> None:
        raise SystemExit(3)

    assert queue.enqueue(leaves).wait(10).error.type == "SystemExit"
    assert queue.enqueue(bodies.plain_one).wait(10).state == "succeeded"
    with pytest.raises(JobFailedError):
        queue.enqueue(leaves).result(10)


def test_a_cancelled_async_body_has_cleaned_up_when_its_job_is_over(tmp_path):
    seen: list[str] = []

    async def resource():
        try:
            yield
        finally:
            seen.append("closed")

    @task
    async def sleeps(run: Run, _: None = Depends(resource)) -> None:
        seen.append("began")
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            seen.append("cleaned up")

    url = f"huey+sqlite:///{tmp_path}/queue.db"
    with closing(JobQueue(url, ledger="memory://", root=tmp_path)) as queue, queue.worker(concurrency=1):
        job = queue.enqueue(sleeps)
        wait_until(lambda: seen)
        job.cancel()
        assert job.wait(20).state == "cancelled"
        assert seen == ["began", "cleaned up", "closed"]


# -- what belongs to the job ------------------------------------------------------------------------------------


def test_a_body_knows_its_job_and_its_worker(queue):
    @task
    def who(job: Any = CurrentJob(), worker: Any = CurrentWorker()) -> list[Any]:
        return [job.id, worker.id, worker.pid]

    job = queue.enqueue(who)
    assert job.result(10) == [job.id, job.job.owner, int(job.job.owner.split(":")[1])]


def test_lines_of_a_task_logger_are_kept_with_the_attempt(queue):
    @task
    def says(logger: Any = TaskLogger()) -> None:
        logger.info("%d rows", 3)

    assert [line.text for line in queue.enqueue(says).logs()] == ["3 rows"]


def test_progress_counts_towards_its_total(queue):
    @task
    def steps(progress: Progress = Progress()) -> None:
        progress.set_total(8)
        progress.increment()
        progress.increment(5)
        progress.set_message("nearly")

    job = queue.enqueue(steps).wait(10)
    assert (job.progress, job.message) == (0.75, "nearly")


# -- tries and time ---------------------------------------------------------------------------------------------


def test_declared_retries_are_the_options_of_the_task_where_it_says_nothing_else():
    @task(timeout="9s")
    def tried(retry: ExponentialRetry = ExponentialRetry(5, "2s", "1m"), timeout: Timeout = Timeout("3s")) -> None: ...

    options = tried.defaults
    assert (options.max_attempts, options.timeout_s) == (5, 9.0)
    assert options.backoff is not None
    assert [options.backoff.delay_s(n) for n in (1, 2, 6)] == [2.0, 4.0, 60.0]


def test_a_body_may_say_when_it_is_tried_again(queue):
    @task
    def flaky(retry: Retry = Retry(3, "1h")) -> int:
        if retry.attempt < 3:
            retry.after(0.01)
        return retry.attempt

    job = queue.enqueue(flaky)
    assert job.result(20) == 3
    assert job.job.errors == 2


def test_a_forced_retry_without_a_try_left_fails(queue):
    @task
    def flaky(retry: Retry = Retry(1)) -> None:
        retry.after(0.01)

    assert queue.enqueue(flaky).wait(10).error.type == "ForcedRetry"


def test_a_timeout_is_extended_in_the_worker(tmp_path, queue):
    assert queue.enqueue(bodies.takes_longer_async).wait(20).state == "succeeded"


def test_a_timeout_is_extended_from_a_child(queue):
    job = queue.enqueue(bodies.takes_longer)
    assert job.result(30) > 15
    assert job.job.isolation == "process"


def test_a_timeout_that_is_not_extended_ends_the_body(queue):
    assert queue.enqueue(bodies.takes_too_long).wait(20).reason == "timeout"


# -- a user's own -----------------------------------------------------------------------------------------------


def test_a_dependency_of_ones_own_supplies_and_cleans_up(queue):
    seen: list[str] = []

    class Client(Dependency[str]):
        def __init__(self, name: str) -> None:
            self.name = name

        async def __aenter__(self) -> str:
            return f"client of {self.name}"

        async def __aexit__(self, *exc: object) -> None:
            seen.append("closed")

    @task
    def asks(client: str = Client("ada")) -> str:  # type: ignore[assignment]
        return client

    assert queue.enqueue(asks).result(10) == "client of ada"
    assert seen == ["closed"]


def test_a_job_that_a_dependency_does_not_admit_waits_without_spending_a_try(queue):
    looks: list[int] = []

    def door() -> None:
        looks.append(1)
        if len(looks) < 3:
            raise AdmissionBlocked("the door is shut", retry_delay="10ms")

    @task
    async def enters(_: None = Depends(door)) -> int:
        return len(looks)

    job = queue.enqueue(enters)
    assert job.result(20) == 3
    assert (job.job.errors, job.job.attempt) == (0, 3)


def test_a_job_that_is_not_admitted_for_good_is_cancelled_and_says_why(queue):
    def door() -> None:
        raise AdmissionBlocked("members only", reschedule=False)

    @task
    def enters(_: None = Depends(door)) -> None: ...

    job = queue.enqueue(enters)
    assert job.wait(10).state == "cancelled"
    assert [line.text for line in job.logs()] == ["members only"]


class _Told(CompletionHandler, FailureHandler):
    def __init__(self, seen: list[tuple[str, Any]], deals: bool = False) -> None:
        self.seen = seen
        self.deals = deals

    async def handle_failure(self, outcome: TaskOutcome) -> bool:
        self.seen.append(("failed", str(outcome.exception)))
        return self.deals

    async def on_complete(self, outcome: TaskOutcome) -> None:
        self.seen.append(("over", outcome.result))


def test_handlers_are_told_of_errors_and_of_the_end_alone_that_is_final(queue):
    seen: list[tuple[str, Any]] = []

    @task(max_attempts=2, backoff="10ms")
    def flaky(run: Run, told: Any = _Told(seen)) -> str:
        if run.attempt == 1:
            raise ValueError("once")
        return "done"

    queue.enqueue(flaky).wait(20)
    assert seen == [("failed", "once"), ("over", "done")]


def test_a_failure_that_is_dealt_with_is_none(queue):
    @task
    def fails(told: Any = _Told([], deals=True)) -> None:
        raise ValueError

    assert queue.enqueue(fails).wait(10).state == "succeeded"


def test_a_runtime_runs_the_body_its_own_way(queue):
    class Twice(Runtime):
        async def run(self, body: Any) -> Any:
            return [await body(), await body()]

    calls: list[int] = []

    @task
    def counts(runtime: Any = Twice()) -> int:
        calls.append(threading.get_ident())
        return len(calls)

    assert queue.enqueue(counts).result(10) == [1, 2]
    assert len(set(calls)) == 1


def test_only_what_has_dependencies_is_asked_about(queue):
    @task
    def limited(_: RateLimit = RateLimit(1, per="1h")) -> None: ...

    assert limited.depends
    assert not bodies.plain_one.depends


def test_what_ends_an_attempt_its_own_way_does_so_from_a_child(queue):
    refused = queue.enqueue(bodies.is_refused, isolation="process").wait(30)
    assert refused.state == "cancelled"
    assert queue.enqueue(bodies.comes_back, isolation="process").result(30) == 2
