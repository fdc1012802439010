"""One warm child process, seen from the worker: started, asked, stopped, buried."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import msgspec

from penstock import lines
from penstock.body import Cause, Ended
from penstock.job.limits import limits_of
from penstock.job.models import ErrorInfo, LogLine, NodeRun, Progress
from penstock.lines import LineKeeper
from penstock.runners.confine import death_told
from penstock.runners.frames import Broken, Done, Extend, Frames, Prepare, Ready, Stop, ToChild, Work, frame, from_child
from penstock.runners.pulse import Pulse

if TYPE_CHECKING:
    from penstock.body import Emit, Interrupt
    from penstock.job.models import Job

_CHUNK = 65_536
_LOOK_EVERY_MS = 200
"""Where the kernel cannot tell of a death (no pidfd): how often it is asked."""
_TAIL_LINES = 20
_FATAL = "Fatal Python error: "
"""How faulthandler begins to tell where each thread was, which may be longer than all else."""
_FATAL_LINES = 40
_NEVER = float("inf")

Answer = Ready | Broken | Done | Ended


class ChildGoneError(Exception):
    """The child had died before it was asked anything."""


class WarmChild:
    """A child process and the pipes to it. One thread at a time may `ask` it."""

    def __init__(self, python: str, env: Mapping[str, str]) -> None:
        """Start the process. Call it from a thread that lives as long as the child may: the kernel kills the child
        when the *thread* that started it ends.

        Raises:
            OSError: the interpreter cannot be started.
        """  # noqa: D205 - one promise, two lines
        request_out, self._request = os.pipe()
        self._reply, reply_in = os.pipe()
        self._stdout, stdout_in = os.pipe()
        self._stderr, stderr_in = os.pipe()
        pulse_out, self._pulse = os.pipe()
        theirs = (request_out, reply_in, stdout_in, stderr_in, pulse_out)
        numbers = [str(number) for number in (request_out, reply_in, pulse_out, os.getpid())]
        try:
            self._process = subprocess.Popen(
                [python, "-P", "-m", "penstock.runners.child", *numbers],
                stdin=subprocess.DEVNULL,
                stdout=stdout_in,
                stderr=stderr_in,
                pass_fds=(request_out, reply_in, pulse_out),
                env={**os.environ, **env},
                start_new_session=True,
            )
        except BaseException:
            for fd in (self._request, self._reply, self._stdout, self._stderr, self._pulse):
                os.close(fd)
            raise
        finally:
            for fd in theirs:
                os.close(fd)
        self.pid = self._process.pid
        self.jobs = 0
        self._pidfd = _pidfd(self.pid)
        for fd in (self._request, self._stdout, self._stderr, self._pulse):
            os.set_blocking(fd, False)
        self._frames = Frames()
        self._outbox = b""
        self._buried = False

    @property
    def alive(self) -> bool:
        """Whether the process is there. Does not reap it: its pid, and so its group, stays ours until `kill`."""
        poll = select.poll()
        poll.register(self._reply, select.POLLIN)
        if self._pidfd is not None:
            poll.register(self._pidfd, select.POLLIN)
        # An idle child says nothing, so anything to be read is the end of the pipe.
        return not self._buried and not poll.poll(0)

    def prepare(self, prepare: Prepare, *, job: Job, emit: Emit, interrupt: Interrupt, limit_s: float) -> Answer:
        """Have the child load what it needs; ends in `Ready`, `Broken`, or as `work` does."""
        return self._ask(prepare, job, emit, interrupt, limit_s, lambda _cause: 0.0)

    def work(
        self,
        job: Job,
        *,
        emit: Emit,
        interrupt: Interrupt,
        timeout_s: float | None,
        grace_s: Callable[[Cause], float],
        silence_s: float | None = None,
    ) -> Answer:
        """Have the child run a job. Any answer but `Done` leaves a dead child; so does one that came after a stop.

        Raises:
            ChildGoneError: it died while it was idle; the job was not begun.
        """  # fmt: skip
        if not self.alive:
            raise ChildGoneError
        self.jobs += 1
        self._discard_leftovers()
        return self._ask(Work(job, silence_s), job, emit, interrupt, timeout_s, grace_s)

    def retire(self) -> None:
        """Let the child end itself, which it does when its pipe from us ends."""
        if self._request >= 0:
            os.close(self._request)
            self._request = -1

    def kill(self) -> int:
        """Kill the child's whole process group and reap the child; return its exit status."""
        if not self._buried:
            self._buried = True
            # Before the reaping: until then nobody else can have the number of this group.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()
            self.retire()
            for fd in (self._reply, self._stdout, self._stderr, self._pulse, self._pidfd):
                if fd is not None:
                    os.close(fd)
        return self._process.returncode

    # -- one conversation ---------------------------------------------------------------------------------------

    def _ask(
        self, request: ToChild, job: Job, emit: Emit, interrupt: Interrupt, timeout_s: float | None,
        grace_s: Callable[[Cause], float],
    ) -> Answer:  # fmt: skip
        talk = _Talk(job, emit)
        self._outbox = frame(request)
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        cause: Cause | None = None
        kill_at: float | None = None
        poll = self._poll(interrupt)
        pulse = Pulse(self._pulse, request.silence_s if isinstance(request, Work) else None)
        while True:
            now = time.monotonic()
            pulse.beat(now)
            if interrupt.cause is not None and (cause is None or interrupt.cause == "lost"):
                cause, kill_at = interrupt.cause, now + self._stop(interrupt.cause, grace_s)
            elif cause is None and deadline is not None and now >= deadline:
                cause, kill_at = "timeout", now + self._stop("timeout", grace_s)
            if kill_at is not None and now >= kill_at:
                return self._stopped(cause or "lost", talk, timeout_s, None)
            dead = False
            for fd, _events in poll.poll(self._wait_ms(now, min(kill_at or deadline or _NEVER, pulse.due))):
                if fd == self._reply:
                    dead = not self._read_reply(talk) or dead
                elif fd == self._request:
                    self._post(poll)
                elif fd in (self._stdout, self._stderr):
                    if not self._read_output(fd, talk.lines):
                        poll.unregister(fd)
                elif fd == self._pidfd:
                    dead = True
                else:
                    poll.unregister(fd)  # the interrupt: thrown once, readable for ever
            talk.flush()
            if deadline is not None and talk.extended_s:
                deadline, talk.extended_s = deadline + talk.extended_s, 0.0
            if talk.answer is None and (dead or (self._pidfd is None and self._ended())):
                while self._readable(self._reply) and self._read_reply(talk):
                    pass
                talk.flush()
                if talk.answer is None:
                    return self._stopped(cause, talk, timeout_s, None) if cause else self._crashed(talk)
            if talk.answer is not None:
                self._drain_output(talk)
                if cause is not None:
                    return self._stopped(cause, talk, timeout_s, talk.answer)
                return talk.answer

    def _poll(self, interrupt: Interrupt) -> select.poll:
        poll = select.poll()
        for fd in (self._reply, self._stdout, self._stderr, interrupt.fileno(), self._pidfd):
            if fd is not None:
                poll.register(fd, select.POLLIN)
        self._post(None)
        if self._outbox:
            poll.register(self._request, select.POLLOUT)
        return poll

    def _wait_ms(self, now: float, until: float) -> float | None:
        wait_ms = None if until == _NEVER else max(0.0, until - now) * 1000 + 0.5
        return min(wait_ms or _LOOK_EVERY_MS, _LOOK_EVERY_MS) if self._pidfd is None else wait_ms

    def _stop(self, cause: Cause, grace_s: Callable[[Cause], float]) -> float:
        """Ask the body to stop; return how long it may take."""
        allowed_s = 0.0 if cause == "lost" else grace_s(cause)
        if allowed_s > 0 and not self._outbox:
            self._outbox = frame(Stop(cause))
            self._post(None)
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.pid, signal.SIGTERM)
        return allowed_s

    def _stopped(self, cause: Cause, talk: _Talk, timeout_s: float | None, answer: Answer | None) -> Answer:
        """Bury a child whose body was told to stop; a body that had ended before keeps its own end."""
        self._drain_output(talk)
        self.kill()
        talk.lines.close()
        ended = answer.ended if isinstance(answer, Done) else None
        if ended is not None and ended.how != cause:
            return Done(ended)
        error = ended.error if ended is not None else None
        if cause == "timeout":
            error = ErrorInfo(
                type="TimeoutError",
                message=f"still running after its timeout of {timeout_s:g} s",
                traceback=error.traceback if error is not None else "",
                bases=("OSError", "Exception", "BaseException"),
            )
        return Ended(how=cause, error=error)

    def _crashed(self, talk: _Talk) -> Ended:
        self._drain_output(talk)
        status = self.kill()
        talk.lines.close()
        instead, why = death_told(talk.limits, status)
        if instead is not None:
            return Ended(how="raised", error=instead)
        message = f"the process that ran the job died: {_told(status)}{why}"
        if words := [*talk.tail, *talk.dump]:
            message += "\nit wrote last:\n" + "\n".join(words)
        return Ended(how="crashed", error=ErrorInfo(type="ProcessDied", message=message))

    # -- the pipes ----------------------------------------------------------------------------------------------

    def _post(self, poll: select.poll | None) -> None:
        try:
            while self._outbox:
                self._outbox = self._outbox[os.write(self._request, self._outbox) :]
        except BlockingIOError:
            return
        except BrokenPipeError:
            self._outbox = b""  # its death is seen on the other pipe
        if poll is not None:
            poll.unregister(self._request)

    def _read_reply(self, talk: _Talk) -> bool:
        data = os.read(self._reply, _CHUNK)
        for content in self._frames.feed(data):
            talk.take(content)
        return bool(data)

    def _read_output(self, fd: int, keeper: LineKeeper) -> bool:
        try:
            data = os.read(fd, _CHUNK)
        except BlockingIOError:
            return True
        keeper.feed_bytes("stdout" if fd == self._stdout else "stderr", data)
        return bool(data)

    def _drain_output(self, talk: _Talk) -> None:
        for fd in (self._stdout, self._stderr):
            # Bounded: a process that the body left behind may write for ever.
            for _ in range(64):
                if not self._readable(fd) or not self._read_output(fd, talk.lines):
                    break
        talk.lines.close()

    def _discard_leftovers(self) -> None:
        """Show what was written between two jobs, which belongs to neither, on the worker's own stderr."""
        for fd in (self._stdout, self._stderr):
            with suppress(BlockingIOError):
                if data := os.read(fd, _CHUNK):
                    sys.stderr.write(data.decode(errors="backslashreplace"))

    def _readable(self, fd: int) -> bool:
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(0))

    def _ended(self) -> bool:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


