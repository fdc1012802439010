"""What limits remember: small records in the ledger, the same for all workers, each changed by who has seen it last."""

from __future__ import annotations

import hashlib
import random
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import msgspec

from penstock.core.exceptions import LedgerUnavailableError
from penstock.core.records import Change
from penstock.readable import read

if TYPE_CHECKING:
    from penstock.core.base import Ledger

S = TypeVar("S")
A = TypeVar("A")

_TRIES_S = 10.0
_PAUSE_S = 0.002
_PURGE_EVERY_S = 60.0
_PURGE = 200
_NAME_MAX = 150


class Asking(Generic[A]):
    """One question of one thread, and its answer."""

    __slots__ = ("answer", "question")

    def __init__(self, question: Any) -> None:
        self.question = question
        self.answer: A | None = None


class Kept(Generic[S]):
    """The records of one kind. Safe from any thread.

    Questions about one record that are asked at the same time here are answered by one write.
    """

    def __init__(self, ledger: Callable[[], Ledger], kind: str, state: type[S]) -> None:
        self._ledger = ledger
        self._kind = kind
        self._decoder = msgspec.json.Decoder(state)
        self._new = state
        self._lock = threading.Lock()
        self._waiting: dict[str, list[Asking[Any]]] = {}
        self._busy: dict[str, threading.Lock] = {}
        self._purge_at = time.monotonic() + _PURGE_EVERY_S

    def ask(self, name: str, question: Any, answer: Callable[[S, datetime, Any], A], keep: Callable[[S], int]) -> A:
        """Let ``answer(state, now, question)`` change the state, and return what it answers.

        ``keep`` says for how many ms the state is worth keeping; 0: no longer. ``now`` is the ledger's.

        Raises:
            LedgerError: the ledger failed, or others were faster for 10 s on end.
        """
        name = short(name)
        asking: Asking[A] = Asking(question)
        with self._lock:
            self._waiting.setdefault(name, []).append(asking)
            busy = self._busy.setdefault(name, threading.Lock())
        with busy:
            with self._lock:
                batch = self._waiting.pop(name, [])
            if batch:  # else the thread before has answered this one too
                self._change(name, batch, answer, keep)
        with self._lock:
            if name not in self._waiting and len(self._busy) > _NAME_MAX:
                self._busy.pop(name, None)
        self._purge()
        if asking.answer is None:
            # The thread that had taken it failed.
            return self.ask(name, question, answer, keep)
        return asking.answer

    def _change(
        self, name: str, batch: list[Asking[Any]], answer: Callable[[S, datetime, Any], A], keep: Callable[[S], int]
    ) -> None:
        records = self._ledger().records
        until = time.monotonic() + _TRIES_S
        while True:
            now = self._ledger().now()
            record = records.get(self._kind, name)
            state = read(record, self._decoder) or self._new()
            before = msgspec.json.encode(state)
            answers = [answer(state, now, asking.question) for asking in batch]
            after = msgspec.json.encode(state)
            keep_ms = keep(state)
            if after == before and keep_ms:
                break
            if record is None and not keep_ms:
                break
            change = Change(
                kind=self._kind, name=name, seen=0 if record is None else record.version,
                body=after if keep_ms else None, due_at=now + timedelta(milliseconds=keep_ms) if keep_ms else None,
            )  # fmt: skip
            if records.write([change])[0]:
                break
            if time.monotonic() > until:
                raise LedgerUnavailableError(f"others change the record {self._kind} {name} all the time")
            time.sleep(_PAUSE_S * random.uniform(0.5, 3))  # noqa: S311 - spreads load
        for asking, said in zip(batch, answers, strict=True):
            asking.answer = said

    def _purge(self) -> None:
        if time.monotonic() < self._purge_at:
            return
        self._purge_at = time.monotonic() + _PURGE_EVERY_S
        records = self._ledger().records
        over = [Change(kind=r.kind, name=r.name, seen=r.version, body=None) for r in records.due(self._kind, _PURGE)]
        if over:
            records.write(over)


def ms_of(instant: datetime) -> int:
    """Return an instant as whole ms since 1970."""
    return round((instant - datetime(1970, 1, 1, tzinfo=UTC)) / timedelta(milliseconds=1))


def short(name: str) -> str:
    """Return a name for a record that is not too long for one; the same for the same."""
    if len(name) <= _NAME_MAX and name.isprintable():
        return name
    return f"{name[:60]!a}#{hashlib.sha256(name.encode()).hexdigest()[:32]}"
