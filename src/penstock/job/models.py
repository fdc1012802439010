"""The values that travel between the rooms: frozen Structs, all instants aware UTC."""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from penstock.core.secrets import mask_data, secrets_in
from penstock.core.typed import prepared
from penstock.job.lifecycle import Event, State
from penstock.job.retries import RetryPolicy

JOB_ID = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9_.-]{1,128}", re.ASCII)  # a file may be named so: never . or ..
NAME = re.compile(r"[A-Za-z0-9_.:\-/ \[\]<>]{1,200}", re.ASCII)
QUEUE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)

Isolation = Literal["inline", "process"]
Instant = Annotated[datetime, Meta(tz=True)]
"""An instant that is read from JSON: one without a zone could be compared with no other."""


_newest_stamp = 0
_stamping = threading.Lock()


def new_job_id() -> str:
    """Make a UUID version 7 (RFC 9562, method 3): ids of one process sort in the order in which they were made."""
    global _newest_stamp  # noqa: PLW0603 - what makes the ids of one process ascend
    ms, rest_ns = divmod(time.time_ns(), 1_000_000)
    with _stamping:
        _newest_stamp = stamp = max(ms << 12 | rest_ns * 4096 // 1_000_000, _newest_stamp + 1)
    rand = int.from_bytes(os.urandom(8), "big") & (2**62 - 1)
    value = (stamp >> 12 & 0xFFFF_FFFF_FFFF) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64 | 0b10 << 62 | rand
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


class ErrorInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """An exception as data. ``bases`` holds the class names up the tree, for `RetryPolicy`."""

    type: str
    message: str
    traceback: str = ""
    bases: tuple[str, ...] = ()
    node: str | None = None
    """For pipelines: the node that raised."""
    modules: tuple[str, ...] = ()
    """Where the class and its ``bases`` are defined, up to the last that is not built in; empty where nobody told."""


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What the submitter decides; fixed from then on."""

    id: str
    kind: str
    name: str
    spec: bytes
    """JSON, owned by the runner of this kind."""
    queue: str = "default"
    priority: int = 5
    """0 to 9, higher first."""
    isolation: Isolation = "inline"
    timeout_s: float | None = None
    max_attempts: int = 1
    max_crashes: int = 3
    backoff: RetryPolicy = RetryPolicy()
    key: str | None = None
    tick_key: str | None = None
    unique_key: str | None = None
    """What a `UniquePolicy` made of the job's input; the rule itself travels with the `Intent`."""
    parent_id: str | None = None
    tags: tuple[str, ...] = ()
    metadata: dict[str, str] = {}

    def __repr__(self) -> str:
        """Show what differs from the defaults; the input without secrets, the result as its size."""
        shown: dict[str, Any] = {}
        for field in msgspec.structs.fields(self):
            value = getattr(self, field.name)
            if value != field.default:
                shown[field.name] = value
        shown["spec"] = shown_spec(self.spec)
        if "metadata" in shown:
            shown["metadata"] = mask_data(self.metadata)
        if shown.get("result") is not None:
            shown["result"] = f"<{len(shown['result'])} bytes>"
        return f"{type(self).__name__}({', '.join(f'{name}={value!r}' for name, value in shown.items())})"


def shown_spec(spec: bytes) -> Any:
    """Return a job's input as people may see it: without secrets. What is no JSON is told by its size."""
    try:
        return mask_data(msgspec.json.decode(spec))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return f"<{len(spec)} bytes that cannot be read>"


def secrets_of(job: Intent | Job) -> frozenset[str]:
    """Return the texts in a job's input that its own names say are secret."""
    try:
        return frozenset(secrets_in(msgspec.json.decode(job.spec)))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return frozenset()


OnConflict = Literal["keep", "replace", "raise"]
LIVE: tuple[str, ...] = ("queued", "running")


class Intent(_Asked, frozen=True, kw_only=True):
    """A job that is not yet in the ledger. ``at`` and ``delay_s`` are alternatives; both absent means now."""

    at: datetime | None = None
    delay_s: float = 0.0
    held: str | None = None
    """Why it is not admitted from the start."""
    expires_at: datetime | None = None
    expires_s: float | None = None
    """The same, counted from when it is due."""
    unique_states: tuple[str, ...] = LIVE
    """In which stored states another job with its `unique_key` stands in its way."""
    unique_period_s: float | None = None
    """How long after it was made such a job does; None: for ever."""
    on_conflict: OnConflict = "keep"
    """What happens to the job that stands in its way by `key` or `unique_key`."""

    @property
    def careful(self) -> bool:
        """Whether more has to be looked at than what a row may not share with another one."""
        return self.unique_key is not None or (self.key is not None and self.on_conflict != "keep")


class Job(_Asked, frozen=True, kw_only=True):
    """A job as the ledger holds it."""

    state: State
    created_at: datetime
    scheduled_at: datetime
    reason: str | None = None
    attempt: int = 0
    """The fence: grows by one at every claim, never shrinks."""
    errors: int = 0
    crashes: int = 0
    owner: str | None = None
    lease_until: datetime | None = None
    cancel_requested_at: datetime | None = None
    held: str | None = None
    """Why the job is not admitted; None when it is."""
    expires_at: datetime | None = None
    """A job that has not begun by then has failed; None too once it has begun and waits again."""
    note: str | None = None
    """Why the job waits although it is admitted, for people."""
    published_at: datetime | None = None
    publishes: int = 0
    publish_due_at: datetime | None = None
    started_at: datetime | None = None
    finished_at: datetime | None = None
    error: ErrorInfo | None = None
    result: bytes | None = None
    """A msgpack `StoredResult` (see ``results.py``); None is the result None."""
    progress: float | None = None
    message: str | None = None
    nodes_done: int | None = None
    nodes_total: int | None = None

    @property
    def waited_s(self) -> float | None:
        """From the newest publish to when the next one is due; None while there was none."""
        if self.published_at is None or self.publish_due_at is None:
            return None
        return (self.publish_due_at - self.published_at).total_seconds()


class DamagedJob(Job, frozen=True, kw_only=True):
    """A job whose row holds what cannot be read: that is as by default here, and a worker lets the job fail."""

    damage: str


class Outcome(StrEnum):
    """What an enqueue did."""

    CREATED = "created"
    KEPT = "kept"
    """A live job with the same key (or the same id, or tick) was there and stays."""
    REPLACED = "replaced"
    """One that was there has given way to it: cancelled, or asked to stop."""
    BLOCKED = "blocked"
    """It is recorded, but held back: its task is struck, or paused, or its queue is."""

    @property
    def made(self) -> bool:
        """Whether there is a new job."""
        return self is not Outcome.KEPT


class Submission(msgspec.Struct, frozen=True):
    """The answer to one submitted `Intent`: the job that stands in the ledger now."""

    job: Job
    outcome: Outcome


_JobId = Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,128}\Z")]


