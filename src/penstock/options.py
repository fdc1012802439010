"""What may be said about a job beside what it runs: by config, by ``@task``, at enqueue; later wins."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast, get_args

import msgspec

from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import ConfigError, InvalidJobError, did_you_mean
from penstock.job.limits import OPTIONS as LIMITS
from penstock.job.limits import limits_entry, parse_cpu_s, parse_memory_bytes, parse_open_files
from penstock.job.models import (
    JOB_ID,
    LIVE,
    NAME,
    QUEUE,
    Intent,
    Isolation,
    OnConflict,
    RetryPolicy,
    new_job_id,
)
from penstock.job.retries import RetryRule, parse_discard_on, parse_retry_on
from penstock.job.slots import parse_slots, slots_entry
from penstock.job.unique import UniquePolicy
from penstock.signing import RESERVED

if TYPE_CHECKING:
    from penstock.core.config import Config

NAMES = (
    "at", "delay", "key", "queue", "priority", "max_attempts", "max_crashes", "timeout", "backoff", "retry_on",
    "discard_on", "isolation",
    *LIMITS,
    "unique", "on_conflict", "expires", "limits", "tags", "metadata", "job_id",
)  # fmt: skip
_PER_JOB = frozenset({"at", "delay", "key", "on_conflict", "job_id"})


class JobOptions(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Checked job options; a field that is None was not given."""

    at: datetime | None = None
    delay_s: float | None = None
    key: str | None = None
    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    max_crashes: int | None = None
    timeout_s: float | None = None
    """Infinity: no timeout, where a layer below sets one."""
    backoff: RetryPolicy | None = None
    retry_on: tuple[RetryRule, ...] | None = None
    discard_on: tuple[str, ...] | None = None
    isolation: Isolation | None = None
    max_memory_bytes: int | None = None
    """0: no limit, where a layer below sets one; so with the next two."""
    max_cpu_s: int | None = None
    max_open_files: int | None = None
    unique: UniquePolicy | None = None
    on_conflict: OnConflict | None = None
    """What happens to a live job of the same ``key``."""
    expires_at: datetime | None = None
    expires_s: float | None = None
    """Infinity: it never expires, where a layer below says when."""
    slots: dict[str, int] | None = None
    """How many jobs may run at once that name the same key, over all workers."""
    tags: tuple[str, ...] | None = None
    metadata: dict[str, str] | None = None
    job_id: str | None = None

    @classmethod
    def parse(cls, given: Mapping[str, Any]) -> JobOptions:
        """Check options as a user writes them (``timeout="5m"``). Raises `InvalidJobError`."""
        return cls(**dict(_checked(name, value) for name, value in given.items() if value is not None))

    @classmethod
    def parse_for_task(cls, given: Mapping[str, Any], task: str) -> JobOptions:
        """Check the options of a decorator, where a time or a key makes no sense. Raises `ConfigError`."""
        for name in given:
            if name in _PER_JOB:
                raise ConfigError(f"@task {task}: {name!r} belongs to one job; say it at enqueue")
        try:
            return cls.parse(given)
        except InvalidJobError as error:
            raise ConfigError(f"@task {task}: {error}") from None

    @property
    def limited(self) -> bool:
        """Whether they ask for a limit that only a process of its own can have."""
        return bool(self.max_memory_bytes or self.max_cpu_s or self.max_open_files)

    def merged(self, later: JobOptions) -> JobOptions:
        """Return these options with those of ``later`` that were given."""
        changes = {name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None}
        if "at" in changes:
            changes.setdefault("delay_s", None)
        elif "delay_s" in changes:
            changes["at"] = None
        for one, other in (("expires_at", "expires_s"), ("expires_s", "expires_at")):
            if one in changes:
                changes.setdefault(other, None)
        return msgspec.structs.replace(self, **changes) if changes else self


