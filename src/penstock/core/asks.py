"""What a body may raise to say how its attempt is to end."""

from __future__ import annotations

from datetime import UTC, datetime

from penstock.core.durations import Duration, format_duration, parse_duration_s

FORMS = "'retry 5m', 'snooze 5m' or 'discard'"


class Ask(Exception):  # noqa: N818 - no error: the body says what it wants
    """Base of the three: one ``except Ask: raise`` lets them through a body's own ``except Exception``."""


class _Later(Ask):
    """A wish to run again after a time, or at an aware instant."""

    def __init__(self, delay: Duration | datetime, reason: str = "") -> None:
        super().__init__(delay, reason)
        if isinstance(delay, datetime):
            if delay.utcoffset() is None:
                raise ValueError(f"{delay.isoformat()} has no time zone, and none is assumed")
        elif parse_duration_s(delay) < 0:
            raise ValueError(f"{delay!r} is negative; a job cannot start in the past")
        self.delay = delay
        self.reason = reason

    @property
    def wait_s(self) -> float:
        """How long to wait from now on, in seconds."""
        if isinstance(self.delay, datetime):
            return max(0.0, (self.delay - datetime.now(UTC)).total_seconds())
        return parse_duration_s(self.delay)

    def __str__(self) -> str:
        told = f"again in {format_duration(self.wait_s)}"
        return f"{told}: {self.reason}" if self.reason else told


class RetryLater(_Later):
    """Try again after so long, in place of the backoff: ``raise RetryLater("5m")``.

    It spends a try as any error does; when none is left the job fails. ``retry_on`` and ``discard_on`` do not keep it
    from being tried again.
    """


class Snooze(_Later):
    """Run again after so long, as if this attempt had not been: ``raise Snooze("5m", "no file yet")``.

    It spends no budget, however often; the reason is shown while the job waits.
    """


class Discard(Ask):
    """Fail at once, whatever tries are left: ``raise Discard("the order is gone")``."""

    def __init__(self, reason: str = "") -> None:
        super().__init__(reason)
        self.reason = reason


def parse_ask(text: str, reason: str = "") -> Ask:
    """Read in words what a body in Python would raise: ``"retry 5m"``, ``"snooze 5m"`` or ``"discard"``.

    Raises:
        ValueError: none of these; the message shows the forms.
    """
    match text.split(maxsplit=1):
        case ["retry", delay]:
            return RetryLater(delay, reason)
        case ["snooze", delay]:
            return Snooze(delay, reason)
        case ["discard"]:
            return Discard(reason)
        case _:
            raise ValueError(f"{text!r} says nothing of what is to come; write {FORMS}")
