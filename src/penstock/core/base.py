"""The contracts: what a backend and a ledger promise to the engine room."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from datetime import datetime
from typing import TYPE_CHECKING, ClassVar, Literal

import msgspec

from penstock.core.capabilities import Capabilities
from penstock.core.overview import Overview
from penstock.core.records import Records

if TYPE_CHECKING:
    from penstock.job.lifecycle import State, Transition
    from penstock.job.models import (
        Attempt,
        HistoryEntry,
        Intent,
        Job,
        JobQuery,
        LogLine,
        Message,
        NodeRun,
        Report,
        Submission,
        WorkerInfo,
    )


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """What a look at a server found, for `penstock doctor`: one thing, whether it is well, and what to do if not."""

    name: str
    """A word or two, one of its kind in an answer: ``server``, ``memory``, ``disk``, ``clock``."""
    level: Literal["ok", "warning", "error"]
    """``error``: jobs cannot run, or are being lost; ``warning``: they may be."""
    told: str
    hint: str = ""


# -- backends ---------------------------------------------------------------------------------------------------


class BackendContext(msgspec.Struct, frozen=True, kw_only=True):
    """What a backend is built from.

    ``execute`` and ``aexecute`` are what the engine's one task calls with each message, in the engine's colour.
    They never raise and return when the message is dealt with: None, or the first line of the error that ended an
    attempt. With the setting ``mirror_failures`` the engine's task then raises `MirroredFailure` of that line, so
    that the engine's own screens show the attempt as failed; the engine must not try it again.
    """

    url: str
    settings: msgspec.Struct
    namespace: str
    execute: Callable[[Message], str | None]
    aexecute: Callable[[Message], Awaitable[str | None]]
    refuse: Callable[[str], None] = lambda why: None
    """Call for each message on our queues that is not ours or cannot be read, with what is wrong with it: it is logged
    and counted. Such a message is then done with, and must stop nobody."""
    claim_ahead: Callable[[Sequence[Message]], None] = lambda messages: None
    """May be called with messages that threads of this process are waiting to execute: their jobs are then claimed
    together. Each of them must be executed afterwards."""


class MirroredFailure(Exception):  # noqa: N818 - it tells of an error that has been dealt with
    """Raised by an engine's one task, for the engine's screens only: the attempt failed, the ledger knows all."""


class WorkOrder(msgspec.Struct, frozen=True, kw_only=True):
    """How a worker is to work: ``queues`` in order of preference, at most ``concurrency`` messages at once."""

    queues: tuple[str, ...]
    concurrency: int
    on_ready: Callable[[], None]
    """Call once, when messages are being taken."""
    on_contact: Callable[[], None] = lambda: None
    """Call each time the broker has answered who asks for messages, also that there is none: at least every few
    seconds while there is room for one. A backend that does is known to be deaf when it no longer does."""
    on_turn: Callable[[], None] = lambda: None
    """Called by the room that runs an async backend, each time its loop has turned; no backend need call it."""
    around: Callable[[], AbstractAsyncContextManager[None]] = nullcontext
    """Entered by that room on the loop before the backend works, and left on it before the loop ends."""


class _AnyBackend(ABC):
    """What both colours share. A backend holds a client of its engine and no state of ours."""

    name: ClassVar[str]
    schemes: ClassVar[tuple[str, ...]]
    """The URL schemes it answers to, such as ``huey+sqlite``."""
    refused: ClassVar[Mapping[str, str]] = {}
    """Schemes that users may expect and the engine cannot serve, each with the reason and what to use instead."""
    settings_type: ClassVar[type[msgspec.Struct]]

    def __init__(self, context: BackendContext) -> None:
        """Open nothing yet: the first verb connects."""
        self.context = context

    @classmethod
    @abstractmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """Return the capabilities of one transport."""


class Backend(_AnyBackend):
    """The contract with a synchronous engine. Every verb may be called from any thread.

    All verbs raise `BackendUnavailableError` when the broker cannot be reached and `BackendError` for other
    trouble of the engine, with the engine's exception in ``__cause__``.
    """

    @abstractmethod
    def publish(self, messages: Sequence[Message]) -> None:
        """Hand 1 to 1,000 messages to the engine, in order; all or none where ``bulk`` is native."""

    @abstractmethod
    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Take waiting messages back; return how many were still there. Unknown ids are no error."""

    @abstractmethod
    def depth(self, queue: str) -> int:
        """Count the messages that wait in a queue (not those that a worker holds)."""

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """Look at the broker for what may lose messages. Optional.

        Raises nothing: a broker that does not answer, or falls silent, is told within a few seconds as a finding
        named ``server`` of level ``error``. Changes nothing there, and tells no password.
        """
        return ()

    @abstractmethod
    def work(self, order: WorkOrder) -> None:
        """Take messages and pass each to ``context.execute`` until `stop`; touch no signal handler.

        Returns when everything taken has been dealt with. The engine's own retries, timeouts, results and
        schedules are off. A connection that falls silent (no end, no error) is given up within a bound that the
        backend states, and another is opened.
        """

    @abstractmethod
    def stop(self) -> None:
        """Make the `work` that is under way take nothing new and return; without one, nothing happens.

        Safe from any thread, and more than once.
        """

    @abstractmethod
    def close(self) -> None:
        """Let go of connections. The backend is not used afterwards."""


