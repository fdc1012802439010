"""Warm child processes: jobs that may be killed, kept apart, and still start in a millisecond.

Why not a pool of a library: ``dev_docs/decisions/0002-warm-children.md``.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.body import Cause, Ended
from penstock.core.config import LimitsConfig
from penstock.core.secrets import remembered
from penstock.job.models import ErrorInfo
from penstock.payload import refuse_in_script
from penstock.runners.errors import describe_error
from penstock.runners.frames import Broken, Done, Prepare, Ready
from penstock.runners.memory import memory_bytes
from penstock.runners.nursery import Nursery
from penstock.runners.warm import ChildGoneError, WarmChild

if TYPE_CHECKING:
    from penstock.body import Emit, Interrupt
    from penstock.job.models import Job

_TIMEOUT_GRACE_S = 2.0
_STARTS_MAX = 3
_WATCHED = (".py", ".yml", ".yaml", ".toml")
_NOT_WATCHED = {"__pycache__", "node_modules", "site-packages"}
_WATCHED_FILES_MAX = 5_000

Fingerprint = frozenset[tuple[str, int, int]]


class ChildPool:
    """Runs jobs in child processes, which are kept warm for further jobs of the same key. Safe from any thread.

    After a fork the new process starts with no children of its own; the old one keeps those it has.
    """

    def __init__(
        self,
        *,
        results_url: str,
        inline_max_bytes: int = 32_768,
        max_jobs_per_child: int = 100,
        cancel_grace_s: float = 5.0,
        python: str = sys.executable,
        max_idle: int = 8,
        start_limit_s: float = 120.0,
        silence_s: float | None = None,
        max_memory_bytes: int | None = None,
        limits: LimitsConfig = LimitsConfig(),  # noqa: B008 - frozen
    ) -> None:
        """Set up a pool; nothing is started before the first job.

        Args:
            results_url: where children store what is not returned inline.
            inline_max_bytes: see `ResultStore`.
            max_jobs_per_child: a child is replaced after that many jobs.
            cancel_grace_s: how long a body may take to end itself when it is stopped; 2 s at most after a timeout.
            python: the interpreter of the children.
            max_idle: how many warm children wait for work; the one idle for longest goes first.
            start_limit_s: how long a child may take to load its modules.
            silence_s: a body ends when this process gives no sign of life for so long, as one that is frozen.
            max_memory_bytes: a child that holds more after a job is replaced.
            limits: those of results and log lines.
        """
        self._limits = limits
        self._results_url = results_url
        self._inline_max_bytes = inline_max_bytes
        self._max_jobs = max_jobs_per_child
        self._max_memory_bytes = max_memory_bytes
        self._cancel_grace_s = cancel_grace_s
        self._python = python
        self._max_idle = max_idle
        self._start_limit_s = start_limit_s
        self._silence_s = silence_s
        self._begin_anew()

    @property
    def pids(self) -> set[int]:
        """The process ids of all children, idle and busy."""
        with self._lock:
            return {child.pid for _, child, _ in self._idle} | {child.pid for child in self._busy}

    def run(
        self,
        job: Job,
        *,
        key: str,
        setup: Mapping[str, Any],
        emit: Emit,
        interrupt: Interrupt,
        timeout_s: float | None,
    ) -> Ended:
        """Run a job in a child and return how it ended; blocks until then.

        Jobs whose ``key`` or ``setup`` differ never share a process. When the time is over (counted from when the
        body starts) or the interrupt is thrown, the body gets SIGTERM (`JobInterrupted` in Python code), then the
        whole process group gets SIGKILL. Cause ``lost`` kills at once.
        """
        if interrupt.cause is not None:
            return Ended(how=interrupt.cause)
        refuse_in_script()
        self._after_fork()
        address = (key, msgspec.msgpack.encode(setup, order="sorted"))
        code = fingerprint(setup.get("watch", ()))
        for _ in range(_STARTS_MAX):
            child, answer = self._take(address, code, job, setup, emit, interrupt)
            if child is None:
                return answer
            keep = False
            try:
                answer = child.work(
                    job, emit=emit, interrupt=interrupt, timeout_s=timeout_s, grace_s=self._grace_s,
                    silence_s=self._silence_s,
                )  # fmt: skip
                keep = isinstance(answer, Done) and child.alive
            except ChildGoneError:
                continue
            finally:
                self._put_back(address, child, code, keep=keep)
            return answer.ended if isinstance(answer, Done) else _ended(answer)
        text = f"{_STARTS_MAX} child processes in a row died after they had loaded the job's modules, before the body"
        return Ended(how="crashed", error=ErrorInfo(type="ProcessDied", message=text))

    def close(self) -> None:
        """Let idle children go and kill busy ones; return when the idle ones are gone."""
        self._after_fork()
        with self._lock:
            nursery, self._nursery = self._nursery, None
            idle, self._idle = self._idle, []
            busy = list(self._busy)
        for child in busy:
            # Its own thread sees the death and buries it.
            _kill_group(child.pid)
        if nursery is not None:
            nursery.see_off([child for _, child, _ in idle])
            nursery.close()

    # -- which child --------------------------------------------------------------------------------------------

    def _take(
        self, address: tuple[str, bytes], code: Fingerprint, job: Job, setup: Mapping[str, Any], emit: Emit,
        interrupt: Interrupt,
    ) -> tuple[WarmChild | None, Ended]:  # fmt: skip
        nothing = Ended(how="lost")
        with self._lock:
            same = [entry for entry in self._idle if entry[0] == address]
            stale = [entry for entry in same if entry[2] != code]
            fresh = [entry for entry in same if entry[2] == code]
            for entry in stale:
                self._idle.remove(entry)
            if fresh:
                # The one used last: its memory is warm, and the others grow old enough to go.
                self._idle.remove(fresh[-1])
                self._busy.add(fresh[-1][1])
            nursery = self._nursery = self._nursery or Nursery()
        nursery.see_off([child for _, child, _ in stale])
        if fresh:
            return fresh[-1][1], nothing
        try:
            child = nursery.start(self._python, setup.get("env", {}))
        except OSError as error:
            return None, Ended(how="raised", error=describe_error(error))
        with self._lock:
            self._busy.add(child)
        ready = False
        try:
            answer = child.prepare(
                self._prepare(job, setup), job=job, emit=emit, interrupt=interrupt, limit_s=self._start_limit_s
            )
            ready = isinstance(answer, Ready)
        finally:
            if not ready:
                self._put_back(address, child, code, keep=False)
        if ready:
            return child, nothing
        if isinstance(answer, Ended) and answer.how == "timeout":
            text = (
                f"its child process was not ready after {self._start_limit_s:g} s: a module hangs while it is imported"
            )
            return None, Ended(how="raised", error=ErrorInfo(type="ChildNotReady", message=text))
        return None, _ended(answer)

    def _prepare(self, job: Job, setup: Mapping[str, Any]) -> Prepare:
        return Prepare(
            kind=job.kind,
            setup=dict(setup),
            # What the worker can import, its children can; another interpreter has packages of its own.
            sys_path=sys.path if self._python == sys.executable else [],
            results_url=self._results_url,
            inline_max_bytes=self._inline_max_bytes,
            limits=self._limits,
            secrets=sorted(remembered()),
        )

    def _put_back(self, address: tuple[str, bytes], child: WarmChild, code: Fingerprint, *, keep: bool) -> None:
        leaving: list[WarmChild] = []
        keep_warm = keep and child.jobs < self._max_jobs and not self._is_too_large(child)
        with self._lock:
            self._busy.discard(child)
            nursery = self._nursery
            if keep_warm and nursery is not None:
                self._idle.append((address, child, code))
                while len(self._idle) > self._max_idle:
                    leaving.append(self._idle.pop(0)[1])
            elif keep and nursery is not None:
                leaving.append(child)
            else:
                nursery = None
        if nursery is not None:
            nursery.see_off(leaving)
        else:
            child.kill()

    def _is_too_large(self, child: WarmChild) -> bool:
        return self._max_memory_bytes is not None and memory_bytes(child.pid) > self._max_memory_bytes

    def _grace_s(self, cause: Cause) -> float:
        return min(self._cancel_grace_s, _TIMEOUT_GRACE_S) if cause == "timeout" else self._cancel_grace_s

    def _begin_anew(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._nursery: Nursery | None = None
        self._idle: list[tuple[tuple[str, bytes], WarmChild, Fingerprint]] = []
        self._busy: set[WarmChild] = set()

    def _after_fork(self) -> None:
        if self._pid != os.getpid():
            self._begin_anew()


def fingerprint(paths: Any) -> Fingerprint:
    """Return what changes when code or settings under these files and folders change.

    Looks at the first 5,000 ``*.py``, ``*.yml``, ``*.yaml`` and ``*.toml`` files; hidden folders are left out.
    """
    seen: set[tuple[str, int, int]] = set()
    for path in paths:
        for entry in _files(path):
            try:
                stat = os.stat(entry)  # noqa: PTH116 - a Path object for each file costs more than the look at it
            except OSError:
                continue
            seen.add((entry, stat.st_mtime_ns, stat.st_size))
            if len(seen) >= _WATCHED_FILES_MAX:
                return frozenset(seen)
    return frozenset(seen)


def _files(path: str) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except NotADirectoryError:
        yield path
        return
    except OSError:
        return
    for entry in entries:
        if entry.name.startswith(".") or entry.name in _NOT_WATCHED:
            continue
        if entry.name.endswith(_WATCHED):
            yield entry.path
        elif entry.is_dir():
            yield from _files(entry.path)


def _ended(answer: Any) -> Ended:
    if isinstance(answer, Broken):
        return Ended(how="raised", error=answer.error, retryable=answer.retryable)
    return answer


def _kill_group(pid: int) -> None:
    import signal

    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # gone already
