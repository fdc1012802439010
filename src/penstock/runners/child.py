"""The main loop of a child process: prepare once, then one job after the other, until the pipe from the worker ends.

Started as ``python -m penstock.runners.child REQUEST_FD REPLY_FD PULSE_FD PARENT_PID``; `isolation` has the other side.
"""

from __future__ import annotations

import fcntl
import inspect
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Awaitable
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.body import Cause, Ended, Interrupt
from penstock.capture import Capture
from penstock.core.secrets import remember
from penstock.dependencies.home import child_home
from penstock.job.limits import Limits, limits_of
from penstock.job.models import LogLine, Report
from penstock.results import ResultStore
from penstock.run import JobInterrupted, Run, current_run
from penstock.runners import register, runner_for, surrounded
from penstock.runners.confine import confined, explained
from penstock.runners.errors import describe_error, ended_by
from penstock.runners.frames import (
    Broken,
    Done,
    Extend,
    Frames,
    FromChild,
    Prepare,
    Ready,
    Stop,
    ToChild,
    Work,
    frame,
    to_child,
)
from penstock.runners.pulse import Ear

if TYPE_CHECKING:
    from penstock.dependencies.home import Home
    from penstock.job.models import Job

_LOWEST_FD = 400
"""Out of the way of bodies that close or duplicate the low descriptors."""
_PR_SET_PDEATHSIG = 1


class Child:
    """One child process, seen from inside."""

    def __init__(self, request_fd: int, reply_fd: int, pulse_fd: int, parent_pid: int) -> None:
        self._pid = os.getpid()
        self._parent_pid = parent_pid
        self._request_fd = _raised(request_fd)
        self._reply_fd = _raised(reply_fd)
        self._ear = Ear(_raised(pulse_fd))
        self._frames = Frames()
        self._waiting: list[ToChild] = []
        self._write_lock = threading.Lock()
        self._writing = False
        """Whether the main thread is inside `_send`, where a signal must not cut a frame in two."""
        self._open = False
        """Whether there is a job that reports belong to."""
        self._in_body = False
        self._stop: Cause | None = None
        self._stop_late = False
        self._interrupt = Interrupt()
        self._home: Home | None = None
        """What is kept for the dependencies of bodies, where there may be any."""
        self._wake: Any = None
        """Cancels the async body from the signal handler."""
        os.register_at_fork(after_in_child=self._forked)

    def serve(self) -> None:
        """Work until the worker closes its end."""
        _die_with(self._parent_pid, signal.SIGKILL)
        self._capture = Capture.install("process")
        self._take_signals()
        prepare = self._next()
        if not isinstance(prepare, Prepare) or not self._prepare(prepare):
            return
        while (work := self._next()) is not None:
            if isinstance(work, Work):
                self._ear.expect(work.silence_s)
                ended = self._perform(work.job)
                if os.getpid() != self._pid:
                    os._exit(0)  # a process that the body forked has come out of the body: it is not the child
                self._ear.expect(None)
                self._send(Done(ended), last=True)
        if self._home is not None:
            self._home.close()

    # -- prepare ------------------------------------------------------------------------------------------------

    def _prepare(self, prepare: Prepare) -> bool:
        setup = prepare.setup
        remember(prepare.secrets)
        try:
            if cwd := setup.get("cwd"):
                os.chdir(cwd)
            self._cwd = Path.cwd()
            known = [*setup.get("sys_path", ())]
            sys.path[:] = [*known, *(p for p in sys.path if p not in known)]
            sys.path += [p for p in prepare.sys_path if p not in sys.path]
            if entry := setup.get("runner"):
                module, _, name = entry.partition(":")
                register(getattr(__import__(module, fromlist=[name]), name)())
            self._runner = runner_for(prepare.kind)
            if prepare.kind == "command":
                # The program is in our group: a SIGKILL for us alone would leave it behind.
                signal.signal(signal.SIGUSR1, _kill_group)
                _die_with(self._parent_pid, signal.SIGUSR1)
            self._limits = prepare.limits
            self._store = ResultStore(
                prepare.results_url,
                inline_max_bytes=prepare.inline_max_bytes,
                max_bytes=prepare.limits.result_max_bytes,
            )
            self._runner.prepare_child(setup)
            if "config" in setup:
                self._home = child_home(setup)
        except BaseException as error:  # noqa: BLE001 - a module may raise anything when it is imported
            # An import that fails fails again; a server or a file that a module asks for may come back.
            self._send(Broken(describe_error(error), retryable=isinstance(error, OSError)))
            return False
        self._send(Ready())
        return True

    # -- one job ------------------------------------------------------------------------------------------------

    def _perform(self, job: Job) -> Ended:
        self._stop, self._interrupt, self._open = None, Interrupt(), True
        log_max_bytes = self._limits.log_max_bytes
        run = Run(
            job, emit=self._emit, interrupt=self._interrupt, own_process=True, log_max_bytes=log_max_bytes,
            home=self._home, extend=lambda by_s: self._send(Extend(by_s)),
        )  # fmt: skip
        self._settle_in()
        token = current_run.set(run)
        self._capture.process_run = run
        try:
            ended = self._body(job, run)
        except JobInterrupted as error:  # came after the body, before the switch was off
            ended = Ended(how="raised", error=describe_error(error))
        finally:
            self._in_body = False
            self._capture.process_run = None
            current_run.reset(token)
            if os.getpid() == self._pid:
                run.close()
        if run.next is not None:
            ended = msgspec.structs.replace(ended, next=run.next)
        return ended if self._stop is None else Ended(how=self._stop, error=ended.error, next=ended.next)

    def _body(self, job: Job, run: Run) -> Ended:
        limits: Limits | None = None
        try:
            limits = limits_of(job)
            # The limits of a command are those of its program, which is another process.
            with confined(None if job.kind == "command" else limits):
                self._in_body = True
                value = surrounded(self._runner, job, run)
                if inspect.isawaitable(value):
                    value = self._await(value)
                result = self._store.encode(value, job_id=job.id, attempt=job.attempt, parts=self._runner.parts)
                self._in_body = False
            return Ended(how="returned", result=result)
        except BaseException as error:  # noqa: BLE001 - a body may raise anything, SystemExit included
            self._in_body = False
            ended = ended_by(error)
            if ended.error is None:
                return ended
            return msgspec.structs.replace(ended, error=explained(ended.error, error, limits))

    def _await(self, awaitable: Awaitable[Any]) -> Any:
        import asyncio  # noqa: TID251 - an async body in a process of its own needs a loop of its own

        async def main() -> Any:
            loop, task = asyncio.get_running_loop(), asyncio.current_task()
            self._wake = lambda: loop.call_soon_threadsafe(task.cancel) if task is not None else None
            try:
                return await awaitable
            finally:
                self._wake = None

        with asyncio.Runner() as runner:
            return runner.run(main())

    def _settle_in(self) -> None:
        """Undo what the body before may have left behind."""
        if os.getcwd() != str(self._cwd):  # noqa: PTH109 - Path.cwd() costs five times as much
            os.chdir(self._cwd)
        self._take_signals()
        self._capture = Capture.install("process")

    # -- being stopped ------------------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        signal.signal(signal.SIGTERM, self._on_term)

    def _on_term(self, _number: int, _frame: FrameType | None) -> None:
        if os.getpid() != self._pid:
            os._exit(128 + signal.SIGTERM)
        if not self._in_body or self._stop is not None:
            return
        # systemd sends SIGTERM to every process of a service: only the worker decides which bodies have to go.
        poll = select.poll()
        poll.register(self._request_fd, select.POLLIN)
        if not poll.poll(0):
            return
        asked = self._next()
        if not isinstance(asked, Stop):
            return
        self._stop = self._interrupt.cause = asked.cause
        if self._writing:
            self._stop_late = True
        elif self._wake is not None:
            self._wake()
        else:
            raise JobInterrupted(asked.cause)

    # -- the pipes ----------------------------------------------------------------------------------------------

    def _next(self) -> ToChild | None:
        while not self._waiting:
            data = os.read(self._request_fd, 65_536)
            if not data:
                return None
            self._waiting += [to_child.decode(content) for content in self._frames.feed(data)]
        return self._waiting.pop(0)

    def _emit(self, report: Report) -> None:
        if os.getpid() != self._pid:
            return
        try:
            self._send(report)
        except (TypeError, ValueError) as error:  # a runner's report that cannot be encoded: say so, go on
            text = f"a report was dropped: {error}".encode("ascii", "backslashreplace").decode()
            line = LogLine(
                job_id=report.job_id,
                attempt=report.attempt,
                at=datetime.now(UTC),
                level="WARNING",
                source="penstock",
                text=text,
            )
            self._send(line)

    def _send(self, content: FromChild, *, last: bool = False) -> None:
        data = frame(content)
        main = threading.current_thread() is threading.main_thread()
        if main:
            self._writing = True
        try:
            with self._write_lock:
                if not self._open and isinstance(content, Report):
                    return  # from a thread that outlives its job, which is settled
                self._open = self._open and not last
                while data:
                    data = data[os.write(self._reply_fd, data) :]
        finally:
            if main:
                self._writing = False
        if main and self._stop_late:
            self._stop_late = False
            if self._wake is not None:
                self._wake()
            elif self._in_body:
                raise JobInterrupted(self._stop)

    def _forked(self) -> None:
        # What the body forks must not keep our pipes open, nor write to them.
        if os.getpid() != self._pid:
            for fd in (self._request_fd, self._reply_fd, self._ear.fd):
                os.close(fd)


