"""The queue settings inside a FlowerPower project, in today's spelling and in that of FlowerPower before 0.21."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast
from urllib.parse import quote

from penstock.core.config import (
    Config,
    Defaults,
    HistoryConfig,
    LeaseConfig,
    LimitsConfig,
    SecurityConfig,
    SweepConfig,
    WorkerConfig,
)
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import ConfigError, did_you_mean
from penstock.sources.flowerpower import read_yaml, yaml_module

logger = logging.getLogger("penstock.config")

_SECTIONS = {
    "defaults": Defaults,
    "worker": WorkerConfig,
    "lease": LeaseConfig,
    "sweep": SweepConfig,
    "history": HistoryConfig,
    "limits": LimitsConfig,
    "security": SecurityConfig,
}
_JOB_DEFAULTS = ("max_retries", "retry_delay", "result_ttl", "failure_ttl", *Defaults.__struct_fields__)
_OLD_BACKEND = (
    "type", "host", "port", "database", "db", "username", "password", "ssl", "queues",
    "cert_file", "key_file", "ca_file", "verify_ssl",
)  # fmt: skip
_KEYS = (*Config.__struct_fields__, "job_defaults", "type", "num_workers", "queues", "concurrency")
_told: set[Path] = set()


def read_job_queue(conf: Path) -> dict[str, Any] | None:
    """Return the settings of conf/queue.yml or of ``job_queue:`` in conf/project.yml, shaped like `Config`.

    Raises:
        ConfigError: an unknown key or a value that makes no sense; with file and line.
    """
    for name in ("queue.yml", "queue.yaml"):
        if (path := conf / name).is_file():
            return _Block(path, ()).config(read_yaml(path))
    for name in ("project.yml", "project.yaml"):
        if (path := conf / name).is_file():
            block = read_yaml(path).get("job_queue")
            return None if block is None else _Block(path, ("job_queue",)).config(block)
    return None


class _Block:
    """One block of settings and where it stands."""

    def __init__(self, path: Path, at: tuple[str, ...]) -> None:
        self._path = path
        self._at = at

    def config(self, block: Any) -> dict[str, Any]:
        given = self._mapping(block)
        self._known(given, _KEYS)
        found: dict[str, Any] = {}
        for name in Config.__struct_fields__:
            if name in given and name not in ("backend", *_SECTIONS):
                found[name] = given[name]
        for name, section in _SECTIONS.items():
            if name in given:
                values = self._mapping(given[name], name)
                self._known(values, section.__struct_fields__, name)
                found[name] = values
        self._worker(given, found)
        self._backend(given, found)
        self._job_defaults(given, found)
        return found

    def _worker(self, given: Mapping[str, Any], found: dict[str, Any]) -> None:
        for name, own in (("num_workers", "concurrency"), ("concurrency", "concurrency"), ("queues", "queues")):
            if name in given:
                found["worker"] = {own: given[name], **found.get("worker", {})}

    def _backend(self, given: Mapping[str, Any], found: dict[str, Any]) -> None:
        backend = given.get("backend")
        if isinstance(backend, str):
            if "type" in given:
                raise self._error("`type` belongs to the old spelling; backend: is the whole URL", "type")
            found["backend"] = backend
        elif backend is not None or "type" in given:
            found["backend"] = self._old_url(given, found)

    def _old_url(self, given: Mapping[str, Any], found: dict[str, Any]) -> str:
        engine = str(given.get("type", "rq"))
        backend = self._mapping(given.get("backend") or {}, "backend")
        if engine != "rq":
            raise self._error(
                f"type: {engine} is not carried over; write the backend's URL, such as "
                "backend: rq+redis://localhost:6379/0",
                "type",
            )
        self._known(backend, _OLD_BACKEND, "backend")
        if backend.get("type", "redis") != "redis":
            raise self._error(f"backend.type {backend['type']!r} is not carried over; write a URL", "backend", "type")
        for name in ("cert_file", "key_file", "ca_file"):
            if backend.get(name) is not None:
                raise self._error(f"backend.{name} is not carried over; write it in engines: rq:", "backend", name)
        user = quote(str(backend.get("username") or ""), safe="")
        password = quote(str(backend.get("password") or ""), safe="")
        login = f"{user}:{password}@" if password else f"{user}@" if user else ""
        host = f"{backend.get('host') or 'localhost'}:{backend.get('port') or 6379}"
        database = backend.get("database", backend.get("db")) or 0
        if queues := backend.get("queues"):
            found["worker"] = {"queues": queues, **found.get("worker", {})}
        url = f"{'rq+rediss' if backend.get('ssl') else 'rq+redis'}://{login}{host}/{database}"
        if self._path not in _told:
            _told.add(self._path)
            shown = url.replace(f":{password}@", ":***@") if password else url
            logger.warning(
                "%s: the job_queue block of FlowerPower before 0.21 is read as backend: %s", self._path, shown
            )
        return url

    def _job_defaults(self, given: Mapping[str, Any], found: dict[str, Any]) -> None:
        defaults = self._mapping(given.get("job_defaults") or {}, "job_defaults")
        self._known(defaults, _JOB_DEFAULTS, "job_defaults")
        told = {name: value for name, value in defaults.items() if value is not None}
        own = {name: told[name] for name in Defaults.__struct_fields__ if name in told}
        if "max_retries" in told:
            retries = told["max_retries"]
            if not isinstance(retries, int) or isinstance(retries, bool) or retries < 0:
                raise self._error(f"max_retries is {retries!r}; write a whole number", "job_defaults", "max_retries")
            own.setdefault("max_attempts", retries + 1)
        if "retry_delay" in told:
            delay_s = self._seconds(told["retry_delay"], "job_defaults", "retry_delay")
            own.setdefault("backoff", f"{delay_s:g}s..{max(600.0, delay_s):g}s")
        kept = {
            name: self._seconds(told[old], "job_defaults", old)
            for old, name in (("result_ttl", "keep_succeeded"), ("failure_ttl", "keep_failed"))
            if old in told
        }
        if own:
            found["defaults"] = {**own, **found.get("defaults", {})}
        if kept:
            found["history"] = {**kept, **found.get("history", {})}

    # -- words --------------------------------------------------------------------------------------------------

    def _seconds(self, value: Any, *at: str) -> float:
        try:
            seconds = parse_duration_s(value)
        except (ValueError, TypeError):
            seconds = -1.0
        if seconds < 0:
            raise self._error(f"{at[-1]} is {value!r}; write a duration, such as 30 or '10m'", *at)
        return seconds

    def _mapping(self, value: Any, *at: str) -> dict[str, Any]:
        if not isinstance(value, dict):
            raise self._error(f"{'.'.join((*self._at, *at)) or 'the file'} is not a mapping", *at)
        return cast("dict[str, Any]", value)

    def _known(self, given: Mapping[str, Any], known: tuple[str, ...], *at: str) -> None:
        for name in given:
            if name not in known:
                where = ".".join((*self._at, *at))
                raise self._error(f"unknown key {name!r}{f' in {where}' if where else ''}.{did_you_mean(name, known)}",
                                  *at, name)  # fmt: skip

    def _error(self, text: str, *at: str) -> ConfigError:
        return ConfigError(f"{self._path}:{line_of(self._path, (*self._at, *at))}: {text}")


def line_of(path: Path, keys: tuple[str, ...]) -> int:
    """Return the line of the deepest of these nested keys that a YAML file has."""
    line = 1
    node: Any = yaml_module().compose(path.read_text(encoding="utf-8"))
    for key in keys:
        pairs: list[tuple[Any, Any]] = node.value if node is not None and node.id == "mapping" else []
        found = [(name.start_mark.line + 1, value) for name, value in pairs if name.value == key]
        if not found:
            break
        line, node = found[0]
    return line
