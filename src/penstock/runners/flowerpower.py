"""Runs a FlowerPower pipeline, in the child process that belongs to its project.

FlowerPower (0.37) is imported inside functions. What it would do by itself and a job must not: retry with blocking
sleeps, fall back to the synchronous executor, skip an adapter in silence, hang on empty final_vars.
"""

# Hamilton and FlowerPower ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from penstock.capture import rearm_loguru
from penstock.core.exceptions import UnknownPipelineError
from penstock.runners.hamilton import (
    build,
    check_executor,
    from_the_node,
    import_failed,
    import_hamilton,
    inputs_for,
    job_cache,
    named_adapters,
    node_hook,
)
from penstock.runners.inputs import check_graph, unveiled
from penstock.runners.nodes import NodeWatch
from penstock.runners.pipeline import CacheSpec, FlowerPowerTarget, InvalidPipelineError

if TYPE_CHECKING:
    from types import ModuleType

    from penstock.job.models import Job
    from penstock.run import Run
    from penstock.runners.pipeline import PipelineRunSpec
    from penstock.sources.flowerpower import Project

logger = logging.getLogger("penstock.pipeline")

_managers: dict[Path, Any] = {}
_NO_ADAPTERS = {"hamilton_tracker": False, "mlflow": False}


def run_flowerpower(project: Project, spec: PipelineRunSpec, job: Job, run: Run) -> dict[str, Any]:
    """Run the pipeline and return its final variables.

    Raises:
        InvalidPipelineError: the module, the graph, the input or a setting is wrong: no further attempt can mend it.
    """
    if not isinstance(spec.target, FlowerPowerTarget):
        raise InvalidPipelineError(f"job {job.id} is not for FlowerPower")
    if spec.async_driver or spec.overrides is not UNSET:
        raise InvalidPipelineError("FlowerPower supports neither overrides nor the async driver")
    name = spec.target.pipeline
    try:
        project.check(name)
    except UnknownPipelineError as error:
        raise InvalidPipelineError(str(error)) from None
    manager = manager_of(project.root)
    given = _given(spec)
    resolved = _resolved(manager, name, given)
    if not resolved.final_vars:
        raise InvalidPipelineError(
            f"pipeline {name!r} has no final_vars: nothing would be computed; name them in "
            f"conf/pipelines/{name}.yml or with the job"
        )
    check_executor(resolved.executor.type)
    modules = _modules(project, name, spec, resolved)
    watch = NodeWatch(job.id, job.attempt, run.report)
    driver = build(modules, resolved.config or {}, [], _plain_executor(spec))
    inputs = inputs_for(driver, spec, resolved.inputs or {})
    check_graph(driver, resolved.final_vars, inputs, {})
    if _logs_at(resolved.log_level):
        given["log_level"] = None  # FlowerPower would take our sink away and put one of its own there, in 10 ms
    with job_cache(project, job, _cache_spec(spec, resolved)) as caches:
        hooks = [*_configured(manager, name, resolved), *named_adapters(spec.adapters), *caches, node_hook(watch)]
        given |= {
            "inputs": inputs,
            "with_adapter_cfg": _NO_ADAPTERS,
            "retry": {"max_retries": 0},
            "adapter": {f"penstock_{index}": hook for index, hook in enumerate(hooks)},
        }
        # Not FlowerPowerProject.run, which turns every error into a RuntimeError.
        try:
            return dict(manager.run(name, **given))
        except Exception as error:  # noqa: BLE001 - raised again
            raise from_the_node(error)  # noqa: B904 - it is the same exception


def manager_of(root: Path) -> Any:
    """Return this process's PipelineManager; there is one project to a process. Raises `InvalidPipelineError`."""
    manager = _managers.get(root)
    if manager is None:
        try:
            from flowerpower.pipeline import PipelineManager
            from flowerpower.utils.logging import ensure_logging_initialized
        except ImportError as error:
            raise InvalidPipelineError(
                f'FlowerPower cannot be imported here: {error}. Run: pip install "penstock[flowerpower]"'
            ) from error
        try:
            import_hamilton()
            manager = _managers[root] = PipelineManager(base_dir=str(root))
            ensure_logging_initialized()  # or the first run does it, and removes every sink once more
        finally:
            rearm_loguru()  # importing FlowerPower removes every sink
    return manager


def _logs_at(level: str | None) -> bool:
    """Keep what loguru writes from this level on, as FlowerPower shows it; return whether it is kept at all."""
    level = level.upper() if level else None
    kept = rearm_loguru(level)
    if kept:
        from loguru import logger as loguru

        (loguru.disable if level == "CRITICAL" else loguru.enable)("flowerpower")
    return kept


def _given(spec: PipelineRunSpec) -> dict[str, Any]:
    """Return the fields of the spec that were given, as keywords of ``PipelineManager.run``."""
    given: dict[str, Any] = {}
    for field in ("inputs", "config", "log_level", "pipeline_adapter_cfg", "project_adapter_cfg"):
        if (value := getattr(spec, field)) is not UNSET:
            given[field] = unveiled(value, field) if field.endswith("_adapter_cfg") else value
    if spec.final_vars is not UNSET:
        given["final_vars"] = list(spec.final_vars)
    if spec.additional_modules is not UNSET:
        given["additional_modules"] = list(spec.additional_modules)
    if spec.executor is not UNSET:
        fields = ("type", "max_workers", "num_cpus")
        given["executor_cfg"] = {
            field: value for field in fields if (value := getattr(spec.executor, field)) is not UNSET
        }
    if spec.with_adapter is not UNSET:
        given["with_adapter_cfg"] = dict(spec.with_adapter)
    return given


