"""Makes the schedules of FlowerPower projects: ``schedule:`` in conf/pipelines, ``schedules`` in conf/queue.yml.

What is gone there is gone here; what is paused stays paused.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, cast

from penstock import calls
from penstock.core.exceptions import ConfigError, InvalidScheduleError, PenstockError, did_you_mean
from penstock.job.schedules import Plan
from penstock.options import NAMES as JOB_OPTIONS
from penstock.schedule_options import OPTIONS
from penstock.schedules import Did
from penstock.sources.flowerpower import Project, projects_of
from penstock.sources.schedule_blocks import Block, Unread, blocks, tables

if TYPE_CHECKING:
    from penstock.client import JobQueue

logger = logging.getLogger("penstock.schedules")

_OF_JOBS = tuple(name for name in JOB_OPTIONS if name not in ("at", "delay", "key", "job_id", "tags"))
_OF_RUNS = ("inputs", "final_vars", "config", "executor", "log_level")
_KNOWN = (*OPTIONS, "interval", "date", "paused", *_OF_JOBS, *_OF_RUNS)
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.:\-/ \[\]<>]", re.ASCII)


def declare_projects(queue: JobQueue, plan_of: Callable[..., Plan]) -> dict[str, str]:
    """Make the schedules of all projects what their files say; return what became of each, by name.

    One that is wrong is told in the log, and stays as it was; the others are made. ``plan_of`` reads one table of
    ``schedules``, as those of the configuration are.
    """
    told: dict[str, str] = {}
    try:
        projects = projects_of(queue.config, queue.root)
    except ConfigError as error:
        logger.error("the schedules of projects are not made: %s", error)
        return told
    for project in projects.values():
        if project.kind == "flowerpower":
            told |= _Declaring(queue, project, plan_of).run()
    return told


class ProjectFiles:
    """The files in which projects say what they schedule, and whether they have changed."""

    def __init__(self, queue: JobQueue) -> None:
        self._queue = queue
        self._declared = self._look()

    def follow(self, plan_of: Callable[..., Plan]) -> dict[str, str]:
        """Make the schedules anew if a file was added, changed or deleted; see `declare_projects`."""
        found = self._look()
        if found == self._declared:
            return {}
        told = declare_projects(self._queue, plan_of)
        self._declared = found  # not before: a ledger that does not answer is asked again
        for name, what in told.items():
            if what != Did.KEPT:
                logger.info("schedule %s of a project: %s", name, what)
        return told

    def _look(self) -> frozenset[tuple[str, int, int]]:
        try:
            projects = projects_of(self._queue.config, self._queue.root)
        except ConfigError:
            return frozenset()  # `declare_projects` tells of it
        found: set[tuple[str, int, int]] = set()
        for project in projects.values():
            if project.kind != "flowerpower":
                continue
            for path in (*project.conf.glob("*.y*ml"), *project.conf.glob("*/**/*.y*ml")):
                with suppress(OSError):  # gone meanwhile
                    seen = path.stat()
                    found.add((str(path), seen.st_mtime_ns, seen.st_size))
        return frozenset(found)


class _Declaring:
    """One project."""

    def __init__(self, queue: JobQueue, project: Project, plan_of: Callable[..., Plan]) -> None:
        self._queue = queue
        self._table_plan = plan_of
        self._project = project
        self._source = f"flowerpower:{project.root}"
        self._there = {schedule.name: schedule.plan.source for schedule in queue.schedules.list()}
        self._wanted: dict[str, Plan] = {}
        self._kept: set[str] = set()
        self._told: dict[str, str] = {}

    def run(self) -> dict[str, str]:
        """Read the project's blocks and declare what they ask for."""
        old: list[str] = []
        paused: dict[str, str] = {}
        for block in blocks(self._project):
            name = self._name(block.pipeline)
            try:
                if isinstance(block, Unread):
                    raise block.error
                self._want(name, self._plan_of(block))
            except PenstockError as error:
                self._wrong(name, error)
                continue
            if block.old:
                old.append(f"{block.pipeline} ({block.old})")
            if block.paused:
                paused[name] = block.where
        if old:
            logger.warning(
                "%s: schedule blocks in the spelling of FlowerPower before 0.21 are read: %s",
                self._project.root, "; ".join(old),
            )  # fmt: skip
        self._from_queue_file()
        did = self._queue.schedules.declare(self._source, self._wanted, kept=self._kept)
        for name, where in paused.items():
            if did.get(name) is Did.CREATED:
                self._queue.schedules.pause(name, f"paused in {where}", by="")
        return self._told | {name: str(what) for name, what in did.items()}

    def _want(self, name: str, plan: Plan) -> None:
        if self._queue.schedules.is_past(name, plan):
            logger.warning("%s: its time is over by now; %s is skipped", plan.where, name)
            self._told[name] = "skipped: its time is over"
        else:
            self._wanted[name] = plan

    def _wrong(self, name: str, error: PenstockError) -> None:
        self._told[name] = str(error)
        self._kept.add(name)
        logger.error("schedule %s is not made: %s", name, error)

    def _name(self, wanted: str) -> str:
        """Return the pipeline's name, with the project's before it where somebody else has that one."""
        whole = _NOT_IN_NAMES.sub("-", f"{self._project.name}/{wanted}")
        holder = self._there.get(wanted)
        taken = holder != self._source if holder is not None else self._there.get(whole) == self._source
        return whole if taken or wanted in self._queue.config.schedules else wanted

    def _plan_of(self, block: Block) -> Plan:
        for key in block.options:
            if key not in _KNOWN:
                raise InvalidScheduleError(f"{block.where}: schedule: unknown key {key!r}.{did_you_mean(key, _KNOWN)}")
        run: dict[str, Any] = {
            name: value for name, value in block.options.items() if name in _OF_RUNS or name in _OF_JOBS
        }
        options = {name: value for name, value in block.options.items() if name in OPTIONS}
        try:
            call = self._queue.pipeline(block.pipeline, project=self._project.name, **run)
            return self._queue.schedules.plan(
                calls.intent_of(self._queue.config, call), source=self._source, where=block.where, **options
            )
        except PenstockError as error:
            raise InvalidScheduleError(f"{block.where}: schedule: {error}") from error

    def _from_queue_file(self) -> None:
        """Take ``schedules`` of the project's own queue settings, unless those are the configuration itself."""
        try:
            found = list(tables(self._project))
        except ConfigError as error:
            logger.error("the schedules of %s are not made: %s", self._project.root, error)
            self._kept.update(name for name, source in self._there.items() if source == self._source)
            return
        for name, where, table in found:
            if name in self._queue.config.schedules:
                continue  # the configuration has it, or is this very file
            try:
                if not isinstance(table, dict):
                    raise InvalidScheduleError(f"{where}: {name} is {table!r:.100}, not a mapping")
                given = {key: value for key, value in cast("dict[str, Any]", table).items() if value is not None}
                if not {"task", "pipeline", "command"} & given.keys():
                    given["pipeline" if self._project.has(name) else "task"] = name
                self._want(name, self._table_plan(self._queue, name, given, source=self._source, where=where))
            except PenstockError as error:
                self._wrong(name, error)
