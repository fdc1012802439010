"""Finds the functions that ``@schedule`` marks in the configured folders, and keeps their schedules what they say.

A file that fails is told in the ledger, for every screen, and stops nobody: its last good version goes on, and what
its schedules are was said by that.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING

import msgspec

from penstock import calls
from penstock.bridge import in_thread
from penstock.core.config import seconds
from penstock.core.exceptions import PenstockError
from penstock.core.records import Change
from penstock.core.typed import prepared
from penstock.job.scans import SCAN, SCAN_ERROR, Found, LastScan, Scan, ScanError
from penstock.readable import read, readable
from penstock.sources.decorators import TASKS
from penstock.sources.loading import LoadError
from penstock.sources.scan import Loaded, load_tasks

if TYPE_CHECKING:
    from penstock.client import JobQueue
    from penstock.job.schedules import Plan
    from penstock.sources.decorators import Mark, Task

logger = logging.getLogger("penstock.scan")

_RETRY_S = 60.0
"""A file that failed is run again so soon although nothing changed: what it lacked may be there by then."""
_TRIES = 5


_errors = msgspec.json.Decoder(prepared(ScanError))
_lasts = msgspec.json.Decoder(prepared(LastScan))
_encode = msgspec.json.Encoder().encode


class Discovery:
    """The scheduled functions of one queue's project. `scan` may be called by anybody at any time."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._lock = threading.Lock()
        self._told: set[tuple[str, str, str]] = set()
        self._warned: set[tuple[str, str]] = set()
        self._functions = -1
        self._retry_at = 0.0
        self._settled: dict[str, tuple[object, list[Found], list[LoadError], set[str]]] = {}
        """What was found of each entry, as long as nothing changes: to make 1,000 plans again takes seconds."""

    # -- asking -------------------------------------------------------------------------------------------------------

    def errors(self) -> list[ScanError]:
        """List the files that could not be loaded when they were looked at last, by whichever process."""
        return [error for _, error in readable(self._queue.ledger.records.all(SCAN_ERROR), _errors)]

    def last(self) -> LastScan | None:
        """Return the newest scan of this project, or else of any that shares the ledger."""
        found = [scan for _, scan in readable(self._queue.ledger.records.all(SCAN), _lasts)]
        mine = [scan for scan in found if scan.root == str(self._queue.root)]
        return max(mine or found, key=lambda scan: scan.at, default=None)

    async def aerrors(self) -> list[ScanError]:
        """`errors`, awaited."""
        return await in_thread(self.errors)

    async def alast(self) -> LastScan | None:
        """`last`, awaited."""
        return await in_thread(self.last)

    # -- scanning -----------------------------------------------------------------------------------------------------

    def scan(self, *, declare: bool = True, prune: bool = False, log: bool = True) -> Scan:
        """Load what is new or changed, make the schedules what the functions say, tell what fails.

        Args:
            declare: also write schedules; without, only the code is loaded.
            prune: also take away schedules of folders that are no longer configured.
            log: also tell in the log what fails.

        Raises:
            LedgerError: it did not answer; the files are loaded all the same.
        """
        with self._lock:
            scan = self._scan(declare=declare, prune=prune)
            if log:
                self._tell(scan)
            return scan

    async def ascan(self, *, declare: bool = True, prune: bool = False) -> Scan:
        """`scan`, awaited. A file that never ends loading is not stopped: that takes the main thread."""
        return await in_thread(self.scan, declare=declare, prune=prune)

    def _scan(self, *, declare: bool, prune: bool) -> Scan:
        queue, began = self._queue, time.monotonic()
        again = began >= self._retry_at
        if again:
            self._retry_at = began + _RETRY_S
        self._warned = {(failure.file, failure.error) for failure in queue.load_failures}
        # The same folder may be named twice, by the configuration and on the command line.
        loaded = {source: self._load(entry, again=again) for source, entry in self._entries().items()}
        now = queue.now()
        found: list[Found] = []
        removed: list[str] = []
        errors: list[ScanError] = []
        seen: dict[str, str] = {}
        for source, part in loaded.items():
            looks = (part.tasks, part.errors)
            if not again and not part.changed and self._settled.get(source, (None,))[0] == looks:
                _, made, wrong, kept = self._settled[source]
                seen |= {one.name: one.where for one in made}
            else:
                wanted, made, wrong = self._wanted(source, part, seen)
                kept = self._kept(source, [*part.errors, *wrong])
                if declare:
                    told = queue.schedules.declare(source, wanted, kept=kept)
                    removed += [name for name, did in told.items() if did == "removed"]
                    made = [msgspec.structs.replace(one, did=str(told.get(one.name, one.did))) for one in made]
                    settled = [msgspec.structs.replace(one, did="kept") if one.did in _USUAL else one for one in made]
                    self._settled[source] = (looks, settled, wrong, kept)
            failed = [*part.errors, *wrong]
            found += made
            errors += [
                ScanError(
                    file=error.file, type=error.type, message=error.message, traceback=error.traceback,
                    line=error.line, at=now, entry=source, root=str(queue.root),
                    active=bool(part.tasks.get(error.file)),
                    waits=not part.tasks.get(error.file) and self._has_kept(error, kept),
                )
                for error in failed
            ]  # fmt: skip
        if declare and prune:
            removed += self._prune(loaded)
        names = {one.task for one in found}
        scan = Scan(
            at=now, root=str(queue.root), files=sum(len(part.tasks) for part in loaded.values()), functions=len(names),
            schedules=tuple(found), removed=tuple(removed),
            changed=tuple(file for part in loaded.values() for file in part.changed),
            errors=tuple(self._record(errors)), took_s=time.monotonic() - began,
        )  # fmt: skip
        if declare:
            self._write(SCAN, scan.root, _encode(self._last(scan)))
        queue.has_loaded([error for part in loaded.values() for error in part.errors])
        return scan

    def _load(self, entry: str, *, again: bool) -> Loaded:
        config = self._queue.config
        return load_tasks(
            [entry],
            root=self._queue.root,
            timeout_s=seconds(config.scheduler.load_timeout),
            trust_world_writable=config.security.trust_world_writable,
            again=again,
        )

    def _entries(self) -> dict[str, str]:
        """Return what `tasks` names, by the source that its schedules have."""
        return {self._source(entry): entry for entry in self._queue.config.tasks}

    def _source(self, entry: str) -> str:
        path = self._queue.root / entry
        return f"scan:{path.resolve()}" if path.exists() or "/" in entry else f"scan:{entry}"

    def _wanted(
        self, source: str, part: Loaded, seen: dict[str, str]
    ) -> tuple[dict[str, Plan], list[Found], list[LoadError]]:
        """Return the plans that functions ask for, and an error for each that cannot be had."""
        wanted: dict[str, Plan] = {}
        found: list[Found] = []
        wrong: list[LoadError] = []
        for file, names in part.tasks.items():
            for task in [TASKS[name] for name in names if name in TASKS]:
                for mark in task.marks:
                    where = f"{file}:{task.source[1]}"
                    if seen.get(mark.name) == where:
                        continue  # a file within a folder that is named too
                    if mark.name in seen:
                        told = f"another schedule is named {mark.name!r}; give one of them a name= of its own"
                        wrong.append(LoadError(file, "NameTaken", told, line=task.source[1]))
                        continue
                    seen[mark.name] = where
                    try:
                        plan = self._plan(task, mark, source=source, where=where)
                    except PenstockError as error:
                        wrong.append(LoadError(file, type(error).__name__, str(error), line=task.source[1]))
                        continue
                    wanted[mark.name] = plan
                    found.append(Found(name=mark.name, task=task.name, where=where, rule=plan.rule.explain()))
        return wanted, found, wrong

    def _plan(self, task: Task[..., object], mark: Mark, *, source: str, where: str) -> Plan:
        options = dict(mark.options)
        of_jobs = {name: options.pop(name) for name in mark.options if name in calls.OPTION_NAMES and name != "tags"}
        call = task.options(**of_jobs).call(**mark.inputs)
        intent = calls.intent_of(self._queue.config, call)
        return self._queue.schedules.plan(intent, source=source, where=where, **options)

    def _kept(self, source: str, failed: list[LoadError]) -> set[str]:
        """Return the schedules that stay although no function asks for them now: their files cannot be loaded."""
        if not failed:
            return set()
        return {
            schedule.name
            for schedule in self._queue.schedules.list(source=source)
            if any(_stands_in(schedule.plan.where, error.file) for error in failed)
            or any(error.type == "NotFound" for error in failed)
        }

    def _has_kept(self, error: LoadError, kept: set[str]) -> bool:
        return any(_stands_in(self._queue.schedules.get(name).plan.where, error.file) for name in kept)

    def _prune(self, sources: Iterable[str]) -> list[str]:
        removed: list[str] = []
        mine = f"scan:{self._queue.root}"
        for source in {s.plan.source for s in self._queue.schedules.list(source=mine)} - set(sources):
            removed += self._queue.schedules.declare(source, {})
        return removed

    # -- telling ------------------------------------------------------------------------------------------------------

    def _record(self, errors: list[ScanError]) -> list[ScanError]:
        """Write what fails, each file with the time when it began to; take away what is well again."""
        there = {record.name: record for record in self._queue.ledger.records.all(SCAN_ERROR)}
        told: list[ScanError] = []
        changes: list[Change] = []
        for error in errors:
            name = self._record_name(error)
            record = there.pop(name, None)
            before = read(record, _errors)
            if before is not None and (before.type, before.message) == (error.type, error.message):
                error = msgspec.structs.replace(error, at=before.at)  # noqa: PLW2901
            told.append(error)
            if before != error:
                version = record.version if record is not None else 0
                changes.append(Change(kind=SCAN_ERROR, name=name, seen=version, body=_encode(error)))
        mine = self._entries()
        for name, record in there.items():
            gone = read(record, _errors)
            if gone is None or gone.entry in mine:
                changes.append(Change(kind=SCAN_ERROR, name=name, seen=record.version, body=None))
        if changes:
            self._queue.ledger.records.write(changes)
        return told

    def _record_name(self, error: ScanError) -> str:
        path = self._queue.root / error.file
        return str(path) if path.exists() or "/" in error.file else error.file

    def _last(self, scan: Scan) -> LastScan:
        return LastScan(
            at=scan.at, root=scan.root, files=scan.files, functions=scan.functions, errors=len(scan.errors),
            took_s=round(scan.took_s, 4), by=self._queue.owner,
        )  # fmt: skip

    def _write(self, kind: str, name: str, body: bytes) -> None:
        records = self._queue.ledger.records
        for _ in range(_TRIES):
            there = records.get(kind, name)
            if records.write([Change(kind=kind, name=name, seen=there.version if there else 0, body=body)])[0]:
                return

    def _tell(self, scan: Scan) -> None:
        if scan.functions != self._functions or scan.changed or scan.removed:
            logger.info("discovered %d scheduled functions", scan.functions)
            self._functions = scan.functions
        failing = {(error.file, error.type, error.message) for error in scan.errors}
        for error in scan.errors:
            known = (error.file, error.type, error.message)
            if known not in self._told and (error.file, f"{error.type}: {error.message}") not in self._warned:
                logger.error("not loaded: %s", error.told)
        for file, *_ in self._told - failing:
            if not any(error.file == file for error in scan.errors):
                logger.info("loaded again: %s", file)
        self._told = failing
        for one in scan.schedules:
            if one.did not in _USUAL:
                logger.error("schedule %s of %s is not made: %s", one.name, one.where, one.did)


_USUAL = ("", "created", "changed", "kept")


def _stands_in(where: str, file: str) -> bool:
    stands = where.rpartition(":")[0]
    return stands == file or stands.startswith(f"{file.rstrip('/')}/")


__all__ = ["SCAN", "SCAN_ERROR", "Discovery", "Found", "LastScan", "Scan", "ScanError"]
