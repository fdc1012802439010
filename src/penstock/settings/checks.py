"""What the type of a setting cannot say: ranges, forms, and settings that must fit each other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from penstock.core.durations import parse_duration_s
from penstock.core.secrets import mask_url
from penstock.job.limits import parse_cpu_s, parse_memory_bytes, parse_open_files
from penstock.job.models import QUEUE, RetryPolicy
from penstock.job.retries import parse_discard_on, parse_retry_on
from penstock.payload import MAX_BYTES, MAX_DEPTH
from penstock.settings.keys import is_duration, known
from penstock.signing import KEY_MIN

Trouble = tuple[str, str]
"""The dotted key to blame, and what is wrong with it."""

_MAY_BE_ZERO = {
    "worker.grace", "worker.connect_timeout", "lease.fence_margin", "lease.cancel_grace", "sweep.publish_grace",
    "sweep.max_publish_grace", "history.keep_succeeded", "history.keep_failed",
    "history.keep_audit",
}  # fmt: skip
_AT_LEAST = {
    "worker.concurrency": 1,
    "worker.processes": 1,
    "worker.max_jobs_per_child": 1,
    "defaults.max_attempts": 1,
    "defaults.max_crashes": 1,
    "sweep.batch": 1,
    "result_inline_max_bytes": 0,
    "limits.payload_max_bytes": 1024,
    "limits.payload_max_depth": 1,
    "limits.result_max_bytes": 0,
    "limits.log_max_bytes": 0,
}
_AT_MOST = {
    "defaults.max_attempts": 1000,
    "defaults.max_crashes": 1000,
    "worker.concurrency": 10_000,
    "worker.processes": 1000,
    "limits.payload_max_bytes": MAX_BYTES,
    "limits.payload_max_depth": MAX_DEPTH,
}
LOG_LEVELS = ("debug", "info", "warning", "error", "critical")
_SCHEME = re.compile(r"[a-z][a-z0-9]*(\+[a-z][a-z0-9]*)?://", re.ASCII)
_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)


def troubles(values: Mapping[str, Any], given: Callable[[str], bool]) -> Iterator[Trouble]:
    """Yield what is wrong with these settings (every dotted key has its value).

    ``given`` tells whether somebody set a key: where two do not fit, a default is not the one to blame.
    """
    for key in known():
        if (problem := _alone(key, values[key])) is not None:
            yield key, problem
            return  # the checks below rely on each value for itself
    yield from _together(values, given)


def _alone(key: str, value: Any) -> str | None:
    if is_duration(key) and (problem := _duration(key, value)) is not None:
        return problem
    if key in _AT_LEAST and value < _AT_LEAST[key]:
        return f"must be at least {_AT_LEAST[key]}, not {value}"
    if key in _AT_MOST and value > _AT_MOST[key]:
        return f"must be at most {_AT_MOST[key]}, not {value}"
    check = _FORMS.get(key)
    return None if check is None else check(value)


def _duration(key: str, value: Any) -> str | None:
    if value is None:
        return None
    try:
        seconds = parse_duration_s(value)
    except ValueError as error:
        return str(error)
    if seconds < 0 or (seconds == 0 and key not in _MAY_BE_ZERO):
        return f"must be longer than {'or equal to ' if key in _MAY_BE_ZERO else ''}0, not {value!r}"
    return None


def _backend(value: str) -> str | None:
    if not _SCHEME.match(value):
        return f"{mask_url(value)!r} is not a URL; write one such as 'huey+sqlite:///.penstock/queue.db' or 'inline://'"
    return _sqlite(value)


def _ledger(value: str) -> str | None:
    if not _SCHEME.match(value):
        return f"{mask_url(value)!r} is not a URL; write one such as 'sqlite:///.penstock/ledger.db' or 'memory://'"
    return _sqlite(value)


def _sqlite(url: str) -> str | None:
    scheme, _, rest = url.partition("://")
    if scheme.rpartition("+")[2] == "sqlite" and (not rest.startswith("/") or not rest[1:].partition("?")[0]):
        return f"{url!r} names no file; write {scheme}:///relative.db or {scheme}:////absolute.db"
    return None


def _zone(value: str) -> str | None:
    if value == "UTC":
        return None
    from penstock.core.triggers import zone_of

    try:
        zone_of(value)
    except ValueError as error:
        return str(error)
    return None


def _backoff(value: str) -> str | None:
    try:
        RetryPolicy.parse(value)
    except ValueError as error:
        return str(error)
    return None


def _rules(parse: Callable[[Any], Any], value: Any) -> str | None:
    try:
        parse(value or ())
    except ValueError as error:
        return str(error)
    return None


def _read(parse: Callable[[Any], int], value: Any) -> str | None:
    if value is None:
        return None
    try:
        parse(value)
    except ValueError as error:
        return str(error)
    return None


def _queue(value: str) -> str | None:
    return None if QUEUE.fullmatch(value) else f"{value!r} is not a queue's name: 1 to 64 of A-Z a-z 0-9 _ . -"


def _queues(value: tuple[str, ...]) -> str | None:
    if not value:
        return "must name at least one queue"
    return next((problem for queue in value if (problem := _queue(queue))), None)


def _not_empty(value: tuple[str, ...]) -> str | None:
    return None if all(one.strip() for one in value) else "holds an empty text"


def _max_queued(value: int | dict[str, int] | None) -> str | None:
    limits = value if isinstance(value, dict) else {} if value is None else {"*": value}
    for queue, limit in limits.items():
        if queue != "*" and (problem := _queue(queue)):
            return f"{problem}; '*' stands for all others"
        if limit < 1:
            return f"must be at least 1, not {limit}; leave it out for no limit"
    return None


def _task_concurrency(value: dict[str, int]) -> str | None:
    for name, most in value.items():
        if most < 1:
            return f"{name}: must be at least 1, not {most}; leave it out for no limit"
    return None


def _places(value: tuple[str, ...]) -> str | None:
    for place in value:
        module, _, name = place.partition(":")
        if not name.isidentifier() or not all(part.isidentifier() for part in module.split(".")):
            return f"{place!r} is not module:name"
    return None


def _signing_keys(value: tuple[str, ...]) -> str | None:
    for place, key in enumerate(value, 1):
        if len(key.strip()) < KEY_MIN:
            # Never the key itself, not even a part of it.
            return f"key {place} has fewer than {KEY_MIN} characters; make one with: openssl rand -hex 32"
    return None


def _log_level(value: str | None) -> str | None:
    if value is None or value.lower() in LOG_LEVELS:
        return None
    return f"{value!r} is none of {', '.join(LOG_LEVELS)}"


_FORMS: dict[str, Callable[[Any], str | None]] = {
    "backend": _backend,
    "ledger": _ledger,
    "results": lambda value: None if value.strip() else "must name a folder or a URL",
    "namespace": lambda value: (
        None if _NAMESPACE.fullmatch(value) else f"{value!r} is not a name: 1 to 64 of A-Z a-z 0-9 _ . -"
    ),
    "projects": _not_empty,
    "tasks": _not_empty,
    "timezone": _zone,
    "log_level": _log_level,
    "defaults.backoff": _backoff,
    "defaults.retry_on": lambda value: _rules(parse_retry_on, value),
    "defaults.discard_on": lambda value: _rules(parse_discard_on, value),
    "defaults.queue": _queue,
    "defaults.max_memory": lambda value: _read(parse_memory_bytes, value),
    "defaults.max_cpu": lambda value: _read(parse_cpu_s, value),
    "defaults.max_open_files": lambda value: _read(parse_open_files, value),
    "defaults.priority": lambda value: None if 0 <= value <= 9 else f"must be from 0 to 9, not {value}",
    "worker.queues": _queues,
    "worker.max_memory": lambda value: _read(parse_memory_bytes, value),
    "worker.max_jobs_per_process": lambda value: "must be at least 1" if value is not None and value < 1 else None,
    "worker.task_concurrency": _task_concurrency,
    "worker.dependencies": _places,
    "limits.max_queued": _max_queued,
    "security.signing_keys": _signing_keys,
    "security.command_env": _not_empty,
}


def _together(values: Mapping[str, Any], given: Callable[[str], bool]) -> Iterator[Trouble]:
    def seconds(key: str) -> float:
        return parse_duration_s(values[key])

    def shorter(key: str, than: str, why: str) -> Iterator[Trouble]:
        if seconds(key) >= seconds(than):
            blamed = key if given(key) or not given(than) else than
            yield blamed, f"{key} ({values[key]}) must be shorter than {than} ({values[than]}): {why}"

    yield from shorter("lease.heartbeat", "lease.ttl", "a lease that is renewed too late is lost")
    yield from shorter("lease.fence_margin", "lease.ttl", "bodies would be stopped before the first heartbeat")
    rest_s = seconds("lease.ttl") - seconds("lease.fence_margin")
    if seconds("lease.heartbeat") >= rest_s > 0:
        blamed = "lease.heartbeat" if given("lease.heartbeat") else "lease.ttl"
        yield (
            blamed,
            (
                f"lease.heartbeat ({values['lease.heartbeat']}) must be shorter than lease.ttl less lease.fence_margin "
                f"({rest_s:g} s): bodies would be stopped before the first heartbeat"
            ),
        )
    if given("sweep.max_publish_grace") and seconds("sweep.max_publish_grace") < seconds("sweep.publish_grace"):
        yield (
            "sweep.max_publish_grace",
            (
                f"sweep.max_publish_grace ({values['sweep.max_publish_grace']}) must not be shorter than "
                f"sweep.publish_grace ({values['sweep.publish_grace']})"
            ),
        )
