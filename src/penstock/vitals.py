"""What a worker process knows of its own health: does it turn, does the engine answer, does the ledger, is work taken?

Two answers. *Live*: the process turns; if it does not, only a restart helps. *Ready*: it takes jobs.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import msgspec

from penstock.core.durations import format_duration
from penstock.core.exceptions import PenstockError, UnsupportedError
from penstock.core.secrets import mask_url

if TYPE_CHECKING:
    from penstock.core.base import Ledger
    from penstock.gateway import Gateway

Phase = Literal["starting", "working", "paused", "draining", "ended"]
_LOOKS = 6
"""How often in the time of `patience_s` engine and ledger are looked at."""
_LONGEST_PAUSE_S = 5.0


class Sign(msgspec.Struct, frozen=True, kw_only=True):
    """One sign of health. ``told`` is for people."""

    name: str
    ok: bool
    told: str


class Health(msgspec.Struct, frozen=True, kw_only=True):
    """A worker process's health, as its port answers and as it tells its parent."""

    worker: str
    pid: int
    phase: Phase
    live: bool
    ready: bool
    running: int
    concurrency: int
    signs: tuple[Sign, ...]

    @property
    def trouble(self) -> str:
        """What is wrong, in one line; empty when all is well."""
        return "; ".join(f"{sign.name}: {sign.told}" for sign in self.signs if not sign.ok)


class _Seen:
    """When something last went well, and what went wrong since. Instants are of the monotonic clock."""

    def __init__(self) -> None:
        self.at: float | None = None
        self.error = ""

    def well(self) -> None:
        self.at, self.error = time.monotonic(), ""

    def ago_s(self) -> float:
        return float("inf") if self.at is None else time.monotonic() - self.at