class AsyncBackend(_AnyBackend):
    """The contract with an asynchronous engine: the verbs of `Backend`, awaited.

    An object lives on one loop. Each `work` is called on a loop and an object of its own, made of the same context.
    """

    @abstractmethod
    async def publish(self, messages: Sequence[Message]) -> None:
        """See `Backend.publish`."""

    @abstractmethod
    async def withdraw(self, message_ids: Sequence[str]) -> int:
        """See `Backend.withdraw`."""

    @abstractmethod
    async def depth(self, queue: str) -> int:
        """See `Backend.depth`."""

    async def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        """See `Backend.inspect`."""
        return ()

    @abstractmethod
    async def work(self, order: WorkOrder) -> None:
        """See `Backend.work`; each message goes to ``context.aexecute``."""

    @abstractmethod
    async def stop(self) -> None:
        """See `Backend.stop`."""

    @abstractmethod
    async def close(self) -> None:
        """See `Backend.close`."""


# -- the ledger -------------------------------------------------------------------------------------------------


class Applied(msgspec.Struct, frozen=True):
    """What a transition that was written left behind. ``job`` is the whole row, after CLAIM and PUBLISH only."""

    state: State
    cancel_requested: bool = False
    job: Job | None = None


class Patience(msgspec.Struct, frozen=True, kw_only=True):
    """How long a job waits for its message: ``grace_s`` after the first publish, then twice what it has waited."""

    grace_s: float
    max_grace_s: float
    trusted_s: float
    """Who has waited so long waits no more, whatever the engine holds."""


