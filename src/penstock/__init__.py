"""Data pipelines as durable jobs on the Python job queue you already have.

The public names; each is imported when it is first used, so that ``import penstock`` stays cheap.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from penstock.agenda import Agenda
    from penstock.client import JobQueue, PublishWarning
    from penstock.core.asks import Ask, Discard, RetryLater, Snooze
    from penstock.core.config import Config
    from penstock.core.exceptions import (
        DuplicateJobError,
        JobCancelledError,
        JobFailedError,
        JobNotFoundError,
        PenstockError,
        QueueFullError,
        ResultTimeoutError,
    )
    from penstock.core.secret import Secret
    from penstock.dependencies import (
        Admission,
        AdmissionBlocked,
        CompletionHandler,
        ConcurrencyLimit,
        Cooldown,
        Cron,
        CurrentJob,
        CurrentQueue,
        CurrentRun,
        CurrentWorker,
        Debounce,
        Dependency,
        Depends,
        ExponentialRetry,
        FailureHandler,
        ForcedRetry,
        Perpetual,
        Progress,
        Provided,
        RateLimit,
        Retry,
        Runtime,
        Shared,
        TaskArgument,
        TaskKey,
        TaskLogger,
        TaskOutcome,
        Timeout,
        WorkerIdentity,
    )
    from penstock.gathering import agather, as_completed, gather
    from penstock.handle import CancelOutcome, JobHandle
    from penstock.job.events import NodeChange, ProgressChange, StateChange
    from penstock.job.lifecycle import State
    from penstock.job.models import LogLine, Outcome, Ref
    from penstock.job.retries import RetryPolicy, RetryRule
    from penstock.job.unique import UniquePolicy
    from penstock.logged import Logged
    from penstock.run import Run
    from penstock.sources.decorators import Call, Task, task
    from penstock.sources.scheduled import schedule
    from penstock.worker import Worker

_HOMES = {
    "Agenda": "agenda",
    "Ask": "core.asks",
    "Admission": "dependencies",
    "AdmissionBlocked": "dependencies",
    "Call": "sources.decorators",
    "CancelOutcome": "handle",
    "CompletionHandler": "dependencies",
    "ConcurrencyLimit": "dependencies",
    "Config": "core.config",
    "Discard": "core.asks",
    "Cooldown": "dependencies",
    "Cron": "dependencies",
    "CurrentJob": "dependencies",
    "CurrentQueue": "dependencies",
    "CurrentRun": "dependencies",
    "CurrentWorker": "dependencies",
    "Debounce": "dependencies",
    "Dependency": "dependencies",
    "Depends": "dependencies",
    "DuplicateJobError": "core.exceptions",
    "ExponentialRetry": "dependencies",
    "FailureHandler": "dependencies",
    "ForcedRetry": "dependencies",
    "JobCancelledError": "core.exceptions",
    "JobFailedError": "core.exceptions",
    "JobHandle": "handle",
    "JobNotFoundError": "core.exceptions",
    "JobQueue": "client",
    "LogLine": "job.models",
    "Logged": "logged",
    "NodeChange": "job.events",
    "Outcome": "job.models",
    "PenstockError": "core.exceptions",
    "Perpetual": "dependencies",
    "Progress": "dependencies",
    "ProgressChange": "job.events",
    "Provided": "dependencies",
    "PublishWarning": "client",
    "QueueFullError": "core.exceptions",
    "RateLimit": "dependencies",
    "Ref": "job.models",
    "ResultTimeoutError": "core.exceptions",
    "Retry": "dependencies",
    "RetryLater": "core.asks",
    "RetryPolicy": "job.retries",
    "RetryRule": "job.retries",
    "Run": "run",
    "Runtime": "dependencies",
    "Shared": "dependencies",
    "Secret": "core.secret",
    "Snooze": "core.asks",
    "State": "job.lifecycle",
    "StateChange": "job.events",
    "Task": "sources.decorators",
    "TaskArgument": "dependencies",
    "TaskKey": "dependencies",
    "TaskLogger": "dependencies",
    "TaskOutcome": "dependencies",
    "Timeout": "dependencies",
    "UniquePolicy": "job.unique",
    "Worker": "worker",
    "WorkerIdentity": "dependencies",
    "agather": "gathering",
    "as_completed": "gathering",
    "gather": "gathering",
    "schedule": "sources.scheduled",
    "task": "sources.decorators",
}

__all__ = [  # noqa: RUF022 - the verbs and the main class first, what parameters depend on last
    "JobQueue",
    "task",
    "schedule",
    "gather",
    "agather",
    "as_completed",
    "Run",
    "Agenda",
    "Ask",
    "Call",
    "CancelOutcome",
    "Config",
    "Discard",
    "DuplicateJobError",
    "JobCancelledError",
    "JobFailedError",
    "JobHandle",
    "JobNotFoundError",
    "LogLine",
    "Logged",
    "NodeChange",
    "Outcome",
    "PenstockError",
    "ProgressChange",
    "PublishWarning",
    "QueueFullError",
    "Ref",
    "ResultTimeoutError",
    "RetryLater",
    "RetryPolicy",
    "RetryRule",
    "Secret",
    "Snooze",
    "State",
    "StateChange",
    "Task",
    "UniquePolicy",
    "Worker",
    "Admission",
    "AdmissionBlocked",
    "CompletionHandler",
    "ConcurrencyLimit",
    "Cooldown",
    "Cron",
    "CurrentJob",
    "CurrentQueue",
    "CurrentRun",
    "CurrentWorker",
    "Debounce",
    "Dependency",
    "Depends",
    "ExponentialRetry",
    "FailureHandler",
    "ForcedRetry",
    "Perpetual",
    "Progress",
    "Provided",
    "RateLimit",
    "Retry",
    "Runtime",
    "Shared",
    "TaskArgument",
    "TaskKey",
    "TaskLogger",
    "TaskOutcome",
    "Timeout",
    "WorkerIdentity",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock' has no attribute {name!r}")
    value = getattr(import_module(f"penstock.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, "__version__"])
