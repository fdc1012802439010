"""The strikes and pauses of a ledger, as one process knows them: asked before each job that it enqueues or begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from msgspec.structs import replace

from penstock.arguments import compared_of
from penstock.body import Ended
from penstock.job import lifecycle
from penstock.job.models import JobQuery
from penstock.job.steering import HELD_BY_RULE, KIND, Pause, Rule, Strike, decoder
from penstock.readable import readable
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.job.models import Intent, Job

FRESH_S = 0.4
"""How old the rules may be by which a job begins: a strike is to reach every worker within a second."""
_PAGE = 500
STRUCK = "struck"
"""What the history of a job says that a strike has dropped."""


class Steering:
    """A `Gate`, and what else keeps jobs and rules in step. Safe from any thread."""

    def __init__(self, ledger: Ledger, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Read nothing yet."""
        self._ledger = ledger
        self._clock = clock
        self._rules: tuple[Rule, ...] = ()
        self._read_at: float | None = None
        self._reading = threading.Lock()

    @property
    def stale(self) -> bool:
        """Whether `rules` would ask the ledger."""
        return self._read_at is None or self._clock() - self._read_at > FRESH_S

    def rules(self) -> tuple[Rule, ...]:
        """Return the rules there are, as of a moment ago. Raises what the ledger raises."""
        if self.stale:
            with self._reading:
                if self.stale:
                    self.read()
        return self._rules

    def read(self) -> tuple[Rule, ...]:
        """Read the rules now, strikes that drop first. Raises what the ledger raises."""
        at = self._clock()
        found: list[Rule] = [rule for _, rule in readable(self._ledger.records.all(KIND), decoder)]
        self._rules = tuple(sorted(found, key=lambda rule: not rule.drop))
        self._read_at = at
        return self._rules

    def rests(self, worker: str) -> bool:
        """Whether a worker is paused."""
        return any(isinstance(rule, Pause) and rule.rests(worker) for rule in self.rules())

    def rule_for(self, job: Job | Intent) -> Rule | None:
        """Return the first rule by which a job may not begin, None where there is none."""
        return next(self.rules_for(job), None)

    def rules_for(self, job: Job | Intent) -> Iterator[Rule]:
        """Return all rules by which a job may not begin."""
        arguments = None

        def given() -> dict[str, object]:
            nonlocal arguments
            if arguments is None:
                arguments = compared_of(job.kind, job.name, job.spec)
            return arguments

        names = TASKS.names_of(job.name)
        return (rule for rule in self.rules() if rule.meets(names, job.queue, given))

    # -- the gate ---------------------------------------------------------------------------------------------

    def concerns(self, job: Job) -> bool:
        """See `Gate.concerns`."""
        return bool(self._rules) or self.stale

    def enter(self, job: Job) -> Ended | None:
        """See `Gate.enter`."""
        rule = self.rule_for(job)
        if rule is None:
            return None
        if rule.drop:
            self._ledger.apply(lifecycle.request_cancel(job.id, reason=STRUCK))
            return Ended(how="cancelled")
        return Ended(how="blocked", held=rule.held)

    def leave(self, job: Job) -> None:
        """See `Gate.leave`: nothing was taken."""

    # -- jobs that wait ---------------------------------------------------------------------------------------

    def hold(self, rule: Rule) -> int:
        """Hold, or drop, the jobs that wait already and may not begin; return how many.

        What has been published is refused when its message comes; what this misses meets the rule then. What is held
        for something else stays held for that, and meets the rule when it is over; what drops takes it at once.
        """
        named = rule.task if isinstance(rule, Strike) else rule.of if rule.what == "task" else None
        queue = rule.of if isinstance(rule, Pause) and rule.what == "queue" else None
        states = ("scheduled", "queued", "retrying", *(("blocked",) if rule.drop else ()))
        names = (None,) if named is None else TASKS.names_of(named)
        return sum(self._hold(rule, JobQuery(states=states, name=name, queue=queue, limit=_PAGE)) for name in names)

    def _hold(self, rule: Rule, query: JobQuery) -> int:
        before, met = None, 0
        while jobs := self._ledger.find(replace(query, before=before)):
            before = jobs[-1].id
            steps = [
                lifecycle.cancel(job.id, reason=STRUCK) if rule.drop else lifecycle.hold(job.id, why=rule.held)
                for job in jobs
                if rule.meets(
                    TASKS.names_of(job.name), job.queue, lambda job=job: compared_of(job.kind, job.name, job.spec)
                )
            ]
            met += sum(applied is not None for applied in self._ledger.apply_many(steps)) if steps else 0
            if len(jobs) < _PAGE:
                break
        return met

    def admit(self, held: str) -> int:
        """Let all jobs go on that are held for this reason; return how many. Whoever sweeps publishes them."""
        admitted = 0
        while jobs := self._ledger.find(JobQuery(states=("blocked",), held=held, limit=_PAGE)):
            done = self._ledger.apply_many([lifecycle.admit(job.id, why=held) for job in jobs])
            admitted += sum(applied is not None for applied in done)
            if len(jobs) < _PAGE or not any(done):
                break
        return admitted

    def reconcile(self) -> int:
        """Let go on what waits for a rule that is gone: a worker held it by what it knew a moment before that."""
        known = {rule.held for rule in self.read()}
        before, admitted = None, 0
        while jobs := self._ledger.find(JobQuery(states=("blocked",), before=before, limit=_PAGE)):
            before = jobs[-1].id
            steps = [
                lifecycle.admit(job.id, why=job.held)
                for job in jobs
                if job.held is not None and job.held.startswith(HELD_BY_RULE) and job.held not in known
            ]
            admitted += sum(applied is not None for applied in self._ledger.apply_many(steps)) if steps else 0
            if len(jobs) < _PAGE:
                break
        return admitted