def intent(
    config: Config,
    options: JobOptions,
    *,
    kind: str,
    name: str,
    spec: bytes,
    isolation: Isolation,
    arguments: Callable[[], Mapping[str, Any]] = dict,
    parent_id: str | None = None,
) -> Intent:
    """Make the job's intent: the options, and the project's defaults where they are silent.

    ``isolation`` is what the kind wants when neither options nor config say; ``arguments`` are asked for only where a
    rule of uniqueness looks at them.
    """  # fmt: skip
    if not NAME.fullmatch(name):
        raise InvalidJobError(f"{name!r} is not a name for a job: 1 to 200 of A-Z a-z 0-9 _ . : - / [ ] < >")
    defaults = config.defaults
    timeout_s = options.timeout_s
    if timeout_s is None and defaults.timeout is not None:
        timeout_s = parse_duration_s(defaults.timeout)
    where = options.isolation or defaults.isolation or isolation
    unique = options.unique
    if options.on_conflict is not None and options.key is None and unique is None:
        raise InvalidJobError(f"{name}: on_conflict needs a key that jobs can share: key=..., or unique=...")
    return Intent(
        id=options.job_id or new_job_id(),
        kind=kind,
        name=name,
        spec=spec,
        queue=options.queue or defaults.queue,
        priority=defaults.priority if options.priority is None else options.priority,
        isolation=where,
        timeout_s=None if timeout_s is None or math.isinf(timeout_s) else timeout_s,
        max_attempts=options.max_attempts or defaults.max_attempts,
        max_crashes=options.max_crashes or defaults.max_crashes,
        backoff=_backoff_of(config, options, name),
        key=options.key,
        parent_id=parent_id,
        tags=options.tags or (),
        metadata={
            **(options.metadata or {}),
            **_limits(config, options, name, where),
            **slots_entry(options.slots or {}),
        },
        at=options.at,
        delay_s=options.delay_s or 0.0,
        expires_at=options.expires_at,
        expires_s=None if options.expires_s is None or math.isinf(options.expires_s) else options.expires_s,
        unique_key=None if unique is None else unique.key_of(name, arguments()),
        unique_states=LIVE if unique is None else unique.in_the_way,
        unique_period_s=None if unique is None else unique.period_s,
        on_conflict=options.on_conflict or (unique.on_conflict if unique is not None else "keep"),
    )


def _backoff_of(config: Config, options: JobOptions, name: str) -> RetryPolicy:
    """Return when an error of this job is tried again; refuse rules that cannot have been meant so."""
    defaults, own = config.defaults, options.backoff
    rules, discard_on = options.retry_on, options.discard_on
    if own is None or not own.has_rules:
        rules = parse_retry_on(defaults.retry_on) if rules is None and defaults.retry_on else rules
        discard_on = parse_discard_on(defaults.discard_on) if discard_on is None else discard_on
    policy = (own or RetryPolicy.parse(defaults.backoff)).with_rules(rules, discard_on)
    if options.retry_on and policy.retry_on and options.max_attempts is None and defaults.max_attempts == 1:
        first = policy.retry_on[0]
        raise InvalidJobError(
            f"{name}: retry_on names {first}, and a job has one try; say how many: max_attempts=3, or "
            f"retry_on={{{first!r}: 3}} for these errors alone"
        )
    return policy


def _limits(config: Config, options: JobOptions, name: str, isolation: Isolation) -> dict[str, str]:
    """Return the limits as an entry of the metadata: the project's hold where a body has a process, those asked for
    are refused where it has none.
    """  # noqa: D205 - one promise, two lines
    if isolation == "inline":
        if options.limited:
            raise InvalidJobError(
                f"{name} runs in the worker's own process, which has no limits of its own; leave the limits out, or "
                "let it run with isolation='process' (a function within a function cannot)"
            )
        return {}
    defaults = config.defaults
    asked = {
        "memory_bytes": (options.max_memory_bytes, defaults.max_memory, parse_memory_bytes),
        "cpu_s": (options.max_cpu_s, defaults.max_cpu, parse_cpu_s),
        "open_files": (options.max_open_files, defaults.max_open_files, parse_open_files),
    }
    return limits_entry({
        limit: (parse(default) if default is not None else None) if given is None else given
        for limit, (given, default, parse) in asked.items()
    })  # fmt: skip


def _checked(name: str, value: Any) -> tuple[str, Any]:
    check = _CHECKS.get(name)
    if check is None:
        raise InvalidJobError(f"unknown job option {name!r}; there are: {', '.join(NAMES)}.{did_you_mean(name, NAMES)}")
    try:
        return check(value)
    except ValueError as error:
        raise InvalidJobError(f"{name}: {error}") from None


def _at(value: Any) -> tuple[str, Any]:
    return "at", _instant(value)


def _expires(value: Any) -> tuple[str, Any]:
    if value is False or value in ("none", "never"):
        return "expires_s", math.inf
    try:
        expires_s = parse_duration_s(value)
    except ValueError:
        if not isinstance(value, str | datetime):
            raise
        try:
            return "expires_at", _instant(value)
        except ValueError as error:
            raise ValueError(f"{error}; write '1h' for an hour after it is due, or 'none'") from None
    if expires_s <= 0:
        raise ValueError(f"{value!r} is not a positive time")
    return "expires_s", expires_s


def _instant(value: Any) -> datetime:
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"{value!r} is not an ISO 8601 time") from None
    if not isinstance(value, datetime):
        raise ValueError(f"{value!r} is not a datetime")  # noqa: TRY004 - one error class for bad options
    if value.utcoffset() is None:
        raise ValueError(
            f"{value.isoformat()} has no time zone, and none is assumed; "
            "say which: value.replace(tzinfo=ZoneInfo('Europe/Berlin')), or add 'Z' or an offset"
        )
    return value


