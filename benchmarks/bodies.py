"""The same job as a task of penstock, in both colours."""

from __future__ import annotations

from stamps import stamp

from penstock import task


@task(name="stamp")
def stamped(sent_at: float) -> None:
    stamp(sent_at)


@task(name="astamp")
async def astamped(sent_at: float) -> None:
    stamp(sent_at)


@task
def fallible(number: int) -> int:
    if number % 10 == 0:
        raise ValueError(f"number {number} fails, as every tenth does")
    return number
