from __future__ import annotations

import asyncio
import dataclasses
import enum
from collections.abc import Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import msgspec
import pandas as pd
import pytest
from test_isolation import a_job

from penstock import Run, task
from penstock.core.exceptions import ArgumentsError, InvalidJobError, PayloadError, UnknownTaskError
from penstock.job.models import Job, Ref
from penstock.results import ResultStore
from penstock.runners import runner_for
from penstock.runners.task import TaskRunner, task_spec
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.unknown import Unknown

    from penstock.run import Run as OnlyForCheckers


class Color(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Point:
    x: int


class Shape(msgspec.Struct):
    corners: list[int]


@pytest.fixture(autouse=True)
def tasks_of_this_test() -> Iterator[None]:
    before = set(TASKS)
    yield
    for name in set(TASKS) - before:
        TASKS.discard(name)


def a_run(job: Job) -> Run:
    return Run(job, emit=lambda _report: None)


def run(task: Any, *args: Any, **kwargs: Any) -> Any:
    job = a_job("task", task.name, task_spec(task, args, kwargs))
    return TaskRunner().execute(job, a_run(job))


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (date, date(2026, 1, 2)),
        (datetime, datetime(2026, 1, 2, tzinfo=UTC)),
        (Decimal, Decimal("1.10")),
        (UUID, UUID(int=7)),
        (Color, Color.RED),
        (Path, Path("/data")),
        (Point, Point(1)),
        (Shape, Shape([1])),
        (bytes, b"\xff"),
        (tuple[int, ...], (1, 2)),
        (set[str], {"a"}),
        (dict[str, date], {"a": date(2026, 1, 2)}),
        (list[Path], [Path("a")]),
        (date | None, date(2026, 1, 2)),
        (Any, {"a": 1}),
    ],
)
def test_an_argument_arrives_as_its_declared_type(annotation: Any, value: Any) -> None:
    def echo(value: Any) -> Any:
        return value

    echo.__annotations__ = {"value": annotation}
    assert run(task(echo), value) == value
    assert run(task(echo), value=value) == value


def test_text_from_a_command_line_is_read_as_the_declared_type() -> None:
    @task
    def add(a: int, b: int) -> int:
        return a + b

    assert run(add, "1", b="2") == 3


def test_every_kind_of_parameter_is_filled() -> None:
    @task
    def all_kinds(a: int, /, b: int = 2, *rest: date, c: int, d: int = 4, **more: Decimal) -> Any:
        return a, b, rest, c, d, more

    day = date(2026, 1, 2)
    assert run(all_kinds, 1, c=3) == (1, 2, (), 3, 4, {})
    assert run(all_kinds, 1, 5, day, c=3, x=Decimal(1)) == (1, 5, (day,), 3, 4, {"x": Decimal(1)})


@pytest.mark.parametrize(
    ("args", "kwargs", "named"),
    [
        ((), {}, "day"),
        (("no date",), {}, "day"),
        ((date(2026, 1, 2), 3), {}, "too many"),
        ((date(2026, 1, 2),), {"dya": 1}, "dya"),
        ((date(2026, 1, 2),), {"count": "many"}, "count"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(args: Any, kwargs: Any, named: str) -> None:
    @task
    def load(day: date, *, count: int = 1) -> None: ...

    with pytest.raises(ArgumentsError, match=named):
        task_spec(load, args, kwargs)


def test_a_table_as_argument_is_refused_by_name() -> None:
    @task
    def load(orders: pd.DataFrame) -> None: ...

    with pytest.raises(PayloadError, match=r"load\.orders is a pandas DataFrame: store it first"):
        task_spec(load, (pd.DataFrame(),), {})


def test_a_ref_arrives_as_what_it_names(tmp_path: Path) -> None:
    @task
    def total(orders: pd.DataFrame) -> int:
        return int(orders.a.sum())

    assert run(total, ResultStore(tmp_path).put(pd.DataFrame({"a": [1, 2]}))) == 3


def test_a_ref_arrives_as_itself_where_it_is_asked_for(tmp_path: Path) -> None:
    @task
    def where(ref: Ref) -> str:
        return ref.uri

    ref = ResultStore(tmp_path).put(b"x")
    assert run(where, ref) == ref.uri


def test_the_run_is_handed_in_wherever_it_stands() -> None:
    @task
    def first(run: Run, a: int) -> Any:
        return run.name, a

    @task
    def middle(a: int, run: Run | None = None, b: int = 2) -> Any:
        return run and run.name, a, b

    @task
    def positional(a: int = 1, run: Run | None = None, /, b: int = 2) -> Any:
        return run and run.name, a, b

    @task
    def keyword(a: int, *, run: Run) -> Any:
        return run.name, a

    assert run(first, 5) == ("first", 5)
    assert run(middle, 5) == ("middle", 5, 2)
    assert run(middle, 5, 6) == ("middle", 5, 6)
    assert run(positional) == ("positional", 1, 2)
    assert run(positional, 5, 6) == ("positional", 5, 6)
    assert run(keyword, 5) == ("keyword", 5)


def test_the_run_cannot_be_passed_by_the_caller() -> None:
    @task
    def takes(run: Run, **more: int) -> None: ...

    with pytest.raises(ArgumentsError, match="'run' is handed in"):
        task_spec(takes, (), {"run": 1})


def test_annotations_that_cannot_be_resolved_are_left_alone() -> None:
    @task
    def odd(day: date, thing: Unknown, run: OnlyForCheckers | None = None) -> Any:
        return day, thing

    assert run(odd, "2026-01-02", 5) == (date(2026, 1, 2), 5)


def test_a_type_that_msgspec_cannot_read_is_left_alone() -> None:
    @task
    def odd(value: date | datetime) -> Any:
        return value

    assert run(odd, "2026-01-02") == "2026-01-02"


def test_an_async_function_returns_what_can_be_awaited() -> None:
    @task
    async def later(a: int) -> int:
        return a + 1

    job = a_job("task", "later", task_spec(later, (1,), {}))
    assert TaskRunner().is_async(job)
    assert asyncio.run(TaskRunner().execute(job, a_run(job))) == 2


def test_a_generator_function_is_refused() -> None:
    @task
    def rows() -> Iterator[int]:
        yield 1

    with pytest.raises(ArgumentsError, match="generator"):
        task_spec(rows, (), {})


def test_an_unknown_task_is_missing_here_and_not_tried_again() -> None:
    @task
    def gone() -> None: ...

    job = a_job("task", "gone", task_spec(gone, (), {}))
    TASKS.discard("gone")
    assert "gone" in str(TaskRunner().missing(job))
    with pytest.raises(UnknownTaskError) as caught:
        TaskRunner().execute(job, a_run(job))
    assert caught.value.retryable is False


def test_stored_arguments_that_no_longer_fit_are_refused_by_name() -> None:
    @task
    def moved(a: Any) -> None: ...

    job = a_job("task", "moved", task_spec(moved, ("text",), {}))

    @task
    def moved(a: int) -> None: ...

    with pytest.raises(ArgumentsError, match="'a'"):
        TaskRunner().execute(job, a_run(job))


def test_an_unknown_kind_says_which_there_are() -> None:
    with pytest.raises(InvalidJobError, match="command"):
        runner_for("comand")


def test_bytes_for_a_parameter_without_a_type_are_refused() -> None:
    @task
    def untyped(blob):
        return blob

    with pytest.raises(PayloadError, match=r"parameter 'blob' is bytes.*annotate it \(blob: bytes\)"):
        untyped.call(b"abc")
