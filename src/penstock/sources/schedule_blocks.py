"""The ``schedule:`` blocks of a FlowerPower project's pipelines, in today's spelling and in those before 0.21.

FlowerPower ran schedules itself until 0.20: at first on APScheduler 4 (a ``trigger:`` and a ``run:`` in the block,
tables of cron fields and of units of time), then on RQ (``cron``, ``interval``, ``date``). Later ones ignore the block.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import date, datetime
from typing import Any, cast

import msgspec

from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import ConfigError, did_you_mean
from penstock.sources.flowerpower import Project, read_yaml
from penstock.sources.job_queue import line_of

_RULES = {"cron": "cron", "interval": "every", "every": "every", "date": "at", "at": "at", "rule": "rule"}
_UNITS_S = {
    "weeks": 604_800, "days": 86_400, "hours": 3_600, "minutes": 60, "seconds": 1, "milliseconds": 1e-3,
    "microseconds": 1e-6,
}  # fmt: skip
_CRON = {"month": "1", "day": "1", "week": "*", "day_of_week": "*", "hour": "0", "minute": "0", "second": "0"}
"""APScheduler's fields from the largest on: what stands behind the smallest given one is at its beginning."""
_TIMES = {"start_time": "start", "start_date": "start", "end_time": "end", "end_date": "end", "timezone": "timezone"}
_WEEKDAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_LONG_UNIT = re.compile(r"(?<![a-z])([wdhms])(?:eeks?|ays?|ours?|rs?|inutes?|ins?|econds?|ecs?)\b", re.IGNORECASE)
"""``30 minutes``, as FlowerPower's own parser of durations took it."""
_OLD_RUN = {"misfire_grace_time": "grace", "max_jitter": "jitter"}
_COALESCE = {"latest": "latest", "earliest": "latest", "all": "all"}
_NOT_CARRIED = ("id", "id_", "executor", "conflict_policy", "conflict_poilcy", "coalesce", "paused", "max_running_jobs")


class Block(msgspec.Struct, frozen=True):
    """One ``schedule:`` block: the pipeline, and what it says in the words of `JobQueue.schedule`."""

    pipeline: str
    where: str
    """File and line."""
    options: dict[str, Any]
    paused: bool = False
    old: str = ""
    """How a spelling before 0.21 was read; empty for today's."""


class Unread(msgspec.Struct, frozen=True):
    """A block that makes no sense."""

    pipeline: str
    where: str
    error: ConfigError


def blocks(project: Project) -> Iterator[Block | Unread]:
    """Yield the schedules that a project's pipelines ask for; a file or block that is wrong stops no other."""
    for pipeline in project.pipelines():
        path = project.yaml_of(pipeline)
        if path is None:
            continue
        try:
            found = read_yaml(path).get("schedule")
            if found is None:
                continue
            where = f"{path}:{line_of(path, ('schedule',))}"
        except ConfigError as error:
            yield Unread(pipeline, str(path), error)
            continue
        try:
            read = _Reading(found)
        except ValueError as error:
            yield Unread(pipeline, where, ConfigError(f"{where}: schedule: {error}"))
            continue
        if read.options:
            yield Block(pipeline, where, read.options, read.paused, read.told())


def tables(project: Project) -> Iterator[tuple[str, str, Any]]:
    """Yield name, place and content of each of ``schedules`` in a project's own queue settings.

    Those are conf/queue.yml, else the ``job_queue:`` block of conf/project.yml; what else stands there is not read.
    Raises `ConfigError`.
    """
    for name, keys in (("queue", ()), ("project", ("job_queue",))):
        for suffix in (".yml", ".yaml"):
            path = project.conf / f"{name}{suffix}"
            if not path.is_file():
                continue
            found: Any = read_yaml(path)
            for key in (*keys, "schedules"):
                found = cast("dict[str, Any]", found).get(key) if isinstance(found, dict) else None
            if found is not None and not isinstance(found, dict):
                raise ConfigError(f"{path}:{line_of(path, (*keys, 'schedules'))}: schedules is not a mapping")
            for schedule, table in cast("dict[str, Any]", found or {}).items():
                yield str(schedule), f"{path}:{line_of(path, (*keys, 'schedules', schedule))}", table
            return


