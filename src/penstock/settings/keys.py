"""Which settings there are, of which type, and which one somebody meant who wrote another word."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, get_args, get_origin

import msgspec

from penstock.core.config import Config

FREE = ("engines", "schedules")
"""Tables of tables whose inner names are not ours."""

_MEANT = {
    "url": "backend",
    "broker": "backend",
    "broker_url": "backend",
    "engine": "backend",
    "queue_url": "backend",
    "database": "ledger",
    "db": "ledger",
    "ledger_url": "ledger",
    "result_store": "results",
    "results_dir": "results",
    "result_backend": "results",
    "jobs": "tasks",
    "modules": "tasks",
    "imports": "tasks",
    "include": "tasks",
    "project": "projects",
    "pipelines": "projects",
    "tz": "timezone",
    "prefix": "namespace",
    "job_defaults": "defaults",
    "task_defaults": "defaults",
    "leases": "lease",
    "cron": "schedules",
    "schedule": "schedules",
    "crons": "schedules",
    "retries": "defaults.max_attempts",
    "max_retries": "defaults.max_attempts",
    "max_tries": "defaults.max_attempts",
    "tries": "defaults.max_attempts",
    "attempts": "defaults.max_attempts",
    "retry_delay": "defaults.backoff",
    "retry_backoff": "defaults.backoff",
    "time_limit": "defaults.timeout",
    "job_timeout": "defaults.timeout",
    "num_workers": "worker.concurrency",
    "workers": "worker.concurrency",
    "threads": "worker.concurrency",
    "max_workers": "worker.concurrency",
    "parallelism": "worker.concurrency",
    "shutdown_timeout": "worker.grace",
    "grace_period": "worker.grace",
    "lease_ttl": "lease.ttl",
    "duration": "lease.ttl",
    "heartbeat_interval": "lease.heartbeat",
    "sweep_interval": "sweep.interval",
    "result_ttl": "history.keep_succeeded",
    "keep": "history.keep_succeeded",
    "retention": "history.keep_succeeded",
    "failure_ttl": "history.keep_failed",
    "max_size": "limits.max_queued",
    "max_length": "limits.max_queued",
    "secret_key": "security.signing_keys",
    "signing_key": "security.signing_keys",
}
"""Words of other tools, and those of people in a hurry."""


@lru_cache(maxsize=1)
def known() -> dict[str, Any]:
    """Return the type of every setting by its dotted key, in the order of `Config`; free tables are left out."""
    found: dict[str, Any] = {}
    for field in msgspec.structs.fields(Config):
        if field.name in FREE:
            continue
        kind: Any = field.type
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
            found.update({f"{field.name}.{one.name}": one.type for one in msgspec.structs.fields(kind)})
        else:
            found[field.name] = kind
    return found


@lru_cache(maxsize=1)
def tables() -> tuple[str, ...]:
    """Return the names of the tables with fixed keys."""
    return tuple(dict.fromkeys(key.partition(".")[0] for key in known() if "." in key))


def is_list(key: str) -> bool:
    """Whether a setting takes several values."""
    return known()[key] == tuple[str, ...]


def is_table(key: str) -> bool:
    """Whether a setting also takes a table of values."""
    return any(get_origin(one) is dict for one in (known()[key], *get_args(known()[key])))


def is_duration(key: str) -> bool:
    """Whether a setting is a span of time: those are the settings that take a text or a number."""
    return {str, float} <= set(get_args(known()[key]))


def meant(parts: Sequence[str]) -> str | None:
    """Return the dotted key (or the table) that an unknown one most likely stands for.

    Names of the same table come first, then words that other tools use, then the names of other tables.
    """
    *above, word = [part.lower().replace("-", "_") for part in parts]
    table = ".".join(above)
    prefix = f"{table}." if table else ""
    beside = {key.removeprefix(prefix): key for key in known() if key.startswith(prefix)}
    here = {name: key for name, key in beside.items() if "." not in name}
    if not table:
        here |= {name: name for name in (*tables(), *FREE)}
    if word in here:
        return here[word]
    synonyms = {said: key for said, key in _MEANT.items() if key.rpartition(".")[0] == table}
    elsewhere = {key.rpartition(".")[2]: key for key in known()}
    return (
        synonyms.get(word)
        or _MEANT.get(word)
        or _nearest(word, here | synonyms, cutoff=0.7)
        or _nearest(word, elsewhere | {name: name for name in (*tables(), *FREE)}, cutoff=0.7)
        or _nearest(word, _MEANT | here, cutoff=0.6)
    )


def meant_table(name: str) -> str | None:
    """Return the table that an unknown one most likely stands for."""
    names = {table: table for table in (*tables(), *FREE)}
    word = name.lower().replace("-", "_")
    synonyms = {said: key for said, key in _MEANT.items() if key in names}
    return _nearest(word, names | synonyms, cutoff=0.6)


def _nearest(word: str, names: dict[str, str], *, cutoff: float) -> str | None:
    near = difflib.get_close_matches(word, names, n=1, cutoff=cutoff)
    return names[near[0]] if near else None
