"""What a task's parameters may ask for beside its arguments: resources, its own job, and how it is to be run.

The public names; each is imported when it is first used: a worker whose tasks ask for nothing loads none of this.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from uncalled_for import Dependency, Provided, Provider

    from penstock.dependencies.base import (
        Admission,
        AdmissionBlocked,
        CompletionHandler,
        FailureHandler,
        Runtime,
        TaskOutcome,
    )
    from penstock.dependencies.control import ExponentialRetry, ForcedRetry, Progress, Retry, Timeout
    from penstock.dependencies.current import (
        CurrentJob,
        CurrentQueue,
        CurrentRun,
        CurrentWorker,
        TaskArgument,
        TaskKey,
        TaskLogger,
        WorkerIdentity,
    )
    from penstock.dependencies.factories import Depends, Shared
    from penstock.dependencies.limits import ConcurrencyLimit, Cooldown, Debounce, RateLimit
    from penstock.dependencies.perpetual import Cron, Perpetual

_HOMES = {
    "Admission": "base",
    "AdmissionBlocked": "base",
    "CompletionHandler": "base",
    "ConcurrencyLimit": "limits",
    "Cooldown": "limits",
    "Cron": "perpetual",
    "CurrentJob": "current",
    "CurrentQueue": "current",
    "CurrentRun": "current",
    "CurrentWorker": "current",
    "Debounce": "limits",
    "Dependency": "base",
    "Depends": "factories",
    "ExponentialRetry": "control",
    "FailureHandler": "base",
    "ForcedRetry": "control",
    "Perpetual": "perpetual",
    "Progress": "control",
    "Provided": "base",
    "Provider": "base",
    "RateLimit": "limits",
    "Retry": "control",
    "Runtime": "base",
    "Shared": "factories",
    "TaskArgument": "current",
    "TaskKey": "current",
    "TaskLogger": "current",
    "TaskOutcome": "base",
    "Timeout": "control",
    "WorkerIdentity": "current",
}

__all__ = [
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
    "Provider",
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
        raise AttributeError(f"module 'penstock.dependencies' has no attribute {name!r}")
    value = getattr(import_module(f"penstock.dependencies.{_HOMES[name]}"), name)
    globals()[name] = value
    return value