class _Reading:
    """Reads one block. Raises ValueError."""

    def __init__(self, block: Any) -> None:
        self.options: dict[str, Any] = {}
        self.paused = False
        self._old: list[str] = []
        if isinstance(block, str):
            self.options["rule"] = block
            return
        given = _given(block, "the block")
        if "trigger" in given or "run" in given:
            self._run(_given(given.pop("run", None), "run"))
            self._trigger(_given(given.pop("trigger", None), "trigger"))
        paused = given.pop("paused", False)
        if not isinstance(paused, bool):
            raise ValueError(f"paused is {paused!r}; write true or false")  # noqa: TRY004 - one error class
        self.paused = self.paused or paused
        for name, value in given.items():
            self._rule(name, value) if name in _RULES else self.options.setdefault(name, value)
        if not any(name in self.options for name in ("cron", "every", "at", "rule")):
            if self.options and not self._old and not any(name in block for name in _RULES):
                raise ValueError("there is no rule; write cron, interval or date")
            self.options = {}  # all null, as FlowerPower itself wrote it into new files

    def told(self) -> str:
        """Say how an old spelling was read."""
        return ", ".join(dict.fromkeys(self._old))

    def _rule(self, name: str, said: Any) -> None:
        value: Any = said
        if isinstance(said, Mapping):
            fields = _given(cast("Any", said), name)
            if not fields:
                return
            times = {_TIMES[key]: fields.pop(key) for key in list(fields) if key in _TIMES}
            self.options.update(times)
            if name not in _READ:
                raise ValueError(f"{name} is a mapping; write a text")
            value = _READ[name](fields)
            if value is None:
                return
            self._old.append(f"{name} as {value!r}")
        elif name == "date" and isinstance(value, date) and not isinstance(value, datetime):
            value = f"{value.isoformat()}T00:00"
        option = _RULES[name]
        if option == "every" and not isinstance(value, int | float):
            value = _duration(name, value)
        rules = [known for known in ("cron", "every", "at", "rule") if known in self.options]
        if rules:
            raise ValueError(f"{name} and {rules[0]} are two rules; a schedule has one")
        self.options[option] = value

    def _trigger(self, trigger: dict[str, Any]) -> None:
        """Read APScheduler's trigger: a table for each type, or one table with the fields of all."""
        kind = str(trigger.pop("type_", trigger.pop("type", None)) or "")
        nested = {name: _given(trigger.pop(name), name) for name in ("cron", "interval", "calendar", "date")
                  if isinstance(trigger.get(name), Mapping)}  # fmt: skip
        for name in ("cron", "interval", "date"):
            if name in trigger:
                nested[name] = {"crontab": trigger.pop(name)} if name == "cron" else {"value": trigger.pop(name)}
        flat = {name: value for name, value in trigger.items() if value or name in _CRON}
        if flat and not any(nested.values()):
            kind = kind or _kind_of(flat)
            nested = {kind: flat}
        chosen = [name for name, fields in nested.items() if fields and kind in ("", name)]
        if not chosen:
            return
        if len(chosen) > 1:
            raise ValueError(f"trigger: {' and '.join(chosen)} are two rules; a schedule has one (type_ says which)")
        (name,) = chosen
        if name not in _RULES:
            raise ValueError(f"trigger: {name} is not carried over; write a cron, such as cron: '0 6 1 * *'")
        fields = nested[name]
        self._rule(name, fields["value"] if set(fields) == {"value"} else fields)
        self._old.append("trigger")

    def _run(self, run: dict[str, Any]) -> None:
        """Read what APScheduler was told about missed and overlapping runs."""
        self.paused = bool(run.get("paused"))
        for name in run:
            if name not in (*_OLD_RUN, *_NOT_CARRIED):
                raise ValueError(f"run: unknown key {name!r}.{did_you_mean(name, (*_OLD_RUN, *_NOT_CARRIED))}")
        coalesce = run.get("coalesce", "latest")
        if coalesce not in _COALESCE:
            raise ValueError(f"run: coalesce is {coalesce!r}; there are: {', '.join(_COALESCE)}")
        if coalesce != "latest":
            self.options["catch_up"] = _COALESCE[coalesce]
        for old, name in _OLD_RUN.items():
            if old in run:
                self.options[name] = run[old]
        if isinstance(most := run.get("max_running_jobs"), int) and most > 1:
            self.options["overlap"] = "allow"
        if self.options or self.paused:
            self._old.append("run")


