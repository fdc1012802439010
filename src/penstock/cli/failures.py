"""Errors become one line on stderr and an exit code: here, and nowhere else."""

from __future__ import annotations

import json
import shlex
import sys
import traceback
from collections.abc import Callable
from typing import TextIO

from cyclopts import CycloptsError

from penstock.core import exceptions as errors
from penstock.core.secrets import mask_text
from penstock.core.visible import visible, visible_json

OK = 0
JOB_FAILED = 1
USAGE = 2
CONFIG = 3
UNREACHABLE = 4
NOT_FOUND = 5
UNSUPPORTED = 6
TRY_LATER = 75  # EX_TEMPFAIL of sysexits.h
BUG = 70  # EX_SOFTWARE of sysexits.h
TIMED_OUT = 124  # as timeout(1)
INTERRUPTED = 130  # 128 + SIGINT
BROKEN_PIPE = 141  # 128 + SIGPIPE: what the shell would report of a reader that left


class UsageError(errors.PenstockError):
    """The command line asks for something that makes no sense."""


# The first class that fits decides, so the narrower ones stand first.
CODES: tuple[tuple[type[BaseException], int, str], ...] = (
    (errors.JobFailedError, JOB_FAILED, "penstock logs {job_id}"),
    (errors.JobCancelledError, JOB_FAILED, "penstock status {job_id}"),
    (errors.ResultTimeoutError, TIMED_OUT, "it goes on; penstock status {job_id}"),
    (errors.UnknownTaskError, USAGE, "penstock tasks"),
    (errors.UnknownPipelineError, USAGE, "penstock tasks"),
    (errors.InvalidJobError, USAGE, ""),
    (errors.ScheduleDeclaredError, USAGE, "penstock schedules show {schedule}"),
    (errors.ScheduleNotFoundError, NOT_FOUND, "penstock schedules"),
    (errors.RuleNotFoundError, NOT_FOUND, "penstock rules"),
    (errors.TransitionRefusedError, USAGE, "penstock status {job_id}"),
    (errors.BackendNotInstalledError, CONFIG, ""),
    (errors.UnknownBackendError, CONFIG, "penstock backends"),
    (errors.ConfigError, CONFIG, "penstock config show"),
    (errors.QueueFullError, TRY_LATER, "penstock jobs --state queued"),
    (errors.DuplicateJobError, TRY_LATER, "penstock status {job_id}"),
    (errors.UnsupportedError, UNSUPPORTED, "penstock backends"),
    (errors.BackendError, UNREACHABLE, "penstock doctor"),
    (errors.LedgerError, UNREACHABLE, "penstock doctor"),
    (errors.JobNotFoundError, NOT_FOUND, "penstock jobs"),
    (errors.ResultError, NOT_FOUND, "penstock status {job_id}"),
    (UsageError, USAGE, ""),
    (CycloptsError, USAGE, ""),
    (KeyboardInterrupt, INTERRUPTED, ""),
    (BrokenPipeError, BROKEN_PIPE, ""),
)


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error; `BUG` for one that nobody foresaw."""
    return next((code for cls, code, _ in CODES if isinstance(error, cls)), BUG)


def hint(error: BaseException) -> str:
    """Return the command that helps further, or an empty string."""
    if isinstance(error, CycloptsError):
        chain = " ".join(error.command_chain or ())
        return f"penstock {chain} --help".replace("  ", " ")
    told = next((hint for cls, _, hint in CODES if isinstance(error, cls)), "penstock -v ... shows the traceback")
    for word, attribute in (("{job_id}", "job_id"), ("{schedule}", "name")):
        if word in told:
            value = getattr(error, attribute, None)
            return told.replace(word, shlex.quote(value)) if value else ""
    return told


def tell(
    error: BaseException, *, as_json: bool, verbose: bool, to: TextIO | None = None, told: Callable[[str], str] = str
) -> int:
    """Say what happened and what to do next, on stderr; return the exit code.

    ``told`` says more of what the command line asked for: that it was a variable.
    """
    stream = to or sys.stderr
    code = exit_code(error)
    if code == BROKEN_PIPE:
        return code
    if code == INTERRUPTED:
        message = "interrupted"
    elif code == BUG:
        message = mask_text(f"{type(error).__name__}: {error}")
    else:
        message = str(error).strip()
        message = mask_text(told(message) if code == USAGE else message)
    further = hint(error)
    if as_json:
        document = {
            "schema": "penstock.error/1",
            "error": {"type": type(error).__name__, "message": message, "hint": further, "exit_code": code},
        }
        stream.write(visible_json(json.dumps(document, ensure_ascii=False)) + "\n")
        return code
    if verbose and code not in (INTERRUPTED, USAGE):
        stream.write(visible(mask_text("".join(traceback.format_exception(error)))))
    stream.write(visible(f"penstock: error: {message}\n"))
    if further:
        stream.write(visible(f"  next: {further}\n"))
    return code
