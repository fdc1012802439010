"""Pipelines as jobs: the sparse spec that travels, and the runner that dispatches it to its framework.

Nothing here imports Hamilton or FlowerPower: the submitting side must not pay their 2.6 s and 180 MB.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import msgspec
from msgspec import UNSET, UnsetType

from penstock.core.exceptions import InvalidJobError, UnknownPipelineError, did_you_mean
from penstock.core.running import Runner
from penstock.job.models import Ref

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from penstock.core.config import Config
    from penstock.job.models import Job
    from penstock.run import Run
    from penstock.sources.decorators import Call
    from penstock.sources.flowerpower import Project


class InvalidPipelineError(InvalidJobError):
    """The pipeline cannot run like this, however often it is tried: its module, its graph or its input is wrong."""

    retryable = False


class AdapterRef(msgspec.Struct, frozen=True, omit_defaults=True):
    """A Hamilton adapter by its name in the entry points ``penstock.adapters``; made in the worker."""

    name: str
    kwargs: dict[str, Any] = {}


class ExecutorSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Hamilton's executor. A field that was not given is the project's."""

    type: str | UnsetType = UNSET
    max_workers: int | UnsetType | None = UNSET
    num_cpus: int | UnsetType | None = UNSET


class CacheSpec(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """Whether nodes that are done are kept for the next attempt.

    ``job``: for the attempts of this job, deleted when it has succeeded. ``pipeline``: for all runs of the pipeline;
    a changed file behind an unchanged path is then a hit, so name its loader in ``recompute``. Hamilton pickles what
    it caches; the folder is private to the worker's user and lies in the project's ``.penstock/cache``.
    """

    scope: Literal["job", "pipeline", "off"] = "job"
    recompute: tuple[str, ...] | bool = ()
    disable: tuple[str, ...] | bool = ()
    ignore: tuple[str, ...] | bool = ()


class FlowerPowerTarget(msgspec.Struct, frozen=True, tag="flowerpower"):
    """A pipeline of a FlowerPower project, by the name that the worker knows the project by: never a path."""

    pipeline: str
    project: str


class HamiltonTarget(msgspec.Struct, frozen=True, tag="hamilton"):
    """Modules in a folder of Hamilton modules, by the name that the worker knows the folder by."""

    modules: tuple[str, ...]
    project: str


class PipelineRunSpec(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run of a pipeline. Only what was given travels; the worker adds the project's own values."""

    target: FlowerPowerTarget | HamiltonTarget
    inputs: dict[str, Any] | UnsetType = UNSET
    """Added to the project's inputs, as `PipelineManager.run` does with its keyword."""
    refs: dict[str, Ref] | UnsetType = UNSET
    """Inputs that lie in the result store; loaded in the worker."""
    overrides: dict[str, Any] | UnsetType = UNSET
    final_vars: tuple[str, ...] | UnsetType = UNSET
    config: dict[str, Any] | UnsetType = UNSET
    executor: ExecutorSpec | UnsetType = UNSET
    with_adapter: dict[str, bool] | UnsetType = UNSET
    pipeline_adapter_cfg: dict[str, Any] | UnsetType = UNSET
    project_adapter_cfg: dict[str, Any] | UnsetType = UNSET
    adapters: tuple[AdapterRef, ...] = ()
    additional_modules: tuple[str, ...] | UnsetType = UNSET
    cache: CacheSpec | UnsetType = UNSET
    async_driver: bool = False
    log_level: str | UnsetType = UNSET
    reload: bool = False
    v: int = 1


_decoder = msgspec.json.Decoder(PipelineRunSpec)


class PipelineRunner(Runner):
    """Runs `PipelineRunSpec`. Its value is a dict of the final variables, each stored as a result by itself."""

    kind: ClassVar[str] = "pipeline"
    spec_type: ClassVar[type[msgspec.Struct]] = PipelineRunSpec
    parts: ClassVar[bool] = True

    def __init__(self) -> None:
        self._projects: dict[str, Project] = {}
        self._home: Path | None = None

    def configure(self, config: Config, root: Path) -> None:
        """See `Runner.configure`: learn the projects whose pipelines this process may run. Raises `ConfigError`."""
        from penstock.sources.flowerpower import projects_of

        self._projects = projects_of(config, root)

    def missing(self, job: Job) -> str | None:
        """See `Runner.missing`: a worker runs only the projects of its own configuration."""
        try:
            self._project(_spec_of(job))
        except InvalidJobError as error:
            return str(error)
        return None

    def child_key(self, job: Job) -> str:
        """See `Runner.child_key`: two projects in one process would run each other's modules."""
        spec = _spec_of(job)
        root = self._project(spec).root
        if isinstance(spec.target, HamiltonTarget):
            return f"hamilton:{','.join(sorted(spec.target.modules))}:{root}"
        return f"flowerpower:{root}"

    def child_setup(self, job: Job) -> Mapping[str, Any]:
        """See `Runner.child_setup`: working folder, import path, folders whose change ends the child."""
        spec = _spec_of(job)
        project = self._project(spec)
        root = project.root
        if project.kind == "flowerpower":
            sys_path = [root, root / "pipelines"]
            watch = [root / "conf", root / "pipelines", root / "src"]
        else:
            sys_path, watch = [root], [root]
        return {
            "cwd": str(root),
            "sys_path": [str(path) for path in sys_path],
            "watch": [str(path) for path in watch if path.is_dir()],
            "project": [project.name, str(root), project.kind],
        }

    def prepare_child(self, setup: Mapping[str, Any]) -> None:
        """See `Runner.prepare_child`: import the framework now, so that its seconds are no job's."""
        from penstock.sources.flowerpower import Project

        name, root, kind = setup["project"]
        self._projects = {name: Project(name, Path(root), kind)}
        if kind == "flowerpower":
            from penstock.runners.flowerpower import manager_of

            manager_of(Path(root))
        else:
            from penstock.runners.hamilton import import_hamilton

            import_hamilton()

    def edited(self, job: Job, inputs: Mapping[str, Any]) -> PipelineRunSpec:
        """See `Runner.edited`. Whether the graph takes an input of that name is known where it runs."""
        from penstock.runners.run_config import spec_of

        spec = _spec_of(job)
        new = spec_of(spec.target, {"inputs": inputs})
        plain: dict[str, Any] = {} if new.inputs is UNSET else new.inputs
        refs: dict[str, Ref] = {} if new.refs is UNSET else new.refs
        old = {name: value for name, value in ({} if spec.inputs is UNSET else spec.inputs).items() if name not in refs}
        old_refs = {name: ref for name, ref in ({} if spec.refs is UNSET else spec.refs).items() if name not in plain}
        return msgspec.structs.replace(spec, inputs={**old, **plain} or UNSET, refs={**old_refs, **refs} or UNSET)

    def execute(self, job: Job, run: Run) -> Any:
        """See `Runner.execute`. Raises `InvalidPipelineError` for what no further attempt can mend."""
        spec = _spec_of(job)
        project = self._project(spec)
        self._settle_in(project.root)
        if isinstance(spec.target, FlowerPowerTarget):
            from penstock.runners.flowerpower import run_flowerpower

            return run_flowerpower(project, spec, job, run)
        from penstock.runners.hamilton import run_hamilton

        return run_hamilton(project, spec, job, run)

    def _project(self, spec: PipelineRunSpec) -> Project:
        name = spec.target.project
        if name not in self._projects:
            raise InvalidPipelineError(
                f"this worker knows no project {name!r} (it knows: {', '.join(sorted(self._projects)) or 'none'}); "
                "name its folder in `projects`"
            )
        return self._projects[name]

    def _settle_in(self, root: Path) -> None:
        """Make this process the project's own, for good: inputs are paths relative to it."""
        if self._home not in (None, root):
            raise InvalidPipelineError(
                f"this process has run {self._home} already, and modules of the same name would be mixed up; "
                "use isolation='process' for pipelines"
            )
        self._home = root
        if Path.cwd() != root:
            os.chdir(root)


def pipeline_call(
    settings: Config,
    root: Path,
    name: str,
    run_config: Any = None,
    /,
    *,
    project: str | None = None,
    modules: Sequence[str] | None = None,
    **keywords: Any,
) -> Call:
    """Check one intended run of a pipeline and return its call.

    Takes the keywords of ``PipelineManager.run``, a RunConfig of which only the fields that were given travel (keywords
    win), and job options. A keyword that is None was not given. ``retry`` becomes the job's retries; where it is
    silent the pipeline's own ``run.retry`` counts, then the queue's defaults.

    Args:
        settings: the queue's configuration; its ``projects`` are searched.
        root: where relative folders start.
        name: the pipeline's name; of a plain Hamilton run the module's, or any name with ``modules``.
        run_config: a FlowerPower RunConfig or a dict of its fields.
        project: the project's name, where several have a pipeline of that name.
        modules: names of modules in a folder of Hamilton modules: a plain Hamilton run.
        keywords: run fields and job options.

    Raises:
        UnknownPipelineError: lists the pipelines that there are.
        PayloadError: an input cannot travel; names the path to it.
        InvalidJobError: a field is unknown or wrong, or ``final_vars`` is empty.
    """  # fmt: skip
    from penstock.options import JobOptions
    from penstock.runners.retries import retries_of
    from penstock.runners.run_config import fields_given, spec_of, split_keywords
    from penstock.sources.decorators import Call

    chosen = _find(settings, root, name, project, modules)
    from_config, retry, more = split_keywords(fields_given(run_config))
    fields, retry_words, options = split_keywords(keywords)
    fields = {**from_config, **fields}
    if chosen.kind == "flowerpower":
        target: FlowerPowerTarget | HamiltonTarget = FlowerPowerTarget(name, chosen.name)
        if fields.get("async_driver"):
            raise InvalidJobError("async_driver: FlowerPower's own async run always fails; leave it out")
        if "overrides" in fields:
            raise InvalidJobError("overrides: FlowerPower drops them; they work for plain Hamilton modules only")
    else:
        target = HamiltonTarget(tuple(modules) if modules is not None else (name,), chosen.name)
        for word in sorted({"with_adapter", "pipeline_adapter_cfg", "project_adapter_cfg"} & fields.keys()):
            raise InvalidJobError(f"{word} belongs to FlowerPower; for Hamilton modules name adapters=[...]")
        if "final_vars" not in fields:
            raise InvalidJobError("final_vars is missing: Hamilton modules have no default; name at least one variable")
    spec = spec_of(target, fields)
    retries = retries_of({**chosen.retry_fields(name), **retry, **retry_words})
    wanted = JobOptions(max_attempts=retries.max_attempts, backoff=retries.backoff)
    return Call("pipeline", name, spec, wanted.merged(JobOptions.parse({**more, **options})))


def _find(settings: Config, root: Path, name: str, project: str | None, modules: Sequence[str] | None) -> Project:
    """Return the one project that has the pipeline (or all the modules)."""
    from penstock.sources.flowerpower import projects_of

    if isinstance(modules, str):
        raise InvalidJobError(f"modules is {modules!r}; write a list of names")
    known = projects_of(settings, root)
    if project is not None and project not in known:
        raise InvalidJobError(
            f"no project named {project!r}; there are: {', '.join(sorted(known))}.{did_you_mean(project, known)}"
        )
    places = [known[project]] if project is not None else list(known.values())
    if modules is not None:
        places = [place for place in places if place.kind == "hamilton"]
    having = [place for place in places if all(place.has(module) for module in (modules or [name]))]
    if len(having) > 1:
        raise InvalidJobError(
            f"several projects have a pipeline {name!r}: {', '.join(place.name for place in having)}; say project=..."
        )
    if having:
        return having[0]
    listed = [there for place in places for there in place.pipelines()]
    wanted = next((module for module in modules or () if module not in listed), name)
    where = f"project {places[0].name}" if len(places) == 1 else f"the projects {', '.join(p.name for p in places)}"
    if not places:
        raise InvalidJobError("modules=... needs a folder of Hamilton modules; name it in `projects`")
    raise UnknownPipelineError(wanted, listed, where)


def _spec_of(job: Job) -> PipelineRunSpec:
    try:
        return _decoder.decode(job.spec)
    except msgspec.DecodeError as error:
        raise InvalidPipelineError(f"the spec of job {job.id} cannot be read: {error}") from None