class Vitals:
    """Collects signs of life from the rooms of one worker. Safe from any thread; no method waits for anybody.

    `watch` also looks at engine and ledger by itself, over connections that are not the worker's own: for who asks by a
    health port. Without it their health is known from the work alone.
    """

    def __init__(self, *, owner: str, queues: Sequence[str], concurrency: int, patience_s: float) -> None:
        """Know nothing yet.

        Args:
            owner: the worker's id.
            queues: what it works off.
            concurrency: how many bodies it runs at once.
            patience_s: a part of which no sign has come for so long counts as stuck, or out of reach.
        """
        self.phase: Phase = "starting"
        self._running: Callable[[], int] = lambda: 0
        self._counts: Mapping[str, int] = {}
        self._owner = owner
        self._queues = tuple(queues)
        self._concurrency = concurrency
        self.patience_s = patience_s
        self._main, self._loop, self._contact, self._ledger, self._engine = (_Seen() for _ in range(5))
        self._full_at = time.monotonic()
        self._taken, self._claimed = 0, 0
        self._claimed_at: float | None = None
        self._waiting = 0
        self._untaken_since: float | None = None
        self._unwritten_since: float | None = None
        self._watched = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    # -- signs ------------------------------------------------------------------------------------------------------

    def join(self, *, running: Callable[[], int], counts: Mapping[str, int]) -> None:
        """Learn where to look up how many bodies run, and what has come of the messages (see `Execution.counts`)."""
        self._running, self._counts = running, counts

    def turn(self) -> None:
        """Hear that the worker's main thread turns."""
        self._main.well()
        self.note()

    def note(self) -> None:
        """Note what has been taken since the last time; called often."""
        now = time.monotonic()
        if self._running() >= self._concurrency:
            self._full_at, self._untaken_since = now, None
        claimed = self._counts.get("claimed", 0)
        if claimed != self._claimed:
            self._claimed, self._claimed_at = claimed, now
        taken = claimed + sum(self._counts.get(name, 0) for name in ("refused", "foreign", "unclaimed"))
        if taken != self._taken:
            self._taken, self._untaken_since = taken, None

    def claimed_s(self) -> float | None:
        """Tell how many seconds ago a job was last claimed."""
        return None if self._claimed_at is None else time.monotonic() - self._claimed_at

    def loop_turned(self) -> None:
        """Hear that the loop of an async engine turns."""
        self._loop.well()

    def contact(self) -> None:
        """Hear that the broker has answered."""
        self._contact.well()

    def ledger_answered(self) -> None:
        """Hear that the ledger has answered."""
        self._ledger.well()

    def ledger_written(self, *, taken: bool) -> None:
        """Hear that the worker writes its sign of life, or that the ledger has taken it."""
        self._unwritten_since = None if taken else self._unwritten_since or time.monotonic()

    def ledger_failed(self, error: Exception) -> None:
        """Hear that it has not."""
        self._ledger.error = mask_url(str(error))

    def begin(self) -> None:
        """Hear that the worker has started: it works, unless somebody has paused it already."""
        if self.phase != "paused":
            self.phase = "working"

    def rest(self) -> None:
        """Hear that somebody has paused this worker: nobody asks its engine for messages, and none need answer."""
        self.phase = "paused"

    def wake(self) -> None:
        """Hear that it goes on: what its engine told before the rest says nothing of now."""
        self._contact, self._loop, self._untaken_since = _Seen(), _Seen(), None
        self.phase = "working"

    # -- the answer -------------------------------------------------------------------------------------------------

    def health(self) -> Health:
        """Tell how this process is; at once, whatever hangs."""
        loop = self._look_at_loop()
        signs = [loop]
        if self.phase != "starting":
            signs += [self._look_at_engine(), self._look_at_ledger(), self._look_at_claims()]
        well = all(sign.ok for sign in signs)
        return Health(
            worker=self._owner,
            pid=os.getpid(),
            phase=self.phase,
            live=loop.ok,
            ready=well and self.phase == "working",
            running=self._running(),
            concurrency=self._concurrency,
            signs=tuple(signs),
        )

    def _look_at_loop(self) -> Sign:
        turning = [("the main thread", self._main)]
        if self.phase != "paused":
            turning.append(("the engine's loop", self._loop))
        stuck = [
            f"{what} has not turned for {format_duration(seen.ago_s())}"
            for what, seen in turning
            if seen.at is not None
            and seen.ago_s() > (2 if seen is self._main else 1) * self.patience_s
            # The main thread may wait for a ledger that takes no writes: no restart helps against that.
            and not (seen is self._main and self._unwritten_s() > self.patience_s)
        ]
        if self.phase == "ended":
            stuck.append("the engine's worker has ended")
        return Sign(name="loop", ok=not stuck, told="; ".join(stuck) or "turns")

    def _look_at_engine(self) -> Sign:
        if self._engine.error:
            return Sign(name="engine", ok=False, told=self._engine.error)
        silent_s = min(self._contact.ago_s(), time.monotonic() - self._full_at)
        asks = self.phase not in ("paused", "draining")
        if asks and self._contact.at is not None and silent_s > self.patience_s:
            return Sign(name="engine", ok=False, told=f"has not answered this worker for {format_duration(silent_s)}")
        if self._watched and self._engine.ago_s() > self.patience_s:
            return Sign(name="engine", ok=False, told="does not answer")
        return Sign(name="engine", ok=True, told="answers")

    def _look_at_ledger(self) -> Sign:
        seen = self._ledger
        if seen.error:
            return Sign(name="ledger", ok=False, told=seen.error)
        if (waits_s := self._unwritten_s()) > self.patience_s:
            return Sign(name="ledger", ok=False, told=f"has taken no write for {format_duration(waits_s)}")
        if seen.at is not None and seen.ago_s() > self.patience_s:
            return Sign(name="ledger", ok=False, told=f"has not answered for {format_duration(seen.ago_s())}")
        return Sign(name="ledger", ok=True, told="answers")

    def _unwritten_s(self) -> float:
        since = self._unwritten_since
        return 0.0 if since is None else time.monotonic() - since

    def _look_at_claims(self) -> Sign:
        ago_s = self.claimed_s()
        last = "nothing yet" if ago_s is None else f"{format_duration(ago_s)} ago"
        since = self._untaken_since
        if self.phase == "working" and since is not None and time.monotonic() - since > self.patience_s:
            told = f"{self._waiting:,} messages wait and none is taken; last claim: {last}"
            return Sign(name="claims", ok=False, told=told)
        return Sign(name="claims", ok=True, told=f"last claim: {last}")

    # -- looking ----------------------------------------------------------------------------------------------------

    def watch(self, ledger: Ledger, gateway: Gateway, *, tell: Callable[[], None] = lambda: None) -> None:
        """Look at engine and ledger from now on, in threads of their own: one that hangs does not hide the other.

        ``tell`` has the worker's sign of life written in time, also while the main thread waits.
        """
        self._watched = True
        self._engine.well()
        for look in (tell, lambda: self._ask_ledger(ledger), lambda: self._ask_engine(gateway)):
            thread = threading.Thread(target=self._again, args=(look,), name="penstock-vitals", daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self) -> None:
        """Look no more."""
        self._stop.set()

    def _again(self, look: Callable[[], None]) -> None:
        while not self._stop.is_set():
            look()
            self._stop.wait(min(_LONGEST_PAUSE_S, self.patience_s / _LOOKS))

    def _ask_ledger(self, ledger: Ledger) -> None:
        try:
            ledger.now()
            ledger.backlog(self._queues[:1])
        except PenstockError as error:
            self.ledger_failed(error)
        else:
            self.ledger_answered()

    def _ask_engine(self, gateway: Gateway) -> None:
        try:
            self._waiting = sum(gateway.depth(queue) for queue in self._queues)
        except UnsupportedError:
            self._waiting = 0
        except PenstockError as error:
            self._engine.error = mask_url(str(error))
            return
        self._engine.well()
        free = self._running() < self._concurrency
        self._untaken_since = (self._untaken_since or time.monotonic()) if self._waiting and free else None


# -- several processes -------------------------------------------------------------------------------------------------


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """One of several processes, as their parent sees it."""

    pid: int | None
    live: bool
    ready: bool
    told: str
    health: Health | None = None


class FamilyHealth(msgspec.Struct, frozen=True, kw_only=True):
    """The health of several processes together."""

    pid: int
    live: bool
    ready: bool
    phase: Phase
    processes: tuple[Member, ...]


def member(pid: int | None, health: Health | None = None, *, silent_s: float = 0.0, patience_s: float = 0.0) -> Member:
    """Describe one process by its last report, which came ``silent_s`` ago; without a pid it is about to be started."""
    if pid is None:
        return Member(pid=None, live=True, ready=False, told="died; another takes its place")
    if silent_s > patience_s:
        return Member(pid=pid, live=False, ready=False, told=f"silent for {format_duration(silent_s)}", health=health)
    if health is None:
        return Member(pid=pid, live=True, ready=False, told="starting")
    told = health.trouble or health.phase
    return Member(pid=pid, live=health.live, ready=health.ready, told=told, health=health)


def family_health(members: Sequence[Member], *, turns: bool, phase: Phase) -> FamilyHealth:
    """Put together how several processes are: live when their parent ``turns`` and each is, ready when each is."""
    return FamilyHealth(
        pid=os.getpid(),
        live=turns and all(one.live for one in members),
        ready=turns and phase == "working" and bool(members) and all(one.ready for one in members),
        phase=phase,
        processes=tuple(members),
    )
