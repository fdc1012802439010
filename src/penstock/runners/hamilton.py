"""Runs Hamilton modules with a plain Driver, and makes what a FlowerPower run needs of Hamilton too.

Hamilton is imported inside functions, which run where the body runs.
"""

# Hamilton and FlowerPower ship no complete types.
# pyright: reportMissingTypeStubs=false, reportUnknownMemberType=false, reportUnknownVariableType=false
# pyright: reportUnknownArgumentType=false

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import shutil
import sys
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import TYPE_CHECKING, Any

from msgspec import UNSET

from penstock.core.asks import Snooze
from penstock.runners.inputs import check_graph, restored, unveiled
from penstock.runners.nodes import NodeWatch
from penstock.runners.pipeline import CacheSpec, HamiltonTarget, InvalidPipelineError
from penstock.store import load_ref

if TYPE_CHECKING:
    from types import ModuleType

    from penstock.job.models import Job
    from penstock.run import Run
    from penstock.runners.pipeline import AdapterRef, PipelineRunSpec
    from penstock.sources.flowerpower import Project

ADAPTER_GROUP = "penstock.adapters"
_FRAMEWORKS = {"hamilton", "flowerpower", "penstock"}
_OLD_CACHE_S = 7 * 86_400.0


def run_hamilton(project: Project, spec: PipelineRunSpec, job: Job, run: Run) -> Any:
    """Run the modules and return the final variables; an awaitable for the async driver.

    Raises:
        InvalidPipelineError: the modules, the graph or the input are wrong: no further attempt can mend it.
    """
    import_hamilton()
    target = spec.target
    if not isinstance(target, HamiltonTarget) or spec.final_vars is UNSET or not spec.final_vars:
        raise InvalidPipelineError("the run names no final_vars; name at least one variable")
    names = [*(() if spec.additional_modules is UNSET else spec.additional_modules), *target.modules]
    modules = [module_in(project, name, reload=spec.reload) for name in names]
    config = {} if spec.config is UNSET else spec.config
    overrides = {} if spec.overrides is UNSET else spec.overrides
    watch = NodeWatch(job.id, job.attempt, run.report)
    adapters = named_adapters(spec.adapters)
    if spec.async_driver:
        return _run_async(modules, config, spec, overrides, adapters, watch)
    with job_cache(project, job, None if spec.cache is UNSET else spec.cache) as caches:
        driver = build(modules, config, [*adapters, *caches, node_hook(watch, overrides)], spec)
        inputs = inputs_for(driver, spec, {})
        check_graph(driver, spec.final_vars, inputs, overrides)
        try:
            return dict(driver.execute(list(spec.final_vars), overrides=overrides, inputs=inputs))
        except Exception as error:  # noqa: BLE001 - raised again
            raise from_the_node(error)  # noqa: B904 - it is the same exception


def import_hamilton() -> None:
    """Import Hamilton, which takes seconds. Raises `InvalidPipelineError` with the pip line."""
    try:
        import hamilton.driver  # pyright: ignore[reportUnusedImport] - imported for what follows
        import hamilton.execution.executors
    except ImportError as error:
        raise InvalidPipelineError(
            f'Hamilton cannot be imported here: {error}. Run: pip install "penstock[hamilton]"'
        ) from error
    # It tells one failed node four times, each with the whole traceback; the node's own banner stays.
    logging.getLogger(hamilton.execution.executors.__name__).setLevel(logging.CRITICAL)


async def _run_async(
    modules: list[ModuleType], config: Mapping[str, Any], spec: PipelineRunSpec, overrides: dict[str, Any],
    adapters: list[Any], watch: NodeWatch,
) -> dict[str, Any]:  # fmt: skip
    from hamilton import async_driver

    if spec.cache is not UNSET and spec.cache.scope != "off":
        raise InvalidPipelineError("cache: Hamilton's async driver has none (apache/hamilton#1263)")
    try:
        builder = async_driver.Builder().with_modules(*modules).with_config(dict(config))
        made: Any = builder.with_adapters(*adapters, _async_hook(watch)).build()
        driver: Any = await made
    except Exception as error:
        raise InvalidPipelineError(f"the graph cannot be built: {error}") from error
    assert spec.final_vars is not UNSET  # noqa: S101 - checked by the caller
    inputs = inputs_for(driver, spec, {})
    check_graph(driver, spec.final_vars, inputs, overrides)
    nodes, user = driver.graph.get_upstream_nodes(list(spec.final_vars), inputs, overrides)
    watch.graph_started({node.name for node in nodes} - {node.name for node in user}, overrides)
    try:
        return dict(await driver.execute(list(spec.final_vars), overrides=overrides, inputs=inputs))
    except Exception as error:  # noqa: BLE001 - raised again
        raise from_the_node(error)  # noqa: B904 - it is the same exception


