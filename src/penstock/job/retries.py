"""When a job is tried again: how long it waits, and after which errors; how people write it."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import msgspec

from penstock.core.durations import parse_duration_s

if TYPE_CHECKING:
    from penstock.job.models import ErrorInfo

FORMS = "'10s..10m' (doubling), '10s*n^2..10m' (growing as a power of the number of errors) or '30s' (always the same)"
MAX_ATTEMPTS = 1000
_POLICY = re.compile(
    r"([^*~]+?)\s*(?:\*\s*n(?:\s*\^\s*(\d+(?:\.\d+)?))?)?\s*(?:\.\.\s*([^~]+?))?\s*(?:~\s*(\d{1,3})\s*%)?"
)
_CLASS = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*")
_NO_HOME = ("__main__", "__mp_main__", "_penstock_")
"""Modules that have another name in another process: scripts, and files of tasks that were loaded by their path."""


class RetryRule(msgspec.Struct, frozen=True, omit_defaults=True):
    """What holds for the errors of one class, and of those derived from it."""

    name: str
    """The class's name, alone or behind that of its module or package."""
    max_attempts: int | None = None
    """How many tries may end with such an error, counted for itself; None: counted with all others."""
    backoff: RetryPolicy | None = None
    """Waits of its own, which grow with its own count."""

    def __str__(self) -> str:
        said = ",".join(str(one) for one in (self.max_attempts, self.backoff) if one is not None)
        return f"{self.name}={said}" if said else self.name