def _given(value: Any, what: str) -> dict[str, Any]:
    """Return the entries of a mapping that are not null."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValueError(f"{what} is {value!r:.100}, not a mapping")  # noqa: TRY004 - one error class for bad blocks
    return {str(name): one for name, one in cast("Mapping[Any, Any]", value).items() if one is not None}


def _kind_of(flat: Mapping[str, Any]) -> str:
    if "crontab" in flat or any(name in flat for name in _CRON):
        return "cron"
    return "interval" if any(name in flat for name in _UNITS_S) else "date"


def _cron(fields: dict[str, Any]) -> str | None:
    """Write APScheduler's fields of a cron as one expression."""
    if "crontab" in fields or "cron" in fields:
        return str(fields.get("crontab", fields.get("cron")))
    for name in fields:
        if name not in (*_CRON, "year"):
            raise ValueError(f"cron: unknown field {name!r}.{did_you_mean(name, _CRON)}")
    for name in ("year", "week"):
        if str(fields.get(name, "*")) != "*":
            raise ValueError(f"cron: the field {name} is not carried over; write start and end, or days of the week")
    order = list(_CRON)
    smallest = max((order.index(name) for name in fields if name in _CRON), default=-1)
    if smallest < 0:
        return None
    whole = {
        name: str(fields.get(name, "*" if place < smallest else least))
        for place, (name, least) in enumerate(_CRON.items())
    }
    whole["day_of_week"] = _weekdays(whole["day_of_week"])
    seconds = [] if whole["second"] == "0" else [whole["second"]]
    return " ".join([*seconds, *(whole[name] for name in ("minute", "hour", "day", "month", "day_of_week"))])


def _weekdays(text: str) -> str:
    """Write days of the week by name: 0 is Monday to APScheduler, and Sunday to cron."""
    days, slash, step = text.replace(" ", "").partition("/")
    if slash and days == "*":
        days = "0-6"
    named: list[str] = []
    for part in days.split(","):
        ends = [_WEEKDAYS[int(end)] if end.isdigit() and int(end) < 7 else end for end in part.split("-")]
        named.append("-".join(ends))
    if not slash:
        return ",".join(named)
    every = [day for part in named for day in _run_of(part)][:: int(step) if step.isdigit() and int(step) else 1]
    return ",".join(every)


def _run_of(part: str) -> tuple[str, ...]:
    first, dash, last = part.partition("-")
    if dash and first in _WEEKDAYS and last in _WEEKDAYS:
        return _WEEKDAYS[_WEEKDAYS.index(first) : _WEEKDAYS.index(last) + 1]
    return (first,)


def _interval(fields: dict[str, Any]) -> str | None:
    for name, value in fields.items():
        if name not in _UNITS_S:
            raise ValueError(f"interval: unknown unit {name!r}.{did_you_mean(name, _UNITS_S)}")
        if not isinstance(value, int | float) or isinstance(value, bool):
            raise ValueError(f"interval: {name} is {value!r}; write a number")  # noqa: TRY004 - as above
    seconds = sum(_UNITS_S[name] * value for name, value in fields.items())
    return f"{seconds:g}s" if seconds else None


def _duration(name: str, value: Any) -> Any:
    try:
        return parse_duration_s(_LONG_UNIT.sub(r"\1", value) if isinstance(value, str) else value)
    except (ValueError, TypeError):
        raise ValueError(f"{name} is {value!r}; write a duration, such as '30m' or 1800") from None


def _date(fields: dict[str, Any]) -> Any:
    unknown = [name for name in fields if name not in ("run_time", "run_date", "date")]
    if unknown:
        raise ValueError(f"date: unknown key {unknown[0]!r}; write date: 2026-11-22T02:00")
    return next(iter(fields.values()), None)


_READ = {"cron": _cron, "interval": _interval, "date": _date}