def module_in(project: Project, name: str, *, reload: bool = False) -> ModuleType:
    """Import a module of the project's own folder.

    Raises:
        InvalidPipelineError: the folder has no such file (a job never imports anything else), or the module fails to
            import; its own exception is in ``__cause__``.
    """
    if not project.has(name):
        raise InvalidPipelineError(
            f"{project.root} has no module {name!r}; a job imports only files of its project's folder"
        )
    if str(project.root) not in sys.path:
        sys.path.insert(0, str(project.root))
    try:
        module = importlib.import_module(name.replace("-", "_"))
        if reload:
            module = importlib.reload(module)
    except BaseException as error:
        raise import_failed(f"module {name!r}", error) from error
    if not Path(module.__file__ or "").resolve().is_relative_to(project.root):
        raise InvalidPipelineError(
            f"module {name!r} is {module.__file__}, which hides the file in {project.root}; rename that file"
        )
    return module


def import_failed(what: str, error: BaseException) -> InvalidPipelineError:
    """Make the error of a module that does not import. A signal or exit that came meanwhile is raised again."""
    if not isinstance(error, Exception):
        raise error
    return InvalidPipelineError(f"{what} fails to import: {type(error).__name__}: {error}")


def build(modules: list[ModuleType], config: Mapping[str, Any], adapters: list[Any], spec: PipelineRunSpec) -> Any:
    """Build a Driver. Raises `InvalidPipelineError` with Hamilton's own text."""
    from hamilton import driver
    from hamilton.execution import executors

    executor = spec.executor if spec.executor is not UNSET else None
    kind = executor.type if executor is not None and executor.type is not UNSET else "synchronous"
    check_executor(kind)
    try:
        builder = driver.Builder().with_modules(*modules).with_config(dict(config)).with_adapters(*adapters)
        builder = builder.enable_dynamic_execution(allow_experimental_mode=True)
        builder = builder.with_local_executor(executors.SynchronousLocalTaskExecutor())
        workers = executor.max_workers if executor is not None and executor.max_workers is not UNSET else None
        if kind == "threadpool":
            builder = builder.with_remote_executor(executors.MultiThreadingExecutor(max_tasks=workers or 10))
        elif kind == "processpool":
            builder = builder.with_remote_executor(executors.MultiProcessingExecutor(max_tasks=workers or 10))
        elif kind in ("ray", "dask"):
            raise InvalidPipelineError(f"executor {kind!r} works in FlowerPower projects only")
        else:
            builder = builder.with_remote_executor(executors.SynchronousLocalTaskExecutor())
        return builder.build()
    except InvalidPipelineError:
        raise
    except Exception as error:
        raise InvalidPipelineError(f"the graph cannot be built: {error}") from error


def check_executor(kind: str | None) -> None:
    """Refuse an executor that FlowerPower would silently replace by the synchronous one.

    Raises:
        InvalidPipelineError: unknown, or its package is not installed.
    """
    from penstock.runners.run_config import EXECUTORS

    if kind is None:
        return
    if kind not in EXECUTORS:
        raise InvalidPipelineError(f"executor type {kind!r} is unknown; there are: {', '.join(EXECUTORS)}")
    if kind in ("ray", "dask") and importlib.util.find_spec(kind) is None:
        raise InvalidPipelineError(f"executor {kind!r} needs the package of that name. Run: pip install {kind}")


