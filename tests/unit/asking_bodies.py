"""Tasks that say how their attempts end."""

from __future__ import annotations

from pathlib import Path

from penstock import Ask, Discard, RetryLater, Run, Snooze, task


class FlakyError(Exception):
    pass


def times(mark: str) -> int:
    """Count the calls for a mark."""
    file = Path(mark)
    count = (int(file.read_text()) if file.exists() else 0) + 1
    file.write_text(str(count))
    return count


@task(max_attempts=2)
def asks_later(mark: str, delay: str = "10ms") -> int:
    if times(mark) == 1:
        raise RetryLater(delay, "the shop is closed")
    return times(mark)


@task(max_attempts=2)
async def asks_later_async(mark: str, delay: str = "10ms") -> int:
    return asks_later(mark, delay)


@task
def snoozes(mark: str, naps: int = 3) -> int:
    if times(mark) <= naps:
        raise Snooze("10ms", "no file yet")
    return times(mark)


@task
async def snoozes_async(mark: str, naps: int = 3) -> int:
    return snoozes(mark, naps)


@task(max_attempts=5, backoff="10ms")
def discards() -> None:
    raise Discard("the order is gone")


@task(max_attempts=5, backoff="10ms")
async def discards_async() -> None:
    raise Discard("the order is gone")


@task(max_attempts=9, backoff="10ms")
def flaky(kinds: list[str], run: Run) -> int:
    """Raise one error for each try, by its name; "" ends well."""
    kind = kinds[run.attempt - 1]
    if kind:
        raise {"flaky": FlakyError, "connection": ConnectionResetError, "value": ValueError}[kind](kind)
    return run.attempt


@task
def lets_asks_through() -> None:
    try:
        raise Discard("really")
    except Ask:
        raise
    except Exception as error:
        raise ValueError("swallowed") from error
