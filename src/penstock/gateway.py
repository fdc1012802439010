"""The only caller of a backend: checks capabilities, wraps errors, counts."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Awaitable, Callable, Generator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from penstock import bridge, registry
from penstock.core.base import BackendContext, Finding, WorkOrder
from penstock.core.capabilities import Capabilities, Support
from penstock.core.exceptions import BackendError, ConfigError, PenstockError, UnsupportedError
from penstock.core.secrets import mask_url
from penstock.core.typed import prepared
from penstock.job.models import Intent, Job, Message

_BULK = 1000
DEFAULT_PRIORITY = 5
_NAMED = 1000


class Gateway:
    """The door to one backend. Connects on the first verb that needs the engine."""

    def __init__(
        self,
        url: str,
        *,
        engines: Mapping[str, Mapping[str, Any]],
        namespace: str,
        execute: Callable[[Message], str | None],
        aexecute: Callable[[Message], Awaitable[str | None]],
        refuse: Callable[[str], None],
        claim_ahead: Callable[[Sequence[Message]], None],
    ) -> None:
        """Raise `ConfigError` for an unknown backend, transport or setting; open nothing."""
        found, self.scheme = registry.for_url(url)
        self.url = url
        self.name = found.name
        self.capabilities: Capabilities = found.capabilities_of(self.scheme)
        self.counts: Counter[str] = Counter()
        try:
            settings = msgspec.convert(dict(engines.get(self.name, {})), prepared(found.settings_type), strict=False)
        except msgspec.ValidationError as error:
            raise ConfigError(f"[engines.{self.name}]: {error}") from None
        context = BackendContext(
            url=url,
            settings=settings,
            namespace=namespace,
            execute=execute,
            aexecute=aexecute,
            refuse=refuse,
            claim_ahead=claim_ahead,
        )
        with self._told():
            self._backend = bridge.synchronous(found(context))

    @contextlib.contextmanager
    def _told(self) -> Generator[None]:
        """Pass our own errors on; make everything else a `BackendError` that names the backend, not the password."""
        try:
            yield
        except PenstockError:
            raise
        except Exception as error:
            raise BackendError(f"{mask_url(self.url)}: {type(error).__name__}: {error}") from error

    # Each capability flag is read in exactly one of the verbs below.

    def check(self, intents: Iterable[Intent]) -> None:
        """Refuse what this backend cannot do, before anything is written. Raises `UnsupportedError`."""
        if self.capabilities.priority is not Support.ABSENT:
            return
        for wanted in intents:
            if wanted.priority != DEFAULT_PRIORITY:
                raise UnsupportedError(self.scheme, "priority", " Leave priority out, or use several queues.")

    def publish(self, messages: Sequence[Message]) -> None:
        """Hand messages to the engine. Raises `BackendError`; some may be on their way all the same."""
        size = 1 if self.capabilities.bulk is Support.ABSENT else _BULK
        for start in range(0, len(messages), size):
            with self._told():
                self._backend.publish(messages[start : start + size])
        self.counts["published"] += len(messages)

    def withdraw(self, message_ids: Sequence[str]) -> int:
        """Take waiting messages back. Raises `UnsupportedError` where the engine cannot."""
        if self.capabilities.withdraw is Support.ABSENT:
            raise UnsupportedError(self.scheme, "withdraw", " The message stays until a worker refuses it.")
        with self._told():
            gone = self._backend.withdraw(message_ids)
        self.counts["withdrawn"] += gone
        return gone

    def depth(self, queue: str) -> int:
        """Count waiting messages. Raises `UnsupportedError` where the engine cannot."""
        if self.capabilities.depth is Support.ABSENT:
            raise UnsupportedError(self.scheme, "depth")
        with self._told():
            return self._backend.depth(queue)

    def inspect(self, queues: Sequence[str]) -> list[Finding]:
        """Look at the broker for what may lose messages. Never raises: what goes wrong is a finding."""
        try:
            with self._told():
                return list(self._backend.inspect(queues))
        except PenstockError as error:
            return [Finding(name="server", level="error", told=mask_url(str(error)))]

    @property
    def in_process(self) -> bool:
        """Whether messages run in the process that publishes them: no worker elsewhere will ever come."""
        return self.capabilities.workers is Support.ABSENT

    @property
    def persistent(self) -> bool:
        """Whether waiting messages survive the end of every process of ours."""
        return self.capabilities.persistent is not Support.ABSENT

    def work(self, order: WorkOrder) -> None:
        """Take messages until `stop`."""
        with self._told():
            self._backend.work(order)

    def stop(self) -> None:
        """Make `work` take nothing new."""
        with self._told():
            self._backend.stop()

    def close(self) -> None:
        """Let go of the engine."""
        with self._told():
            self._backend.close()


def message_for(job: Job) -> Message:
    """Make the message of a job's newest publish."""
    return Message(
        id=f"{job.id}_{job.publishes}",
        job_ids=(job.id,),
        queue=job.queue,
        priority=min(max(job.priority, 0), 9),  # a row may say anything, and not every engine takes it
        name=job.name,
    )


def why_no_message(message: Message) -> str | None:
    """Say why no worker would take a message: the row that it was made of is damaged. None: it would."""
    try:
        msgspec.convert(msgspec.structs.asdict(message), Message)
    except msgspec.ValidationError as error:
        return str(error)
    return None


def message_ids(job: Job) -> list[str]:
    """Name every message that may still be on its way for a job, of very many the newest."""
    return [f"{job.id}_{number}" for number in range(max(1, job.publishes - _NAMED + 1), job.publishes + 1)]