def _resolved(manager: Any, name: str, given: Mapping[str, Any]) -> Any:
    """Return the RunConfig that FlowerPower will use: its YAML, its environment, then what was given."""
    from flowerpower.utils.config import clone_run_config, merge_run_config_with_kwargs

    try:
        config = manager.load_pipeline(name, reload=True).run
        return merge_run_config_with_kwargs(clone_run_config(config), dict(given))
    except Exception as error:
        raise InvalidPipelineError(f"the configuration of pipeline {name!r} is wrong: {error}") from error


def _modules(project: Project, name: str, spec: PipelineRunSpec, resolved: Any) -> list[ModuleType]:
    for module in () if spec.additional_modules is UNSET else spec.additional_modules:
        # The project's own YAML may name any module; a job may name only files of the project.
        plain = module.removeprefix("pipelines.")
        if not project.has(plain):
            raise InvalidPipelineError(
                f"additional module {module!r} is no file of project {project.name}; a job imports only the project's "
                "own modules (conf/pipelines/*.yml may name others)"
            )
    from flowerpower.pipeline.module_resolver import PipelineModuleResolver
    from flowerpower.settings import PIPELINES_DIR

    resolver = PipelineModuleResolver(PIPELINES_DIR)
    try:
        modules = resolver.resolve(name, additional=list(resolved.additional_modules or []), reload=spec.reload)
    except BaseException as error:
        raise import_failed(f"pipeline {name!r}", error) from error
    own = modules[-1].__file__
    if not Path(own or "").resolve().is_relative_to(project.root):
        raise InvalidPipelineError(
            f"pipeline {name!r} was found in {own}, not in {project.root}; rename the file that hides it"
        )
    return modules


def _plain_executor(spec: PipelineRunSpec) -> PipelineRunSpec:
    """Return the spec for the Driver that only checks: its executor never runs."""
    return msgspec.structs.replace(spec, executor=UNSET)


def _cache_spec(spec: PipelineRunSpec, resolved: Any) -> CacheSpec | None:
    """Return the cache that was asked for, by the job or by ``run.cache``, which FlowerPower itself never reads."""
    if spec.cache is not UNSET:
        return spec.cache
    if not resolved.cache:
        return None
    if not isinstance(resolved.cache, Mapping):
        return CacheSpec()
    known: dict[str, Any] = {key: value for key, value in resolved.cache.items() if key in CacheSpec.__struct_fields__}
    for key in resolved.cache:
        if key not in known:
            logger.warning("run.cache.%s is not known to penstock and has no effect", key)
    return msgspec.convert(known, CacheSpec)


# -- adapters that the project's configuration asks for ------------------------------------------------------------


def _configured(manager: Any, name: str, resolved: Any) -> list[Any]:
    """Make the adapters that are switched on; FlowerPower 0.37 looks for them in the wrong modules and skips them."""
    flags = resolved.with_adapter
    for flag in ("ray", "future"):
        if getattr(flags, flag, False):
            logger.warning("with_adapter.%s has no effect: FlowerPower 0.37 does not read it", flag)
    if not (flags.hamilton_tracker or flags.mlflow):
        return []
    from flowerpower.pipeline.adapter_provider import AdapterProvider

    configured = manager.load_pipeline(name)
    found = AdapterProvider().resolve(
        resolved, configured, getattr(manager.project_cfg, "adapter", None), construct_runtime=False
    )
    made: list[Any] = []
    if flags.hamilton_tracker:
        own = {
            **_dict(found.project_adapter_cfg.hamilton_tracker),
            **_dict(found.pipeline_adapter_cfg.hamilton_tracker),
        }
        made.append(_make("hamilton_tracker", "hamilton_sdk.adapters", "HamiltonTracker", _tracker(own, name)))
    if flags.mlflow:
        own = {**_dict(found.project_adapter_cfg.mlflow), **_dict(found.pipeline_adapter_cfg.mlflow)}
        made.append(_make("mlflow", "hamilton.plugins.h_mlflow", "MLFlowTracker", own))
    return made


def _tracker(own: dict[str, Any], name: str) -> dict[str, Any]:
    for limit in ("capture_data_statistics", "max_list_length_capture", "max_dict_length_capture"):
        if limit in own:
            constants = importlib.import_module("hamilton_sdk.tracking.constants")
            setattr(constants, limit.upper(), own.pop(limit))
    own.setdefault("dag_name", name)
    own["hamilton_api_url"] = own.pop("api_url", None)
    own["hamilton_ui_url"] = own.pop("ui_url", None)
    return own


def _make(flag: str, module: str, attribute: str, kwargs: Mapping[str, Any]) -> Any:
    try:
        made = getattr(importlib.import_module(module), attribute)
        return made(**{key: value for key, value in kwargs.items() if value is not None})
    except Exception as error:
        raise InvalidPipelineError(f"with_adapter.{flag} is on, but it cannot be made: {error}") from error


def _dict(config: Any) -> dict[str, Any]:
    return {key: value for key, value in config.to_dict().items() if value is not None}
