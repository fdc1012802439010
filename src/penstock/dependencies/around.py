"""What surrounds every body of a worker: dependencies that belong to it, and not to one task."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

from uncalled_for import Dependency, validate_dependencies

from penstock.core.exceptions import ConfigError
from penstock.dependencies.base import Admission
from penstock.dependencies.control import Retry, Timeout
from penstock.dependencies.declared import declared_by
from penstock.dependencies.limits import Limit
from penstock.dependencies.perpetual import Perpetual

_PREFIX = "worker_dependency_"
_ELSEWHERE = {
    Timeout: "say it in @task(timeout=...), or for all tasks as [defaults] timeout",
    Retry: "say it in @task(max_attempts=...), or for all tasks as [defaults] max_attempts and backoff",
    Perpetual: "a task says itself that it runs again",
    Limit: "a task says itself what it waits for",
}
"""What has its say before a worker has the job."""


def nothing() -> None:
    """Declare nothing: what stands for a body whose own function declares none."""


class Around:
    """The dependencies of a worker, by name."""

    def __init__(self, dependencies: Mapping[str, Any]) -> None:
        """Raises `ConfigError` for what cannot surround a body."""
        for name, needed in dependencies.items():
            if not name.isidentifier():
                raise ConfigError(f"a worker's dependency is called {name!r}, which is no name of Python's")
            if not isinstance(needed, Dependency):
                raise ConfigError(f"a worker's dependency {name!r} is a {type(needed).__name__}, not a Depends(...)")
            for kind, hint in _ELSEWHERE.items():
                if isinstance(needed, kind):
                    raise ConfigError(f"a worker's dependency {name!r} is a {type(needed).__name__}: {hint}")
        self._dependencies = cast("dict[str, Dependency[Any]]", dict(dependencies))
        self._joined: dict[Callable[..., Any], Callable[..., Any]] = {}
        self.joined(nothing)
        self.admissions = [needed for needed in self._dependencies.values() if isinstance(needed, Admission)]

    def __bool__(self) -> bool:
        return bool(self._dependencies)

    def joined(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        """Return what declares these and then those of ``fn``; it is not to be called.

        Raises:
            ConfigError: there may be one of a kind, and both declare it.
        """
        found = self._joined.get(fn)
        if found is None:
            found = self._join(fn)
            try:
                validate_dependencies(found)
            except ValueError as error:
                whose = "of a worker" if fn is nothing else f"of the worker and of {fn.__qualname__} together"
                raise ConfigError(f"{error}: the dependencies {whose}") from None
            self._joined[fn] = found
        return found

    def _join(self, fn: Callable[..., Any]) -> Callable[..., Any]:
        declared = declared_by(fn)
        own = [
            inspect.Parameter(f"{_PREFIX}{name}", inspect.Parameter.KEYWORD_ONLY, default=needed)
            for name, needed in self._dependencies.items()
        ]
        theirs = [
            parameter.replace(default=declared.supplied.get(name, parameter.default))
            for name, parameter in inspect.signature(fn).parameters.items()
        ]

        def both() -> None: ...

        both.__qualname__ = fn.__qualname__
        # Entered in this order, and so left last.
        both.__signature__ = inspect.Signature([*own, *theirs], __validate_parameters__=False)  # type: ignore[attr-defined]
        both.__annotations__ = {name: Annotated[(Any, *several)] for name, several in declared.wrapping.items()}
        return both


def named(places: Sequence[str], root: Path) -> Around:
    """Return what ``places`` of the configuration name, each as ``module:name``: a dependency, or a mapping of some.

    Raises:
        ConfigError: there is no such thing, or it cannot surround a body.
    """
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))  # as for the modules of tasks
    found: dict[str, Any] = {}
    for place in places:
        module, _, name = place.partition(":")
        if not module or not name:
            raise ConfigError(f"worker.dependencies: {place!r} is not module:name")
        try:
            value = getattr(importlib.import_module(module), name)
        except Exception as error:
            told = f"worker.dependencies: {place} cannot be had: {type(error).__name__}: {error}"
            raise ConfigError(told) from error
        found |= cast("Mapping[str, Any]", value) if isinstance(value, Mapping) else {name: value}
    return Around(found)


def plain_name(parameter: str) -> str:
    """Return how people call what supplies a parameter of `Around.joined`."""
    name = parameter.removeprefix(_PREFIX)
    return f"what parameter {parameter!r} depends on" if name == parameter else f"the worker's dependency {name!r}"
