"""What is wrong, and what to do about it: one check for each thing that a job needs."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import msgspec
from msgspec.json import Decoder

from penstock import __version__, listeners, scheduler
from penstock.core.base import Finding
from penstock.core.capabilities import FLAGS
from penstock.core.config import seconds
from penstock.core.durations import format_duration
from penstock.core.exceptions import (
    BackendNotInstalledError,
    PenstockError,
    ResultError,
    UnsupportedError,
)
from penstock.core.secrets import mask_url
from penstock.job import schedules, steering
from penstock.job.models import new_job_id
from penstock.readable import unreadable
from penstock.registry import backend_class, backend_names
from penstock.results import ResultStore
from penstock.servers import disk

if TYPE_CHECKING:
    from datetime import datetime

    from penstock.client import JobQueue
    from penstock.job.models import WorkerInfo

Level = Literal["ok", "warning", "error"]
Area = Literal["about", "ledger", "engine", "results", "tasks", "workers"]

_PACKAGES = ("msgspec", "huey", "fsspec", "flowerpower", "apache-hamilton", "pandas", "pyarrow")
_SLOW_S = 0.25
_CLOCK_MAX_S = 2.0
_ILL = "look at its log; it connects again by itself, and a restart hands its jobs back"


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of one check. ``hint`` says what to do; empty when there is nothing to do."""

    area: Area
    name: str
    level: Level
    told: str
    hint: str = ""


class BackendInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One transport of one backend, as the matrix of capabilities shows it."""

    name: str
    scheme: str
    installed: bool
    capabilities: dict[str, str]
    hint: str = ""


def backends() -> list[BackendInfo]:
    """List every backend that an installed package offers, with the capabilities of each of its transports.

    Imports the engines that are installed.
    """
    found: list[BackendInfo] = []
    for name in backend_names():
        try:
            backend = backend_class(name)
        except (BackendNotInstalledError, ImportError) as error:
            found.append(BackendInfo(name=name, scheme=name, installed=False, capabilities={}, hint=str(error)))
            continue
        for scheme in backend.schemes:
            capabilities = backend.capabilities_of(scheme)
            flags = {flag: str(getattr(capabilities, flag)) for flag in FLAGS}
            found.append(BackendInfo(name=name, scheme=scheme, installed=True, capabilities=flags))
    return found


def checks(queue: JobQueue) -> list[Check]:
    """Look at everything that this queue's jobs need. Never raises; a broken thing is a check of level ``error``."""
    found = [_about(), *_packages()]
    ledger_works = True
    for look in _NAMES:
        if look in (_clock, _records, _scans, _rules, _workers, _queues, _overdue) and not ledger_works:
            continue  # one broken ledger is one error, not five
        area, name = _NAMES[look]
        try:
            seen = look(queue)
        except Exception as error:  # noqa: BLE001 - a check that fails is what was looked for
            told = str(error) if isinstance(error, PenstockError) else f"{type(error).__name__}: {error}"
            seen = [Check(area=area, name=name, level="error", told=mask_url(told), hint=_HINTS.get(name, ""))]
        if look is _ledger and seen[0].level == "error":
            ledger_works = False
        found += seen
    return found


def _about() -> Check:
    told = f"penstock {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}"
    return Check(area="about", name="version", level="ok", told=told)


def _packages() -> list[Check]:
    there: list[str] = []
    for package in _PACKAGES:
        try:
            there.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    # Looked for, not imported: that takes seconds, and a submitting machine need not have them.
    missing = [name for name in ("hamilton", "flowerpower") if importlib.util.find_spec(name) is None]
    told = ", ".join(there) + (f"; not installed: {', '.join(missing)}" if missing else "")
    return [Check(area="about", name="packages", level="ok", told=told)]


def _ledger(queue: JobQueue) -> list[Check]:
    if queue.looks_only and (file := queue.unmade_ledger) is not None:
        told = f"{mask_url(queue.config.ledger)}: not there yet; the first job, or a worker, makes it"
        return _with_findings("ledger", told, disk.look(file))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # what a ledger warns of when it is opened is found below
        ledger = queue.ledger
    started = time.perf_counter()
    counts = ledger.counts()
    took_s = time.perf_counter() - started
    told = f"{mask_url(queue.config.ledger)}: {sum(counts.values()):,} jobs, {format_duration(took_s)}"
    slow = "the ledger is slow" if took_s > _SLOW_S else ""
    return _with_findings("ledger", told, ledger.inspect(), hint=slow)


