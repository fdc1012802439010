"""Group commit: transitions that wait at the same time share one transaction or round trip.

Threads need no thread for it: whoever comes while nobody writes does the writing, and takes along what others have
left. An idle ledger is written at once, a busy one in batches; each transition is guarded and answered by itself either
way. Measured on the SQLite ledger with ten threads of no-op jobs: 2,700 claims and settlements a second one by one,
4,500 so. A loop must not write itself: for what it posts there is one thread, started with the first of it.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from penstock.core.base import Applied, Ledger
    from penstock.job.lifecycle import Transition

_BATCH = 200

Done = Callable[["Applied | None", "Exception | None"], None]


class _Slot:
    """One transition on its way, and whom to tell: a waiting thread by `lock`, or `done`."""

    __slots__ = ("applied", "done", "error", "lock", "transition")

    def __init__(self, transition: Transition, *, lock: threading.Lock | None = None, done: Done | None = None) -> None:
        self.transition = transition
        self.lock = lock
        self.done = done
        self.applied: Applied | None = None
        self.error: Exception | None = None


class Writer:
    """Writes the transitions of one process. Safe from any thread."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._writing = threading.Lock()
        self._waiting: deque[_Slot] = deque()
        self._bell: SimpleQueue[bool] = SimpleQueue()
        self._rung = False
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None

    def apply(self, transition: Transition) -> Applied | None:
        """`Ledger.apply`, in company where there is any. Raises what the ledger raises."""
        return self.apply_all([transition])[0]

    def apply_all(self, transitions: Sequence[Transition]) -> list[Applied | None]:
        """`Ledger.apply_many`, in company where there is any. Raises what the ledger raises."""
        slots: list[_Slot] = []
        locks: list[threading.Lock] = []
        for transition in transitions:
            lock = threading.Lock()
            lock.acquire()
            locks.append(lock)
            slots.append(_Slot(transition, lock=lock))
        self._waiting.extend(slots)
        self._write_what_waits()
        # Each waits on a lock of its own: queueing on the writer's would wake the waiting one after the other.
        for lock in locks:
            lock.acquire()
        for slot in slots:
            if slot.error is not None:
                raise slot.error
        return [slot.applied for slot in slots]

    def submit(self, transition: Transition, done: Done) -> None:
        """Write a transition and tell ``done(applied, error)``: now if nobody is writing, else by whoever is.

        ``done`` is called once, on any thread; it must not raise, and must not wait for this writer.
        """
        self._waiting.append(_Slot(transition, done=done))
        self._write_what_waits()

    def post(self, transition: Transition, done: Done) -> None:
        """`submit`, for callers that must not write themselves; ``done`` is called on another thread."""
        self._waiting.append(_Slot(transition, done=done))
        if not self._rung:
            self._rung = True
            self._bell.put(True)
        # Asked each time: after a fork the thread is there no more.
        if self._thread is None or not self._thread.is_alive():
            self._start()

    def close(self) -> None:
        """Write what waits and end the thread, if there is one."""
        with self._starting:
            thread, self._thread = self._thread, None
            if thread is not None and thread.is_alive():
                self._bell.put(False)
                thread.join(5)

    def _start(self) -> None:
        with self._starting:
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._serve, name="penstock-writer", daemon=True)
                self._thread.start()

    def _serve(self) -> None:
        going = True
        while going:
            going = self._bell.get()
            # Before the look: what is appended from now on rings again.
            self._rung = False
            self._write_what_waits()

    def _write_what_waits(self) -> None:
        # Looked at again after each release: what came while the lock was held must not wait for the next comer.
        while self._waiting and self._writing.acquire(blocking=False):
            try:
                batch = self._take()
                self._write(batch)
            finally:
                self._writing.release()
            for slot in batch:
                if slot.lock is not None:
                    slot.lock.release()
                elif slot.done is not None:
                    slot.done(slot.applied, slot.error)

    def _take(self) -> list[_Slot]:
        batch: list[_Slot] = []
        while self._waiting and len(batch) < _BATCH:
            batch.append(self._waiting.popleft())
        return batch

    def _write(self, batch: list[_Slot]) -> None:
        try:
            if len(batch) == 1:
                batch[0].applied = self._ledger.apply(batch[0].transition)
            elif batch:
                answers = self._ledger.apply_many([slot.transition for slot in batch])
                for slot, applied in zip(batch, answers, strict=True):
                    slot.applied = applied
        except Exception as error:  # noqa: BLE001 - told to each that waits for an answer
            for slot in batch:
                slot.error = error