class RetryPolicy(msgspec.Struct, frozen=True, omit_defaults=True):
    """How long to wait before the next try, and after which errors there is none.

    The wait after the n-th error is ``min(cap_s, base_s * factor**(n-1))``, or with a ``power`` ``min(cap_s, base_s *
    n**power)``, of which the share ``jitter`` is random (1.0: anything from 0 to the whole).

    Where ``retry_on`` or ``rules`` name classes, errors of others are not tried again; those of ``discard_on`` never
    are. Of several names that fit, that of the nearest class counts, and of the same one ``discard_on``.
    """

    base_s: float = 10.0
    cap_s: float = 600.0
    factor: float = 2.0
    jitter: float = 0.5
    retry_on: tuple[str, ...] = ()
    discard_on: tuple[str, ...] = ()
    rules: tuple[RetryRule, ...] = ()
    power: float | None = None

    def __str__(self) -> str:
        """Write the waits as `parse` reads them, the jitter left out."""
        base, cap = f"{self.base_s:g}s", f"{self.cap_s:g}s"
        if self.power is not None:
            return f"{base}*n^{self.power:g}..{cap}"
        return base if self.base_s == self.cap_s else f"{base}..{cap}"

    @classmethod
    def fixed(cls, wait: Any, *, jitter: float = 0.0) -> RetryPolicy:
        """Always wait as long. Raises ValueError, as the next two do."""
        wait_s = _wait_s(wait)
        return _checked(cls(base_s=wait_s, cap_s=wait_s, factor=1.0, jitter=jitter))

    @classmethod
    def exponential(cls, base: Any, cap: Any = "10m", *, factor: float = 2.0, jitter: float = 0.5) -> RetryPolicy:
        """Wait ``base``, then ``factor`` times as long each time, at most ``cap``."""
        return _checked(cls(base_s=_wait_s(base), cap_s=_wait_s(cap), factor=factor, jitter=jitter))

    @classmethod
    def polynomial(cls, base: Any, cap: Any = "10m", *, power: float = 2.0, jitter: float = 0.5) -> RetryPolicy:
        """Wait ``base`` times the number of errors raised to ``power``, at most ``cap``."""
        return _checked(cls(base_s=_wait_s(base), cap_s=_wait_s(cap), power=power, jitter=jitter))

    @classmethod
    def parse(cls, value: Any) -> RetryPolicy:
        """Read ``"10s..10m"``, ``"10s*n^2..10m"``, ``"30s"`` or ``30``, or a mapping of the fields.

        ``~20%`` behind a text is its jitter; without it half of a wait that grows is random, and nothing of others.

        Raises:
            ValueError: not a policy; the message shows the accepted forms.
        """
        if isinstance(value, RetryPolicy):
            return value
        if isinstance(value, Mapping):
            fields = dict(cast("Mapping[str, Any]", value))
            try:
                return _checked(msgspec.convert(fields, cls))
            except msgspec.ValidationError as error:
                raise ValueError(f"backoff {fields!r}: {error}") from None
        found = _POLICY.fullmatch(str(value).strip())
        if found is None:
            raise ValueError(f"{value!r} is not a backoff; write {FORMS}")
        low, power, high, share = found.groups()
        growing = "*" in found[0] or high is not None
        try:
            base_s = parse_duration_s(low)
            cap_s = base_s if high is None else parse_duration_s(high)
        except ValueError:
            raise ValueError(f"{value!r} is not a backoff; write {FORMS}") from None
        if "*" in found[0] and high is None:
            raise ValueError(f"backoff {value!r} grows without end; say up to what: {value}..1h")
        return _checked(
            cls(
                base_s=base_s, cap_s=cap_s, factor=2.0 if growing else 1.0,
                jitter=int(share) / 100 if share else 0.5 if growing else 0.0,
                power=(float(power) if power else 1.0) if "*" in found[0] else None,
            ),
            f"backoff {value!r}",
        )  # fmt: skip

    def delay_s(self, errors: int, rand: Callable[[], float] = random.random) -> float:
        """Return the wait after the ``errors``-th error, in seconds."""
        try:
            grown = self.factor ** (errors - 1) if self.power is None else errors**self.power
            whole = min(self.cap_s, self.base_s * grown)
        except OverflowError:
            whole = self.cap_s
        return whole * (1 - self.jitter + self.jitter * rand())

    def rule_for(self, error: ErrorInfo) -> RetryRule | None:
        """Return the rule for an error, `ANY` where none names it; None: it is not worth another try."""
        if self.has_rules:
            for module, name in _classes_of(error):
                if any(_names(given, module, name) for given in self.discard_on):
                    return None
                for rule in self.rules:
                    if _names(rule.name, module, name):
                        return rule
                if any(_names(given, module, name) for given in self.retry_on):
                    return ANY
        return None if self.retry_on or self.rules else ANY

    def retries(self, error: ErrorInfo) -> bool:
        """Whether an error of this class is worth another try."""
        return self.rule_for(error) is not None

    def spent(self, rule: RetryRule, earlier: Sequence[ErrorInfo]) -> int:
        """Count the errors that share the counter of this rule: those of ``earlier``, and one more."""
        return 1 + sum(_counter(self.rule_for(error)) == _counter(rule) for error in earlier)

    def most(self, max_attempts: int) -> int:
        """Return how many tries a job with this many of its own may take, whatever one counter is used up."""
        return max(max_attempts, *(rule.max_attempts or 0 for rule in self.rules), 0)

    def with_rules(self, rules: Sequence[RetryRule] | None, discard_on: Sequence[str] | None) -> RetryPolicy:
        """Return the policy with other rules; None leaves those that there are."""
        changes: dict[str, Any] = {}
        if rules is not None:
            plain = tuple(rule.name for rule in rules if rule.max_attempts is None and rule.backoff is None)
            changes = {"retry_on": plain, "rules": tuple(rule for rule in rules if rule.name not in plain)}
        if discard_on is not None:
            changes["discard_on"] = tuple(discard_on)
        return msgspec.structs.replace(self, **changes) if changes else self

    def or_rules_of(self, other: RetryPolicy) -> RetryPolicy:
        """Return the policy, with the rules of another one where it has none."""
        if self.has_rules:
            return self
        return msgspec.structs.replace(self, retry_on=other.retry_on, discard_on=other.discard_on, rules=other.rules)

    @property
    def has_rules(self) -> bool:
        """Whether it says anything of classes of errors."""
        return bool(self.retry_on or self.discard_on or self.rules)


ANY = RetryRule("")
"""The rule for an error that no rule names: tried again as the job itself says."""


def _counter(rule: RetryRule | None) -> str | None:
    return None if rule is None or rule.max_attempts is None else rule.name


def _checked(policy: RetryPolicy, told: str = "backoff") -> RetryPolicy:
    if policy.base_s < 0 or policy.cap_s < policy.base_s:
        raise ValueError(f"{told}: the waits must be positive and grow")
    if not 0 <= policy.jitter <= 1:
        raise ValueError(f"{told}: the jitter is a share from 0 to 1, not {policy.jitter:g}")
    if policy.factor < 0 or (policy.power or 0) < 0:
        raise ValueError(f"{told}: the waits must not shrink")
    return policy


