"""What every engine's one task calls with a message: claim, heartbeat, body, settle."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from penstock import bridge
from penstock.admission import Admission
from penstock.body import Cause, Ended
from penstock.capture import Capture
from penstock.claims import Claims
from penstock.core.config import Config, seconds
from penstock.core.exceptions import InvalidJobError, LedgerError
from penstock.endings import MISSING, first_line, veiled
from penstock.heart import Heart, Owned
from penstock.job import lifecycle
from penstock.job.lifecycle import Transition
from penstock.job.models import ErrorInfo, Job, Message
from penstock.logged import log_call
from penstock.refusals import Refusals
from penstock.run import JobInterrupted, Run, current_run
from penstock.runners import runner_for, surrounded
from penstock.runners.errors import ended_by
from penstock.settlement import Settlement
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
_AGAIN_S = 5.0
"""How long a job waits that a gate has failed on."""
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
        self.releasing = False
        """Set when the process has to go: what cannot finish is handed back."""
        self.heart = Heart(ledger, owner, config)
        self._counting = threading.Lock()
        self._ledger = ledger
        self._writer = Writer(ledger)
        self._lease_s = seconds(config.lease.ttl)
        self.claims = Claims(ledger, self._writer, self.heart, owner=owner, lease_s=self._lease_s, count=self._count)
        self._results = results
        self._children = children
        self._limits = config.limits
        self._refusals = Refusals(signer, config.limits, self._count)
        self.admission = Admission(gates)
        self._home = home
        self.settlement = Settlement(
            ledger, self._writer, self.heart, self.claims,
            count=self._count, changed=changed, listened=listened, successors=successors,
        )  # fmt: skip

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
            self.settlement.settle(owned, ended)
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
            await self.settlement.asettle(owned, ended)
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
        self.settlement.close()
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
        except Exception as error:  # whatever lies in the ledger: a job that is claimed is also ended
            logger.exception("job %s cannot be admitted", owned.job.id)
            return Ended(how="blocked", wait_s=_AGAIN_S, note=f"it cannot begin: {type(error).__name__}: {error}")

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
