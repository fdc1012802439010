"""What a test suite needs of one engine: a place of its own, workers started and stopped, in a thread or a process."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar
from urllib.parse import urlsplit, urlunsplit

import msgspec

from penstock.client import JobQueue
from penstock.core.config import Config, LeaseConfig, SweepConfig, WorkerConfig
from penstock.testing import mould, services

if TYPE_CHECKING:
    import pytest

    from penstock.worker import Worker


CALM = SweepConfig(interval="500ms", due_interval="50ms", publish_grace="60s")
"""A sweep that repairs nothing during a test: what arrives has been carried by the engine."""


def wait_until(true: Callable[[], Any], timeout_s: float = 20.0, what: str = "") -> Any:
    """Wait until a look tells something true, and return it. Raises TimeoutError, which says ``what``."""
    until = time.monotonic() + timeout_s
    while not (seen := true()):
        if time.monotonic() > until:
            raise TimeoutError(f"not within {timeout_s:g} s: {what or true}")
        time.sleep(0.01)
    return seen


def short_config(**changes: Any) -> Config:
    """Return a `Config` with the protocol's times cut down, so that a lost job is back within seconds."""
    config = Config(
        lease=LeaseConfig(
            ttl="2500ms", heartbeat="400ms", fence_margin="500ms", cancel_poll="50ms", cancel_grace="500ms"
        ),
        sweep=SweepConfig(interval="500ms", due_interval="50ms", publish_grace="1s", max_publish_grace="2s"),
        worker=WorkerConfig(grace="10s"),
    )
    return msgspec.structs.replace(config, **changes)


