"""What a process keeps for the dependencies of its bodies: the queue, the loop, and what is shared."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from penstock.core.config import Config
from penstock.core.exceptions import ConfigError

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.dependencies.around import Around
    from penstock.dependencies.loops import Loops

logger = logging.getLogger("penstock.dependencies")


class Home:
    """Opens nothing before a body asks for it. Safe from any thread."""

    def __init__(self, queue: Callable[[], JobQueue], config: Config, root: Path) -> None:
        self._queue = queue
        self._config = config
        self._root = root
        self._given: Mapping[str, Any] | None = None
        self._around: Around | None = None
        self._engine_loop: asyncio.AbstractEventLoop | None = None

    @property
    def queue(self) -> JobQueue:
        """The queue that the jobs came from."""
        return self._queue()

    def surround(self, given: Mapping[str, Any] | None) -> None:
        """Put these dependencies around each body from now on; None: those of the configuration.

        Raises:
            ConfigError: there is no such thing, or it cannot surround a body.
        """
        self._given, self._around = given, None
        _ = self.around

    @property
    def around(self) -> Around | None:
        """What surrounds each body, if anything does. Raises `ConfigError` as `surround` does."""
        if self._around is None and (self._given or self._config.worker.dependencies):
            from penstock.dependencies import around

            if self._given is None:
                self._around = around.named(self._config.worker.dependencies, self._root)
            else:
                self._around = around.Around(self._given)
        return self._around

    def around_setup(self) -> dict[str, Any]:
        """Return what a child process needs to put the same around a body.

        Raises:
            ConfigError: it was given as objects, which stay in this process.
        """
        if not self.around:
            return {}
        if self._given is not None:
            raise ConfigError(
                "this job runs in a child process, which cannot have the dependencies that worker() was given: "
                "name them in [worker] dependencies, or use isolation='inline' for it"
            )
        return setup_of(self._config, self._root)

    @cached_property
    def loops(self) -> Loops:
        """The loop."""
        from penstock.dependencies.loops import Loops

        return Loops(self._engine_loop)

    @asynccontextmanager
    async def on_this_loop(self) -> AsyncGenerator[None]:
        """Let the loop of an engine's worker, which runs this, be the one until this is left."""
        if "loops" in self.__dict__:  # bodies ran in this process before
            await asyncio.to_thread(self.close)
        self._engine_loop = asyncio.get_running_loop()
        try:
            yield
        finally:
            self._engine_loop = None
            loops = self.__dict__.pop("loops", None)
            if loops is not None:
                try:
                    await loops.leave()
                except Exception:
                    logger.exception("what bodies shared was not closed in good order")

    def close(self) -> None:
        """Close what is shared. Never raises; does nothing while an engine's loop is the one."""
        if self._engine_loop is not None:
            return
        loops = self.__dict__.pop("loops", None)
        if loops is not None:
            try:
                loops.close()
            except Exception:
                logger.exception("what bodies shared was not closed in good order")


def setup_of(config: Config, root: Path) -> dict[str, Any]:
    """Return what `child_home` needs, as plain data."""
    return {"config": msgspec.to_builtins(config), "queue_root": str(root)}


def child_home(setup: Mapping[str, Any]) -> Home:
    """Return the home of a child process: its queue has the configuration of the worker's, and connections of its own.

    Raises:
        ConfigError: when the queue is asked for, and its ledger is in the worker's memory.
    """
    config, root = msgspec.convert(setup["config"], Config), Path(setup["queue_root"])
    made: list[JobQueue] = []

    def queue() -> JobQueue:
        from penstock.client import JobQueue

        if not made:
            if config.ledger.startswith("memory:"):
                raise ConfigError(
                    "the ledger of this queue is in the worker's memory, out of the reach of a child process; "
                    "use another ledger, or isolation='inline' for this task"
                )
            opened = JobQueue(config=config, root=root)
            opened.has_loaded(())
            made.append(opened)
        return made[0]

    return Home(queue, config, root)
