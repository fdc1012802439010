"""News of a running graph: which nodes run, how long each took, how many are done.

Knows no framework: the hooks of `penstock.runners.hamilton` call it, from whatever thread a node runs in.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

from penstock.job.models import NodeRun, Progress, Report

_ITEM_NEWS_EVERY_S = 0.5
"""A Parallelizable node runs once per item: thousands of items must not be thousands of rows."""
_ERROR_MAX = 500


class _Node:
    __slots__ = ("elapsed_s", "first_at", "told_at", "untold")

    def __init__(self) -> None:
        self.first_at = datetime.now(UTC)
        self.elapsed_s = 0.0
        self.told_at = 0.0
        self.untold = False


class NodeWatch:
    """Turns the events of one graph execution into reports. Never raises, never looks at a result."""

    def __init__(self, job_id: str, attempt: int, emit: Callable[[Report], None]) -> None:
        self.failed_node: str | None = None
        self._job_id = job_id
        self._attempt = attempt
        self._emit = emit
        self._lock = threading.Lock()
        self._nodes: dict[str, _Node] = {}
        self._starts: dict[tuple[str | None, str], float] = {}
        self._path: frozenset[str] = frozenset()
        self._done: set[str] = set()

    def graph_started(self, path: Iterable[str], overridden: Iterable[str] = ()) -> None:
        """Note which nodes will run. An overridden node is on the path and never runs."""
        with self._lock:
            self._path = frozenset(path) - frozenset(overridden)
            self._done.clear()
            self._tell_progress()

    def node_started(self, name: str, task: str | None = None) -> None:
        """Note that a node, or one item of it, starts."""
        with self._lock:
            self._starts[task, name] = time.perf_counter()
            if name not in self._nodes:
                node = self._nodes[name] = _Node()
                self._tell(name, node, "running")

    def node_finished(self, name: str, task: str | None = None, error: BaseException | None = None) -> None:
        """Note that a node, or one item of it, has ended; with ``error``, that it failed."""
        with self._lock:
            now = time.perf_counter()
            node = self._nodes.setdefault(name, _Node())
            node.elapsed_s += now - self._starts.pop((task, name), now)
            if error is not None:
                if self.failed_node is None:
                    self.failed_node = name
                    _mark(error, name)
                self._tell(name, node, "failed", f"{type(error).__name__}: {_text(error)}"[:_ERROR_MAX])
                return
            if name in self._done and now - node.told_at < _ITEM_NEWS_EVERY_S:
                node.untold = True
                return
            self._tell(name, node, "succeeded")
            if name not in self._done:
                self._done.add(name)
                self._tell_progress()

    def graph_ended(self) -> None:
        """Tell what was held back."""
        with self._lock:
            for name, node in self._nodes.items():
                if node.untold and name != self.failed_node:
                    self._tell(name, node, "succeeded")

    def _tell(
        self, name: str, node: _Node, state: Literal["running", "succeeded", "failed"], error: str | None = None
    ) -> None:
        node.told_at = time.perf_counter()
        node.untold = False
        self._pass_on(
            NodeRun(
                job_id=self._job_id,
                attempt=self._attempt,
                name=name,
                state=state,
                started_at=node.first_at,
                elapsed_s=None if state == "running" else node.elapsed_s,
                error=error,
            )
        )

    def _tell_progress(self) -> None:
        total = len(self._path)
        done = len(self._done & self._path)
        self._pass_on(
            Progress(
                job_id=self._job_id,
                attempt=self._attempt,
                progress=done / total if total else None,
                nodes_done=done,
                nodes_total=total,
            )
        )

    def _pass_on(self, report: Report) -> None:
        try:
            self._emit(report)
        except Exception:  # noqa: BLE001, S110 - news must never fail a node
            pass


def _mark(error: BaseException, name: str) -> None:
    try:
        error.penstock_node = name  # type: ignore[attr-defined] - read by runners.errors.describe_error
    except AttributeError:
        pass  # a class with __slots__; the node's own row tells it


def _text(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - a user's __str__ may raise anything
        return "<its message cannot be shown>"