def _raised(fd: int) -> int:
    try:
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FD)
    except OSError:  # a low limit of open files
        high = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 30)
    os.close(fd)
    return high


def _kill_group(_number: int, _frame: FrameType | None) -> None:
    os.killpg(0, signal.SIGKILL)


def _die_with(parent_pid: int, number: int) -> None:
    """Have the kernel send us a signal when the thread that started us ends, which the worker's death does too."""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0)
    elif not any(thread.name == "penstock-orphan" for thread in threading.enumerate()):
        threading.Thread(target=_watch_parent, args=(parent_pid,), name="penstock-orphan", daemon=True).start()
    if os.getppid() != parent_pid:  # it died before the kernel knew
        os.killpg(0, signal.SIGKILL)


def _watch_parent(parent_pid: int) -> None:
    while os.getppid() == parent_pid:
        time.sleep(0.1)
    os.killpg(0, signal.SIGKILL)


def main() -> None:
    """Run a child process."""
    import faulthandler

    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        # What is written before a body runs, or by what it forks, must not wait in a buffer that nobody flushes.
        stream.reconfigure(line_buffering=True, errors="backslashreplace")  # type: ignore[union-attr]
    request_fd, reply_fd, pulse_fd, parent_pid = (int(word) for word in sys.argv[1:5])
    del sys.argv[1:]
    Child(request_fd, reply_fd, pulse_fd, parent_pid).serve()


if __name__ == "__main__":
    main()
