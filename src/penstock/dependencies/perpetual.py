"""Tasks that run again and again: each job, when it is over, makes the next one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from penstock.body import Next
from penstock.core.durations import Duration, parse_duration_s
from penstock.core.triggers import Cron as CronRule
from penstock.dependencies.base import Immediate
from penstock.run import Run


class Perpetual(Immediate["Perpetual"]):
    """Runs the task again ``every`` so often, counted from start to start, whether it succeeds or fails.

    The job that follows has the same arguments, key and options, and `parent_id`. ``automatic``: workers begin with it
    when they start, and again whenever there is no such job; it must not need arguments. A job that is cancelled has
    no successor.
    """

    single = True

    def __init__(self, every: Duration = 0, automatic: bool = False) -> None:
        self._every = timedelta(seconds=parse_duration_s(every))
        self.automatic = automatic
        self._run: Run | None = None

    def enter(self, run: Run) -> Perpetual:
        """What the body says of the next time."""
        mine = self._copy(self._every)
        mine._run = run  # noqa: SLF001 - its own kind
        return mine

    @property
    def every(self) -> timedelta:
        """From start to start; what a body sets holds for the next time."""
        return self._every

    @every.setter
    def every(self, value: Duration) -> None:
        self._every = timedelta(seconds=parse_duration_s(value))
        self._say(every_s=self._every.total_seconds())

    def cancel(self) -> None:
        """Let this be the last time."""
        self._say(cancelled=True)

    def after(self, delay: Duration) -> None:
        """Run again so long after the end of this job."""
        self._say(in_s=max(0.0, parse_duration_s(delay)), at=None)

    def at(self, when: datetime) -> None:
        """Run again at that time. Raises ValueError for a naive one."""
        if when.utcoffset() is None:
            raise ValueError(f"{when.isoformat()} has no time zone, and none is assumed; add one")
        self._say(at=when.astimezone(UTC), in_s=None)

    def perpetuate(self, *args: Any, **kwargs: Any) -> None:
        """Run again with these arguments. Raises `ArgumentsError`, `PayloadError` if they do not fit."""
        from penstock.payload import encode_spec
        from penstock.runners.task import task_spec
        from penstock.sources.decorators import TASKS

        run = self._live
        self._say(spec=encode_spec(task_spec(TASKS.find(run.name), args, kwargs)))

    def next_at(self, now: datetime, started_at: datetime | None) -> datetime:
        """When a job that ends now is followed by the next, if its body says nothing else."""
        return now if started_at is None else max(now, started_at + self._every)

    def first_at(self, now: datetime) -> datetime | None:
        """When the first job of an automatic task is due; None: at once."""
        return None

    def changed(self, every_s: float | None) -> Perpetual:
        """This, with another interval if one is given."""
        if every_s is None:
            return self
        return self._copy(timedelta(seconds=every_s))

    def _copy(self, every: timedelta) -> Perpetual:
        return Perpetual(every, self.automatic)

    def _say(self, **said: Any) -> None:
        run = self._live
        run.next = Next(**{name: getattr(run.next or Next(), name) for name in Next.__struct_fields__} | said)

    @property
    def _live(self) -> Run:
        if self._run is None:
            raise RuntimeError("this is the declaration; a body gets a Perpetual of its own")
        return self._run


class Cron(Perpetual):
    """Runs the task at the times of a cron expression in a time zone; automatic unless it says otherwise."""

    def __init__(self, expression: str, automatic: bool = True, tz: tzinfo | str = "UTC") -> None:
        super().__init__(0, automatic)
        zone = tz if isinstance(tz, str) else getattr(tz, "key", None) or str(tz)
        self.rule = CronRule(expression, zone)

    def next_at(self, now: datetime, started_at: datetime | None) -> datetime:
        """The next time of the expression; ValueError where there is none any more."""
        at = self.rule.next_after(now)
        if at is None:
            raise ValueError(f"{self.rule.expr!r} has no further time")
        return at

    def first_at(self, now: datetime) -> datetime | None:
        """The next time of the expression."""
        return self.next_at(now, None)

    def _copy(self, every: timedelta) -> Perpetual:
        return Cron(self.rule.expr, self.automatic, self.rule.timezone)
