"""Makes the schedules of a ledger what the folder of job files says, and goes on doing so while a worker runs.

A file that is wrong is told once per change, in the log and as a record of the ledger; what it said when it was last
right stays.
"""

from __future__ import annotations

import logging
import math
import re
import time
import traceback
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from penstock import calls
from penstock.core.config import seconds
from penstock.core.exceptions import InvalidScheduleError, LedgerError, PenstockError, did_you_mean
from penstock.core.records import Change
from penstock.core.secrets import mask_text
from penstock.core.typed import prepared
from penstock.job.scans import SCAN_ERROR, ScanError
from penstock.job.schedules import NAME, Plan, Schedule
from penstock.job_tasks import call_of
from penstock.options import NAMES as JOB_OPTIONS
from penstock.options import JobOptions
from penstock.readable import read
from penstock.schedule_options import OPTIONS
from penstock.schedules import Did
from penstock.sources.decorators import Call
from penstock.sources.jobs_dir import JobFile, JobsFolder, Look, Wrong
from penstock.sources.loading import LoadError
from penstock.sources.watching import Watcher

if TYPE_CHECKING:
    from penstock.client import JobQueue

logger = logging.getLogger("penstock.jobs_dir")

_OF_JOBS = tuple(name for name in JOB_OPTIONS if name not in ("at", "delay", "key", "job_id", "tags"))
_OF_SCHEDULES = tuple(name for name in OPTIONS if name not in ("cron", "every", "at", "rule", "description"))
_KNOWN = ("$schema", "job_id", "description", "schedule", "task", *_OF_SCHEDULES, *_OF_JOBS)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:\-/\[\]<>]", re.ASCII)
_REST = 20
"""What waits for more than a change of files is looked at again after that many times what it took: 5 % of a core."""
_GONE_AFTER_S = 0.3
"""A file counts as deleted when it is still missing then: some editors delete it before they write it anew."""


_errors = msgspec.json.Decoder(prepared(ScanError))


