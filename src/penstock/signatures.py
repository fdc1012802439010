"""A task's function as data: which arguments it takes, of which types, and where its `Run` goes."""

from __future__ import annotations

import inspect
import sys
import types
import typing
import warnings
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any, cast

import msgspec
import msgspec.inspect

from penstock import templates
from penstock.core.exceptions import ArgumentsError, PayloadError
from penstock.core.secret import Secret, restored
from penstock.core.secrets import is_secret_name
from penstock.core.typed import prepared
from penstock.job.models import Ref
from penstock.payload import plain_data_or_raise, plain_or_raise
from penstock.run import Run

Convert = Callable[[Any], Any]

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_RUN_AS_TEXT = {"Run", "penstock.Run", "Run | None", "Optional[Run]", "penstock.Run | None"}
"""A string annotation whose names exist only for type checkers cannot be resolved; this is what it may look like."""


class Plan:
    """How one function is called from stored arguments. Made once per function, see `plan_of`."""

    __slots__ = ("_by_name", "_name", "_positional", "_rest", "_run_index", "_run_name", "_run_only", "_signature",
                 "_supplied", "_var_keyword", "_var_positional")  # fmt: skip

    def __init__(self, fn: Callable[..., Any], name: str, signature: inspect.Signature) -> None:
        if inspect.isgeneratorfunction(fn) or inspect.isasyncgenfunction(fn):
            raise ArgumentsError(f"task {name} is a generator function, whose body a call does not run; return a list")
        annotations = annotations_of(fn)
        self._name = name
        self._supplied = supplied(fn)
        self._run_name: str | None = None
        self._run_index = -1
        self._run_only = False
        self._by_name: dict[str, Convert] = {}
        self._positional: list[Convert | None] = []
        self._rest: Convert | None = None
        self._var_positional = self._var_keyword = ""
        taken: list[inspect.Parameter] = []
        for parameter in signature.parameters.values():
            annotation = annotations.get(parameter.name, parameter.annotation)
            if self._run_name is None and _is_run(annotation):
                self._run_name = parameter.name
                self._run_index = len(self._positional) if parameter.kind in _POSITIONAL else -1
                self._run_only = parameter.kind is inspect.Parameter.POSITIONAL_ONLY
                continue
            taken.append(parameter)
            convert = _converter(annotation)
            if parameter.kind in _POSITIONAL:
                self._positional.append(convert)
            elif parameter.kind is inspect.Parameter.VAR_POSITIONAL:
                self._var_positional, self._rest = parameter.name, convert
            elif parameter.kind is inspect.Parameter.VAR_KEYWORD:
                self._var_keyword = parameter.name
            if convert is not None:
                self._by_name[parameter.name] = convert
        self._signature = _reordered(signature, taken)

    def check(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise `ArgumentsError` or `PayloadError`, naming the parameter, if the call cannot be made."""
        if self._run_name in kwargs:
            raise ArgumentsError(f"task {self._name}: {self._run_name!r} is handed in by the worker, not by the caller")
        for name in self._supplied & kwargs.keys():
            raise ArgumentsError(f"task {self._name}: {name!r} is what it depends on: the worker hands it in")
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentsError(f"task {self._name}{self._signature}: {error}") from None
        for name, value in bound.arguments.items():
            if name == self._var_positional:
                for index, item in enumerate(value):
                    self._check_one(f"{name}[{index}]", item, self._rest)
            elif name == self._var_keyword:
                for key, item in value.items():
                    self._check_one(key, item, self._by_name.get(name))
            else:
                self._check_one(name, value, self._by_name.get(name))

    def named(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the arguments of a call as they are stored.

        A text for a parameter that is annotated `Secret` becomes one. Those for parameters with a secret name are
        passed by keyword: the name says what is to be hidden.
        """
        args = [self._sealed(index, value) for index, value in enumerate(args)]
        kwargs = {name: self._sealed(name, value) for name, value in kwargs.items()}
        parameters = list(self._signature.parameters.values())[: len(args)]
        for at, parameter in enumerate(parameters):
            if is_secret_name(parameter.name) and all(p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters[at:]):
                if len(parameters) < len(args):
                    break  # the rest goes to *args, which no keyword may go before
                by_name = {p.name: value for p, value in zip(parameters[at:], args[at:], strict=True)}
                return list(args[:at]), {**by_name, **kwargs}
        return list(args), dict(kwargs)

    def changed(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], changes: Mapping[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return stored arguments of a call with some put in their place, by name; `check` has still to see them."""
        left = dict(changes)
        parameters = [p for p in self._signature.parameters.values() if p.kind in _POSITIONAL]
        placed = [self._given(index, value) for index, value in enumerate(args)]
        for at, parameter in enumerate(parameters[: len(placed)]):
            if parameter.name in left:
                placed[at] = left.pop(parameter.name)
        if self._var_positional and self._var_positional in left and len(placed) >= len(parameters):
            placed[len(parameters) :] = left.pop(self._var_positional)
        named = {name: self._given(name, value) for name, value in kwargs.items()}
        return placed, {**named, **left}

    def bound(self, args: list[Any], kwargs: dict[str, Any], run: Any) -> dict[str, Any]:
        """Return stored arguments by name, restored to their types, the run among them. Raises `ArgumentsError`."""
        args = [self._restore(index, value) for index, value in enumerate(args)]
        kwargs = {key: self._restore(key, value) for key, value in kwargs.items()}
        try:
            bound = self._signature.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentsError(f"task {self._name}{self._signature}: {error}") from None
        bound.apply_defaults()
        if self._run_name is not None:
            bound.arguments[self._run_name] = run
        return dict(bound.arguments)

    def by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the arguments of a call by the names of the parameters, those left out as their defaults."""
        bound = self._signature.bind(*args, **kwargs)
        given = set(bound.arguments)
        bound.apply_defaults()
        return {name: value if name in given else _plain(value) for name, value in bound.arguments.items()}

    def part_by_name(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return some arguments of a call by the names of the parameters. Raises `ArgumentsError`."""
        try:
            return dict(self._signature.bind_partial(*args, **kwargs).arguments)
        except TypeError as error:
            raise ArgumentsError(f"task {self._name}{self._signature}: {error}") from None

    def call(self, fn: Callable[..., Any], args: list[Any], kwargs: dict[str, Any], run: Any) -> Any:
        """Call the function with stored arguments, restored to their types, refs loaded, the run put in its place."""
        if args or kwargs:
            args = [self._restore(index, value) for index, value in enumerate(args)]
            kwargs = {key: self._restore(key, value) for key, value in kwargs.items()}
        if self._run_name is None:
            return fn(*args, **kwargs)
        if self._run_index >= 0 and (self._run_only or len(args) > self._run_index):
            while len(args) < self._run_index:  # positional only, with defaults in front of it
                args.append(list(self._signature.parameters.values())[len(args)].default)
            return fn(*args[: self._run_index], run, *args[self._run_index :], **kwargs)
        kwargs[self._run_name] = run
        return fn(*args, **kwargs)

    def _given(self, place: int | str, value: Any) -> Any:
        """Return a stored argument as a caller gives it."""
        if _is_ref(value):
            return _as_ref(value)
        return restored(value) if self._convert_at(place) in _SECRETS and value is not None else value

    def _sealed(self, place: int | str, value: Any) -> Any:
        return Secret(value) if isinstance(value, str) and self._convert_at(place) in _SECRETS else value

    def _check_one(self, name: str, value: Any, convert: Convert | None) -> None:
        if convert is not None and convert in _SECRETS:
            if isinstance(value, Mapping):
                raise ArgumentsError(f"task {self._name}: parameter {name!r}: Expected a `Secret` or `str`")
            try:
                convert(value)
            except ValueError as error:
                raise ArgumentsError(f"task {self._name}: parameter {name!r}: {error}") from None
            return
        plain_data_or_raise(value, f"{self._name}.{name}")
        if convert is None and isinstance(value, bytes | bytearray):
            raise PayloadError(
                f"task {self._name}: parameter {name!r} is bytes, which would arrive as base64 text; "
                f"annotate it ({name}: bytes) and it arrives as it is"
            )
        if convert is not None and not isinstance(value, Ref):
            plain = value
            try:
                plain = msgspec.to_builtins(value, enc_hook=plain_or_raise, str_keys=True)
                convert(plain)
            except (msgspec.ValidationError, ValueError, TypeError) as error:
                if _is_template_for(convert, plain):
                    return
                raise ArgumentsError(f"task {self._name}: parameter {name!r}: {error}") from None

    def _convert_at(self, place: int | str) -> Convert | None:
        if isinstance(place, int):
            return self._positional[place] if place < len(self._positional) else self._rest
        return self._by_name.get(place) or self._by_name.get(self._var_keyword)

    def _restore(self, place: int | str, value: Any) -> Any:
        convert = self._convert_at(place)
        if _is_ref(value):
            if convert is _as_ref:
                return _as_ref(value)
            from penstock.store import load_ref

            return load_ref(_as_ref(value))
        if convert is None:
            return value
        try:
            return convert(value)
        except (msgspec.ValidationError, ValueError, TypeError) as error:
            name = place
            if isinstance(place, int):
                names = list(self._signature.parameters)
                name = names[place] if place < len(self._positional) else f"{self._var_positional}[{place}]"
            raise ArgumentsError(f"task {self._name}: parameter {name!r}: {error}") from None


def _is_template_for(convert: Convert, value: Any) -> bool:
    """Whether a value is what a schedule fills in at each fire time, and fits then. Refuses as `templates.check`."""
    templates.check(repr(value))
    sample = templates.sampled(value)
    if sample == value:
        return False
    with suppress(msgspec.ValidationError, ValueError, TypeError):
        convert(sample)
        return True
    return False


def supplied(fn: Callable[..., Any]) -> frozenset[str]:
    """Return which parameters are no arguments, because what the function depends on supplies them.

    Raises:
        ArgumentsError: a parameter says twice where its value comes from, or says so and does not.

    Warns:
        UserWarning: an annotation cannot be read that may ask for something.
    """
    # Nothing can depend on what is not loaded: a project without dependencies never loads the library.
    library = sys.modules.get("uncalled_for")
    if library is None:
        return frozenset()
    try:
        with _readable(fn):
            return frozenset(library.get_dependency_parameters(fn))
    except TypeError as error:
        raise ArgumentsError(str(error)) from None


def wrapped(fn: Callable[..., Any]) -> bool:
    """Whether the annotation of an argument asks for something around the call; `supplied` goes before."""
    library = sys.modules.get("uncalled_for")
    return library is not None and bool(library.get_annotation_dependencies(fn))


@contextmanager
def _readable(fn: Callable[..., Any]) -> Generator[None]:
    """Take annotations that cannot be read out of the library's way, which then reads none; it keeps what it reads."""
    written = getattr(fn, "__annotations__", {})
    doubtful = any(isinstance(text, str) and "Annotated" in text for text in written.values())
    if doubtful:
        with suppress(Exception):  # an annotation may raise anything when it is evaluated
            typing.get_type_hints(fn, include_extras=True)
            doubtful = False
    if not doubtful:
        yield
        return
    read: dict[str, Any] = {}
    for name, text in written.items():
        single = types.SimpleNamespace(__annotations__={name: text})
        try:
            read |= typing.get_type_hints(single, globalns=getattr(fn, "__globals__", {}), include_extras=True)
        except Exception as error:  # noqa: BLE001 - as above
            read[name] = Any
            if "Annotated" in str(text):
                told = f"the annotation of {name!r} of {fn.__qualname__} cannot be read, nor what it asks for: {error}"
                warnings.warn(told, stacklevel=6)
    fn.__annotations__ = read
    try:
        yield
    finally:
        fn.__annotations__ = written


_plans: dict[Callable[..., Any], Plan] = {}


def _plain(default: Any) -> Any:
    try:
        return msgspec.to_builtins(default)
    except (TypeError, ValueError):
        return repr(default)


def plan_of(fn: Callable[..., Any], name: str, signature: inspect.Signature) -> Plan:
    """Return the plan of a function. Raises `ArgumentsError` for a generator function."""
    plan = _plans.get(fn)
    if plan is None:
        plan = _plans[fn] = Plan(fn, name, signature)
    return plan


def annotations_of(fn: Callable[..., Any], *, extras: bool = False) -> dict[str, Any]:
    """Return the resolved annotations, with what `Annotated` adds or without; what cannot be resolved stays a text."""
    with suppress(Exception):  # an annotation may raise anything when it is evaluated; then one by one
        return typing.get_type_hints(fn, include_extras=extras)
    found: dict[str, Any] = {}
    names = getattr(inspect.unwrap(fn), "__globals__", {})
    for name, parameter in inspect.signature(fn).parameters.items():
        try:
            single = types.SimpleNamespace(__annotations__={name: parameter.annotation})
            found[name] = typing.get_type_hints(single, globalns=names, include_extras=extras)[name]
        except Exception:  # noqa: BLE001 - as above
            found[name] = parameter.annotation
    return found


def _is_run(annotation: Any) -> bool:
    if isinstance(annotation, str):
        return annotation.strip() in _RUN_AS_TEXT
    return annotation is Run or Run in typing.get_args(annotation)


def _reordered(signature: inspect.Signature, taken: list[inspect.Parameter]) -> inspect.Signature:
    try:
        return signature.replace(parameters=taken, return_annotation=inspect.Signature.empty)
    except ValueError:  # a required parameter after one with a default that stood behind the run
        return inspect.Signature(taken, __validate_parameters__=False)


def _is_ref(value: Any) -> bool:
    if type(value) is not dict:
        return False
    fields = cast("dict[str, Any]", value)
    return fields.get("type") == "ref" and "uri" in fields and "sha256" in fields


def _as_ref(value: Any) -> Ref:
    return value if isinstance(value, Ref) else msgspec.convert(value, Ref)


def _secret_or_none(value: Any) -> Secret | None:
    return None if value is None else restored(value)


_SECRETS: tuple[Convert | None, ...] = (restored, _secret_or_none)


def _converter(annotation: Any) -> Convert | None:
    """Return what restores a JSON value to the annotated type; None where msgspec has no say."""
    if annotation in (inspect.Parameter.empty, Any, object) or isinstance(annotation, str):
        return None
    if annotation is Ref:
        return _as_ref
    if annotation is Secret:
        return restored
    if Secret in (among := typing.get_args(annotation)) and set(among) <= {Secret, types.NoneType}:
        return _secret_or_none
    try:
        info = msgspec.inspect.type_info(annotation)
    except Exception:  # noqa: BLE001 - whatever msgspec cannot read is left alone
        return None
    if not _supported(info):
        return None
    prepared(annotation)
    return lambda value: msgspec.convert(value, annotation, strict=False, dec_hook=_decode_rare)


def _supported(info: Any, depth: int = 0) -> bool:
    if isinstance(info, msgspec.inspect.CustomType):
        return _is_rare(info.cls)
    if depth > 20:  # a type that holds itself
        return True
    if isinstance(info, msgspec.inspect.Type | msgspec.inspect.Field):
        fields = (getattr(info, name) for name in info.__struct_fields__ if name not in ("cls", "default"))
        return all(_supported(field, depth + 1) for field in fields)
    if isinstance(info, tuple):
        return all(_supported(item, depth + 1) for item in cast("tuple[Any, ...]", info))
    return True


def _is_rare(cls: Any) -> bool:
    return isinstance(cls, type) and (issubclass(cls, PurePath) or hasattr(cast("Any", cls), "model_validate"))


def _decode_rare(cls: Any, value: Any) -> Any:
    if issubclass(cls, PurePath):
        if not isinstance(value, str):
            raise ValueError(f"Expected a path as `str`, got `{type(value).__name__}`")  # noqa: TRY004 - msgspec's way
        return Path(value) if cls is Path else cls(value)
    return cls.model_validate(value)