def _delay(value: Any) -> tuple[str, Any]:
    delay_s = parse_duration_s(value)
    if delay_s < 0:
        raise ValueError(f"{value!r} is negative; a job cannot start in the past")
    return "delay_s", delay_s


def _timeout(value: Any) -> tuple[str, Any]:
    if value is False or value in ("none", "never"):
        return "timeout_s", math.inf
    timeout_s = parse_duration_s(value)
    if timeout_s <= 0:
        raise ValueError(f"{value!r} is not a positive time; write 'none' for no timeout")
    return "timeout_s", timeout_s


def _count(name: str, low: int, high: int) -> Any:
    def check(value: Any) -> tuple[str, Any]:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise ValueError(f"{value!r} is not a whole number from {low} to {high}")
        return name, value

    return check


def _text(name: str, pattern: Any, told: str) -> Any:
    def check(value: Any) -> tuple[str, Any]:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise ValueError(f"{value!r} is not {told}")
        return name, value

    return check


def _key(value: Any) -> tuple[str, Any]:
    if not isinstance(value, str) or not 0 < len(value) <= 256 or not value.isprintable():
        raise ValueError(f"{value!r} is not a key: 1 to 256 printable characters")
    return "key", value


def _backoff(value: Any) -> tuple[str, Any]:
    return "backoff", RetryPolicy.parse(value)


def _retry_on(value: Any) -> tuple[str, Any]:
    return "retry_on", parse_retry_on(value)


def _discard_on(value: Any) -> tuple[str, Any]:
    return "discard_on", parse_discard_on(value)


def _isolation(value: Any) -> tuple[str, Any]:
    if value not in ("inline", "process"):
        raise ValueError(f"{value!r} is neither 'inline' nor 'process'")
    return "isolation", value


def _unique(value: Any) -> tuple[str, Any]:
    return "unique", None if value is False else UniquePolicy.parse(value)


def _on_conflict(value: Any) -> tuple[str, Any]:
    if value not in get_args(OnConflict):
        raise ValueError(f"{value!r} is none of {', '.join(get_args(OnConflict))}")
    return "on_conflict", value


def _slots(value: Any) -> tuple[str, Any]:
    return "slots", parse_slots(value)


def _limit(field: str, parse: Callable[[Any], int]) -> Callable[[Any], tuple[str, Any]]:
    return lambda value: (field, parse(value))


def tags(value: Any) -> tuple[str, ...]:
    """Check tags: one text, or several. Raises ValueError."""
    if not isinstance(value, Iterable):
        raise ValueError(f"{value!r} is neither a tag nor several")  # noqa: TRY004 - one error class
    several = (value,) if isinstance(value, str) else tuple(cast("Iterable[Any]", value))
    for tag in several:
        if not isinstance(tag, str) or not 0 < len(tag) <= 128:
            raise ValueError(f"{tag!r} is not a tag: 1 to 128 characters")
    return several


def _tags(value: Any) -> tuple[str, Any]:
    return "tags", tags(value)


def _metadata(value: Any) -> tuple[str, Any]:
    if not isinstance(value, Mapping):
        raise ValueError(f"{value!r} is not a mapping of texts")  # noqa: TRY004 - one error class
    pairs = cast("Mapping[Any, Any]", value)
    for name, text in pairs.items():
        if not isinstance(name, str) or not isinstance(text, str):
            raise ValueError(f"{name!r}: names and values must be texts")  # noqa: TRY004 - one error class
        if name.startswith(RESERVED):
            raise ValueError(f"{name!r}: names that begin with {RESERVED!r} are taken")
    return "metadata", dict(pairs)


_CHECKS: dict[str, Any] = {
    "at": _at,
    "delay": _delay,
    "key": _key,
    "queue": _text("queue", QUEUE, "a queue's name: 1 to 64 of A-Z a-z 0-9 _ . -"),
    "priority": _count("priority", 0, 9),
    "max_attempts": _count("max_attempts", 1, 1000),
    "max_crashes": _count("max_crashes", 1, 1000),
    "timeout": _timeout,
    "backoff": _backoff,
    "retry_on": _retry_on,
    "discard_on": _discard_on,
    "isolation": _isolation,
    "max_memory": _limit("max_memory_bytes", parse_memory_bytes),
    "max_cpu": _limit("max_cpu_s", parse_cpu_s),
    "max_open_files": _limit("max_open_files", parse_open_files),
    "unique": _unique,
    "on_conflict": _on_conflict,
    "expires": _expires,
    "limits": _slots,
    "tags": _tags,
    "metadata": _metadata,
    "job_id": _text("job_id", JOB_ID, "a job id: 1 to 128 of A-Z a-z 0-9 _ . -"),
}