class JobFiles:
    """The folder of job files of one queue; without one in the configuration there is nothing to do."""

    def __init__(self, queue: JobQueue) -> None:
        config = queue.config
        self._queue = queue
        self._path = None if config.jobs_dir is None else queue.root / Path(config.jobs_dir).expanduser()
        self.source = f"jobs_dir:{self._path}"
        self._told: dict[str, str] = {}
        self._skipped: dict[str, str] = {}
        self._gone: set[str] | None = None
        self._before: Look | None = None
        self._again_at = math.inf
        self._watcher: Watcher | None = None
        if self._path is not None:
            self._folder = JobsFolder(self._path, trust_world_writable=config.security.trust_world_writable)
            self._watcher = Watcher(
                self._path,
                self._look_again,
                interval_s=seconds(config.jobs_dir_interval),
                events=config.jobs_dir_watch == "events",
            )

    def start(self) -> None:
        """Take the files over, and follow their changes until `stop`."""
        if self._watcher is not None:
            self._look_again()
            self._watcher.start()

    def stop(self) -> None:
        """Follow no more changes; the schedules stay."""
        if self._watcher is not None:
            self._watcher.stop()

    def look(self) -> dict[str, str]:
        """Take over what has changed; return what became of schedules, by name. Raises `LedgerError`."""
        if self._path is None:
            return {}
        found = self._folder.look()
        if found == self._before and time.monotonic() < self._again_at:
            return {}
        self._before = None  # until all of it is done
        begun = time.monotonic()
        told, settled = self._take_over(found)
        self._before = found
        self._again_at = math.inf
        if self._gone:
            self._again_at = 0.0
        elif not settled:
            ended = time.monotonic()
            self._again_at = ended + _REST * (ended - begun)
        return told

    def _look_again(self) -> float | None:
        try:
            self.look()
        except LedgerError as error:
            logger.warning("the job files could not be taken over, this is tried again: %s", error)
        except Exception:
            logger.exception("the job files could not be looked at, this is tried again")
        return _GONE_AFTER_S if self._gone else None

    # -- inside -------------------------------------------------------------------------------------------------------

    def _take_over(self, found: Look) -> tuple[dict[str, str], bool]:
        schedules = self._queue.schedules
        there = {s.name: s for s in schedules.list(source=self.source) if s.plan.source == self.source}
        errors = dict(found.errors)
        plans = self._plans(found.files.values(), errors)
        owners = self._owners(found, plans, there, errors)
        wanted: dict[str, Plan] = {}
        for name, path in owners.items():
            if schedules.is_past(name, plans[path]):
                self._skip(found.files[path])
            else:
                wanted[name] = plans[path]
        kept = {name for name, schedule in there.items() if not found.complete or schedule.plan.where in errors}
        kept |= self._only_just_gone(found, there, wanted)
        did = schedules.declare(self.source, wanted, kept=kept - set(wanted))
        for name, what in did.items():
            if isinstance(what, Did) or name not in wanted:
                _tell(name, str(what), wanted.get(name) or there[name].plan)
            else:
                path = owners[name]
                errors[path] = found.files[path].error("ScheduleDeclaredError", what, "job_id")
        self._report(errors, {schedule.plan.where for name, schedule in there.items() if name in kept})
        # What depends on more than the files is looked at again: a task that is unknown yet, a name that is taken.
        settled = set(errors) == set(found.errors)
        return {name: str(what) for name, what in did.items()}, settled

    def _plans(self, files: Iterable[JobFile], errors: dict[str, LoadError]) -> dict[str, Plan]:
        plans: dict[str, Plan] = {}
        for file in files:
            try:
                plans[str(file.path)] = self._plan(file)
            except Wrong as wrong:
                errors[str(file.path)] = file.error(wrong.kind, str(wrong), *wrong.keys)
            except LedgerError:
                raise
            except PenstockError as error:
                told = str(error)
                key = told.partition(":")[0]
                if key == "rule":
                    key, told = "schedule", told.removeprefix("rule: ")
                keys = (key,) if key == "schedule" or key in file.options else ("task",)
                errors[str(file.path)] = file.error(type(error).__name__, told, *keys)
            except Exception as error:  # noqa: BLE001 - a plugin's type may raise anything
                known = file.error(type(error).__name__, str(error) or "no message", "task")
                trace = "" if isinstance(error, ValueError) else traceback.format_exc()
                errors[str(file.path)] = msgspec.structs.replace(known, traceback=trace)
        return plans

    def _plan(self, file: JobFile) -> Plan:
        if not NAME.fullmatch(file.job_id):
            raise Wrong(
                f"{file.job_id!r:.100} is no name: 1 to 200 of A-Z a-z 0-9 _ . : - / [ ] < > and spaces", "job_id"
            )
        for key in file.options:
            if key not in _KNOWN:
                raise Wrong(f"unknown key {key!r}.{did_you_mean(key, _KNOWN)}", key)
        call = call_of(self._queue, file.task)
        jobs = JobOptions.parse({key: value for key, value in file.options.items() if key in _OF_JOBS})
        # Programs are called by many names that are all "sh": the job_id is what people look for.
        name = _NOT_IN_NAMES.sub("-", file.job_id) if call.kind == "command" else call.name
        call = Call(call.kind, name, call.spec, call.options.merged(jobs))
        options = {key: value for key, value in file.options.items() if key in _OF_SCHEDULES}
        if "rule" in options:
            raise InvalidScheduleError("rule: write it as schedule")
        return self._queue.schedules.plan(
            calls.intent_of(self._queue.config, call), source=self.source, where=str(file.path), rule=file.schedule,
            description=file.description, **options,
        )  # fmt: skip

    @staticmethod
    def _owners(
        found: Look, plans: dict[str, Plan], there: dict[str, Schedule], errors: dict[str, LoadError]
    ) -> dict[str, str]:
        """Return which file each job_id belongs to: the one that has it already, else the first by name."""
        while True:
            owners: dict[str, str] = {}
            refused: dict[str, str] = {}
            for path in sorted(path for path in plans if path not in errors):
                name = found.files[path].job_id
                schedule = there.get(name)
                holder = schedule.plan.where if schedule else ""
                # One that can be read and says another name by now has given this one up, whatever is wrong with it.
                if holder in errors and (holder not in found.files or found.files[holder].job_id == name):
                    refused[path] = holder
                elif name not in owners:
                    owners[name] = path
                elif path == holder:
                    refused[owners[name]] = path
                    owners[name] = path
                else:
                    refused[path] = owners[name]
            if not refused:
                return owners
            for path, holder in refused.items():
                file = found.files[path]
                told = f"job_id {file.job_id!r} belongs to {Path(holder).name}; give one of the two another"
                errors[path] = file.error("DuplicateJobId", told, "job_id")

    def _only_just_gone(self, found: Look, there: dict[str, Schedule], wanted: dict[str, Plan]) -> set[str]:
        """Return the names that stay for now, because their files were there a moment ago."""
        missing = {
            schedule.plan.where
            for name, schedule in there.items()
            if found.complete and name not in wanted
            and schedule.plan.where not in found.files and schedule.plan.where not in found.errors
        }  # fmt: skip
        fresh = set[str]() if self._gone is None else missing - self._gone
        self._gone = fresh
        return {name for name, schedule in there.items() if schedule.plan.where in fresh}

    # -- telling ------------------------------------------------------------------------------------------------------

    def _skip(self, file: JobFile) -> None:
        if self._skipped.get(str(file.path)) != file.text:
            self._skipped[str(file.path)] = file.text
            logger.warning("job file %s: %s is over by now; %s is skipped", file.path, file.schedule, file.job_id)

    def _report(self, errors: dict[str, LoadError], kept: set[str]) -> None:
        for path, error in errors.items():
            if self._told.get(path) != error.message:
                stays = "; its last good version stays" if path in kept else ""
                logger.error("job file %s: %s%s", path, error.message, stays)
        for path in self._told.keys() - errors.keys():
            logger.info("job file %s is good again, or gone", path)
        self._told = {path: error.message for path, error in errors.items()}
        self._record(errors)

    def _record(self, errors: dict[str, LoadError]) -> None:
        """Keep the errors as records, for every screen."""
        records = self._queue.ledger.records
        now = self._queue.now()
        changes: list[Change] = []
        present: set[str] = set()
        for record in records.all(SCAN_ERROR):
            known = read(record, _errors)
            if known is None or known.entry != self.source:
                continue
            error = errors.get(record.name)
            if error is None:
                changes.append(Change(kind=SCAN_ERROR, name=record.name, seen=record.version, body=None))
                continue
            present.add(record.name)
            fresh = self._scan_error(error, now)
            if msgspec.structs.replace(fresh, at=known.at) != known:
                body = msgspec.json.encode(fresh)
                changes.append(Change(kind=SCAN_ERROR, name=record.name, seen=record.version, body=body))
        for path in errors.keys() - present:
            body = msgspec.json.encode(self._scan_error(errors[path], now))
            changes.append(Change(kind=SCAN_ERROR, name=path, seen=0, body=body))
        if changes:
            records.write(changes)

    def _scan_error(self, error: LoadError, now: datetime) -> ScanError:
        return ScanError(
            file=error.file, type=error.type, message=mask_text(error.message), traceback=mask_text(error.traceback),
            at=now, entry=self.source,
        )  # fmt: skip


def _tell(name: str, what: str, plan: Plan) -> None:
    if what != Did.KEPT:
        rule = "" if what == "removed" else f": {plan.rule.explain()}"
        logger.info("%s %s (%s)%s", name, what, plan.where, rule)
