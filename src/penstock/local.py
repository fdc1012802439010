"""Jobs that run here and now, in the process that submits them."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Generator
from concurrent.futures import Future
from typing import TYPE_CHECKING

import msgspec

from penstock.capture import Capture
from penstock.core.config import seconds
from penstock.gateway import DEFAULT_PRIORITY
from penstock.handle import JobHandle
from penstock.job.models import new_job_id
from penstock.sources.decorators import Call

if TYPE_CHECKING:
    from penstock.client import JobQueue

_RETRY_POLL_S = 0.02


def run_here(queue: JobQueue, call: Call, *, echo: bool) -> JobHandle:
    """See `JobQueue.run`."""
    options = msgspec.structs.replace(
        call.options, at=None, delay_s=None, priority=DEFAULT_PRIORITY, job_id=call.options.job_id or new_job_id()
    )
    given = Call(call.kind, call.name, call.spec, options)
    done: Future[JobHandle] = Future()

    def body() -> None:
        try:
            handle = here.enqueue(given)
            while handle.outcome is not None and handle.outcome.made and not handle.refresh().state.final:
                if handle.job.scheduled_at <= here.now():
                    here.sweeper.push([handle.job])
                time.sleep(_RETRY_POLL_S)
            done.set_result(JobHandle(queue, handle.job, handle.outcome))
        except BaseException as error:  # noqa: BLE001 - raised again where somebody waits
            done.set_exception(error)

    with (
        type(queue)("inline://", ledger=queue.ledger, config=queue.config, root=queue.root) as here,
        captured(here, echo=echo),
    ):
        # In a thread of its own: an interrupt of the main thread must not look like an error of the body.
        thread = threading.Thread(target=body, name="penstock-run", daemon=True)
        thread.start()
        try:
            return done.result()
        except BaseException:
            if not done.done():
                try:
                    queue.job(str(options.job_id)).cancel(why="interrupted")
                    thread.join(seconds(queue.config.lease.cancel_grace))
                finally:
                    # A body that blocks in C dies with this process; with the cancel asked for, this ends its job.
                    here.execution.interrupt_all("lost")
                    here.execution.hand_back()
            raise


@contextlib.contextmanager
def captured(queue: JobQueue, *, echo: bool) -> Generator[None]:
    """See `JobQueue.captured`."""
    if not queue.gateway.in_process:
        yield
        return
    capture = queue.execution.capture = Capture.install(echo=echo)
    try:
        yield
    finally:
        queue.execution.capture = None
        capture.uninstall()
