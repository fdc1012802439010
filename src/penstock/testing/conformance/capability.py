"""Ties a test to a capability flag: absence is a promise too, and it is tested instead of skipped."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Generator
from typing import Any, TypeVar, cast

import pytest

from penstock.client import JobQueue
from penstock.core.capabilities import Support
from penstock.core.exceptions import UnsupportedError
from penstock.job.models import Job, JobQuery

F = TypeVar("F", bound=Callable[..., None])


def requires(flag: str) -> Callable[[F], F]:
    """The test asks for a capability. Where it is absent, the asking must raise `UnsupportedError`, and nothing else.

    The test takes the fixture ``queue`` and does its asking within `asking`, which sees to it that a refusal
    came before anything was written.
    """

    def mark(test: F) -> F:
        @functools.wraps(test)
        def either(*args: Any, **kwargs: Any) -> None:
            queue: JobQueue = kwargs["queue"]
            if getattr(queue.gateway.capabilities, flag) is not Support.ABSENT:
                test(*args, **kwargs)
                return
            with pytest.raises(UnsupportedError) as refused:
                test(*args, **kwargs)
            assert refused.value.capability == flag

        return pytest.mark.capability(flag)(cast("F", either))

    return mark


def either_way(flag: str) -> Callable[[F], F]:
    """The test says itself what holds with the capability and what holds without it."""
    return pytest.mark.capability(flag)


def has(queue: JobQueue, flag: str) -> bool:
    """Whether the queue's backend has a capability, by itself or by our doing."""
    return getattr(queue.gateway.capabilities, flag) is not Support.ABSENT


def _rows(queue: JobQueue) -> list[Job]:
    return queue.ledger.find(JobQuery(limit=1000))


@contextlib.contextmanager
def asking(queue: JobQueue) -> Generator[None]:
    """Within: ask for a capability. A refusal is passed on, after a look that it left no trace in the ledger."""
    before = _rows(queue)
    try:
        yield
    except UnsupportedError:
        assert _rows(queue) == before, "something was written before the refusal"
        raise
