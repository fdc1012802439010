"""Programs as jobs: an argument list, never a shell line."""

from __future__ import annotations

import os
import re
import select
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from penstock.core.asks import FORMS, parse_ask
from penstock.core.config import SecurityConfig
from penstock.core.exceptions import ArgumentsError, InvalidJobError, PenstockError, did_you_mean
from penstock.core.running import Runner
from penstock.job.limits import limits_of
from penstock.lines import printable
from penstock.runners.confine import confiner

if TYPE_CHECKING:
    from pathlib import Path

    from penstock.core.config import Config
    from penstock.job.models import Job
    from penstock.run import Run

OUTPUT_MAX_BYTES = 8 * 1024
"""How much of the end of the output goes into the result, and into the error."""

_NUMBER = re.compile(r"\d{1,3}", re.ASCII)
_LOOK_EVERY_S = 0.2
_STRAGGLERS_S = 0.5
"""How long the output of processes that outlive the program is still read."""
_INLINE_GRACE_S = 5.0


class CommandFailed(PenstockError):  # noqa: N818 - reads as what happened: "CommandFailed: exit status 3"
    """The program ended with an exit status that is not 0, or by a signal."""


class CommandNotFoundError(InvalidJobError):
    """The program, or the folder it was to run in, is not there: no further try can help."""


class CommandSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call of a program. ``env`` is added to what ``security.command_env`` lets through of the worker's."""

    argv: tuple[str, ...]
    cwd: str | None = None
    env: dict[str, str] = {}
    on_exit: dict[str, str] = {}
    """What an exit status asks for, as `parse_ask` reads it; of all others but 0 the job has failed."""


_decoder = msgspec.json.Decoder(CommandSpec)


