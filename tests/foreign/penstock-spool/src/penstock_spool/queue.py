"""A waiting message is a file ``<9 - priority>-<time>-<number>-<message id>.msg``: names sort as they are to go."""

import heapq
import itertools
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from penstock.core.base import Backend, BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendUnavailableError
from penstock.job.models import Message
from penstock_spool.config import SpoolSettings

logger = logging.getLogger("penstock_spool")
_numbers = itertools.count()


class SpoolBackend(Backend):
    name = "spool"
    schemes = ("spool",)
    settings_type = SpoolSettings

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        return Capabilities(
            priority=Support.NATIVE,
            withdraw=Support.NATIVE,
            depth=Support.NATIVE,
            bulk=Support.EMULATED,  # file by file: the first is there when the second fails
            workers=Support.NATIVE,
            persistent=Support.NATIVE,
        )

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._root = Path(context.url.partition("://")[2]) / context.namespace
        self._stopping = threading.Event()

    def _folder(self, name: str) -> Path:
        folder = self._root / name
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise BackendUnavailableError(f"the spool {self._root} cannot be used: {error}") from error

    def publish(self, messages: Sequence[Message]) -> None:
        with self._told():
            for message in messages:
                name = f"{9 - message.priority}-{time.time_ns():020}-{next(_numbers):08}-{message.id}"
                part = self._folder(f"queue-{message.queue}") / f"{name}.part"
                part.write_bytes(msgspec.json.encode(message))
                part.rename(part.with_suffix(".msg"))  # nobody may take a file that is not whole

    def depth(self, queue: str) -> int:
        with self._told():
            return len(list(self._folder(f"queue-{queue}").glob("*.msg")))

    def withdraw(self, message_ids: Sequence[str]) -> int:
        with self._told():
            self._root.mkdir(parents=True, exist_ok=True)
            waiting = {path.stem.split("-", 3)[3]: path for path in self._root.glob("queue-*/?-*-*-*.msg")}
            return sum(_removed(waiting[found]) for found in message_ids if found in waiting)

    def work(self, order: WorkOrder) -> None:
        self._stopping.clear()
        free = threading.Semaphore(order.concurrency)
        with self._told():
            folders = [self._folder(f"queue-{queue}") for queue in order.queues]
        with ThreadPoolExecutor(order.concurrency) as threads:  # leaving it waits for what runs
            order.on_ready()
            while True:
                free.acquire()  # first a free thread, then a message for it
                if self._stopping.is_set():
                    return
                count = 1
                while free.acquire(blocking=False):
                    count += 1
                messages = self._take(folders, count)
                if len(messages) > 1:
                    self.context.claim_ahead(messages)
                for message in messages:
                    threads.submit(self._run, message).add_done_callback(lambda _: free.release())
                for _ in range(count - len(messages)):
                    free.release()
                if not messages:
                    self._stopping.wait(self.context.settings.poll_s)

    def stop(self) -> None:
        self._stopping.set()

    def close(self) -> None:
        pass  # no connection is kept

    def _take(self, folders: Sequence[Path], count: int) -> list[Message]:
        taken: list[Message] = []
        try:
            for folder in folders:
                names = (name for name in os.listdir(folder) if name.endswith(".msg"))  # noqa: PTH208 - quicker than paths
                for name in heapq.nsmallest(count - len(taken), names):
                    with suppress(FileNotFoundError):  # another process was quicker: of several one succeeds
                        data = (folder / name).read_bytes()
                        (folder / name).unlink()
                        taken.append(msgspec.json.decode(data, type=Message))
        except (OSError, msgspec.DecodeError) as error:
            logger.warning("a message in %s was not to be had: %s: %s", self._root, type(error).__name__, error)
        return taken

    def _run(self, message: Message) -> None:
        error = self.context.execute(message)
        if error is not None and self.context.settings.mirror_failures:
            failed = self._folder("failed")
            (failed / f"{time.time_ns():020}-{message.id}.txt").write_text(f"{message.name}: {error}\n")
            for old in sorted(failed.iterdir())[: -self.context.settings.keep_failed]:
                _removed(old)

    def inspect(self, queues: Sequence[str]) -> Sequence[Finding]:
        try:
            free_bytes = shutil.disk_usage(self._folder("failed")).free
        except OSError as error:
            return [Finding(name="server", level="error", told=str(error), hint="may this user write there?")]
        level = "ok" if free_bytes > 100_000_000 else "warning"
        return [Finding(name="disk", level=level, told=f"{free_bytes // 1_000_000:,} MB free")]


def _removed(path: Path) -> bool:
    """Delete a file; False when somebody else was quicker."""
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True
