"""Several worker processes under one parent, which opens neither engine nor ledger while they run.

Each is a fresh interpreter in a session of its own: a Ctrl-C in the terminal reaches the parent alone, which passes
each signal on once. A `Tether` ties each to the parent, so that none outlives it, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from penstock import tether
from penstock.core.exceptions import ConfigError, UnsupportedError
from penstock.vitals import FamilyHealth, Health, Member, family_health, member

if TYPE_CHECKING:
    from types import FrameType

    from penstock.client import JobQueue

_TURN_S = 0.1
_CHUNK = 65_536
_LONGEST_LINE = 1_048_576
_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
_STEADY_S = 60.0
"""A process that has lived so long was no failed start: the next one begins without a longer pause."""
_FAILED_STARTS = 3
_OWN_CODES_BELOW = 70
"""Exit codes from 1 up to here tell of a reason that was understood: another try would end in the same way."""
_FORCED_WITHIN_S = 5.0

_health = msgspec.json.Decoder(Health)
Say = Callable[..., None]
"""Called with the name of an event and its fields."""


def refuse_unshared(queue: JobQueue, processes: int) -> None:
    """Raise where several processes could not share the work.

    Raises:
        UnsupportedError: messages run in the process that publishes them.
        ConfigError: the ledger is in the memory of one process.
    """
    if queue.gateway.in_process:
        raise UnsupportedError(
            queue.gateway.scheme, "workers", f" {processes} processes would get no job: the publisher runs them itself."
        )
    if queue.config.ledger.startswith("memory:"):
        raise ConfigError(
            f"{processes} worker processes need a ledger that they can share; memory:// belongs to one process"
        )


def shares(max_jobs: int | None, processes: int) -> list[int | None]:
    """Divide a number of jobs, so that the total is exact; a process without a share is not started."""
    if max_jobs is None:
        return [None] * processes
    whole, rest = divmod(max_jobs, processes)
    return [share for n in range(processes) if (share := whole + (n < rest))]


class _Stream:
    """What a child writes, passed on in whole lines."""

    def __init__(self, pipe: Any, to: BinaryIO, prefix: bytes) -> None:
        self.fd: int = pipe.fileno()
        self._pipe = pipe
        self._to: BinaryIO | None = to
        self._prefix = prefix
        self._kept = b""

    def pass_on(self) -> bool:
        """Read once; False at the end."""
        data = os.read(self.fd, _CHUNK)
        whole, newline, self._kept = (self._kept + data).rpartition(b"\n")
        if self._kept and (not data or len(self._kept) > _LONGEST_LINE):
            whole, newline, self._kept = whole + newline + self._kept, b"\n", b""
        if newline and self._to is not None:
            lines = b"".join(self._prefix + line + b"\n" for line in whole.split(b"\n"))
            try:
                self._to.write(lines)
                self._to.flush()
            except BrokenPipeError:
                self._to = None  # nobody reads any more; the work goes on
        return bool(data)

    def close(self) -> None:
        self._pipe.close()


class _Process:
    """One child and the parent's ends of what ties them."""

    def __init__(self, arguments: Sequence[str], *, as_json: bool) -> None:
        self.tether, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, *_interpreter_flags(), "-m", "penstock", "worker", *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                pass_fds=(theirs.fileno(),),
                env={**os.environ, tether.VARIABLE: str(theirs.fileno())},
                start_new_session=True,
            )
        self.pid = self.process.pid
        self.ready = False
        self.health: Health | None = None
        """As it last told, if it was asked to."""
        self.health_at = self.started = time.monotonic()
        self._unread = b""
        self.again: int | None = None
        """How many jobs it has had, if it ended so that another one takes its place."""
        self.told = 0
        """How many signals were passed on to it."""
        self.streams = [
            _Stream(self.process.stdout, sys.stdout.buffer, b""),
            _Stream(self.process.stderr, sys.stderr.buffer, b"" if as_json else b"[%d] " % self.pid),
        ]

    @property
    def exit_code(self) -> int | None:
        """As a shell tells it: 128 and the signal's number for one that died of a signal; None while it lives."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code

    def listen(self) -> bool:
        """Hear what it tells over its tether; False at the end."""
        data = self.tether.recv(_CHUNK)
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            if line == tether.READY:
                self.ready = True
            elif line.startswith(tether.AGAIN):
                self.again = int(line.removeprefix(tether.AGAIN))
            else:
                self.health, self.health_at = _health.decode(line), time.monotonic()
        return bool(data)

    def hear_out(self) -> None:
        """Hear what it told before it ended."""
        self.tether.setblocking(False)
        with contextlib.suppress(OSError):
            while self.listen():
                pass

    def member(self, now: float, patience_s: float) -> Member:
        """Tell how it is."""
        return member(self.pid, self.health, silent_s=now - self.health_at, patience_s=patience_s)

    def send(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(number)

    def close(self) -> None:
        self.tether.close()
        for stream in self.streams:
            stream.close()


class _Place:
    """One of the processes that there should be."""

    def __init__(self, arguments: Sequence[str], jobs_left: int | None) -> None:
        self._arguments = arguments
        self.jobs_left = jobs_left
        self.process: _Process | None = None
        self.failed_starts = 0
        self.pause_s = _FIRST_PAUSE_S
        self.start_at: float | None = 0.0
        """When to start a process here; None: not any more, or it runs."""

    @property
    def arguments(self) -> list[str]:
        """What follows ``penstock worker`` for the next process here."""
        return [*self._arguments, *([] if self.jobs_left is None else [f"--max-jobs={self.jobs_left}"])]


class Processes:
    """Starts worker processes, passes signals on, replaces those that die, and ends with the last of them."""

    def __init__(
        self, arguments: Sequence[str], jobs: Sequence[int | None], *, ends: bool, drain_s: float, say: Say,
        as_json: bool = False,
    ) -> None:  # fmt: skip
        """Start nothing yet.

        Args:
            arguments: what follows ``penstock worker``, for each process.
            jobs: for each process that there is to be, its share of `shares`.
            ends: whether a process is meant to end by itself (a burst, a number of jobs).
            drain_s: a process that has not ended so long after the first signal is killed.
            say: told of "started" (pids), "died" (pid, code, again_in_s), "gave_up" (pid, code), "killed" (pid)
                and "recycled" (pid, jobs).
            as_json: whether stderr, too, is passed on as it is.
        """
        self._places = [_Place(arguments, share) for share in jobs]
        self._ends = ends
        self._drain_s = drain_s
        self._say = say
        self._as_json = as_json
        self._selector = selectors.DefaultSelector()
        self._signals = 0
        self._kill_at = float("inf")
        self._codes = [0]
        self._once_ready = False
        self._turned_at = time.monotonic()

    def health(self, patience_s: float) -> FamilyHealth:
        """Tell how all are, from what they reported; safe from any thread. See `family_health`."""
        now = time.monotonic()
        members = [
            member(None) if place.process is None else place.process.member(now, patience_s)
            for place in self._places
            if place.process is not None or place.start_at is not None
        ]
        turns = now - self._turned_at < patience_s
        phase = "draining" if self._signals else "working" if self._once_ready else "starting"
        return family_health(members, turns=turns, phase=phase)

    def run(self) -> int:
        """Run until all have ended; return the worst exit code. To be called from the main thread.

        The first SIGTERM or SIGINT drains every process, the second makes every process leave at once.
        """
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGTERM, signal.SIGINT)}
        try:
            self._start_due()
            self._say("started", pids=[place.process.pid for place in self._places if place.process is not None])
            while any(place.process is not None or place.start_at is not None for place in self._places):
                self._turned_at = time.monotonic()
                self._listen()
                for place in self._places:
                    if place.process is not None and place.process.exit_code is not None:
                        self._ended(place, place.process, place.process.exit_code)
                self._start_due()
                if time.monotonic() > self._kill_at:
                    self._kill()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            for place in self._places:  # those that are left, after an error here, lose their tether
                if place.process is not None:
                    place.process.close()
            self._selector.close()
        return max(self._codes)

    # -- signals ------------------------------------------------------------------------------------------------

    def _on_signal(self, _number: int, _frame: FrameType | None) -> None:
        self._leave()

    def _leave(self) -> None:
        self._signals += 1
        if self._signals <= 2:
            self._kill_at = time.monotonic() + (self._drain_s if self._signals == 1 else _FORCED_WITHIN_S)
        self._pass_on()

    def _pass_on(self) -> None:
        for place in self._places:
            place.start_at = None if self._signals else place.start_at
            process = place.process
            while process is not None and process.told < min(self._signals, 2):
                process.told += 1
                # Of one signal sent twice, the kernel may deliver one; a worker counts both kinds alike.
                process.send(signal.SIGTERM if process.told == 1 else signal.SIGINT)

    def _kill(self) -> None:
        self._kill_at = float("inf")
        for place in self._places:
            if place.process is not None:
                self._say("killed", pid=place.process.pid)
                place.process.send(signal.SIGKILL)

    # -- starts and ends ----------------------------------------------------------------------------------------

    def _start_due(self) -> None:
        for place in self._places:
            if place.start_at is None or time.monotonic() < place.start_at or self._signals:
                continue
            place.start_at = None
            place.process = started = _Process(place.arguments, as_json=self._as_json)
            self._selector.register(started.tether, selectors.EVENT_READ, started)
            for stream in started.streams:
                self._selector.register(stream.fd, selectors.EVENT_READ, stream)
        self._pass_on()  # a signal may have come while one was being started

    def _listen(self) -> None:
        for key, _ in self._selector.select(_TURN_S):
            if isinstance(key.data, _Stream):
                if not key.data.pass_on():
                    self._selector.unregister(key.fd)
            else:
                if not key.data.listen():
                    self._selector.unregister(key.data.tether)
                self._once_ready = self._once_ready or key.data.ready

    def _ended(self, place: _Place, ended: _Process, code: int) -> None:
        ended.hear_out()
        self._bury(place, ended)
        if code == 0 and ended.again is not None and not self._signals:
            self._recycle(place, ended.pid, ended.again)
            return
        if self._signals:
            # A signal of ours that came before it could listen is no failure.
            unheard = not ended.ready and code == 128 + signal.SIGTERM
            self._codes.append(0 if unheard else code)
            return
        if code == 0 and self._ends:
            return
        place.failed_starts = 0 if ended.ready else place.failed_starts + 1
        if not self._once_ready and (0 < code < _OWN_CODES_BELOW or place.failed_starts >= _FAILED_STARTS):
            self._say("gave_up", pid=ended.pid, code=code)
            self._codes.append(code)
            self._leave()
            return
        if ended.ready and time.monotonic() - ended.started > _STEADY_S:
            place.pause_s = _FIRST_PAUSE_S
        self._say("died", pid=ended.pid, code=code, again_in_s=place.pause_s)
        place.start_at = time.monotonic() + place.pause_s
        place.pause_s = min(2 * place.pause_s, _LONGEST_PAUSE_S)

    def _recycle(self, place: _Place, pid: int, jobs: int) -> None:
        """Start another at once: it has had a job at least, so this is no loop of failures."""
        self._say("recycled", pid=pid, jobs=jobs)
        if place.jobs_left is not None:
            place.jobs_left -= jobs
        if place.jobs_left is None or place.jobs_left > 0:
            place.start_at = time.monotonic()

    def _bury(self, place: _Place, ended: _Process) -> None:
        """Pass on what it wrote last. Its own children may hold the pipes open: nothing is waited for."""
        for stream in ended.streams:
            os.set_blocking(stream.fd, False)
            with contextlib.suppress(BlockingIOError):
                while stream.pass_on():
                    pass
        for fd in (ended.tether, *(stream.fd for stream in ended.streams)):
            with contextlib.suppress(KeyError):
                self._selector.unregister(fd)
        ended.close()
        place.process = None


def _interpreter_flags() -> list[str]:
    """Start children as this interpreter was started: with its flags, and with the same idea of the current folder."""
    # The function by which multiprocessing does the same has no type.
    flags: list[str] = getattr(subprocess, "_args_from_interpreter_flags", list)()
    here = bool(sys.path) and sys.path[0] in ("", str(Path.cwd()))
    return flags if here or sys.flags.safe_path else [*flags, "-P"]