def command_spec(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    on_exit: Mapping[Any, str] | None = None,
) -> CommandSpec:
    """Check a call.

    Raises:
        ArgumentsError: ``argv`` is a string, anything in the call is not text, or ``on_exit`` means nothing.
    """
    line: Any = argv  # a str is a sequence of str, which no annotation can tell apart
    if isinstance(line, str | bytes):
        shown = line if isinstance(line, str) else line.decode(errors="replace")
        try:
            hint = f" If it stands for {shlex.split(shown)!r}, pass that list (shlex.split makes one)."
        except ValueError:
            hint = ""
        raise ArgumentsError(f"a command is a list of arguments, not a line for a shell: {shown!r}.{hint}")
    words = tuple(os.fspath(word) for word in argv)
    if not words or not words[0]:
        raise ArgumentsError("a command needs at least the name of a program")
    named = [(f"argument {index}", word) for index, word in enumerate(words)]
    if cwd is not None:
        named.append(("cwd", cwd := os.fspath(cwd)))
    for name, value in (env or {}).items():
        named += [(f"the name {name!r} in env", name), (f"env[{name!r}]", value)]
        if not name or "=" in str(name):
            raise ArgumentsError(f"{name!r} cannot be the name of an environment variable")
    for what, value in named:
        if not isinstance(value, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users pass what they like
            raise ArgumentsError(f"{what} of the command is {value!r}, not a str")
        if "\0" in value:
            raise ArgumentsError(f"{what} of the command holds a NUL character")
    return CommandSpec(words, cwd, dict(env or {}), _on_exit({} if on_exit is None else on_exit))


def _on_exit(given: Mapping[Any, str]) -> dict[str, str]:
    if not isinstance(given, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance] - it may come from a file
        raise ArgumentsError(f"on_exit is {given!r}; write a table of exit statuses: {{75: 'retry 5m'}}")
    found: dict[str, str] = {}
    for status, asked in given.items():
        number = int(status) if isinstance(status, str) and _NUMBER.fullmatch(status) else status
        if not isinstance(number, int) or isinstance(number, bool) or not 1 <= number <= 255:
            raise ArgumentsError(f"on_exit: {status!r} is not an exit status of a program that failed: 1 to 255")
        if not isinstance(asked, str):  # pyright: ignore[reportUnnecessaryIsInstance] - it may come from a file
            raise ArgumentsError(f"on_exit: {asked!r} for exit status {number} is not a text; write {FORMS}")
        try:
            parse_ask(asked)
        except ValueError as error:
            raise ArgumentsError(f"on_exit: exit status {number}: {error}") from None
        found[str(number)] = asked
    return found


class CommandRunner(Runner):
    """Runs `CommandSpec`; its output becomes log lines as it comes.

    The value is ``{"exit_code": 0, "output": <the end of the output>}``.
    """

    kind: ClassVar[str] = "command"
    spec_type: ClassVar[type[msgspec.Struct]] = CommandSpec

    def __init__(self) -> None:
        self._allowed: tuple[str, ...] = SecurityConfig().command_env

    def configure(self, config: Config, root: Path) -> None:
        """See `Runner.configure`."""
        self._allowed = config.security.command_env

    def child_setup(self, job: Job) -> Mapping[str, Any]:
        """See `Runner.child_setup`."""
        return {"command_env": list(self._allowed)}

    def prepare_child(self, setup: Mapping[str, Any]) -> None:
        """See `Runner.prepare_child`."""
        self._allowed = tuple(setup["command_env"])

    def edited(self, job: Job, inputs: Mapping[str, Any]) -> CommandSpec:
        """See `Runner.edited`; the inputs of a command are the fields of its spec."""
        spec = msgspec.structs.asdict(_spec_of(job))
        for name in inputs:
            if name not in spec:
                raise ArgumentsError(
                    f"a command has no input {name!r}; there are: {', '.join(spec)}.{did_you_mean(name, spec)}"
                )
        try:
            return command_spec(**{**spec, **inputs})
        except (TypeError, ValueError, AttributeError) as error:
            raise ArgumentsError(f"the inputs of a command do not fit: {error}") from None

    def execute(self, job: Job, run: Run) -> dict[str, Any]:
        """See `Runner.execute`.

        Raises:
            Ask: the exit status is one of ``on_exit``; with the last line of the output.
            CommandFailed: the exit status is another than 0; with the end of the output.
            CommandNotFoundError: the program or its folder is not there.
            LimitNotPossibleError: the job has a limit that cannot be kept here.
        """
        spec = _spec_of(job)
        limits = limits_of(job)
        program = _Program(spec, run, confiner(limits), {**allowed_env(os.environ, self._allowed), **spec.env})
        try:
            status = program.watch()
        except BaseException:
            program.end()
            raise
        finally:
            program.close()
        output = program.output
        if status != 0:
            told = f":\n{output.rstrip()}" if output.strip() else ", without any output"
            why = f" (its limits: {limits})" if limits is not None else ""
            if (asked := spec.on_exit.get(str(status))) is not None:
                last = output.strip().rpartition("\n")[2]
                raise parse_ask(asked, f"{_status(status)}: {last}" if last else _status(status))
            raise CommandFailed(f"{_status(status)}{why}{told}")
        return {"exit_code": status, "output": output}


def _spec_of(job: Job) -> CommandSpec:
    try:
        return _decoder.decode(job.spec)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ArgumentsError(f"the command of job {job.id} cannot be read: {error}") from None


def allowed_env(env: Mapping[str, str], allowed: Sequence[str]) -> dict[str, str]:
    """Return the variables whose names are on the list: the worker's secrets are not the program's."""
    return {name: value for name, value in env.items() if any(fnmatchcase(name, one) for one in allowed)}


class _Program:
    """A running program and its two pipes.

    In a child process of ours it stays in that child's process group, which is killed as a whole from outside;
    elsewhere it gets a group of its own.
    """

    def __init__(self, spec: CommandSpec, run: Run, confine: Callable[[], None] | None, env: dict[str, str]) -> None:
        self._run = run
        self._own_group = not run.own_process
        self._tail = bytearray()
        try:
            self._process = subprocess.Popen(
                spec.argv,
                cwd=spec.cwd,
                env=env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                start_new_session=self._own_group,
                preexec_fn=confine,  # noqa: PLW1509 - two system calls, and a limited job has a process to itself
            )
        except OSError as error:
            if spec.cwd is not None and error.filename == spec.cwd:
                raise CommandNotFoundError(f"cannot run in {spec.cwd}: {error.strerror}") from None
            raise CommandNotFoundError(
                f"cannot run {spec.argv[0]!r}: {error.strerror}; is it installed on this worker, and executable?"
            ) from None
        assert self._process.stdout is not None  # noqa: S101 - for the type checker: both are PIPE
        assert self._process.stderr is not None  # noqa: S101
        self._pipes = {
            self._process.stdout.fileno(): ("stdout", self._process.stdout),
            self._process.stderr.fileno(): ("stderr", self._process.stderr),
        }

    @property
    def output(self) -> str:
        return printable(bytes(self._tail[-OUTPUT_MAX_BYTES:]).decode("utf-8", "backslashreplace"))

    def watch(self) -> int:
        """Pass on the output until the program is gone; return its exit status."""
        poll = select.poll()
        open_fds = set(self._pipes)
        for fd in open_fds:
            poll.register(fd, select.POLLIN)
        gone_at: float | None = None
        while open_fds:
            events = poll.poll(_LOOK_EVERY_S * 1000)
            for fd, _ in events:
                if not self._read(fd):
                    poll.unregister(fd)
                    open_fds.discard(fd)
            if not self._run.own_process:
                self._run.check()
            if self._process.poll() is not None:
                # Its descendants may hold the pipes open for ever.
                gone_at = gone_at or time.monotonic()
                if not events or time.monotonic() - gone_at > _STRAGGLERS_S:
                    break
        while self._process.returncode is None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_LOOK_EVERY_S)
            if not self._run.own_process:
                self._run.check()
        return self._process.returncode

    def end(self) -> None:
        """Give the program the time to end itself; what is left is killed."""
        if self._own_group:
            self._signal(signal.SIGTERM)
        # In a child of ours the group has had its SIGTERM, and our parent kills us all when the grace is over.
        until = time.monotonic() + _INLINE_GRACE_S if self._own_group else float("inf")
        poll = select.poll()
        for fd in self._pipes:
            poll.register(fd, select.POLLIN)
        while self._process.poll() is None and time.monotonic() < until:
            for fd, _ in poll.poll(50):
                if not self._read(fd):
                    poll.unregister(fd)
        if self._own_group:
            self._signal(signal.SIGKILL)

    def close(self) -> None:
        """Free the pipes. A program that still runs is not waited for: it is being killed."""
        for _, pipe in self._pipes.values():
            pipe.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(1)

    def _read(self, fd: int) -> bool:
        data = os.read(fd, 65_536)
        if data:
            self._tail += data
            del self._tail[: -2 * OUTPUT_MAX_BYTES]
            self._run.lines.feed_bytes(self._pipes[fd][0], data)
        return bool(data)

    def _signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
