"""Whether a job that has just been claimed may begin now: asked of each gate, between the claim and the body."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from penstock.body import Ended
    from penstock.job.models import Job


class Gate(Protocol):
    """One reason why a job may have to wait. Called by many threads; may ask the ledger."""

    def concerns(self, job: Job) -> bool:
        """Whether `enter` has to be asked; answers at once, without asking anybody."""
        ...

    def enter(self, job: Job) -> Ended | None:
        """Let the attempt begin (None), or say how it ends instead: ``blocked``, ``released`` or ``raised``.

        Raises what the ledger raises: the attempt is then handed back.
        """
        ...

    def leave(self, job: Job) -> None:
        """Give back what `enter` took: the body is over, its end is about to be recorded. Never raises.

        It is not called where the process dies, or hands a job back whose body it cannot end.
        """
        ...


class Admission:
    """The gates of one process, in order: what lets a job in last is left first."""

    def __init__(self, gates: Sequence[Gate] = ()) -> None:
        self._gates = tuple(gates)
        self._inside: dict[tuple[str, int], list[Gate]] = {}

    @contextmanager
    def having(self, gate: Gate) -> Generator[None]:
        """Ask one gate more for a while, as the first: it decides for jobs that no other is to know of."""
        self._gates = (gate, *self._gates)
        try:
            yield
        finally:
            self._gates = tuple(one for one in self._gates if one is not gate)

    def concerns(self, job: Job) -> bool:
        """Whether any gate has to be asked about this job."""
        return any(gate.concerns(job) for gate in self._gates)

    def enter(self, job: Job) -> Ended | None:
        """Ask each gate in turn; what the earlier ones gave is given back where a later one refuses."""
        inside: list[Gate] = []
        refused: Ended | None = None
        try:
            for gate in self._gates:
                if not gate.concerns(job):
                    continue
                refused = gate.enter(job)
                if refused is not None:
                    return refused
                inside.append(gate)
            if inside:
                self._inside[job.id, job.attempt] = inside
                inside = []
            return None
        finally:
            for gate in reversed(inside):
                gate.leave(job)

    def let_in(self, job: Job) -> bool:
        """Whether this attempt has passed a gate that it is to leave."""
        return (job.id, job.attempt) in self._inside

    def leave(self, job: Job) -> None:
        """Leave the gates that this attempt has passed; without any, nothing happens."""
        for gate in reversed(self._inside.pop((job.id, job.attempt), [])):
            gate.leave(job)
