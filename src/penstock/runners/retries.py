"""FlowerPower's retry settings in the words of a job: its own retries, with their blocking sleeps, are switched off."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from penstock.core.exceptions import InvalidJobError, did_you_mean
from penstock.job.models import RetryPolicy

RETRY_FIELDS = ("max_retries", "retry_delay", "jitter_factor", "retry_exceptions")


class Retries(msgspec.Struct, frozen=True, kw_only=True):
    """What FlowerPower's retry settings mean for a job; None where they are silent."""

    max_attempts: int | None = None
    backoff: RetryPolicy | None = None


def retries_of(retry: Mapping[str, Any], where: str = "retry") -> Retries:
    """Turn ``max_retries``, ``retry_delay``, ``jitter_factor`` and ``retry_exceptions`` into a job's retry options.

    FlowerPower waits ``delay * 2**n`` plus up to ``jitter_factor`` of it, so the base is the longest such wait and
    the random share lies below it. Waits are capped at 10 minutes, or at ``retry_delay`` if that is longer.

    Raises:
        InvalidJobError: an unknown field, or a value that makes no sense.
    """
    for name in retry:
        if name not in RETRY_FIELDS:
            raise InvalidJobError(
                f"{where} has no field {name!r}; there are: {', '.join(RETRY_FIELDS)}."
                f"{did_you_mean(name, RETRY_FIELDS)}"
            )
    given = {name: value for name, value in retry.items() if value is not None}
    numbers = {name: _number(given[name], f"{where}.{name}") for name in RETRY_FIELDS[:3] if name in given}
    names = _exception_names(given.get("retry_exceptions", ()), f"{where}.retry_exceptions")
    attempts = int(numbers["max_retries"]) + 1 if "max_retries" in numbers else None
    if not {"retry_delay", "jitter_factor", "retry_exceptions"} & given.keys():
        return Retries(max_attempts=attempts)
    jitter = numbers.get("jitter_factor", 0.1)
    base_s = numbers.get("retry_delay", 1.0) * (1 + jitter)
    backoff = RetryPolicy(
        base_s=base_s, cap_s=max(600.0, base_s), factor=2.0, jitter=jitter / (1 + jitter), retry_on=names
    )
    return Retries(max_attempts=attempts, backoff=backoff)


def _number(value: Any, where: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e9:
        raise InvalidJobError(f"{where} is {value!r}; write a number of at least 0")
    return value


def _exception_names(value: Any, where: str) -> tuple[str, ...]:
    values = [value] if isinstance(value, str | type) else list(value)
    names: list[str] = []
    for item in values:
        if isinstance(item, type) and issubclass(item, BaseException):
            names.append(item.__name__)
        elif isinstance(item, str) and item:
            names.append(item.rpartition(".")[2])
        else:
            raise InvalidJobError(f"{where} holds {item!r}; write the names of exception classes")
    return () if {"Exception", "BaseException"} & set(names) else tuple(names)
