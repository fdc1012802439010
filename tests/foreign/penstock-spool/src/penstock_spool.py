"""``spool:///folder``: a message is a file ``<9 - priority>-<time>-<message id>``: names sort as they are to go."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from penstock.core.base import Backend, BackendContext, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendUnavailableError
from penstock.core.hookspecs import hookimpl
from penstock.job.models import Message


@hookimpl
def backend_class() -> type[Backend]:
    return SpoolBackend


class SpoolSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    poll_s: float = 0.02  # how often an idle worker looks for messages


class SpoolBackend(Backend):
    name = "spool"
    schemes = ("spool",)
    settings_type = SpoolSettings

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        return Capabilities(
            priority=Support.NATIVE,
            withdraw=Support.ABSENT,
            depth=Support.NATIVE,
            bulk=Support.EMULATED,  # file by file: the first is there when the second fails
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._root = Path(context.url.partition("://")[2]) / context.namespace
        self._stopping = threading.Event()

    @contextmanager
    def _folder(self, queue: str) -> Iterator[Path]:
        folder = self._root / f"queue-{queue}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            yield folder
        except OSError as error:
            raise BackendUnavailableError(f"the spool {folder} cannot be used: {error}") from error

    def publish(self, messages: Sequence[Message]) -> None:
        for message in messages:
            with self._folder(message.queue) as folder:
                part = self._root / f"{9 - message.priority}-{time.time_ns()}-{message.id}"
                part.write_bytes(msgspec.json.encode(message))
                part.rename(folder / part.name)  # nobody may take a file that is not whole

    def depth(self, queue: str) -> int:
        with self._folder(queue) as folder:
            return len(list(folder.iterdir()))

    def withdraw(self, message_ids: Sequence[str]) -> int:
        return 0  # said to be absent, and so never called

    def work(self, order: WorkOrder) -> None:
        self._stopping.clear()
        with ThreadPoolExecutor(order.concurrency) as threads:  # leaving it waits for what runs
            served = threads.map(self._serve, [order.queues] * order.concurrency)
            order.on_ready()
        list(served)  # raises what a thread raised

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        pass  # no connection is kept

    def _serve(self, queues: Sequence[str]) -> None:
        while not self._stopping.is_set():
            try:
                if (message := self._take(queues)) is None:
                    self._stopping.wait(self.context.settings.poll_s)
                else:
                    self.context.execute(message)
            except msgspec.DecodeError as error:
                self.context.refuse(f"in {self._root}: {error}")
            except BackendUnavailableError as error:
                logging.getLogger(__name__).warning("%s; trying again", error)
                self._stopping.wait(1)

    def _take(self, queues: Sequence[str]) -> Message | None:
        for queue in queues:
            with self._folder(queue) as folder:
                for file in sorted(folder.iterdir(), key=lambda file: file.name):
                    with suppress(FileNotFoundError):  # another was quicker: of several one succeeds
                        data = file.read_bytes()
                        file.unlink()
                        return msgspec.json.decode(data, type=Message)
        return None
