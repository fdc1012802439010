"""Starts commands of penstock's as forks of a process that has imported everything, as a suite starts hundreds.

A fresh interpreter takes most of a second of processor time until ``penstock worker`` is ready, nearly all of it for
imports. A fork is a process like any other: its own session, directory, environment, signals and exit code. Where
there is no safe fork (Windows, macOS) a fresh interpreter it is.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, Protocol

_CAN_FORK = sys.platform == "linux"


class Started(Protocol):
    """What is common to `subprocess.Popen` and a fork."""

    pid: int

    @property
    def returncode(self) -> Any:
        """The exit code, or minus the signal; None while it runs, as far as was looked."""
        ...

    def poll(self) -> int | None:
        """Look whether it has ended, and return `returncode`."""
        ...

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end. Raises subprocess.TimeoutExpired."""
        ...

    def send_signal(self, sig: int) -> None:
        """Send a signal, if it still runs."""
        ...

    def kill(self) -> None:
        """Send SIGKILL, if it still runs."""
        ...


def start(words: Sequence[str], *, cwd: Path, environ: Mapping[str, str], output: Path) -> Started:
    """Start ``python -m penstock WORDS`` in a session of its own; it prints into a file."""
    if _CAN_FORK:
        return _mould().start(words, cwd, environ, output)
    with output.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", "penstock", *words], cwd=cwd, env=dict(environ), stdin=subprocess.DEVNULL,
            stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip


# -- this side ----------------------------------------------------------------------------------------------------


class Told:
    """What the process that forks has told over its socket, of begins and of ends."""

    def __init__(self, from_mould: socket.socket) -> None:
        self._socket, self._lock = from_mould, threading.RLock()
        self._unread = b""
        self._ended: dict[int, int] = {}
        self._begun: list[int] = []

    def begun(self) -> int:
        """Wait for the next fork and return its pid."""
        with self._lock:
            while not self._begun:
                self._hear(None)
            return self._begun.pop(0)

    def ended(self, pid: int, wait_s: float | None) -> int | None:
        """Return the exit code of a fork, or None if it has not ended by then; None waits for ever."""
        until = None if wait_s is None else time.monotonic() + wait_s
        while True:
            with self._lock:
                left_s = None if until is None else max(0.0, until - time.monotonic())
                self._hear(0.0 if pid in self._ended else 0.05 if left_s is None else min(left_s, 0.05))
                if pid in self._ended or left_s == 0.0:
                    return self._ended.get(pid)

    def _hear(self, wait_s: float | None) -> None:
        if not select.select([self._socket], [], [], wait_s)[0]:
            return
        heard = self._socket.recv(65_536)
        if not heard:
            raise RuntimeError("the process that starts workers has ended")
        *lines, self._unread = (self._unread + heard).split(b"\n")
        for line in lines:
            told = json.loads(line)
            if "code" in told:
                self._ended[told["pid"]] = told["code"]
            else:
                # A number that an ended fork had may come again: what was told of that one is not of this.
                self._ended.pop(told["pid"], None)
                self._begun.append(told["pid"])


class _Mould:
    """The process that forks."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self._socket, self._lock, self._told = ours, threading.Lock(), Told(ours)
        environ = {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "COV_CORE"))}
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "penstock.testing.mould", str(theirs.fileno())],
                env=environ, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()],
            )  # fmt: skip
        atexit.register(self.close)

    def start(self, words: Sequence[str], cwd: Path, environ: Mapping[str, str], output: Path) -> _Fork:
        order = {"words": list(words), "cwd": str(cwd), "environ": dict(environ), "output": str(output)}
        with self._lock:
            self._socket.sendall(json.dumps(order).encode() + b"\n")
            return _Fork(self._told, self._told.begun())

    def close(self) -> None:
        self._socket.close()
        self._process.wait()


class _Fork:
    """As much of `subprocess.Popen` as tests use."""

    def __init__(self, told: Told, pid: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._told = told

    def poll(self) -> int | None:
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(["penstock"], timeout or 0.0)
        return code

    def send_signal(self, sig: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, sig)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _look(self, wait_s: float | None) -> int | None:
        if self.returncode is None:
            self.returncode = self._told.ended(self.pid, wait_s)
        return self.returncode


_made: dict[int, _Mould] = {}


def _mould() -> _Mould:
    """Return this process's own; one that was forked from another must not share its socket."""
    if os.getpid() not in _made:
        _made[os.getpid()] = _Mould()
    return _made[os.getpid()]


