"""The end of an attempt: told to the ledger until it answers, and to whoever listens."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from penstock import bridge
from penstock.core.base import Applied
from penstock.core.exceptions import JobNotFoundError, LedgerError, LedgerUnavailableError
from penstock.endings import Elsewhere, counts_for_itself, ending
from penstock.job import lifecycle
from penstock.job.lifecycle import Event, Transition
from penstock.job.models import ErrorInfo, Job, LogLine

if TYPE_CHECKING:
    from penstock.body import Ended
    from penstock.claims import Claims
    from penstock.core.base import Ledger
    from penstock.dependencies.successors import Successors
    from penstock.heart import Heart, Owned
    from penstock.writer import Writer

logger = logging.getLogger("penstock.settlement")


class Settlement:
    """Settles the attempts of one `Execution`. Safe from any thread.

    ``changed`` is called after each end that the ledger took, by a thread of ours where ``listened()`` says that
    somebody may take his time in it. ``count`` is told each way of ending, ``stale`` and ``unsettled``.
    """

    def __init__(
        self,
        ledger: Ledger,
        writer: Writer,
        heart: Heart,
        claims: Claims,
        *,
        count: Callable[[str], None],
        changed: Callable[[Job, Transition], None],
        listened: Callable[[], bool],
        successors: Successors | None,
    ) -> None:
        self.elsewhere = Elsewhere()
        self._ledger, self._writer = ledger, writer
        self._heart, self._claims = heart, claims
        self._count, self._changed, self._listened = count, changed, listened
        self._successors = successors
        self._closed = False

    def close(self) -> None:
        """Try no longer to record ends that the ledger did not take."""
        self._closed = True

    def settle(self, owned: Owned, ended: Ended) -> None:
        """Tell the ledger how a body ended; under load the telling is shared, and this returns before it is done.

        Until it is done the attempt stays owned: it keeps its lease, and a drain waits for it.
        """
        if ended.how == "dropped":
            ended = self._drop(owned, ended)
        if owned.reports:
            self._heart.flush(owned)
        transition = self._ending(owned, ended)
        follow = self._follow(owned, ended) if self._is_followed(owned, transition) else None
        repeats = self._ledger.repeats

        def done(applied: Applied | None, error: Exception | None) -> None:
            if error is not None:
                self._unsettled(owned, transition, error)
            else:
                self._settled(owned, transition, applied, repeats)
            if follow is not None:
                follow()

        self._writer.submit(transition, done)

    async def asettle(self, owned: Owned, ended: Ended) -> None:
        """`settle`, but returns when it is done: the engine's worker may be gone at once after that."""
        if ended.how == "dropped":
            ended = await bridge.in_thread(self._drop, owned, ended)
        if owned.reports:
            await bridge.in_thread(self._heart.flush, owned)
        asks = counts_for_itself(owned.job, ended)
        transition = await bridge.in_thread(self._ending, owned, ended) if asks else self._ending(owned, ended)
        followed = self._is_followed(owned, transition)
        follow = await bridge.in_thread(self._follow, owned, ended) if followed else None
        repeats = self._ledger.repeats
        try:
            applied = await bridge.answer(partial(self._writer.post, transition))
        except Exception as error:  # noqa: BLE001 - whatever the ledger raised, the end of the attempt is still to tell
            self._unsettled(owned, transition, error)
        else:
            if self._listened():
                await bridge.in_thread(self._settled, owned, transition, applied, repeats)
            else:
                self._settled(owned, transition, applied, repeats)
        if follow is not None:
            follow()

    def _drop(self, owned: Owned, ended: Ended) -> Ended:
        """Have cancelled what was not let begin, and is not to come again; its log says why."""
        job, why = owned.job, ended.note or "dropped"
        logger.info("job %s %s: %s", job.name, job.id, why)
        now = datetime.now(UTC)
        owned.reports.append(
            LogLine(job_id=job.id, attempt=job.attempt, at=now, level="INFO", source="penstock", text=why)
        )
        try:
            self._ledger.apply(lifecycle.request_cancel(job.id, reason=why))
        except LedgerError as error:
            logger.warning("job %s could not be dropped, and comes again: %s", job.id, error)
            return Ended(how="released")
        return ended

    def _is_followed(self, owned: Owned, transition: Transition) -> bool:
        return transition.to.final and self._successors is not None and self._successors.concerns(owned.job)

    def _follow(self, owned: Owned, ended: Ended) -> Callable[[], None] | None:
        """Make the job that comes after this one; return what is to be called when this one's end is recorded."""
        said = ended.next if owned.run is None else owned.run.next
        return None if self._successors is None else self._successors.make(owned.job, ended.how, said)

    def _ending(self, owned: Owned, ended: Ended) -> Transition:
        self._count(ended.how)
        earlier = self._errors_before(owned.job) if counts_for_itself(owned.job, ended) else ()
        return ending(owned.job, ended, self.elsewhere, earlier)

    def _errors_before(self, job: Job) -> list[ErrorInfo] | None:
        try:
            return [e.error for e in self._ledger.history(job.id) if e.event is Event.RETRY and e.error is not None]
        except LedgerError as error:
            logger.warning("the earlier errors of job %s cannot be counted, it is tried again: %s", job.id, error)
            return None

    def _unsettled(self, owned: Owned, transition: Transition, error: Exception) -> None:
        logger.warning("could not record the end of job %s, trying again: %s", owned.job.id, error)
        threading.Thread(target=self._settle_again, args=(owned, transition), daemon=True).start()

    def _settle_again(self, owned: Owned, transition: Transition) -> None:
        """Write a settlement whose reply was lost or never came.

        However long the ledger is away: its guard refuses what comes too late, and until then the attempt is ours.
        """
        pause_s = 0.05
        while not self._closed:
            time.sleep(pause_s)
            pause_s = min(2 * pause_s, 1.0)
            try:
                applied = self._ledger.apply(transition) or self._mine_after_all(owned.job, transition)
            except LedgerUnavailableError as error:
                logger.info("could not record the end of job %s: %s", owned.job.id, error)
            except Exception as error:  # noqa: BLE001 - whatever it is, this attempt is not to stay for ever
                logger.error("the end of job %s cannot be recorded: %s", owned.job.id, error)
                break
            else:
                self._end_is_told(owned, transition, applied)
                return
        self._count("unsettled")
        self._claims.gave_up(owned)
        self._let_go(owned)

    def _mine_after_all(self, job: Job, transition: Transition) -> Applied | None:
        """Of a refused settlement: a row that is as it would have left it, with my attempt, was written by me."""
        try:
            now = self._ledger.get(job.id)
        except JobNotFoundError:
            return None
        mine = now.attempt == job.attempt and now.state in (transition.to, transition.to_if_cancelled)
        return Applied(now.state) if mine else None

    def _settled(self, owned: Owned, transition: Transition, applied: Applied | None, repeats: int) -> None:
        if applied is None and self._ledger.repeats != repeats:
            # The ledger was asked twice, and refused the second time: the first answer was lost.
            threading.Thread(target=self._settle_again, args=(owned, transition), daemon=True).start()
        else:
            self._end_is_told(owned, transition, applied)

    def _end_is_told(self, owned: Owned, transition: Transition, applied: Applied | None) -> None:
        self._let_go(owned)
        job = owned.job
        if applied is None:
            self._count("stale")
            logger.warning("job %s attempt %d is no longer ours; its end is not recorded", job.id, job.attempt)
        else:
            self._changed(job, transition)

    def _let_go(self, owned: Owned) -> None:
        self._heart.owned.pop(owned.key, None)
        owned.interrupt.close()
