"""What may keep a job waiting: how many run at once, how many start in a time, what has just run."""

from __future__ import annotations

from datetime import timedelta
from typing import TypeVar

from penstock.core.durations import Duration, parse_duration_s
from penstock.dependencies.base import Dependency

L = TypeVar("L", bound="Limit")


class Limit(Dependency["Limit"]):
    """Counts per task, or per value of one argument, over all workers, engines and hosts that share the ledger.

    As a parameter's default it counts the task's jobs; as ``Annotated`` metadata of an argument it counts each value
    of that argument for itself. ``scope`` takes the place of the task's name: tasks with one scope count together.
    """

    argument: str | None = None
    """The argument by whose value it counts, where it is not the annotated one."""
    scope: str | None = None

    async def __aenter__(self) -> Limit:
        # The worker has asked for it before the body could begin.
        return self


class ConcurrencyLimit(Limit):
    """At most ``max_concurrent`` bodies at once: ``ConcurrencyLimit(3)``, ``ConcurrencyLimit("customer_id", 1)``.

    What may not begin waits as blocked, and is woken when one ends.
    """

    single = True

    def __init__(
        self, argument_name: str | int | None = None, max_concurrent: int = 1, *, scope: str | None = None
    ) -> None:
        if isinstance(argument_name, int):
            argument_name, max_concurrent = None, argument_name
        if max_concurrent < 1:
            raise ValueError(f"at most {max_concurrent!r} at once: nothing could ever run")
        self.argument = argument_name
        self.max_concurrent = max_concurrent
        self.scope = scope


class RateLimit(Limit):
    """At most ``limit`` bodies begin within any span of ``per``; what is too much waits, or is dropped (``drop``)."""

    def __init__(self, limit: int, *, per: Duration, drop: bool = False, scope: str | None = None) -> None:
        self.limit = limit
        self.per = _span("per", per)
        self.drop = drop
        self.scope = scope
        if limit < 1:
            raise ValueError(f"at most {limit!r} in a time: nothing could ever run")


class Debounce(Limit):
    """Runs once when nothing more has come for ``settle``: the first job of those waits, the others are dropped."""

    single = True

    def __init__(self, settle: Duration, *, scope: str | None = None) -> None:
        self.settle = _span("settle", settle)
        self.scope = scope


class Cooldown(Limit):
    """Runs the first at once, and drops what comes within ``window`` of when it began."""

    single = True

    def __init__(self, window: Duration, *, scope: str | None = None) -> None:
        self.window = _span("window", window)
        self.scope = scope


def _span(name: str, value: Duration) -> timedelta:
    span = timedelta(seconds=parse_duration_s(value))
    if span <= timedelta(0):
        raise ValueError(f"{name} is {value!r}; it must be positive")
    return span
