"""A toy engine as a stranger would write one, sound or broken in one way: proof that the suite can fail.

Its messages are files of one folder; taking one is renaming it, which the file system lets one process do. The URL's
scheme names the fault: ``toy+sound:///folder``, ``toy+forgets:///folder``, ...
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import msgspec

from penstock.core.base import Backend, BackendContext, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendUnavailableError
from penstock.core.hookspecs import hookimpl
from penstock.job.models import Message

FAULTS = ("forgets", "doubles", "haunts", "levels", "lies", "leaks", "clings", "overfills", "hoards")


class ToySettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Nothing can be set."""


class ToyBackend(Backend):
    """Waiting messages are files named ``<9 - priority>-<number>-<message id>``, so that their names sort."""

    name: ClassVar[str] = "toy"
    schemes: ClassVar[tuple[str, ...]] = tuple(f"toy+{fault}" for fault in ("sound", *FAULTS))
    settings_type: ClassVar[type[msgspec.Struct]] = ToySettings
    _numbers: ClassVar[itertools.count[int]] = itertools.count()

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        scheme, _, path = context.url.partition("://")
        self.fault = scheme.partition("+")[2]
        self._folder = Path(path) / context.namespace
        self._stopping = threading.Event()
        self._published = 0

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        native = Support.NATIVE
        return Capabilities(
            priority=native, withdraw=native, depth=native, bulk=Support.EMULATED, workers=native, persistent=native
        )

    def _queue(self, queue: str) -> Path:
        folder = self._folder / queue
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if self.fault == "leaks":
                raise
            raise BackendUnavailableError(f"the toy's folder cannot be used: {error}") from error
        return folder

    def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._published += 1
            if self.fault == "forgets" and self._published % 2 == 0:
                continue
            rank = 0 if self.fault == "levels" else 9 - message.priority
            for _ in range(2 if self.fault == "doubles" else 1):
                name = f"{rank}-{time.time_ns():020}-{next(self._numbers):08}-{message.id[:100]}"
                file = self._queue(message.queue) / name
                # Written aside, then named: nobody may take a file that is not whole.
                aside = self._folder / name
                aside.write_bytes(msgspec.json.encode(message))
                aside.rename(file)

    def _waiting(self, queue: str) -> list[Path]:
        return sorted(path for path in self._queue(queue).iterdir() if path.suffix != ".taken")

    def withdraw(self, message_ids: Sequence[str]) -> int:
        if self.fault == "clings":
            return len(message_ids)
        gone = 0
        self._queue("default")
        for queue in self._folder.iterdir():
            if queue.is_dir():
                for path in self._waiting(queue.name):
                    if path.name.split("-", 3)[3] in message_ids:
                        path.unlink(missing_ok=True)
                        gone += 1
        return gone

    def depth(self, queue: str) -> int:
        count = len(self._waiting(queue))
        return count + 1 if self.fault == "lies" else count

    def _take(self, queues: Sequence[str]) -> Message | None:
        for queue in queues:
            for path in self._waiting(queue):
                taken = path.with_suffix(".taken")
                try:
                    path.rename(taken)
                except FileNotFoundError:
                    continue  # another worker was quicker
                data = taken.read_bytes()
                taken.unlink()
                return msgspec.json.decode(data, type=Message)
        return None

    def _serve(self, order: WorkOrder) -> None:
        while not self._stopping.is_set():
            message = self._take(order.queues)
            if message is None:
                time.sleep(0.005)
            else:
                self.context.execute(message)

    def work(self, order: WorkOrder) -> None:
        self._stopping.clear()
        count = order.concurrency * (3 if self.fault == "overfills" else 1)
        threads = [threading.Thread(target=self._serve, args=(order,), daemon=True) for _ in range(count)]
        for thread in threads:
            thread.start()
        order.on_ready()
        self._stopping.wait()
        if self.fault == "haunts":
            self._stopping = threading.Event()
            threading.Thread(target=self._serve, args=(order,), daemon=True).start()
        if self.fault == "hoards":
            # Takes everything with it when it goes.
            while self._take(order.queues) is not None:
                pass
        for thread in threads:
            thread.join(0 if self.fault == "haunts" else None)

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        if self.fault != "haunts":
            self._stopping.set()


@hookimpl
def backend_class() -> type[ToyBackend]:
    return ToyBackend