# -- the side that forks ------------------------------------------------------------------------------------------


def _import_everything() -> None:
    from penstock import registry
    from penstock.core.exceptions import PenstockError

    for package in ("penstock.cli", "penstock.ledger", "penstock.servers"):
        for module in pkgutil.iter_modules(import_module(package).__path__, f"{package}."):
            with contextlib.suppress(ImportError):  # a ledger or a server without its driver
                import_module(module.name)
    for name in registry.backend_names():
        with contextlib.suppress(PenstockError):  # an engine that is not installed
            registry.backend_class(name)
    import_module("penstock.worker")


class _Forked(BaseException):
    """Unwinds the fork's stack, so that it runs as the main module of a process does, and ends as one."""


def _serve(orders: socket.socket) -> None:
    """Fork once for each order and tell of each end; at the end of the orders end all. Raises `_Forked` in a fork."""
    ends, told = os.pipe()
    os.set_blocking(told, False)
    signal.signal(signal.SIGCHLD, _heard)
    signal.set_wakeup_fd(told, warn_on_full_buffer=False)
    unread, living = b"", set[int]()
    while True:
        ready, _, _ = select.select([orders, ends], [], [])
        if ends in ready:
            os.read(ends, 4096)
            _tell_ends(orders, living)
        if orders not in ready:
            continue
        heard = orders.recv(65_536)
        if not heard:
            for pid in living:  # each leads a session
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
            return
        *lines, unread = (unread + heard).split(b"\n")
        for line in lines:
            order = json.loads(line)
            pid = os.fork()
            if pid == 0:
                signal.set_wakeup_fd(-1)
                signal.signal(signal.SIGCHLD, signal.SIG_DFL)
                for handle in (ends, told):
                    os.close(handle)
                orders.close()
                raise _Forked(order)
            living.add(pid)
            orders.sendall(json.dumps({"pid": pid}).encode() + b"\n")


def _heard(_number: int, _frame: object) -> None:
    """The pipe of `signal.set_wakeup_fd` is what is looked at."""


def _tell_ends(orders: socket.socket, living: set[int]) -> None:
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            living.discard(pid)
            told = {"pid": pid, "code": os.waitstatus_to_exitcode(status)}
            orders.sendall(json.dumps(told).encode() + b"\n")


def _become(order: dict[str, Any]) -> NoReturn:
    os.setsid()
    os.chdir(order["cwd"])
    nothing = os.open(os.devnull, os.O_RDONLY)
    output = os.open(order["output"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    for standard, handle in ((0, nothing), (1, output), (2, output)):
        os.dup2(handle, standard)
    os.close(nothing)
    os.close(output)
    os.environ.clear()
    os.environ.update(order["environ"])
    if hasattr(time, "tzset"):
        time.tzset()
    sys.path[:0] = [order["cwd"], *filter(None, order["environ"].get("PYTHONPATH", "").split(os.pathsep))]
    sys.argv = ["penstock", *order["words"]]
    runpy.run_module("penstock", run_name="__main__", alter_sys=True)
    sys.exit(0)


def _main(handle: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the test run, which then closes the orders
    _import_everything()
    gc.collect()
    gc.freeze()  # what is there already is for all; a collection in a fork would copy its pages
    order = None
    with socket.socket(fileno=handle) as orders:
        try:
            _serve(orders)
        except _Forked as forked:
            order = forked.args[0]
    if order is not None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        _become(order)


if __name__ == "__main__":
    _main(int(sys.argv[1]))
