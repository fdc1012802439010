"""An async body run by an engine that is not async."""

from __future__ import annotations

import asyncio

import pytest

from penstock.body import Interrupt
from penstock.bridge import run_awaitable


def test_an_interrupt_that_comes_after_the_end_of_a_body_harms_nobody():
    interrupt = Interrupt()

    async def body() -> str:
        return "done"

    assert run_awaitable(body(), interrupt) == "done"
    interrupt.set("lost")  # raised in the thread of the heart, it would end the heartbeats of all others
    assert interrupt.cause == "lost"


def test_an_interrupt_cancels_a_body_that_runs():
    interrupt = Interrupt()

    async def body() -> None:
        interrupt.set("cancelled")
        await asyncio.sleep(30)

    with pytest.raises(asyncio.CancelledError):
        run_awaitable(body(), interrupt)
