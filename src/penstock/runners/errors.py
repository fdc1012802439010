"""An exception as data: what is kept of it in the ledger."""

from __future__ import annotations

import traceback
from pathlib import Path

from penstock.job.models import ErrorInfo
from penstock.lines import printable

_OURS = str(Path(__file__).parent.parent)
_MESSAGE_MAX = 4_000
_TRACEBACK_MAX = 32_000


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
    return ErrorInfo(
        type=type(error).__name__,
        message=printable(message[:_MESSAGE_MAX]),
        traceback=printable(text),
        bases=tuple(cls.__name__ for cls in type(error).__mro__[1:-1]),
        node=getattr(error, "penstock_node", None),
    )
