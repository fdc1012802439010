"""No engine at all: publishing is executing."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import ClassVar

import msgspec

from penstock.core.base import Backend, BackendContext, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.job.models import Message


class InlineSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``[engines.inline]``: nothing can be set."""


class InlineBackend(Backend):
    """Passes each message to ``execute`` at once, after a trip through JSON: what would not travel does not here.

    A worker of this backend waits; what falls due later is executed by its sweeper, in the sweeper's thread.
    """

    name: ClassVar[str] = "inline"
    schemes: ClassVar[tuple[str, ...]] = ("inline",)
    settings_type: ClassVar[type[msgspec.Struct]] = InlineSettings

    def __init__(self, context: BackendContext) -> None:
        super().__init__(context)
        self._stopped = threading.Event()
        self._stops = 0
        self._executing = 0
        self._idle = threading.Condition()

    @classmethod
    def capabilities_of(cls, scheme: str) -> Capabilities:
        """Nothing waits, so nothing can be ordered, counted or taken back."""
        return Capabilities(
            priority=Support.ABSENT,
            withdraw=Support.ABSENT,
            depth=Support.ABSENT,
            bulk=Support.EMULATED,
            workers=Support.ABSENT,
            persistent=Support.ABSENT,
        )

    def publish(self, messages: Sequence[Message]) -> None:
        """Execute each message before returning.

        When a drain begins meanwhile, the messages not begun are dropped: their rows are published again.
        """
        stops = self._stops
        for message in messages:
            if self._stops != stops:
                return
            with self._idle:
                self._executing += 1
            try:
                self.context.execute(msgspec.convert(msgspec.json.decode(msgspec.json.encode(message)), Message))
            except msgspec.ValidationError as error:
                self.context.refuse(str(error))
            finally:
                with self._idle:
                    self._executing -= 1
                    self._idle.notify_all()

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Nothing ever waits."""
        return 0

    def depth(self, queue: str) -> int:
        """Nothing ever waits."""
        return 0

    def work(self, order: WorkOrder) -> None:
        """Wait for `stop`, and for what other threads execute by then."""
        self._stopped.clear()
        order.on_ready()
        self._stopped.wait()
        with self._idle:
            self._idle.wait_for(lambda: self._executing == 0)

    def stop(self) -> None:
        """Make `work` return, and a `publish` that is under way end after the message it executes."""
        self._stops += 1
        self._stopped.set()

    def close(self) -> None:
        """Nothing is open."""
