"""The submitting side of a pipeline run: FlowerPower's keywords or its RunConfig become the sparse spec.

A RunConfig is only looked at: FlowerPower is never imported here. Of its fields those travel that were given, which
is to say marked by ``from_dict`` or a builder, or different from the class's default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any, cast

import msgspec

from penstock.core.exceptions import InvalidJobError, PayloadError, did_you_mean
from penstock.job.models import Ref
from penstock.options import NAMES as OPTION_NAMES
from penstock.payload import describe, plain_data_or_raise
from penstock.runners.pipeline import AdapterRef, CacheSpec, ExecutorSpec, PipelineRunSpec
from penstock.runners.retries import RETRY_FIELDS

EXECUTORS = ("synchronous", "local", "threadpool", "processpool", "ray", "dask")
ADAPTERS = ("hamilton_tracker", "mlflow", "ray", "progressbar", "future")
LOG_LEVELS = ("TRACE", "DEBUG", "INFO", "SUCCESS", "WARNING", "ERROR", "CRITICAL")
_SECRETS = ("api_key", "password", "token", "secret")
_ALIASES = {"executor_cfg": "executor", "with_adapter_cfg": "with_adapter"}


def fields_given(run_config: Any) -> dict[str, Any]:
    """Return the fields of a RunConfig (or a mapping) that were given, named as its keywords are.

    Raises:
        InvalidJobError: it is neither; or None was given for a field to clear the project's own, which is not
            supported.
    """
    if run_config is None:
        return {}
    if isinstance(run_config, Mapping):
        return dict(cast("Mapping[str, Any]", run_config))
    fields: tuple[str, ...] = getattr(run_config, "__struct_fields__", ())
    if "final_vars" not in fields or "inputs" not in fields:
        raise InvalidJobError(f"run_config is a {describe(run_config)}; pass a FlowerPower RunConfig or a dict")
    marked = set(cast("Iterable[str]", run_config.explicit_overrides or ()))
    default = type(run_config)()
    given: dict[str, Any] = {}
    for name in fields:
        if name.endswith("_override_raw") or name in ("explicit_overrides", *RETRY_FIELDS):
            continue
        value = getattr(run_config, name)
        if name in ("executor", "with_adapter", "retry"):
            sparse = _sparse(run_config, name, marked=name in marked or _flat_retry(name, marked))
            if sparse:
                given[name] = sparse
        elif name in marked or value != getattr(default, name):
            if value is None and name in ("inputs", "config", "final_vars", "additional_modules"):
                raise InvalidJobError(
                    f"run_config.{name} is None, which would clear the project's own; leave it out, or say a value"
                )
            given[name] = value
    return {name: value for name, value in given.items() if value is not None}


def split_keywords(
    given: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """Sort keywords into run fields, retry settings and job options. Raises `InvalidJobError` for unknown ones."""
    fields: dict[str, Any] = {}
    retry: dict[str, Any] = {}
    options: dict[str, Any] = {}
    for name, value in given.items():
        if name == "retry":
            if value is not None:
                retry.update(_mapping(value, "retry"))
        elif name in RETRY_FIELDS:
            retry[name] = value
        elif name in OPTION_NAMES:
            options[name] = value
        elif _ALIASES.get(name, name) in _CHECKS:
            if value is not None:
                fields[_ALIASES.get(name, name)] = value
        else:
            known = [*_CHECKS, *_ALIASES, "retry", *RETRY_FIELDS, *OPTION_NAMES, "project", "modules"]
            raise InvalidJobError(f"a pipeline run has no field {name!r}.{did_you_mean(name, known)}")
    return fields, retry, options


def spec_of(target: Any, fields: Mapping[str, Any]) -> PipelineRunSpec:
    """Check the fields and make the spec.

    Raises:
        PayloadError: a value cannot travel; names the path to it.
        InvalidJobError: a value is not what the field takes.
    """
    checked: dict[str, Any] = {}
    for name, value in fields.items():
        found = _CHECKS[name](value, name)
        if name == "inputs":
            plain = {key: item for key, item in found.items() if not isinstance(item, Ref)}
            refs = {key: item for key, item in found.items() if isinstance(item, Ref)}
            if plain:
                checked["inputs"] = plain
            if refs:
                checked["refs"] = refs
        elif found is not None:
            checked[name] = found
    return PipelineRunSpec(target=target, **checked)


# -- one check per field ----------------------------------------------------------------------------------------


def _plain_mapping(value: Any, where: str) -> dict[str, Any]:
    found = _mapping(value, where)
    plain_data_or_raise(found, where)
    return found


def _adapter_cfg(value: Any, where: str) -> dict[str, Any]:
    found = _plain_mapping(value, where)
    _refuse_secrets(found, where)
    return found


def _refuse_secrets(value: Mapping[str, Any], where: str) -> None:
    for name, item in value.items():
        if isinstance(item, Mapping):
            _refuse_secrets(cast("Mapping[str, Any]", item), f"{where}.{name}")
        elif name in _SECRETS and isinstance(item, str) and not item.startswith("env:"):
            raise PayloadError(
                f"{where}.{name} would lie in the ledger for all to read; "
                "write 'env:NAME', a variable of the worker's environment"
            )


def _names(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset):
        raise InvalidJobError(f"{where} is {value!r}; write a list of names, such as ['report']")
    for index, name in enumerate(cast("Iterable[Any]", value)):
        if isinstance(name, ModuleType):
            raise PayloadError(f"{where}[{index}] is a module; pass its name, {name.__name__!r}")
        if not isinstance(name, str) or not name:
            raise PayloadError(f"{where}[{index}] is a {describe(name)}; pass its name as a str")
    return tuple(cast("Iterable[str]", value))


def _final_vars(value: Any, where: str) -> tuple[str, ...]:
    names = _names(value, where)
    if not names:
        raise InvalidJobError(
            "final_vars is empty: nothing would be computed (FlowerPower hangs on it); "
            "name at least one variable, or leave it out to take the project's"
        )
    return names


def _executor(value: Any, where: str) -> ExecutorSpec:
    fields = {"type": value} if isinstance(value, str) else _mapping(value, where)
    _known(fields, ExecutorSpec.__struct_fields__, where)
    try:
        spec = msgspec.convert(fields, ExecutorSpec)
    except msgspec.ValidationError as error:
        raise InvalidJobError(f"{where}: {error}") from None
    if spec.type is not msgspec.UNSET and spec.type not in EXECUTORS:
        raise InvalidJobError(
            f"{where}.type is {spec.type!r}; there are: {', '.join(EXECUTORS)}.{did_you_mean(spec.type, EXECUTORS)}"
        )
    return spec


def _with_adapter(value: Any, where: str) -> dict[str, bool]:
    flags = _mapping(value, where)
    _known(flags, ADAPTERS, where)
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise InvalidJobError(f"{where}.{name} is {flag!r}; write True or False")
    return flags


def _adapter_instances(value: Any, where: str) -> None:
    for name in _mapping(value, where):
        raise PayloadError(
            f"{where}.{name} is an adapter instance, which cannot travel; name it instead: adapters=[{name!r}], "
            "with an entry point of that name in the group 'penstock.adapters'"
        )


def _adapters(value: Any, where: str) -> tuple[AdapterRef, ...]:
    if isinstance(value, str | Mapping) or not isinstance(value, list | tuple):
        raise InvalidJobError(f"{where} is {value!r}; write a list of names or AdapterRefs")
    found: list[AdapterRef] = []
    for index, given in enumerate(cast("Iterable[Any]", value)):
        item = AdapterRef(given) if isinstance(given, str) else given
        if not isinstance(item, AdapterRef):
            raise PayloadError(f"{where}[{index}] is a {describe(item)}; pass its name or an AdapterRef")
        plain_data_or_raise(item.kwargs, f"{where}[{index}].kwargs")
        found.append(item)
    return tuple(found)


def _cache(value: Any, where: str) -> CacheSpec:
    if isinstance(value, CacheSpec):
        return value
    if isinstance(value, bool):
        return CacheSpec() if value else CacheSpec(scope="off")
    fields = _mapping(value, where)
    _known(fields, CacheSpec.__struct_fields__, where)
    try:
        return msgspec.convert(fields, CacheSpec)
    except msgspec.ValidationError as error:
        raise InvalidJobError(f"{where}: {error}") from None


def _log_level(value: Any, where: str) -> str:
    level = value.upper() if isinstance(value, str) else value
    if level not in LOG_LEVELS:
        raise InvalidJobError(f"{where} is {value!r}; there are: {', '.join(LOG_LEVELS)}")
    return level


def _flag(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidJobError(f"{where} is {value!r}; write True or False")
    return value


def _callback(value: Any, where: str) -> None:
    raise PayloadError(f"{where} is a {describe(value)}, which cannot travel; do it in a node, or wait for the job")


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "inputs": _plain_mapping,
    "overrides": _plain_mapping,
    "final_vars": _final_vars,
    "config": _plain_mapping,
    "executor": _executor,
    "with_adapter": _with_adapter,
    "pipeline_adapter_cfg": _adapter_cfg,
    "project_adapter_cfg": _adapter_cfg,
    "adapter": _adapter_instances,
    "adapters": _adapters,
    "additional_modules": _names,
    "cache": _cache,
    "async_driver": _flag,
    "log_level": _log_level,
    "reload": _flag,
    "on_success": _callback,
    "on_failure": _callback,
}


# -- small words ------------------------------------------------------------------------------------------------


def _mapping(value: Any, where: str) -> dict[str, Any]:
    """Take a mapping, or one of FlowerPower's config Structs, of which the fields that differ from their defaults."""
    if isinstance(value, Mapping):
        return dict(cast("Mapping[str, Any]", value))
    if isinstance(value, msgspec.Struct):
        return _differing(value)
    raise InvalidJobError(f"{where} is a {describe(value)}; pass a dict")