def _with_findings(area: Area, told: str, findings: Sequence[Finding], *, hint: str = "") -> list[Check]:
    """Tell of a server in one line, and of each thing that is wrong with it in another."""
    servers = [finding for finding in findings if finding.name == "server"]
    broken = next((finding for finding in servers if finding.level == "error"), None)
    if broken is not None:
        first = Check(area=area, name=area, level="error", told=f"{told}: {broken.told}", hint=broken.hint)
    else:
        whole = "; ".join([told, *(finding.told for finding in servers)])
        first = Check(area=area, name=area, level="warning" if hint else "ok", told=whole, hint=hint)
    others = [finding for finding in findings if finding.name != "server"]
    return [
        first,
        *(
            Check(area=area, name=f"{area} {one.name}", level=one.level, told=mask_url(one.told), hint=one.hint)
            for one in others
        ),
    ]


def _clock(queue: JobQueue) -> list[Check]:
    apart_s = abs(queue.now().timestamp() - time.time())
    told = f"{format_duration(apart_s)} from the ledger's"
    if apart_s > _CLOCK_MAX_S:
        hint = "set this machine's clock; penstock itself uses the ledger's"
        return [Check(area="ledger", name="clock", level="warning", told=told, hint=hint)]
    return [Check(area="ledger", name="clock", level="ok", told=told)]


def _engine(queue: JobQueue) -> list[Check]:
    url, queues = mask_url(queue.config.backend), queue.config.worker.queues
    findings = queue.gateway.inspect(queues)
    if any(finding.level == "error" for finding in findings):
        return _with_findings("engine", url, findings)  # the engine itself might wait for it for ever
    try:
        told = f"{url}: {sum(queue.gateway.depth(name) for name in queues):,} messages wait"
    except UnsupportedError:
        told = f"{url}: cannot say how many messages wait"
    return _with_findings("engine", told, findings)


def _results(queue: JobQueue) -> list[Check]:
    if "://" not in queue.config.results and not (folder := Path(queue.config.results)).exists():
        if (why := disk.cannot_make(folder)) is not None:
            raise ResultError(f"{folder} cannot be made: {why}")
        return [Check(area="results", name="results", level="ok", told=f"{folder}: not there yet, can be made")]
    store = ResultStore(queue.config.results, inline_max_bytes=0)  # 0: goes to the store, not to the ledger
    job_id = f"doctor-{new_job_id()}"
    try:
        store.decode(store.encode("penstock doctor was here", job_id=job_id, attempt=1))
    finally:
        store.delete(job_id)
    return [Check(area="results", name="results", level="ok", told=f"{mask_url(queue.config.results)}: can be written")]


def _tasks(queue: JobQueue) -> list[Check]:
    known = queue.tasks()
    failures = queue.load_failures
    if failures:
        told = "; ".join(f"{failure.file}: {failure.error}" for failure in failures)
        return [Check(area="tasks", name="tasks", level="error", told=told, hint="penstock tasks")]
    told = f"{len(known)} in {', '.join(queue.config.tasks)}" if queue.config.tasks else "none configured"
    return [Check(area="tasks", name="tasks", level="ok", told=told)]


def _scans(queue: JobQueue) -> list[Check]:
    """Tell of files that workers could not load, where they are not those that could not be loaded here."""
    here = {failure.file for failure in queue.load_failures}
    return [
        Check(area="tasks", name="scan", level="warning", told=f"as workers see it: {error.told}", hint="penstock scan")
        for error in queue.discovery.errors()
        if error.file not in here
    ]


def _rules(queue: JobQueue) -> list[Check]:
    """Tell of the strikes and pauses that hold: somebody made them, and they are easily forgotten."""
    return [
        Check(
            area="tasks", name="rules", level="warning", told=f"{rule.held}{f', by {rule.by}' if rule.by else ''}",
            hint="penstock rules",
        )
        for rule in queue.rules()
    ]  # fmt: skip


