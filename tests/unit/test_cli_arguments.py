"""How words of the command line become arguments."""

from __future__ import annotations

import datetime as dt
from pathlib import Path

import pytest

from penstock import Run
from penstock.cli import arguments
from penstock.cli.failures import UsageError
from penstock.options import JobOptions
from penstock.sources.decorators import Task


def sale(code: str, amount: int, day: dt.date, ratio: float = 1.0, tags: list[str] | None = None, *, run: Run) -> None:
    pass


def loose(value, path: Path = Path(), **more) -> None:
    pass


SALE = Task(sale, "sale", JobOptions())
LOOSE = Task(loose, "loose", JobOptions())


def named(task: Task, *words: str, args: str | None = None) -> dict:
    return arguments.for_task(task, words, args)[1]


def test_a_word_for_a_str_stays_a_text_even_if_it_looks_like_a_number():
    assert named(SALE, "code=01234", "amount=5") == {"code": "01234", "amount": 5}


def test_a_date_stays_the_text_that_json_needs():
    assert named(SALE, "day=2013-01-02") == {"day": "2013-01-02"}


def test_json_is_read_where_the_type_asks_for_it():
    assert named(SALE, 'tags=["a", "b"]', "ratio=0.5") == {"tags": ["a", "b"], "ratio": 0.5}


def test_without_a_declared_type_json_is_read_where_it_parses_else_text():
    assert named(LOOSE, "value=5") == {"value": 5}
    assert named(LOOSE, "value=five") == {"value": "five"}
    assert named(LOOSE, 'value="5"') == {"value": "5"}


def test_a_path_stays_a_text():
    assert named(LOOSE, "path=2013") == {"path": "2013"}


def test_a_value_may_hold_an_equals_sign():
    assert named(SALE, "code=a=b") == {"code": "a=b"}


def test_args_takes_an_object_by_name_and_an_array_by_position():
    assert arguments.for_task(SALE, ["amount=1"], '{"code": "x"}') == ([], {"code": "x", "amount": 1})
    assert arguments.for_task(SALE, [], '["x", 1]') == (["x", 1], {})


def test_the_signature_is_shown_without_the_run():
    assert "run" not in arguments.signature(SALE)


@pytest.mark.parametrize(
    ("task", "words", "args", "told"),
    [
        (SALE, ["Ada"], None, "argument 'Ada' has no name; write code=Ada"),
        (SALE, ["code=a", "code=b"], None, "'code' is given twice"),
        (SALE, ["code=a"], '{"code": "b"}', "'code' is given twice: as code=... and in --args"),
        (SALE, ["cod=a"], None, "no parameter 'cod'; it has: code, amount, day, ratio, tags. Did you mean 'code'?"),
        (SALE, ["run=1"], None, "task sale has no parameter 'run'"),
        (SALE, [], "{", "--args: not JSON"),
        (SALE, [], "5", "--args takes a JSON object or array, not 5"),
    ],
)  # fmt: skip
def test_wrong_words_are_refused_with_the_name_of_the_argument(task, words, args, told):
    with pytest.raises(UsageError) as caught:
        arguments.for_task(task, words, args)
    assert told in str(caught.value)


def test_any_name_is_taken_by_a_task_with_keywords():
    assert named(LOOSE, "value=1", "colour=red") == {"value": 1, "colour": "red"}


def test_inputs_must_be_an_object():
    with pytest.raises(UsageError, match="--inputs takes a JSON object"):
        arguments.json_object("[1]", "--inputs")
