"""What a function declares, read once: what is supplied to it, what it says of its jobs, what may keep it waiting."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, TypeVar

from uncalled_for import (
    Dependency,
    get_annotation_dependencies,
    get_call_argument_parameters,
    get_dependency_parameters,
    validate_dependencies,
)

from penstock.core.exceptions import ConfigError
from penstock.dependencies.base import Admission, Immediate
from penstock.dependencies.control import Retry, Timeout
from penstock.dependencies.limits import Limit
from penstock.dependencies.perpetual import Perpetual
from penstock.options import JobOptions

if TYPE_CHECKING:
    import inspect

D = TypeVar("D")


class Declared:
    """The dependencies of one function."""

    __slots__ = ("admissions", "immediate", "perpetual", "supplied", "wrapping")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self.supplied: dict[str, Dependency[Any]] = dict(get_dependency_parameters(fn))
        """By the parameter whose value they supply."""
        self.wrapping: dict[str, list[Dependency[Any]]] = {
            name: list(found) for name, found in get_annotation_dependencies(fn).items()
        }
        """By the parameter in whose annotation they stand; it stays an argument."""
        self.perpetual = next(self._of(Perpetual), None)
        self.admissions = tuple(
            (needed, name) for name, needed in self._each() if isinstance(needed, Limit | Admission)
        )
        """What is asked before the body may begin, with the parameter it is for."""
        quiet = all(isinstance(needed, Limit) for found in self.wrapping.values() for needed in found)
        self.immediate = quiet and all(isinstance(needed, Immediate) for needed in self.supplied.values())
        """Whether all of them can be had without a loop."""

    def options(self) -> JobOptions:
        """What they say of each job of the task."""
        options = JobOptions()
        for retry in self._of(Retry):
            options = options.merged(JobOptions(max_attempts=retry.max_attempts, backoff=retry.policy))
        for timeout in self._of(Timeout):
            options = options.merged(JobOptions(timeout_s=timeout.base.total_seconds()))
        return options

    def _each(self) -> Iterator[tuple[str | None, Dependency[Any]]]:
        for needed in self.supplied.values():
            yield None, needed
        for name, several in self.wrapping.items():
            for needed in several:
                yield name, needed

    def _of(self, kind: type[D]) -> Iterator[D]:
        return (needed for _, needed in self._each() if isinstance(needed, kind))


_read: dict[Callable[..., Any], Declared] = {}


def declared_by(fn: Callable[..., Any]) -> Declared:
    """Return what a function declares."""
    found = _read.get(fn)
    if found is None:
        found = _read[fn] = Declared(fn)
    return found


def check(fn: Callable[..., Any], name: str, signature: inspect.Signature) -> JobOptions:
    """Return what a new task's dependencies say of its jobs; ``signature`` is what a call takes.

    Raises:
        ConfigError: two contradict each other, or one asks for what there is not.
    """
    try:
        validate_dependencies(fn)
        declared = declared_by(fn)
        asked = [p.name for p in get_call_argument_parameters(fn) if p.name not in signature.parameters]
    except (TypeError, ValueError) as error:
        raise ConfigError(f"@task {name}: {error}") from None
    if asked and not any(p.kind is p.VAR_KEYWORD for p in signature.parameters.values()):
        raise ConfigError(
            f"@task {name}: what it depends on asks for its argument {asked[0]!r}, which it does not take"
        )
    for needed, _ in declared.admissions:
        if isinstance(needed, Limit) and needed.argument and needed.argument not in signature.parameters:
            raise ConfigError(
                f"@task {name}: {type(needed).__name__} is to count by the argument {needed.argument!r}, which the "
                "task does not take"
            )
    perpetual = declared.perpetual
    if perpetual is not None and perpetual.automatic:
        for parameter in signature.parameters.values():
            required = parameter.default is parameter.empty and parameter.kind not in (
                parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD,
            )  # fmt: skip
            if required:
                raise ConfigError(
                    f"@task {name}: its parameter {parameter.name!r} needs an argument, and workers start it without "
                    "any; give the parameter a default, or say automatic=False and enqueue it yourself"
                )
    return declared.options()