def _wait_s(value: Any) -> float:
    return parse_duration_s(value)


# -- classes of errors ----------------------------------------------------------------------------------------------


def home_of(cls: type[Any]) -> str:
    """Return the module that a class can be told apart by in every process, or an empty text."""
    module = str(getattr(cls, "__module__", ""))
    return "" if module.startswith(_NO_HOME) else module


def class_name(value: Any) -> str:
    """Return the name under which a policy knows an exception class, or the name of one. Raises ValueError."""
    if isinstance(value, type):
        if not issubclass(value, BaseException):
            raise ValueError(f"{value.__name__} is no exception class")  # noqa: TRY004 - one error class for options
        home = home_of(value)
        return f"{home}.{value.__name__}" if home else value.__name__
    if isinstance(value, str) and _CLASS.fullmatch(value.strip()):
        return value.strip()
    raise ValueError(f"{value!r} is neither an exception class nor the name of one, such as 'requests.Timeout'")


def parse_discard_on(value: Any) -> tuple[str, ...]:
    """Read classes or names of them: one, or several. Raises ValueError."""
    return tuple(class_name(one) for one in _several(value))


def parse_retry_on(value: Any) -> tuple[RetryRule, ...]:
    """Read classes or names of them, one or several, or a mapping of such to what holds for each.

    That is a number of tries, a backoff, or a mapping of ``max_attempts`` and ``backoff``. A name may be a text such as
    ``"requests.Timeout=3,30s"``. Raises ValueError.
    """
    if isinstance(value, Mapping):
        return tuple(_rule(name, said) for name, said in cast("Mapping[Any, Any]", value).items())
    rules: list[RetryRule] = []
    for one in _several(value):
        if isinstance(one, RetryRule):
            rules.append(one)
        elif isinstance(one, str) and "=" in one:
            name, _, said = one.partition("=")
            parts = [part.strip() for part in said.split(",") if part.strip()]
            words: dict[str, Any] = {}
            for part in parts:
                words["max_attempts" if part.isdigit() else "backoff"] = int(part) if part.isdigit() else part
            if not parts or len(words) != len(parts):
                raise ValueError(f"{one!r}: write NAME=TRIES, NAME=BACKOFF or NAME=TRIES,BACKOFF")
            rules.append(_rule(name, words))
        else:
            rules.append(RetryRule(class_name(one)))
    return tuple(rules)


def _rule(name: Any, said: Any) -> RetryRule:
    named = class_name(name)
    words: dict[str, Any]
    if said is None:
        words = {}
    elif isinstance(said, Mapping):
        words = dict(cast("Mapping[str, Any]", said))
    elif isinstance(said, int) and not isinstance(said, bool):
        words = {"max_attempts": said}
    else:
        words = {"backoff": said}
    for word in words:
        if word not in ("max_attempts", "backoff"):
            raise ValueError(f"{named}: unknown key {word!r}; there are: max_attempts, backoff")
    most = words.get("max_attempts")
    if most is not None and (not isinstance(most, int) or isinstance(most, bool) or not 1 <= most <= MAX_ATTEMPTS):
        raise ValueError(f"{named}: {most!r} is not a whole number from 1 to {MAX_ATTEMPTS}")
    backoff = words.get("backoff")
    return RetryRule(named, most, None if backoff is None else RetryPolicy.parse(backoff))


def _several(value: Any) -> Iterable[Any]:
    if isinstance(value, str | type | RetryRule):
        return (value,)
    try:
        return tuple(value)
    except TypeError:
        raise ValueError(f"{value!r} is neither an exception class nor a list of them") from None


def _classes_of(error: ErrorInfo) -> Iterator[tuple[str, str]]:
    """Yield module and name of an error's class and its bases, the nearest first; the module is empty if not known."""
    for at, name in enumerate((error.type, *error.bases)):
        known = error.modules[at] if at < len(error.modules) else "builtins" if error.modules else ""
        yield known, name


def _names(given: str, module: str, name: str) -> bool:
    """Whether a name means this class. A package stands for its modules: most show their classes at their top."""
    package, _, last = given.rpartition(".")
    if last != name:
        return False
    return not package or not module or f"{module}.".startswith(f"{package}.") or f"{package}.".startswith(f"{module}.")
