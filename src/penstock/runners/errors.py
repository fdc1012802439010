"""An exception as data: what is kept of it in the ledger."""

from __future__ import annotations

import traceback
from pathlib import Path

from penstock.body import Ended
from penstock.core.asks import Discard, RetryLater, Snooze
from penstock.job.models import ErrorInfo
from penstock.job.retries import home_of
from penstock.lines import printable

_OURS = str(Path(__file__).parent.parent)
_MESSAGE_MAX = 4_000
_TRACEBACK_MAX = 32_000
_REASON_MAX = 500


def ended_by(error: BaseException) -> Ended:
    """Return how an attempt ended whose body raised this; never raises. An exception may say it itself: ``ended``."""
    if isinstance(told := getattr(error, "ended", None), Ended):
        return told
    if isinstance(error, Snooze):
        return Ended(how="snoozed", wait_s=error.wait_s, note=printable(str(error.reason))[:_REASON_MAX] or None)
    described = describe_error(error)
    if isinstance(error, RetryLater):
        return Ended(how="raised", error=described, wait_s=error.wait_s)
    if isinstance(error, Discard):
        return Ended(how="raised", error=described, retryable=False, discarded=True)
    return Ended(how="raised", error=described, retryable=getattr(error, "retryable", True) is not False)


def describe_error(error: BaseException) -> ErrorInfo:
    """Return type, message, class names and traceback; never raises, and keeps no local variable's value.

    The frames of penstock itself at the top are left out, and so is the middle of a very long traceback.
    """
    try:
        message = str(error)
    except Exception as second:  # noqa: BLE001 - a user's __str__ may raise anything
        message = f"<its message cannot be shown: {type(second).__name__}>"
    try:
        trace = error.__traceback__
        while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS) and trace.tb_next:
            trace = trace.tb_next
        text = "".join(traceback.format_exception(type(error), error, trace))
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        text = ""
    if len(text) > _TRACEBACK_MAX:
        half = _TRACEBACK_MAX // 2
        text = f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"
    classes = type(error).__mro__[:-1]
    homes = [home_of(cls) for cls in classes]
    while len(homes) > 1 and homes[-1] == "builtins":
        homes.pop()
    return ErrorInfo(
        type=type(error).__name__,
        message=printable(message[:_MESSAGE_MAX]),
        traceback=printable(text),
        bases=tuple(cls.__name__ for cls in classes[1:]),
        node=getattr(error, "penstock_node", None),
        modules=tuple(homes),
    )
