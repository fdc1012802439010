"""How a task's jobs are run: progress, timeout, tries."""

from __future__ import annotations

import math
import time
from datetime import UTC, datetime, timedelta
from typing import NoReturn, TypeVar

from penstock.body import Ended
from penstock.core.durations import Duration, parse_duration_s
from penstock.dependencies.base import Immediate
from penstock.job.models import RetryPolicy
from penstock.run import Run
from penstock.runners.errors import describe_error

R = TypeVar("R", bound="Retry")

_FOREVER = 1000
"""The most tries that a job may have."""


class Progress(Immediate["Progress"]):
    """Counts steps towards a total; people see the share, and the message."""

    def __init__(self, total: int = 100) -> None:
        self._run: Run | None = None
        self.total = total
        self.current = 0

    def enter(self, run: Run) -> Progress:
        """A counter of this attempt's own."""
        mine = type(self)(self.total)
        mine._run = run  # noqa: SLF001 - its own kind
        return mine

    @property
    def message(self) -> str:
        """What the body is doing, in a few words; see `set_message`."""
        return self._live.message

    def set_total(self, total: int) -> None:
        """Say how many steps there are. Raises ValueError for none."""
        if total < 1:
            raise ValueError(f"a total of {total!r} steps: there must be one at least")
        self.total = total
        self._tell()

    def increment(self, amount: int = 1) -> None:
        """Count steps that are done."""
        self.current += amount
        self._tell()

    def set_message(self, message: str) -> None:
        """Tell people what the body is doing."""
        self._live.message = message

    def _tell(self) -> None:
        self._live.progress = self.current / self.total

    @property
    def _live(self) -> Run:
        if self._run is None:
            raise RuntimeError("this is the declaration; a body gets a Progress of its own")
        return self._run


class Timeout(Immediate["Timeout"]):
    """How long a body may take. It is the job option ``timeout`` (of the job, if it has one of its own), and live."""

    single = True

    def __init__(self, base: Duration) -> None:
        self.base = timedelta(seconds=parse_duration_s(base))
        if self.base <= timedelta(0):
            raise ValueError(f"a timeout of {base!r}: it must be positive")
        self._run: Run | None = None
        self._ends = 0.0

    def enter(self, run: Run) -> Timeout:
        """The time of this attempt, counted from its start."""
        mine = type(self)(self.base)
        mine._run = run  # noqa: SLF001 - its own kind
        allowed_s = run.job.timeout_s
        mine._ends = math.inf if allowed_s is None else run.began + allowed_s  # noqa: SLF001
        return mine

    def remaining(self) -> timedelta:
        """How much is left; negative when it is over, `timedelta.max` where the job has no timeout."""
        left_s = self._ends - time.monotonic()
        return timedelta.max if math.isinf(left_s) else timedelta(seconds=left_s)

    def expired(self) -> bool:
        """Whether the time is over."""
        return time.monotonic() >= self._ends

    def extend(self, by: Duration | None = None) -> None:
        """Allow so much more than was allowed; without an argument: the base once more."""
        if self._run is None:
            raise RuntimeError("this is the declaration; a body gets a Timeout of its own")
        by_s = self.base.total_seconds() if by is None else parse_duration_s(by)
        self._ends += by_s
        self._run.extend_timeout(by_s)


class ForcedRetry(Exception):  # noqa: N818 - asked for, no error of the body's
    """Raised by `Retry.after` and `Retry.at`: the attempt has failed, and the next is at the time that was said."""

    def __init__(self, wait_s: float) -> None:
        super().__init__(f"the body asked to be tried again in {wait_s:g} s")
        self.wait_s = wait_s

    @property
    def ended(self) -> Ended:
        """How the attempt ends by this."""
        return Ended(how="raised", error=describe_error(self), wait_s=self.wait_s)


class Retry(Immediate["Retry"]):
    """How often a job is tried, and how long it waits between: the job options ``max_attempts`` and ``backoff``.

    ``attempts`` counts the first try; None: as often as there may be. What ``@task`` or the enqueue say goes first.
    """

    single = True

    def __init__(self, attempts: int | None = 1, delay: Duration = 0) -> None:
        if attempts is not None and not 1 <= attempts <= _FOREVER:
            raise ValueError(f"{attempts!r} attempts: from 1 to {_FOREVER}, or None for as many as may be")
        self.attempts = attempts
        self.delay = timedelta(seconds=parse_duration_s(delay))
        self.attempt = 1
        """The number of the try that runs, in what a body gets."""

    @classmethod
    def forever(cls: type[R], delay: Duration = 0) -> R:
        """Try again and again."""
        return cls(None, delay)

    @property
    def max_attempts(self) -> int:
        """The job option."""
        return self.attempts or _FOREVER

    @property
    def policy(self) -> RetryPolicy:
        """The job option ``backoff``."""
        wait_s = self.delay.total_seconds()
        return RetryPolicy(base_s=wait_s, cap_s=wait_s, factor=1.0, jitter=0.0)

    def enter(self, run: Run) -> Retry:
        """The tries of this job."""
        mine = type(self)(self.attempts, self.delay)
        mine.attempt = run.job.errors + 1
        return mine

    def after(self, delay: Duration) -> NoReturn:
        """End this try now, and have the next one after so long. Raises `ForcedRetry`."""
        raise ForcedRetry(max(0.0, parse_duration_s(delay)))

    def at(self, when: datetime) -> NoReturn:
        """End this try now, and have the next one at that time. Raises `ForcedRetry`, ValueError for a naive one."""
        if when.utcoffset() is None:
            raise ValueError(f"{when.isoformat()} has no time zone, and none is assumed; add one")
        raise ForcedRetry(max(0.0, (when - datetime.now(UTC)).total_seconds()))


class ExponentialRetry(Retry):
    """As `Retry`, with waits that double from the least to the most."""

    def __init__(
        self,
        attempts: int | None = 1,
        minimum_delay: Duration = 1,
        maximum_delay: Duration = 64,
    ) -> None:
        super().__init__(attempts, minimum_delay)
        self.maximum_delay = timedelta(seconds=parse_duration_s(maximum_delay))

    @classmethod
    def forever(cls, delay: Duration = 1, maximum_delay: Duration = 64) -> ExponentialRetry:
        """Try again and again."""
        return cls(None, delay, maximum_delay)

    @property
    def policy(self) -> RetryPolicy:
        """The job option ``backoff``."""
        least_s, most_s = self.delay.total_seconds(), self.maximum_delay.total_seconds()
        return RetryPolicy(base_s=least_s, cap_s=max(least_s, most_s), factor=2.0, jitter=0.0)

    def enter(self, run: Run) -> Retry:
        """The tries of this job."""
        mine = type(self)(self.attempts, self.delay, self.maximum_delay)
        mine.attempt = run.job.errors + 1
        return mine