class Message(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an engine carries. Its id is ``<first job id>_<publish number>``: unique for each publish.

    The patterns are checked where a message is read: ids become keys and the names of files, and whoever reaches the
    broker can write one. ARQ drops a reused id silently, RQ allows only ``[A-Za-z0-9_-]``.
    """

    id: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,256}\Z")]
    job_ids: Annotated[tuple[_JobId, ...], Meta(min_length=1, max_length=1000)]
    queue: Annotated[str, Meta(pattern=r"\A[A-Za-z0-9_.-]{1,64}\Z")] = "default"
    priority: int = 5
    name: Annotated[str, Meta(max_length=200)] = ""
    """The task's name, so that the engine's own screens stay readable."""


class HistoryEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One transition that happened."""

    job_id: str
    at: datetime
    event: Event
    start: State | None
    to: State
    attempt: int
    worker: str | None = None
    reason: str | None = None
    error: ErrorInfo | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One try of a job, derived from its history. ``outcome`` is None while it runs."""

    job_id: str
    number: int
    worker: str | None
    started_at: datetime
    finished_at: datetime | None = None
    outcome: Literal["succeeded", "error", "timeout", "released", "crashed", "cancelled"] | None = None
    error: ErrorInfo | None = None


class LogLine(msgspec.Struct, frozen=True, kw_only=True, tag="log"):
    """A line that a body wrote: by logging, loguru or print. ``source`` is a logger's name or a stream's."""

    job_id: str
    attempt: int
    at: datetime
    level: str
    source: str
    text: str
    node: str | None = None
    seq: int = 0
    """Set by the ledger; grows within it."""


class NodeRun(msgspec.Struct, frozen=True, kw_only=True, tag="node"):
    """The newest news of one pipeline node within one attempt."""

    job_id: str
    attempt: int
    name: str
    state: Literal["running", "succeeded", "failed"]
    started_at: datetime | None = None
    elapsed_s: float | None = None
    error: str | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """How far an attempt is; fields that are None stay as they were."""

    job_id: str
    attempt: int
    progress: float | None = None
    message: str | None = None
    nodes_done: int | None = None
    nodes_total: int | None = None


Report = LogLine | NodeRun | Progress


class WorkerInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A worker as it last told of itself."""

    id: str
    host: str
    pid: int
    backend: str
    queues: tuple[str, ...]
    concurrency: int
    started_at: Instant
    seen_at: Instant
    version: str = ""
    running: int = 0
    tasks: tuple[str, ...] = ()
    """Every name of a task that it can run, aliases included."""
    pipelines: tuple[str, ...] = ()
    claimed_at: Instant | None = None
    """When it last claimed a job."""
    trouble: str = ""
    """What it finds wrong with itself; empty when all is well."""
    paused: str = ""
    """By whom, and why, somebody has paused it; filled in by who lists workers, empty when nobody has."""


class Ref(msgspec.Struct, frozen=True, kw_only=True, tag="ref", omit_defaults=True):
    """Where a value lies that is too large for the ledger: checked by size and checksum when it is read."""

    uri: str
    format: str
    size_bytes: int
    sha256: str
    kind: str
    rows: int | None = None
    columns: tuple[str, ...] = ()


class JobQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list: newest first, every given field must fit. ``name`` may hold ``*`` and ``?``.

    ``states`` are shown states (see `lifecycle.SHOWN_STATES`). Page by ``before``: the last id of a page.
    """

    states: tuple[str, ...] = ()
    name: str | None = None
    queue: str | None = None
    kind: str | None = None
    ids: tuple[str, ...] | None = None
    """Only these; say a `limit` that is as large."""
    id_prefix: str | None = None
    key: str | None = None
    parent_id: str | None = None
    tag: str | None = None
    metadata: dict[str, str] = {}
    """Entries that its metadata must have."""
    held: str | None = None
    """Why it is held, as it stands in the row."""
    since: datetime | None = None
    before: str | None = None
    limit: int = 50


def worker_id(name: str | None = None) -> str:
    """Name this worker process: ``host:pid:random``; the random part tells a reused pid apart."""
    return f"{name or os.uname().nodename}:{os.getpid()}:{secrets.token_hex(3)}"


for _type in (Message, RetryPolicy, Ref):  # converted by the threads of a worker
    prepared(_type)
