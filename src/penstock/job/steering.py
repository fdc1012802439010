"""Strikes and pauses: which jobs may not begin now, and what people are told of it. Pure."""

from __future__ import annotations

import hashlib
import operator
import re
import shlex
from collections.abc import Callable, Collection, Mapping
from datetime import datetime
from typing import Any, Literal, cast, get_args

import msgspec

from penstock.core.exceptions import InvalidJobError, did_you_mean
from penstock.core.secrets import MASK, is_secret_name, mask_text
from penstock.job.models import NAME, Instant

KIND = "steering"
"""What kind of record a strike or a pause is in the ledger."""
Operator = Literal["==", "!=", "<", "<=", ">", ">=", "between", "in"]
_INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d")


def _instants(one: Any, other: Any) -> tuple[Any, Any]:
    """Return two texts that are instants with their time zones as such, all else as it is."""
    if isinstance(one, str) and isinstance(other, str) and _INSTANT.match(one) and _INSTANT.match(other):
        try:
            left, right = datetime.fromisoformat(one), datetime.fromisoformat(other)
        except ValueError:
            return one, other
        if left.utcoffset() is not None and right.utcoffset() is not None:
            return left, right
    return one, other


def _alike(one: Any, other: Any) -> bool:
    """Compare as JSON does: true is not 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        items, others = cast("list[Any]", one), cast("list[Any]", other)
        return len(items) == len(others) and all(map(_alike, items, others))
    if isinstance(one, dict) and isinstance(other, dict):
        fields, wanted = cast("dict[str, Any]", one), cast("dict[str, Any]", other)
        return fields.keys() == wanted.keys() and all(_alike(value, wanted[name]) for name, value in fields.items())
    left, right = _instants(one, other)
    return bool(left == right)


def _ordering(test: Callable[[Any, Any], bool]) -> Callable[[Any, Any], bool]:
    def compare(one: Any, other: Any) -> bool:
        if isinstance(one, bool) or isinstance(other, bool):
            return False
        return test(*_instants(one, other))

    return compare


_at_most = _ordering(operator.le)
_TESTS: Mapping[str, Callable[[Any, Any], bool]] = {
    "==": _alike,
    "!=": lambda value, other: not _alike(value, other),
    "<": _ordering(operator.lt),
    "<=": _at_most,
    ">": _ordering(operator.gt),
    ">=": _ordering(operator.ge),
    "between": lambda value, bounds: _at_most(bounds[0], value) and _at_most(value, bounds[1]),
    "in": lambda value, several: any(_alike(value, one) for one in several),
}
_TEXT_MAX = 120


class Strike(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="strike"):
    """That jobs of a task, or with an argument that compares so, do not begin; without a task: those of all tasks."""

    task: str | None = None
    parameter: str | None = None
    operator: Operator = "=="
    value: Any = None
    """Plain data. For ``between`` the lowest and the highest, for ``in`` a list."""
    drop: bool = False
    """Jobs that meet it are cancelled; else they wait until it is taken back."""
    at: Instant | None = None
    by: str = ""
    why: str = ""

    @classmethod
    def of(
        cls, task: str | None, parameter: str | None, comparison: str, value: Any, *, drop: bool = False, why: str = ""
    ) -> Strike:
        """Check what a user wrote. Raises `InvalidJobError`."""
        if task is not None and not NAME.fullmatch(task):
            raise InvalidJobError(f"{task!r} is not the name of a task")
        if parameter == "":
            raise InvalidJobError("a strike names the argument that it compares")
        if task is None and parameter is None:
            raise InvalidJobError("a strike names a task, an argument, or both; to stop everything, pause the queues")
        if comparison not in get_args(Operator):
            known = get_args(Operator)
            raise InvalidJobError(
                f"{comparison!r} is no comparison; there are: {', '.join(known)}.{did_you_mean(comparison, known)}"
            )
        if parameter is None and (value is not None or comparison != "=="):
            raise InvalidJobError("a value is compared with an argument: say which, parameter=...")
        try:
            plain = msgspec.json.decode(msgspec.json.encode(value))
        except (TypeError, ValueError) as error:
            raise InvalidJobError(f"the value of a strike is plain data: {error}") from None
        if comparison == "between":
            bounds = cast("list[Any]", plain) if isinstance(plain, list) else []
            if len(bounds) != 2 or not _ordered(*bounds):
                raise InvalidJobError(f"between takes the lowest and the highest, as in [10, 20]; not {value!r}")
        if comparison == "in" and not isinstance(plain, list):
            raise InvalidJobError(f"in takes a list; not {value!r}")
        return cls(
            task=task,
            parameter=parameter,
            operator=cast("Operator", comparison),
            value=plain,
            drop=drop,
            why=mask_text(why),
        )

    def __str__(self) -> str:
        if self.parameter is None:
            return self.task or ""
        shown = msgspec.json.encode(self.value).decode()
        if is_secret_name(self.parameter):  # jobs are found again by this text: two strikes must not read alike
            shown = f"{MASK} ({hashlib.sha256(shown.encode()).hexdigest()[:6]})"
        told = f"{self.parameter} {self.operator} {shown if len(shown) <= _TEXT_MAX else shown[:_TEXT_MAX] + '...'}"
        return told if self.task is None else f"{self.task}, {told}"

    @property
    def name(self) -> str:
        """By what it is found again: what it says, whoever said it."""
        return "strike " + msgspec.json.encode([self.task, self.parameter, self.operator, self.value]).decode()

    @property
    def held(self) -> str:
        """What a job that waits for it tells."""
        return f"struck: {self}"

    @property
    def ends(self) -> str:
        """The command that takes it back."""
        words = ["penstock", "restore", self.task or "*"]
        if self.parameter is not None:
            value = MASK if is_secret_name(self.parameter) else msgspec.json.encode(self.value).decode()
            words.append(f"{self.parameter} {self.operator} {value}")
        return shlex.join(words)

    def concerns(self, names: Collection[str]) -> bool:
        """Whether jobs of a task with these names may meet it."""
        return self.task is None or self.task in names

    def meets(self, names: Collection[str], queue: str, arguments: Callable[[], Mapping[str, Any]]) -> bool:
        """Whether a job may not begin whose task has these names.

        An argument that is not there, or cannot be compared, meets nothing.
        """
        if not self.concerns(names):
            return False
        if self.parameter is None:
            return True
        given = arguments()
        if self.parameter not in given:
            return False
        try:
            return bool(_TESTS[self.operator](given[self.parameter], self.value))
        except (TypeError, LookupError, RecursionError):  # the last two: nobody could have made it with a verb of ours
            return False


class Pause(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag="pause"):
    """That no job of a queue or of a task begins, or that a worker takes none."""

    what: Literal["queue", "task", "worker"]
    of: str
    at: Instant | None = None
    by: str = ""
    why: str = ""

    def __str__(self) -> str:
        return f"{self.what} {self.of}"

    @property
    def name(self) -> str:
        """By what it is found again."""
        return f"pause {self.what} {self.of}"

    @property
    def held(self) -> str:
        """What a job that waits for it tells."""
        return f"paused: {self}"

    @property
    def ends(self) -> str:
        """The command that takes it back."""
        return shlex.join(["penstock", "resume", self.what, self.of])

    @property
    def drop(self) -> bool:
        """A pause loses nothing."""
        return False

    def meets(self, names: Collection[str], queue: str, arguments: Callable[[], Mapping[str, Any]]) -> bool:
        """Whether a job may not begin whose task has these names."""
        return (self.what == "queue" and self.of == queue) or self.concerns(names)

    def concerns(self, names: Collection[str]) -> bool:
        """Whether it is a pause of the task with these names."""
        return self.what == "task" and self.of in names

    def rests(self, worker: str) -> bool:
        """Whether a worker takes nothing: it is named by its id, or by the beginning of it up to a colon."""
        return self.what == "worker" and (worker == self.of or worker.startswith(f"{self.of}:"))


Rule = Strike | Pause
decoder = msgspec.json.Decoder(Rule)
HELD_BY_RULE = ("struck: ", "paused: ")
"""How the reason of a job begins that waits for a strike or a pause to be taken back."""


def _ordered(low: Any, high: Any) -> bool:
    try:
        return _at_most(low, high)
    except TypeError:
        return False