def _differing(value: Any) -> dict[str, Any]:
    default = type(value)()
    found: dict[str, Any] = {}
    for name in value.__struct_fields__:
        own, usual = getattr(value, name), getattr(default, name)
        if isinstance(own, msgspec.Struct):
            if inner := _differing(own):
                found[name] = inner
        elif own != usual:
            found[name] = own
    return found


def _sparse(run_config: Any, name: str, *, marked: bool) -> dict[str, Any]:
    raw = getattr(run_config, f"{name}_override_raw", None)
    if isinstance(raw, Mapping):
        return dict(cast("Mapping[str, Any]", raw))
    value: Any = getattr(run_config, name)
    found = _differing(value) if value is not None else {}
    if not found and marked and value is not None:
        # Given and equal to the default: what it must have named is its first field.
        first = value.__struct_fields__[0]
        return {first: getattr(value, first)} if name != "with_adapter" else {}
    return found


def _flat_retry(name: str, marked: set[str]) -> bool:
    return name == "retry" and bool(marked & set(RETRY_FIELDS))


def _known(given: Iterable[str], known: Iterable[str], where: str) -> None:
    names = tuple(known)
    for name in given:
        if name not in names:
            raise InvalidJobError(
                f"{where} has no field {name!r}; there are: {', '.join(names)}.{did_you_mean(name, names)}"
            )
