"""What can be configured. Reading files, the environment and flags is the work of ``settings/``.

Durations are written as people do (``"10m"``) and read by `seconds`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

import msgspec

from penstock.core.durations import parse_duration_s
from penstock.core.secrets import mask_data
from penstock.job.models import RetryPolicy

IsolationName = Literal["inline", "process"]


class Defaults(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[defaults]``: for every job; each is also a keyword of ``@task`` and of enqueue."""

    max_attempts: int = 1
    """How many tries in all; the first counts."""
    max_crashes: int = 3
    """How often a job may lose its process before it counts as a crash loop."""
    backoff: str = "10s..10m"
    retry_on: dict[str, Any] | tuple[str, ...] | None = None
    """Which errors are tried again: names of classes, or by name a number of tries of its own, or ``max_attempts`` and
    ``backoff``. None: all."""
    discard_on: tuple[str, ...] = ()
    """Which errors are never tried again, by the names of their classes."""
    timeout: str | float | None = None
    queue: str = "default"
    priority: int = 5
    isolation: IsolationName | None = None
    """None: tasks run in the worker, pipelines and commands in a child process."""
    max_memory: str | int | None = None
    """The address space of a body's process, such as "2GB". The limits hold for jobs in child processes."""
    max_cpu: str | float | None = None
    """The CPU time of a body's process, in whole seconds."""
    max_open_files: int | None = None
    """How many files and sockets a body's process may have open."""


class WorkerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[worker]``: how a worker works."""

    queues: tuple[str, ...] = ("default",)
    concurrency: int = 4
    processes: int = 1
    """How many processes the command ``penstock worker`` runs, each with that concurrency."""
    connect_timeout: str | float = "30s"
    """For how long the command tries again when engine or ledger do not answer at its start; 0: not at all."""
    grace: str | float = "25s"
    """How long a drain may take after the first SIGTERM."""
    health_port: int | None = None
    """Where the command ``penstock worker`` answers ``GET /live`` and ``/ready``; 0: any free port; None: nowhere."""
    health_host: str = "127.0.0.1"
    """The address of that port; ``0.0.0.0`` for probes from elsewhere. It tells no secret, and asks for none."""
    health_patience: str | float = "30s"
    """How long a loop may not turn, a broker or ledger not answer, a message wait untaken, before it counts as ill."""
    max_memory: str | int | None = None
    """A worker process that holds more, such as "500MB", drains and ends (``--processes`` starts another); a warm child
    that does is replaced."""
    max_jobs_per_process: int | None = None
    """A worker process that has had so many jobs drains and ends; ``--processes`` starts another."""
    task_concurrency: dict[str, int] = {}
    """How many jobs of a task or pipeline, by its name, each worker process runs at once."""
    dependencies: tuple[str, ...] = ()
    """What surrounds the body of each job, as ``module:name``: a ``Depends(...)`` or its like, or a mapping of some."""
    max_jobs_per_child: int = 100
    """A warm child is replaced after that many jobs."""
    scheduler: bool = True
    """Whether a worker also makes the jobs of schedules; any number may, and one that runs alone will do."""


class LeaseConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[lease]``: the protocol's own times; tests shorten them."""

    ttl: str | float = "60s"
    heartbeat: str | float = "15s"
    fence_margin: str | float = "10s"
    """A worker that cannot renew stops its bodies this long before the lease ends."""
    cancel_poll: str | float = "500ms"
    """How often a worker asks whether its running jobs are to be cancelled."""
    cancel_grace: str | float = "5s"
    """How long a body may take to end itself after a cancel or a timeout before its process is killed."""
    on_lost: Literal["stop", "finish_fenced"] = "stop"


class SweepConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[sweep]``: how often the ledger is looked over."""

    interval: str | float = "15s"
    due_interval: str | float = "250ms"
    """How often delayed jobs are looked at: the most that one can be late."""
    publish_grace: str | float = "30s"
    max_publish_grace: str | float = "10m"
    batch: int = 100


class SchedulerConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[scheduler]``: how often fire times are looked for."""

    interval: str | float = "500ms"
    """At the latest; a scheduler that knows of a fire time wakes up for it."""
    scan_interval: str | float = "10s"
    """How often workers look whether files of ``tasks`` have changed; 0: never."""
    load_timeout: str | float = "20s"
    """How long one file may take to be loaded; watched by commands, not by a worker within your own program."""
    soft_start: str | float = "30s"
    """How far apart the first runs begin of schedules that ask for a soft start."""


class TuiConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[tui]``: the screen of ``penstock top``."""

    refresh: str | float = "2s"
    """How often it looks again."""


class HistoryConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[history]``: how long final jobs stay."""

    keep_succeeded: str | float = "7d"
    keep_failed: str | float = "30d"
    """Also for cancelled jobs."""
    keep_audit: str | float = "90d"
    """How long it stays known who did what by hand; see `audit`. At most 10,000 entries are kept."""


class LimitsConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[limits]``: what is refused, so that nobody's job fills the ledger, the memory or the disk."""

    payload_max_bytes: int = 262_144
    """What the encoded input of a job may take; can only be lowered."""
    payload_max_depth: int = 64
    """How deep lists and tables in an input may be nested; can only be lowered."""
    result_max_bytes: int = 1_073_741_824
    """What one value in the result store may take; a larger one is dropped, and the job says so."""
    log_max_bytes: int = 1_048_576
    """What an attempt's log lines may take; of what comes after that, the last 64 KiB are kept."""
    max_queued: int | dict[str, int] | None = None
    """How many jobs may wait in a queue before `enqueue` is refused: for each queue, or by name (``*``: the others)."""

    def queued_max(self, queues: Iterable[str]) -> dict[str, int] | None:
        """Return how many jobs may wait in those of these queues that have a limit; None: none has."""
        if self.max_queued is None:
            return None
        if isinstance(self.max_queued, int):
            return dict.fromkeys(queues, self.max_queued)
        named, others = self.max_queued, self.max_queued.get("*")
        limits = {queue: named.get(queue, others) for queue in queues}
        return {queue: limit for queue, limit in limits.items() if limit is not None} or None


class SecurityConfig(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """``[security]``: what is trusted."""

    signing_keys: tuple[str, ...] = ()
    """Secrets of 16 characters or more, as ``env:NAME`` or ``file:/path``: the first signs each job, a worker runs only
    jobs that one of them has signed. Empty: jobs are not signed."""
    command_env: tuple[str, ...] = (
        "PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TERM", "VIRTUAL_ENV",
        "SSL_CERT_FILE", "SSL_CERT_DIR",
    )  # fmt: skip
    """Which variables of the worker's environment a command job sees, beside its own ``env``; ``*`` stands for any
    letters."""
    trust_world_writable: bool = False
    """Load tasks from files and folders that any user of the machine may change."""
    allow_shell: bool = False
    """Let job files that ask for it (``shell = true``) have their text run by ``/bin/sh``."""

    def __repr__(self) -> str:
        """Show how many keys there are, and none of them."""
        return f"SecurityConfig({len(self.signing_keys)} signing keys, command_env={self.command_env!r})"


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The whole of ``penstock.toml``. Its repr hides passwords and keys."""

    backend: str = "huey+sqlite:///.penstock/queue.db"
    ledger: str = "sqlite:///.penstock/ledger.db"
    results: str = ".penstock/results"
    """An fsspec URL or a folder."""
    namespace: str = "penstock"
    """Keeps two projects on one broker apart."""
    projects: tuple[str, ...] = ()
    """FlowerPower project folders; a job names its project by the name in conf/project.yml."""
    tasks: tuple[str, ...] = ()
    """Folders (scanned) and modules (imported) that hold tasks. A folder ends in ``/`` or exists."""
    timezone: str = "UTC"
    result_inline_max_bytes: int = 32_768
    durability: Literal["normal", "full"] = "normal"
    """``full``: the SQLite ledger survives a power cut without losing the last commits, at a price."""
    unsafe_network_fs: bool = False
    """Allow the SQLite ledger on a network file system, where WAL can corrupt it."""
    defaults: Defaults = Defaults()
    worker: WorkerConfig = WorkerConfig()
    lease: LeaseConfig = LeaseConfig()
    sweep: SweepConfig = SweepConfig()
    scheduler: SchedulerConfig = SchedulerConfig()
    tui: TuiConfig = TuiConfig()
    history: HistoryConfig = HistoryConfig()
    limits: LimitsConfig = LimitsConfig()
    security: SecurityConfig = SecurityConfig()
    engines: dict[str, dict[str, Any]] = {}
    """``[engines.NAME]``: read by that backend's own Struct."""
    schedules: dict[str, dict[str, Any]] = {}
    """``[schedules.NAME]``: what to run and when; see `declared.plan_of`."""
    jobs_dir: str | None = None
    """A folder of job files, which workers watch; see `job_files`."""
    jobs_dir_watch: Literal["events", "poll"] = "events"
    """Whether events of the file system tell of changes at once (needs ``watchfiles``), beside looking for them."""
    jobs_dir_interval: str | float = "1s"
    """How often the folder is looked at."""
    log_level: str | None = None
    """From which level on the command ``penstock worker`` logs: debug, info, warning, error."""

    def __repr__(self) -> str:
        """Show what differs from the defaults, without secrets."""
        shown = mask_data(msgspec.to_builtins(self))
        usual = mask_data(msgspec.to_builtins(type(self)()))
        told = ", ".join(f"{name}={value!r}" for name, value in shown.items() if value != usual[name])
        return f"Config({told})"


def kept_s(lease: LeaseConfig) -> float:
    """Return how long after its last renewal a lease is relied upon. Raises ValueError."""
    ttl_s = seconds(lease.ttl)
    return ttl_s - min(seconds(lease.fence_margin), ttl_s / 2)


def seconds(value: str | float) -> float:
    """Read a configured duration. Raises ValueError."""
    return parse_duration_s(value)


def retry_policy(config: Config) -> RetryPolicy:
    """Return the project's default backoff. Raises ValueError."""
    return RetryPolicy.parse(config.defaults.backoff)
