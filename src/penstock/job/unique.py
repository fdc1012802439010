"""When two jobs are one too many: the rule, as a user writes it, and the key that it makes of a job's input."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, cast, get_args

import msgspec

from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import InvalidJobError, did_you_mean
from penstock.job.lifecycle import State
from penstock.job.models import LIVE, OnConflict

_DIGITS = 32


class UniquePolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """That a job is to be the only one of its kind: ``UniquePolicy(by=("customer",), period="1h")``.

    Two jobs of one task are alike if they have the same ``key``, or without one the same values of the arguments named
    in ``by`` (none named: of all arguments). One that is there stands in the way while it is in one of ``states``
    (stored ones; default: queued and running, with a period succeeded too), if it was made within the ``period``.
    ``on_conflict`` says what happens then: ``keep`` it and answer with it, ``replace`` it by the new one, or ``raise``
    `DuplicateJobError`. Raises ValueError for what means nothing.
    """

    key: str | None = None
    by: tuple[str, ...] = ()
    period: str | float | None = None
    states: tuple[str, ...] = ()
    on_conflict: OnConflict = "keep"

    def __post_init__(self) -> None:
        """Check what a type cannot say."""
        if self.key is not None and not (0 < len(self.key) <= 256 and self.key.isprintable()):
            raise ValueError(f"key: {self.key!r} is not a key: 1 to 256 printable characters")
        if self.key is not None and self.by:
            raise ValueError("key and by are two ways to say which jobs are alike; choose one")
        if self.period_s is not None and self.period_s <= 0:
            raise ValueError(f"period: {self.period!r} is not a positive time")
        for state in self.states:
            if state not in tuple(State):
                raise ValueError(
                    f"states: {state!r} is not a stored state; there are: {', '.join(State)}."
                    f"{did_you_mean(state, tuple(State))} A job for later, or to be tried again, is queued."
                )
        if self.on_conflict not in get_args(OnConflict):
            raise ValueError(f"on_conflict: {self.on_conflict!r} is none of {', '.join(get_args(OnConflict))}")

    @classmethod
    def parse(cls, value: Any) -> UniquePolicy:
        """Read ``True`` (all arguments), a text (the key), a mapping, or a policy. Raises ValueError."""
        if isinstance(value, UniquePolicy):
            return value
        if value is True:
            return cls()
        if isinstance(value, str):
            return cls(key=value)
        if isinstance(value, Mapping):
            said = dict(cast("Mapping[str, Any]", value))
            unknown = sorted(set(said) - set(cls.__struct_fields__))
            if unknown:
                raise ValueError(
                    f"{unknown[0]!r} is no part of the rule; there are: {', '.join(cls.__struct_fields__)}"
                )
            several = {name: (said[name],) for name in ("by", "states") if isinstance(said.get(name), str)}
            try:
                return msgspec.convert(said | several, cls)
            except msgspec.ValidationError as error:
                raise ValueError(str(error)) from None
        raise ValueError(f"{value!r} is not a rule; write True, a key, or UniquePolicy(by=('customer',), period='1h')")

    @property
    def period_s(self) -> float | None:
        """How long a job that was made stands in the way of others; None: for ever."""
        return None if self.period is None else parse_duration_s(self.period)

    @property
    def in_the_way(self) -> tuple[str, ...]:
        """In which stored states it does."""
        return self.states or (LIVE if self.period is None else (*LIVE, "succeeded"))

    def key_of(self, name: str, arguments: Mapping[str, Any]) -> str:
        """Return what jobs that are alike have in common. ``arguments`` are plain data, by the names of parameters.

        Raises:
            InvalidJobError: ``by`` names none of them.
        """
        if self.key is not None:
            return f"{name}:{self.key}"
        for wanted in self.by:
            if wanted not in arguments:
                raise InvalidJobError(
                    f"unique: {name} has no argument {wanted!r}; there are: {', '.join(arguments) or 'none'}."
                    f"{did_you_mean(wanted, arguments)}"
                )
        chosen = {wanted: arguments[wanted] for wanted in self.by or arguments}
        text = msgspec.json.encode(chosen, order="deterministic")
        return f"{name}:{hashlib.sha256(text).hexdigest()[:_DIGITS]}"
