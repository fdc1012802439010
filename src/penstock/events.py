"""What happens to a job, live: read from the ledger, so that it does not matter where the job runs, or who watches."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from penstock.absence import LOOK_S, Absence
from penstock.bridge import Stream
from penstock.core.exceptions import LedgerUnavailableError, ResultTimeoutError
from penstock.job.events import JobEvent, change_of, cut_off, in_order, node_change, progress_of
from penstock.job.lifecycle import State, shown_state
from penstock.job.models import HistoryEntry, Job, LogLine, NodeRun

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.core.base import Ledger

_SOON_S, _LATER_S = 0.1, 0.5
"""How long after a look the next one is: soon after news, later and later while there is none."""
_PAGE = 5_000


def stream(
    queue: JobQueue,
    job_id: str,
    *,
    follow: bool,
    timeout_s: float | None,
    each_look: Callable[[], None] = lambda: None,
) -> Stream[JobEvent]:
    """See `JobHandle.events`; ``each_look`` is called before each look at the ledger."""
    watcher = _Watcher(queue, job_id, timeout_s=timeout_s, each_look=each_look)
    return Stream(watcher.look if follow else watcher.look_once)


class _Watcher:
    """Asks again and again what is new. A ledger that is away is waited for: nothing is told twice, or left out."""

    def __init__(self, queue: JobQueue, job_id: str, *, timeout_s: float | None, each_look: Callable[[], None]) -> None:
        self._queue = queue
        self._job_id = job_id
        self._timeout_s = timeout_s
        self._until: float | None = None
        self._each_look = each_look
        self._news = News(job_id)
        self._pause_s = _SOON_S
        self._absence = Absence(f"the news of job {job_id} go on")

    def look_once(self) -> tuple[Sequence[JobEvent], float | None]:
        """Return all there is, and no next time."""
        return self._news.look(self._queue.ledger), None

    def look(self) -> tuple[Sequence[JobEvent], float | None]:
        """Return what is new, and after how long to look again; None: the job is final, and all of it has been told."""
        if self._until is None and self._timeout_s is not None:
            self._until = time.monotonic() + self._timeout_s
        self._each_look()
        try:
            if self._queue.gateway.in_process:
                self._queue.sweeper.publish_due()  # nobody else will
            found = self._news.look(self._queue.ledger)
        except LedgerUnavailableError as error:
            self._absence.tell(error)
            found = []
            self._pause_s = min(2 * self._pause_s, LOOK_S)
        else:
            self._absence.over()
            self._pause_s = _SOON_S if found else min(2 * self._pause_s, _LATER_S)
        if self._news.over:
            return found, None
        left_s = None if self._until is None else self._until - time.monotonic()
        if left_s is not None and left_s <= 0 and not found:
            raise ResultTimeoutError(self._job_id, self._timeout_s or 0.0, self._news.shown(self._queue.ledger))
        return found, self._pause_s if left_s is None else max(0.0, min(self._pause_s, left_s))


class News:
    """What has been told of one job, and what has not."""

    def __init__(self, job_id: str) -> None:
        self.over = False
        """Whether the job is final and all of it has been told."""
        self._job_id = job_id
        self._job: Job | None = None
        self._moved: tuple[object, ...] = ()
        self._last: HistoryEntry | None = None
        self._seq = 0
        self._progress: tuple[object, ...] = ()
        self._nodes: dict[tuple[int, str], NodeRun] = {}

    def look(self, ledger: Ledger) -> list[JobEvent]:
        """Return what is new since the last look that did not fail.

        Raises:
            JobNotFoundError: there is no such job (any more).
        """
        job = ledger.get(self._job_id)
        moved = (
            job.state, job.attempt, job.cancel_requested_at, job.held, job.note, job.scheduled_at, job.errors,
            job.crashes,
        )  # fmt: skip
        history: list[HistoryEntry] = []
        if moved != self._moved:
            history = ledger.history(self._job_id)
            if history and history[-1].to.final and not job.state.final:
                job = ledger.get(self._job_id)  # it ended between the two
        # The lines are read after the state: what was written before the end is not missed.
        lines = self._lines(ledger)
        nodes = [node for node in self._news_of_nodes(ledger, job) if self._nodes.get(_key(node)) != node]
        progress = (job.attempt, job.progress, job.message, job.nodes_done, job.nodes_total)
        told: list[JobEvent] = [change_of(entry) for entry in self._since_last(history)]
        told += lines
        if nodes or progress != self._progress:
            seen_at = job.finished_at or ledger.now()
            told += [node_change(node, seen_at) for node in nodes]
            if progress != self._progress and (change := progress_of(job, seen_at)) is not None:
                told.append(change)
        # Everything has been read: only now is it told.
        self._job, self._moved, self._progress = job, moved, progress
        self._last = history[-1] if history else self._last
        self._seq = lines[-1].seq if lines else self._seq
        self._nodes.update((_key(node), node) for node in nodes)
        self.over = job.state.final
        return in_order(told)

    def shown(self, ledger: Ledger) -> str:
        """Return the shown state as last seen."""
        return "unknown" if self._job is None else shown_state(self._job, ledger.now())

    def _since_last(self, history: list[HistoryEntry]) -> list[HistoryEntry]:
        """Leave out what was told. A ledger may have dropped the oldest entries of a very long history."""
        for at in range(len(history) - 1, -1, -1):
            if history[at] == self._last:
                return history[at + 1 :]
        return history

    def _lines(self, ledger: Ledger) -> list[LogLine]:
        lines: list[LogLine] = []
        while True:
            after = lines[-1].seq if lines else self._seq
            page = ledger.logs(self._job_id, after_seq=after, limit=_PAGE)
            lines += page
            if len(page) < _PAGE:
                return lines

    def _news_of_nodes(self, ledger: Ledger, job: Job) -> list[NodeRun]:
        if job.nodes_total is None or (job.state is State.QUEUED and self._job is not None):
            return []
        return nodes_of(ledger, self._job_id)


def nodes_of(ledger: Ledger, job_id: str, *, attempt: int | None = None) -> list[NodeRun]:
    """Return the nodes of an attempt, of the newest by default. Where it is over, none runs on."""
    nodes = ledger.nodes(job_id, attempt=attempt)
    if all(node.state != "running" for node in nodes):
        return nodes
    attempts = {one.number: one for one in ledger.attempts(job_id)}
    return [cut_off(node, attempts.get(node.attempt)) for node in nodes]


def _key(node: NodeRun) -> tuple[int, str]:
    return node.attempt, node.name