class Ledger(Overview):
    """The truth: jobs, history, logs, workers. Safe from any thread; every instant comes from its own clock.

    All verbs raise `LedgerUnavailableError` when the store cannot be reached or opened and `LedgerError` for
    other trouble, with the driver's exception in ``__cause__``.
    """

    @property
    def repeats(self) -> int:
        """How often a call was sent anew because its answer was lost: while it grows, one's own first try may be what
        a transition was refused for.
        """  # noqa: D205 - one promise, two lines
        return 0

    @property
    @abstractmethod
    def records(self) -> Records:
        """What is kept here beside jobs."""

    @abstractmethod
    def now(self) -> datetime:
        """Return the ledger's own time, aware UTC."""

    def check_version(self) -> None:
        """Look whether this code may still work here. Raises `NewerLedgerError` once it must not; writes nothing."""

    @abstractmethod
    def insert(
        self,
        intents: Sequence[Intent],
        *,
        grace_s: float,
        connection: object | None = None,
        max_queued: Mapping[str, int] | None = None,
    ) -> list[Submission]:
        """T1 for each intent, in order, in one transaction; answers one `Submission` each.

        Nothing is inserted on conflict with the id, the tick key, or the ``key`` of a live job: the job that is
        there is answered as KEPT. A job that is due now counts as published once (the caller pushes it), and its
        next publish is due after ``grace_s``; one for later is due to be published when its time comes.

        With a ``connection`` of the caller's, to the ledger's own database, it joins the transaction that is open
        there: nobody sees the jobs before the caller's commit, and after a rollback there are none. They do not
        count as published: the caller must not push them, the first sweep after the commit will.

        ``max_queued`` says of queues how many jobs may be `queued` there (those for later and those to be tried
        again included) once these are; it is checked in the same transaction, so that it holds whoever else enqueues.

        A `unique_key` and `on_conflict` are heeded in the same transaction. A job that has to give way is cancelled, or
        asked to stop while it runs, and loses its key; the new one is answered as REPLACED.

        Raises:
            DuplicateJobError: a job with that key is there, and ``on_conflict`` says to raise; none was written.
            QueueFullError: it would not hold; none of these was written.
            UnsupportedError: this ledger cannot join that connection's transaction; nothing was written.
        """

    @abstractmethod
    def apply(self, transition: Transition) -> Applied | None:
        """Write one transition if its state and guards hold, in one statement; None means refused.

        The history gains one entry in the same statement, except for BEAT and PUBLISH.
        """

    @abstractmethod
    def apply_many(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        """Write several transitions in one transaction, each guarded and answered by itself."""

    @abstractmethod
    def get(self, job_id: str) -> Job:
        """Return one job. Raises `JobNotFoundError`."""

    @abstractmethod
    def find(self, query: JobQuery) -> list[Job]:
        """List jobs, newest first."""

    @abstractmethod
    def counts(self) -> dict[str, int]:
        """Count jobs by shown state; states without jobs are left out."""

    @abstractmethod
    def backlog(self, queues: Sequence[str] = ()) -> tuple[int, int]:
        """Count the jobs that are due and admitted, and those running, in these queues (none given: in all)."""

    @abstractmethod
    def publishable(self, limit: int) -> list[Job]:
        """List queued, admitted jobs whose next publish is due, the longest due first."""

    def postpone(self, queues: Sequence[str], patience: Patience, limit: int) -> int:
        """T8 without a push: let jobs of these queues whose next publish is due wait on; return how many do.

        The longest due first. A ledger that cannot do this answers 0, and what is due is published.
        """
        return 0

    @abstractmethod
    def expired(self, limit: int) -> list[Job]:
        """List running jobs whose lease is over."""

    @abstractmethod
    def expirable(self, limit: int) -> list[Job]:
        """List queued jobs that never began and may no longer."""

    @abstractmethod
    def cancel_requests(self, owner: str) -> list[tuple[str, int]]:
        """List (job id, attempt) of this owner's running jobs that somebody asked to cancel."""

    @abstractmethod
    def purge(self, state: State, *, older_than_s: float, limit: int) -> list[str]:
        """T12: delete final jobs of one state that finished longer ago, with all that belongs to them; return ids."""

    @abstractmethod
    def report(self, reports: Sequence[Report]) -> None:
        """Write log lines, node news and progress, in one transaction. Progress of a stale attempt is dropped."""

    @abstractmethod
    def history(self, job_id: str) -> list[HistoryEntry]:
        """Return the transitions of a job, oldest first; empty for an unknown job."""

    def attempts(self, job_id: str) -> list[Attempt]:
        """Return the tries of a job, oldest first."""
        from penstock.job.history import attempts_of

        return attempts_of(self.history(job_id))

    @abstractmethod
    def logs(
        self, job_id: str, *, attempt: int | None = None, after_seq: int = 0, limit: int = 10_000
    ) -> list[LogLine]:
        """Return log lines, oldest first."""

    @abstractmethod
    def nodes(self, job_id: str, *, attempt: int | None = None) -> list[NodeRun]:
        """Return the pipeline nodes of an attempt (default: the newest with any), in the order they started."""

    @abstractmethod
    def tell_worker(self, worker: WorkerInfo) -> None:
        """Note that a worker is alive; `seen_at` is replaced by the ledger's time."""

    @abstractmethod
    def forget_worker(self, worker: str) -> None:
        """Strike a worker that left in good order off the list."""

    @abstractmethod
    def workers(self, *, seen_within_s: float = 60.0) -> list[WorkerInfo]:
        """List the workers seen lately."""

    def inspect(self) -> Sequence[Finding]:
        """Look at the store for what may lose jobs, as `Backend.inspect` does."""
        return ()

    @abstractmethod
    def close(self) -> None:
        """Let go of files and connections. The ledger is not used afterwards."""