class _Talk:
    """What one conversation has brought so far."""

    def __init__(self, job: Job, emit: Emit) -> None:
        self.answer: Ready | Broken | Done | None = None
        self.tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self.dump: list[str] = []
        """What faulthandler wrote: the beginning of it."""
        self.limits = limits_of(job)
        self.lines = LineKeeper(job.id, job.attempt, self._tell)
        self._emit = emit
        self._progress: Progress | None = None
        self.extended_s = 0.0
        """By how much the body has let its time be longer, since this was looked at."""

    def take(self, content: bytes) -> None:
        match from_child.decode(content):
            case Progress() as news:
                # A loop that sets its progress at each step must not flood the ledger: the newest values are enough.
                self._progress = news if self._progress is None else _merged(self._progress, news)
            case LogLine() as line:
                self._tell(line)
                if lines.echo is not None:
                    lines.echo(line)
            case Extend(by_s=by_s):
                self.extended_s += by_s
            case NodeRun() as node:
                self._emit(node)
            case answer:
                self.answer = answer

    def flush(self) -> None:
        progress, self._progress = self._progress, None
        if progress is not None:
            self._emit(progress)

    def _tell(self, line: Any) -> None:
        if not self.dump and not (line.source == "stderr" and line.text.startswith(_FATAL)):
            self.tail.append(line.text)
        elif len(self.dump) < _FATAL_LINES:
            self.dump.append(line.text)
        self._emit(line)


def _merged(before: Progress, news: Progress) -> Progress:
    given = {name: value for name in Progress.__struct_fields__ if (value := getattr(news, name)) is not None}
    return msgspec.structs.replace(before, **given)


def _pidfd(pid: int) -> int | None:
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):  # not Linux, or a kernel before 5.3
        return None


def _told(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    hint = " (by somebody, or by the kernel because memory ran out)" if status == -signal.SIGKILL else ""
    return f"killed by {name}{hint}"