def inputs_for(driver: Any, spec: PipelineRunSpec, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return the project's inputs with those of the run, refs loaded and types restored."""
    inputs = {**usual, **({} if spec.inputs is UNSET else spec.inputs)}
    declared = {v.name: v.type for v in driver.list_available_variables() if v.is_external_input}
    inputs = restored(inputs, declared)
    for name, ref in ({} if spec.refs is UNSET else spec.refs).items():
        inputs[name] = load_ref(ref)
    return inputs


def named_adapters(refs: tuple[AdapterRef, ...]) -> list[Any]:
    """Make the adapters that a run names; names are entry points, so nothing else can be imported.

    Raises:
        InvalidPipelineError: no such entry point, or the adapter cannot be made.
    """
    if not refs:
        return []
    known = {point.name: point for point in entry_points(group=ADAPTER_GROUP)}
    made: list[Any] = []
    for ref in refs:
        if ref.name not in known:
            raise InvalidPipelineError(
                f"no adapter {ref.name!r} is installed here (entry points {ADAPTER_GROUP!r}: "
                f"{', '.join(sorted(known)) or 'none'})"
            )
        try:
            made.append(known[ref.name].load()(**unveiled(ref.kwargs, f"adapters.{ref.name}")))
        except InvalidPipelineError:
            raise
        except Exception as error:
            raise InvalidPipelineError(f"adapter {ref.name!r} cannot be made: {error}") from error
    return made


def from_the_node(error: Exception) -> Exception:
    """Take Hamilton's and FlowerPower's frames off the top of what a node raised: its traceback starts at the node."""
    trace = error.__traceback__
    while trace is not None and str(trace.tb_frame.f_globals.get("__name__")).partition(".")[0] in _FRAMEWORKS:
        trace = trace.tb_next
    return error.with_traceback(trace or error.__traceback__)


@contextmanager
def job_cache(project: Project, job: Job, spec: CacheSpec | None) -> Generator[list[Any]]:
    """Yield Hamilton's cache as a list of no or one adapter, in a folder of the job's own.

    Hamilton pickles what it caches, so the folder is readable by the worker's user alone. It is deleted when the job
    has succeeded or no attempt is left; one that was left behind by a killed attempt, after a week.
    """
    if spec is None or spec.scope == "off":
        yield []
        return
    from hamilton.caching.adapter import HamiltonCacheAdapter

    home = project.root / ".penstock" / "cache"
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    home.chmod(0o700)
    own = home / (f"job-{job.id}" if spec.scope == "job" else f"pipeline-{job.name.replace('/', '_')}")
    if not own.exists():
        _sweep(home)
    adapter = HamiltonCacheAdapter(
        path=str(own),
        recompute=_nodes(spec.recompute),
        disable=_nodes(spec.disable),
        ignore=_nodes(spec.ignore),
    )
    over = True
    try:
        yield [adapter]
    except Snooze:
        over = False
        raise
    except BaseException:
        over = job.errors + 1 >= job.max_attempts and not job.backoff.rules
        raise
    finally:
        if spec.scope == "job" and over:
            shutil.rmtree(own, ignore_errors=True)


def _nodes(given: tuple[str, ...] | bool) -> Any:
    return True if given is True else list(given or ()) or None


def _sweep(home: Path) -> None:
    for folder in home.glob("job-*"):
        try:
            if time.time() - folder.stat().st_mtime > _OLD_CACHE_S:
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # another worker was faster


# -- hooks ------------------------------------------------------------------------------------------------------


def node_hook(watch: NodeWatch, overridden: Mapping[str, Any] | None = None) -> Any:
    """Return the Hamilton adapter that tells ``watch`` of every node."""
    return _hook_class()(watch, overridden or {})


@functools.cache
def _hook_class() -> type[Any]:
    from hamilton.lifecycle import GraphExecutionHook, NodeExecutionHook

    class PenstockNodes(NodeExecutionHook, GraphExecutionHook):
        def __init__(self, watch: NodeWatch | None, overridden: Mapping[str, Any]) -> None:
            self._watch = watch
            self._overridden = tuple(overridden)

        def __reduce__(self) -> tuple[Any, ...]:
            # A process pool copies the adapters into its processes, where nobody listens.
            return _deaf_hook, ()

        def run_before_graph_execution(self, *, execution_path: Any, **_kwargs: Any) -> None:
            if self._watch is not None:
                self._watch.graph_started(execution_path, self._overridden)

        def run_before_node_execution(self, *, node_name: str, task_id: str | None, **_kwargs: Any) -> None:
            if self._watch is not None:
                self._watch.node_started(node_name, task_id)

        def run_after_node_execution(
            self, *, node_name: str, task_id: str | None, success: bool, error: Exception | None, **_kwargs: Any
        ) -> None:
            if self._watch is not None:
                self._watch.node_finished(node_name, task_id, _ending(error, success=success))

        def run_after_graph_execution(self, **_kwargs: Any) -> None:
            if self._watch is not None:
                self._watch.graph_ended()

    return PenstockNodes


def _ending(error: BaseException | None, *, success: bool) -> BaseException | None:
    """Return what ended a node, if anything did: Hamilton counts one that was interrupted as a success."""
    if not success:
        return error or RuntimeError("failed")
    raised = sys.exc_info()[1]
    return None if raised is None or isinstance(raised, Exception) else raised


def _deaf_hook() -> Any:
    return _hook_class()(None, {})


def _async_hook(watch: NodeWatch) -> Any:
    """Return the hook for the async driver, where a sync hook sees a node scheduled, not run."""
    from hamilton.lifecycle.base import BasePostNodeExecuteAsync, BasePreNodeExecuteAsync

    class PenstockAsyncNodes(BasePreNodeExecuteAsync, BasePostNodeExecuteAsync):
        async def pre_node_execute(self, *, node_: Any, task_id: str | None = None, **_kwargs: Any) -> None:
            watch.node_started(node_.name, task_id)

        async def post_node_execute(
            self, *, node_: Any, success: bool, error: Exception | None, task_id: str | None = None, **_kwargs: Any
        ) -> None:
            watch.node_finished(node_.name, task_id, _ending(error, success=success))

    return PenstockAsyncNodes()
