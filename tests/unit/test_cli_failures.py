"""Which exit code and which words each error gets."""

from __future__ import annotations

import io
import json

import pytest

from penstock.cli import failures
from penstock.core import exceptions as errors
from penstock.job.models import ErrorInfo

BAD = ErrorInfo("ValueError", "bad")


def every_error(root: type = errors.PenstockError) -> list[type]:
    return [cls for sub in root.__subclasses__() for cls in (sub, *every_error(sub))]


@pytest.mark.parametrize(
    "cls", [cls for cls in every_error() if cls.__module__ == errors.__name__], ids=lambda cls: cls.__name__
)
def test_no_error_of_ours_counts_as_a_bug(cls):
    assert failures.exit_code(cls.__new__(cls)) != failures.BUG


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (errors.JobFailedError("abc", "error", BAD), 1, ("abc", "ValueError: bad", "penstock logs abc")),
        (errors.JobCancelledError("abc"), 1, ("abc", "cancelled", "penstock status abc")),
        (errors.UnknownTaskError("helo", ["hello"]), 2, ("helo", "Did you mean 'hello'", "penstock tasks")),
        (errors.ArgumentsError("task hello: no 'name'"), 2, ("hello", "name")),
        (errors.TransitionRefusedError("abc", "retry", "running"), 2, ("abc", "running", "penstock status abc")),
        (errors.ConfigError("penstock.toml:7: unknown key 'x'"), 3, ("penstock.toml:7", "penstock config show")),
        (errors.BackendNotInstalledError("rq"), 3, ("rq", 'pip install "penstock[rq]"')),
        (errors.LedgerUnavailableError("ledger /x.db: gone"), 4, ("/x.db", "penstock doctor")),
        (errors.BackendUnavailableError("redis://h: refused"), 4, ("redis://h", "penstock doctor")),
        (errors.JobNotFoundError("abc"), 5, ("abc", "penstock jobs")),
        (errors.UnsupportedError("inline", "priority"), 6, ("inline", "priority", "penstock backends")),
        (errors.ResultTimeoutError("abc", 2, "running"), 124, ("abc", "2 s", "penstock status abc")),
        (KeyboardInterrupt(), 130, ("interrupted",)),
        (ZeroDivisionError("oh"), 70, ("ZeroDivisionError: oh", "traceback")),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_an_error_says_what_which_and_what_next(error, code, words):
    out = io.StringIO()
    assert failures.tell(error, as_json=False, verbose=False, to=out) == code
    told = out.getvalue()
    assert told.startswith("penstock: error: ")
    assert all(word in told for word in words)
    assert "Traceback" not in told


def test_under_json_an_error_is_one_document():
    out = io.StringIO()
    failures.tell(errors.JobNotFoundError("abc"), as_json=True, verbose=False, to=out)
    document = json.loads(out.getvalue())
    assert document["schema"] == "penstock.error/1"
    assert document["error"]["type"] == "JobNotFoundError"
    assert document["error"]["exit_code"] == 5


def test_verbose_adds_the_traceback():
    out = io.StringIO()
    try:
        raise errors.LedgerError("gone")
    except errors.LedgerError as error:
        failures.tell(error, as_json=False, verbose=True, to=out)
    assert "Traceback (most recent call last)" in out.getvalue()


def test_a_broken_pipe_is_quiet():
    out = io.StringIO()
    assert failures.tell(BrokenPipeError(), as_json=False, verbose=True, to=out) == 141
    assert out.getvalue() == ""