def environment(config: Config) -> dict[str, str]:
    """Write a config as the ``PENSTOCK_*`` variables of another process; what is default is left out."""
    variables: dict[str, str] = {}

    def write(prefix: str, values: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        for name, value in values.items():
            default = defaults.get(name)
            if value == default:
                continue
            if isinstance(value, dict):
                write(f"{prefix}{name.upper()}__", value, default if isinstance(default, dict) else {})  # type: ignore[arg-type]
            else:
                variables[prefix + name.upper()] = (
                    value if isinstance(value, str) else msgspec.json.encode(value).decode()
                )

    write("PENSTOCK_", msgspec.to_builtins(config), msgspec.to_builtins(Config()))
    return variables


class WorkerThread:
    """A worker of this process, on a `JobQueue` of its own, as another process would have it."""

    def __init__(self, queue: JobQueue, **options: Any) -> None:
        # A ledger in memory is only in this object; every other one is opened again.
        ledger = queue.ledger if queue.config.ledger.startswith("memory:") else None
        self.queue = JobQueue(config=queue.config, root=queue.root, ledger=ledger)
        self.worker: Worker = self.queue.worker(**options)
        self.worker.start()

    def counts(self) -> dict[str, int]:
        """See `Worker.counts`."""
        return self.worker.counts()

    def stop(self, *, grace_s: float | None = None) -> None:
        """Drain, and close what the worker had opened. May be called again."""
        self.worker.stop(grace_s=grace_s)
        self.queue.close()


class WorkerProcess:
    """A real ``penstock worker`` process, configured by its environment alone."""

    def __init__(self, queue: JobQueue, *arguments: str, **environ: str) -> None:
        self._queue = queue
        handle, name = tempfile.mkstemp(prefix="worker-", suffix=".log", dir=queue.root)
        os.close(handle)
        self._log = Path(name)
        environ = {**_clean_environment(), **environment(queue.config), **environ}
        self.process = mould.start(["worker", *arguments], cwd=queue.root, environ=environ, output=self._log)
        self.output = ""

    @property
    def pid(self) -> int:
        """The process id."""
        return self.process.pid

    def said(self) -> str:
        """Return what it has printed so far."""
        return self._log.read_text(errors="replace")

    def wait_ready(self, timeout_s: float = 20.0) -> None:
        """Wait until the worker has told the ledger of itself. Raises TimeoutError, with what it printed."""

        def told() -> bool:
            if self.process.poll() is not None:
                raise TimeoutError(f"the worker ended with {self.wait()}:\n{self.output}")
            return any(worker.pid == self.pid for worker in self._queue.ledger.workers())

        wait_until(told, timeout_s, "the worker is ready")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the worker and wait for its end."""
        self.process.kill()
        self.wait()

    def wait(self, timeout_s: float = 30.0) -> int:
        """Wait for the end and return the exit code; `output` then holds what was printed."""
        code = self.process.wait(timeout_s)
        self.output = self.said()
        return code

    def stop(self) -> None:
        """End it in good order, and by force if it does not. May be called again."""
        if self.process.poll() is None:
            self.terminate()
            try:
                self.wait(15)
                return
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.wait()


def _clean_environment() -> dict[str, str]:
    """This process's environment without what would configure penstock, or measure the child's coverage."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("PENSTOCK_", "COV_CORE"))}


AnyWorker = WorkerThread | WorkerProcess

_LEDGER_DRIVERS = {"redis": "redis", "postgres": "psycopg"}


class Harness(ABC):
    """One engine, as the suite meets it. A new one is made for each test, in an empty folder."""

    name: ClassVar[str]
    needs_server: ClassVar[bool] = False
    unreachable_url: str | None = None
    """A URL of the same backend at which no engine is; None where that cannot be."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.namespace = f"t{uuid.uuid4().hex[:12]}"
        self._workers: list[AnyWorker] = []

    @classmethod
    def available(cls) -> str | None:
        """Say why the engine cannot be tested here, or return None."""
        return None

    @property
    @abstractmethod
    def url(self) -> str:
        """The backend's URL; with `namespace`, nobody else's messages are there."""

    def queue(self, ledger: str, **changes: Any) -> JobQueue:
        """Open a queue on this engine, with short times; ``changes`` are fields of `Config`."""
        config = short_config(
            backend=self.url,
            ledger=ledger,
            namespace=self.namespace,
            results=str(self.folder / "results"),
        )
        return JobQueue(config=msgspec.structs.replace(config, **changes), root=self.folder)

    def start_worker(self, queue: JobQueue, **options: Any) -> WorkerThread:
        """Start a worker of this process; ``options`` are those of `JobQueue.worker`."""
        started = WorkerThread(queue, **options)
        self._workers.append(started)
        return started

    def start_process(self, queue: JobQueue, *arguments: str, **environ: str) -> WorkerProcess:
        """Start ``penstock worker`` and wait until it is ready; not for a ledger in memory."""
        started = WorkerProcess(queue, *arguments, **environ)
        self._workers.append(started)
        started.wait_ready()
        return started

    def stop_worker(self, worker: AnyWorker) -> None:
        """Drain a worker and wait for its end."""
        worker.stop()

    def reset(self) -> None:
        """End every worker that still runs; an engine with a server also removes this namespace there."""
        workers, self._workers = self._workers, []
        for worker in workers:
            self.stop_worker(worker)


def _below_a_file(folder: Path) -> Path:
    """Return a path that cannot exist, as root neither: a folder within a file."""
    file = folder / "not-a-folder"
    file.write_text("")
    return file


def filled(template: str, folder: Path) -> str:
    """Fill a URL template: ``{folder}`` is the test's own, ``{redis}`` and its like the URLs of private servers."""
    for name in servers_of(template):
        template = template.replace(f"{{{name}}}", services.url(name))
    return template.replace("{folder}", str(folder))


def servers_of(template: str) -> list[str]:
    """List the servers that a URL template names."""
    return [name for name in services.NAMES if f"{{{name}}}" in template]


def not_here(template: str) -> str | None:
    """Say why what a URL template names cannot be tested here, or return None.

    That a ledger's driver is missing is told also where servers are required.
    """
    for name in servers_of(template):
        if (why := services.available(name)) is not None:
            return why
        # Which driver a backend takes (``rq+{redis}``) is its own affair.
        driver = _LEDGER_DRIVERS.get(name)
        if driver and template.startswith(f"{{{name}}}") and find_spec(driver) is None:
            return f'the ledger on {name} needs {driver}. Run: pip install "penstock[{name}]"'
    return None


def harness_for(template: str, *, called: str = "") -> type[Harness]:
    """Return a harness for any backend URL, which may be a template as in `filled`: ``"rq+{redis}"``.

    ``called`` is its name in reports; default: the URL's scheme.
    """

    class UrlHarness(Harness):
        name = called or template.partition("://")[0]
        needs_server = bool(servers_of(template))

        def __init__(self, folder: Path) -> None:
            super().__init__(folder)
            self._url = filled(template, folder)
            parts = urlsplit(self._url)
            if "{folder}" in template:
                self.unreachable_url = template.replace("{folder}", str(_below_a_file(folder)))
            elif parts.hostname:
                # Port 1 is reserved (tcpmux) and served nowhere: the connection is refused at once.
                self.unreachable_url = urlunsplit(parts._replace(netloc="127.0.0.1:1"))

        @classmethod
        def available(cls) -> str | None:
            return not_here(template)

        @property
        def url(self) -> str:
            return self._url

    return UrlHarness


def named_harness(path: str) -> type[Harness]:
    """Import ``package.module:Class``."""
    module, _, name = path.partition(":")
    return getattr(import_module(module), name)


def add_options(parser: pytest.Parser) -> None:
    """Add the options by which the conformance suite is told what to test."""
    group = parser.getgroup("penstock conformance")
    group.addoption(
        "--backend", action="append", default=[], metavar="URL",
        help="a backend to test; may be repeated; in it {folder} is each test's own folder, {redis}, {postgres}, "
        "{nats} and {rabbitmq} are private servers; default: every transport that is installed",
    )  # fmt: skip
    group.addoption(
        "--ledger", action="append", default=[], metavar="URL",
        help="a ledger to test it on ({folder} and so on as above); may be repeated; default: SQLite and one other, "
        "and memory where no server is needed",
    )  # fmt: skip
    group.addoption(
        "--every-ledger", action="store_true", help="test every transport on every ledger",
    )  # fmt: skip
    group.addoption(
        "--harness", action="append", default=[], metavar="MODULE:CLASS",
        help="a penstock.testing.harness.Harness of your own; may be repeated",
    )  # fmt: skip
