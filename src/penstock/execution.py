"""What every engine's one task calls with a message: claim, heartbeat, body, settle."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock import bridge
from penstock.admission import Admission
from penstock.body import Cause, Ended
from penstock.capture import Capture
from penstock.claims import Claims
from penstock.core.base import Applied
from penstock.core.config import Config, seconds
from penstock.core.exceptions import InvalidJobError, JobNotFoundError, LedgerError, LedgerUnavailableError
from penstock.endings import MISSING, Elsewhere, counts_for_itself, ending, first_line, veiled
from penstock.heart import Heart, Owned
from penstock.job import lifecycle
from penstock.job.lifecycle import Event, Transition
from penstock.job.models import ErrorInfo, Job, LogLine, Message
from penstock.logged import log_call
from penstock.refusals import Refusals
from penstock.run import JobInterrupted, Run, current_run
from penstock.runners import runner_for, surrounded
from penstock.runners.errors import ended_by
from penstock.stoppable import Stoppable
from penstock.writer import Writer

if TYPE_CHECKING:
    from penstock.admission import Gate
    from penstock.core.base import Ledger
    from penstock.core.running import Runner
    from penstock.dependencies.home import Home
    from penstock.dependencies.successors import Successors
    from penstock.results import ResultStore
    from penstock.runners.isolation import ChildPool
    from penstock.signing import Signer

logger = logging.getLogger("penstock.execution")

_EXIT_S = 1.0
_TOLD_EACH, _TOLD_EVERY = 20, 100


class Execution:
    """Runs the jobs of this process. Safe from any thread; `close` when no message is being run."""

    def __init__(
        self,
        ledger: Ledger,
        config: Config,
        *,
        owner: str,
        results: Callable[[], ResultStore],
        children: Callable[[], ChildPool],
        signer: Signer,
        changed: Callable[[Job, Transition], None],
        listened: Callable[[], bool] = lambda: True,
        gates: Sequence[Gate] = (),
        home: Callable[[], Home] | None = None,
        successors: Successors | None = None,
    ) -> None:
        self.owner = owner
        self.counts: Counter[str] = Counter()
        """claimed, refused (their job was not to be had), foreign (of others), what `Refusals` refuses, and one for
        each way of ending."""
        self.capture: Capture | None = None
        """Set by a worker: keeps what inline bodies print and log."""
        self.elsewhere = Elsewhere()
        self.releasing = False
        """Set when the process has to go: what cannot finish is handed back."""
        self.heart = Heart(ledger, owner, config)
        self._counting = threading.Lock()
        self._closed = False
        self._ledger = ledger
        self._writer = Writer(ledger)
        self._lease_s = seconds(config.lease.ttl)
        self.claims = Claims(ledger, self._writer, self.heart, owner=owner, lease_s=self._lease_s, count=self._count)
        self._results = results
        self._children = children
        self._limits = config.limits
        self._refusals = Refusals(signer, config.limits, self._count)
        self.admission = Admission(gates)
        self._changed = changed
        self._listened = listened
        self._home = home
        self._successors = successors

    @property
    def running(self) -> list[Job]:
        """The jobs whose bodies run here now."""
        return [owned.job for owned in list(self.heart.owned.values())]

    def run(self, message: Message) -> str | None:
        """Deal with a message, for sync engines; never raises.

        Returns the first line of the error by which an attempt failed (of several jobs: the first's), for the
        engine's own screens. Refused, cancelled and handed back attempts did not fail.
        """
        failure: str | None = None
        for job_id in message.job_ids:
            owned = self.claims.take(job_id)
            if owned is None:
                continue
            refused = self._refuse(owned) or self._not_admitted(owned) or self._too_late(owned)
            ended = veiled(owned.job, refused or self._guarded(lambda o=owned: self._body(o), owned))
            self.admission.leave(owned.job)
            self._settle(owned, ended)
            failure = failure or first_line(owned.job, ended)
        return failure

    async def arun(self, message: Message) -> str | None:
        """See `run`; for async engines: async bodies run on this loop, the others in threads.

        It is not to be cancelled: only the ledger ends a body.
        """
        failure: str | None = None
        for job_id in message.job_ids:
            owned = await self.claims.atake(job_id)
            if owned is None:
                continue
            ended = self._refuse(owned)
            if ended is None and self.admission.concerns(owned.job):
                ended = await bridge.in_thread(self._not_admitted, owned)
            ended = ended or self._too_late(owned)
            if ended is None and self._is_async_inline(owned.job):
                ended = await self._abody(owned)
            elif ended is None:
                ended = await bridge.in_body_thread(partial(self._guarded, partial(self._body, owned), owned))
            if self.admission.let_in(owned.job):
                await bridge.in_thread(self.admission.leave, owned.job)
            ended = veiled(owned.job, ended)
            await self._asettle(owned, ended)
            failure = failure or first_line(owned.job, ended)
        return failure

    def refuse(self, why: str) -> None:
        """Count a message that is none of ours, and tell of it: of the first few, then of every hundredth."""
        self._count("foreign")
        number = self.counts["foreign"]
        if number <= _TOLD_EACH or number % _TOLD_EVERY == 0:
            logger.warning("refused a message that is not ours (the %d. of this worker): %s", number, why)

    def interrupt_all(self, cause: Cause) -> None:
        """Ask every running body to stop."""
        for owned in list(self.heart.owned.values()):
            owned.interrupt.set(cause)

    def hand_back(self) -> int:
        """T6 for every attempt still owned, without waiting for its body: the process is about to end.

        The jobs are due again after a second, by when it has ended.
        """
        owned = list(self.heart.owned.values())
        releases = [lifecycle.release(o.job.id, attempt=o.job.attempt, delay_s=_EXIT_S) for o in owned]
        try:
            return sum(applied is not None for applied in self._ledger.apply_many(releases))
        except LedgerError as error:
            logger.warning("could not hand back %d jobs: %s; their leases will end", len(owned), error)
            return 0

    def give_up(self) -> None:
        """Stop what runs and hand it back: nobody is left who waits for how it ends."""
        self.releasing = True
        self.interrupt_all("released")
        if self.running:
            self.hand_back()

    def close(self) -> None:
        """Stop beating, and writing."""
        self._closed = True
        self.claims.stop()
        self.heart.close()
        self._writer.close()

    def _count(self, name: str, number: int = 1) -> None:
        with self._counting:
            self.counts[name] += number

    def _refuse(self, owned: Owned) -> Ended | None:
        """Hand back at once what this process cannot run, or must not start any more; end what nobody may run."""
        if self.releasing:
            return Ended(how="released", begun=False)
        if (ended := self._refusals.ended(owned.job)) is not None:
            return ended
        try:
            why = runner_for(owned.job.kind).missing(owned.job)
        except InvalidJobError as error:
            why = str(error)
        return None if why is None else Ended(how="released", error=ErrorInfo(MISSING, why))

    def _not_admitted(self, owned: Owned) -> Ended | None:
        """Ask the gates; a ledger that cannot answer them now hands the attempt back."""
        if not self.admission.concerns(owned.job):
            return None
        try:
            return self.admission.enter(owned.job)
        except LedgerError as error:
            logger.warning("job %s cannot be admitted yet: %s", owned.job.id, error)
            return Ended(how="released", begun=False)

    def _too_late(self, owned: Owned) -> Ended | None:
        """Begin nothing that is to be stopped already: a process that was frozen behind its claim owns nothing more."""
        if owned.interrupt.cause is not None:
            return Ended(how=owned.interrupt.cause)
        return Ended(how="lost") if self.heart.is_over(owned) else None

    # -- body ---------------------------------------------------------------------------------------------------

    def _is_async_inline(self, job: Job) -> bool:
        return not self._apart(job) and runner_for(job.kind).is_async(job)

    def _apart(self, job: Job) -> bool:
        """Whether a body runs in a child process: as asked, or because it is under suspicion.

        A body that kills the worker's process takes its neighbours with it, and all of them are charged with a crash.
        The last try before that counts as a crash loop is therefore a child's: it shows who it was.
        """
        suspect = 0 < job.crashes == job.max_crashes - 1
        return job.isolation == "process" or (suspect and runner_for(job.kind).may_run_apart(job))

    def _body(self, owned: Owned) -> Ended:
        job = owned.job
        log_call(job)
        runner = runner_for(job.kind)
        if self._apart(job):
            around = {} if self._home is None else self._home().around_setup()
            return self._children().run(
                job,
                key=runner.child_key(job),
                setup={**runner.child_setup(job), **around},
                emit=owned.reports.append,
                interrupt=owned.interrupt,
                timeout_s=job.timeout_s,
            )
        run = self._begin(owned)
        token = current_run.set(run)
        try:
            stoppable = Stoppable(owned.interrupt)
            with stoppable:
                value = surrounded(runner, job, run)
            if inspect.isawaitable(value):
                value = bridge.run_awaitable(value, owned.interrupt)
            return self._returned(runner, job, value)
        finally:
            run.close()
            current_run.reset(token)

    async def _abody(self, owned: Owned) -> Ended:
        job = owned.job
        log_call(job)
        runner = runner_for(job.kind)
        run = self._begin(owned)
        token = current_run.set(run)
        try:
            value = await bridge.run_here(lambda: surrounded(runner, job, run), owned.interrupt)
            if value is None:
                return Ended(how="returned")
            return await bridge.in_thread(self._returned, runner, job, value)
        except BaseException as error:  # noqa: BLE001 - a body may raise anything
            return self._raised(owned, error)
        finally:
            run.close()
            current_run.reset(token)

    def _begin(self, owned: Owned) -> Run:
        """Make the body's view of its attempt, and start the clock of its timeout."""
        job = owned.job
        if job.timeout_s is not None:
            self.heart.watch(owned, owned.renewed + job.timeout_s)
        run = owned.run = Run(
            job,
            emit=owned.reports.append,
            interrupt=owned.interrupt,
            log_max_bytes=self._limits.log_max_bytes,
            home=self._home,
            extend=None if job.timeout_s is None else partial(self.heart.extend, owned),
        )
        return run

    def _returned(self, runner: Runner, job: Job, value: Any) -> Ended:
        if value is None:
            return Ended(how="returned")
        return Ended(
            how="returned",
            result=self._results().encode(value, job_id=job.id, attempt=job.attempt, name=job.name, parts=runner.parts),
        )

    def _guarded(self, body: Callable[[], Ended], owned: Owned) -> Ended:
        try:
            return body()
        except BaseException as error:  # noqa: BLE001 - a body may raise anything
            return self._raised(owned, error)

    def _raised(self, owned: Owned, error: BaseException) -> Ended:
        cause = owned.interrupt.cause
        if cause is not None and isinstance(error, JobInterrupted | asyncio.CancelledError):
            return Ended(how=cause)
        if isinstance(error, bridge.LoopEndedError):  # for who ran on it that is the death of a process
            return Ended(how="crashed", error=ErrorInfo("LoopEnded", str(error)))
        return ended_by(error)

    # -- settle -------------------------------------------------------------------------------------------------

    def _settle(self, owned: Owned, ended: Ended) -> None:
        """Tell the ledger how a body ended; under load the telling is shared, and this returns before it is done.

        Until it is done the attempt stays owned: it keeps its lease, and a drain waits for it.
        """
        if ended.how == "dropped":
            ended = self._drop(owned, ended)
        if owned.reports:
            self.heart.flush(owned)
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

    async def _asettle(self, owned: Owned, ended: Ended) -> None:
        """`_settle`, but returns when it is done: the engine's worker may be gone at once after that."""
        if ended.how == "dropped":
            ended = await bridge.in_thread(self._drop, owned, ended)
        if owned.reports:
            await bridge.in_thread(self.heart.flush, owned)
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
        self.claims.gave_up(owned)
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
        self.heart.owned.pop(owned.key, None)
        owned.interrupt.close()