def _pipelines(queue: JobQueue) -> list[Check]:
    found = queue.pipelines()
    roots = sorted({str(root) for root in found.values()})
    if found and importlib.util.find_spec("flowerpower") is None:
        hint = 'workers need FlowerPower. Run: pip install "penstock[flowerpower]"'
        return [Check(area="tasks", name="pipelines", level="warning", told=f"{len(found)} found", hint=hint)]
    told = f"{len(found)} in {', '.join(roots)}" if found else "no FlowerPower project here"
    return [Check(area="tasks", name="pipelines", level="ok", told=told)]


def _workers(queue: JobQueue) -> list[Check]:
    alive, now = queue.workers(), queue.now()
    if not alive:
        waiting = queue.counts().get("queued", 0)
        hint = "start one: penstock worker" if waiting else ""
        level: Level = "warning" if waiting else "ok"
        return [Check(area="workers", name="workers", level=level, told=f"none alive; {waiting} jobs wait", hint=hint)]
    told = ", ".join(
        f"{worker.id} (seen {format_duration(max(0.0, (now - worker.seen_at).total_seconds()))} ago, "
        f"{worker.running}/{worker.concurrency} busy, last claim {_claimed(worker, now)})"
        for worker in alive
    )
    ill = [
        Check(area="workers", name=f"worker {worker.id}", level="warning", told=worker.trouble, hint=_ILL)
        for worker in alive
        if worker.trouble
    ]
    here = os.uname().nodename
    if any(worker.host != here for worker in alive) and queue.config.ledger.startswith("sqlite:"):
        hint = "a SQLite ledger is for one host; use postgres:// or redis://"
        return [Check(area="workers", name="workers", level="warning", told=told, hint=hint), *ill]
    return [Check(area="workers", name="workers", level="ok", told=told), *ill]


def _claimed(worker: WorkerInfo, now: datetime) -> str:
    at = worker.claimed_at
    return "never" if at is None else f"{format_duration(max(0.0, (now - at).total_seconds()))} ago"


def _queues(queue: JobQueue) -> list[Check]:
    if queue.gateway.in_process:
        return []  # nobody has to listen
    return [
        Check(area="workers", name=one.name, level=one.level, told=one.told, hint=one.hint)
        for one in listeners.look(queue, queue.workers())
    ]


def _overdue(queue: JobQueue) -> list[Check]:
    overdue = queue.jobs(states=("overdue",), limit=100)
    if not overdue:
        return [Check(area="workers", name="overdue", level="ok", told="no job has lost its worker")]
    told = f"{len(overdue)} jobs have lost their worker: {', '.join(h.id for h in overdue[:3])}"
    ttl = format_duration(seconds(queue.config.lease.ttl))
    hint = f"any worker takes them back within {ttl}; is one alive? penstock worker"
    return [Check(area="workers", name="overdue", level="warning", told=told, hint=hint)]


def _records(queue: JobQueue) -> list[Check]:
    """Tell of schedules, strikes and pauses that somebody has damaged: they are left out everywhere else."""
    hints = {
        schedules.KIND: "penstock schedules rm NAME; what files declare is made anew by the next worker",
        steering.KIND: "it holds no job; the same strike or pause made again, or taken back, mends it",
    }
    decoders: dict[str, Decoder[Any]] = {schedules.KIND: scheduler.decoder, steering.KIND: steering.decoder}
    return [
        Check(
            area="ledger", name=f"record {kind} {name}", level="error", told="damaged, and left out", hint=hints[kind]
        )
        for kind, decoder in decoders.items()
        for name in unreadable(queue.ledger.records.all(kind), decoder)
    ]


_NAMES: dict[Callable[[JobQueue], list[Check]], tuple[Area, str]] = {
    _ledger: ("ledger", "ledger"),
    _clock: ("ledger", "clock"),
    _records: ("ledger", "records"),
    _engine: ("engine", "engine"),
    _results: ("results", "results"),
    _tasks: ("tasks", "tasks"),
    _scans: ("tasks", "scan"),
    _rules: ("tasks", "rules"),
    _pipelines: ("tasks", "pipelines"),
    _workers: ("workers", "workers"),
    _queues: ("workers", "queues"),
    _overdue: ("workers", "overdue"),
}
_HINTS = {
    "ledger": "look at `ledger` in: penstock config show",
    "engine": "is the broker running? look at `backend` in: penstock config show",
    "results": "look at `results` in: penstock config show",
    "tasks": "penstock tasks",
    "pipelines": "look at `projects` in: penstock config show",
}
