"""One private server of a test: started and ended through `keeper`, so that it never outlives the test run."""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path

from penstock.testing import keeper

_READY_S = 60.0


class ServiceMissingError(RuntimeError):
    """A server is not installed here, or does not start. The message says what to install, or where its log lies."""


def free_port() -> int:
    """Return a port that nobody listens on now, and low enough for a Redis of a cluster, which takes port + 10,000."""
    while True:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        if port <= 55_535:
            return port


class Server:
    """One private server: its ``url``, and what a test of an outage needs. ``start`` is not called for you."""

    def __init__(
        self,
        name: str,
        *,
        folder: Path,
        url: str,
        commands: Sequence[Sequence[str]],
        ready: Callable[[], bool],
        environ: dict[str, str] | None = None,
        user: str | None = None,
        stop_signal: int = signal.SIGTERM,
        end_signal: int = signal.SIGKILL,
    ) -> None:
        self.name = name
        self.folder = folder
        self.url = url
        self._ready = ready
        self._environ = environ or {}
        self._plan = json.dumps(
            {
                "folder": str(folder), "commands": commands, "stop": int(stop_signal),
                "end": int(end_signal), "user": user, "group": None if user is None else pwd.getpwnam(user).pw_gid,
            }
        )  # fmt: skip
        self._keeper: subprocess.Popen[bytes] | None = None

    def start(self) -> Server:
        """Start it and wait until it answers. Raises `ServiceMissingError`, with the end of its log."""
        # Nothing that configures a server of the machine may reach this one.
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("RABBITMQ_", "PG", "ERL_", "PENSTOCK_"))}
        self._keeper = subprocess.Popen(
            [sys.executable, "-I", "-S", keeper.__file__, self._plan],
            stdin=subprocess.PIPE,
            env=kept | self._environ,
            start_new_session=True,
        )
        until = time.monotonic() + _READY_S
        while not self._ready():
            if self._keeper.poll() is not None or time.monotonic() > until:
                log = self._log()
                self.close()
                raise ServiceMissingError(f"the {self.name} server does not start; its log ends:\n{log}")
            time.sleep(0.02)
        return self

    def stop(self) -> None:
        """End it in good order; what it keeps on disk is there again after `start`."""
        self._tell(b"s")

    def kill(self) -> None:
        """End it by SIGKILL; what it has written to disk is there again after `start`."""
        self._tell(b"k")

    def close(self) -> None:
        """End it and remove what it wrote. May be called again."""
        self._tell(b"")
        shutil.rmtree(self.folder, ignore_errors=True)

    def _tell(self, word: bytes) -> None:
        keeping, self._keeper = self._keeper, None
        if keeping is None or keeping.stdin is None:
            return
        with contextlib.suppress(BrokenPipeError):  # it has ended by itself
            keeping.stdin.write(word)
            keeping.stdin.flush()
        with contextlib.suppress(BrokenPipeError):
            keeping.stdin.close()
        keeping.wait()

    def _log(self) -> str:
        try:
            return (self.folder / "log").read_text(errors="replace")[-2000:]
        except OSError:
            return "(no log)"

    def __enter__(self) -> Server:
        return self if self._keeper is not None else self.start()

    def __exit__(self, *_exc: object) -> None:
        self.close()


def answers(port: int, question: bytes, answer: bytes) -> Callable[[], bool]:
    """Return a look that tells whether a question to the port is answered so."""

    def ready() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
                connection.sendall(question)
                return connection.recv(len(answer)) == answer
        except OSError:
            return False

    return ready


@contextlib.contextmanager
def outage(of: Server) -> Generator[None]:
    """Stop a server for a while."""
    of.stop()
    try:
        yield
    finally:
        of.start()


_HOLD = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=30)
held.execute("BEGIN IMMEDIATE")
print("held", flush=True)
sys.stdin.read()
"""


@contextlib.contextmanager
def locked(file: Path) -> Generator[None]:
    """Hold a SQLite file's write lock for a while, as another program would: its reads go on being answered."""
    command = [sys.executable, "-c", _HOLD, str(file)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        try:
            yield
        finally:
            holder.kill()
