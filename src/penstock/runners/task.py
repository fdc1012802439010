"""Python functions as jobs."""

from __future__ import annotations

import importlib
import runpy
import sys
from collections.abc import Awaitable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from penstock import runners
from penstock.core.exceptions import ArgumentsError, UnknownTaskError
from penstock.core.running import Runner
from penstock.dependencies.home import setup_of
from penstock.job.schedules import FOLLOWS, Answer, answer_of
from penstock.signatures import plan_of
from penstock.sources import scan
from penstock.sources.decorators import TASKS

if TYPE_CHECKING:
    from penstock.core.config import Config
    from penstock.job.models import Job
    from penstock.sources.decorators import Task

SCRIPT_NAME = "__mp_main__"
"""What a script is called in a child process (multiprocessing's name for it): its ``__main__`` guards hold."""


class TaskSpec(msgspec.Struct, frozen=True, omit_defaults=True):
    """The arguments of a call; a parameter annotated `Run` is not among them."""

    TAKES_SECRETS: ClassVar[bool] = True
    """A `Secret` may stand among the arguments; see `encode_spec`."""
    args: list[Any] = []
    kwargs: dict[str, Any] = {}


_decoder = msgspec.json.Decoder(TaskSpec)


def task_spec(task: Task[..., Any], args: Sequence[Any], kwargs: Mapping[str, Any]) -> TaskSpec:
    """Check the arguments of a call against the function's signature and annotations.

    Raises:
        ArgumentsError: they do not fit; names the parameter.
        PayloadError: one is not plain data; names it.
    """
    plan = plan_of(task.fn, task.name, task.signature)
    plan.check(args, kwargs)
    return TaskSpec(*plan.named(args, kwargs))


class TaskRunner(Runner):
    """Runs `TaskSpec`: restores the arguments to their declared types, loads refs, hands in the `Run`."""

    kind: ClassVar[str] = "task"
    spec_type: ClassVar[type[msgspec.Struct]] = TaskSpec
    surrounds: ClassVar[bool] = True

    def __init__(self) -> None:
        self._tasks: tuple[str, ...] = ()
        self._root: Path | None = None
        self._not_loaded = ""
        self._trusting = False
        self._config: Config | None = None

    def configure(self, config: Config, root: Path) -> None:
        """See `Runner.configure`."""
        self._tasks, self._root = config.tasks, root
        self._trusting = config.security.trust_world_writable
        self._config = config

    def missing(self, job: Job) -> str | None:
        """See `Runner.missing`."""
        return None if job.name in TASKS else f"the worker that took it knows no task {job.name!r}"

    def is_async(self, job: Job) -> bool:
        """See `Runner.is_async`."""
        task = TASKS.get(job.name)
        return task is not None and task.is_async

    def edited(self, job: Job, inputs: Mapping[str, Any]) -> TaskSpec:
        """See `Runner.edited`. Raises `UnknownTaskError`: only the function itself can tell what it takes."""
        task = TASKS.find(job.name)
        spec = self._spec(job)
        return task_spec(task, *plan_of(task.fn, task.name, task.signature).changed(spec.args, spec.kwargs, inputs))

    def execute(self, job: Job, run: Any) -> Any:
        """See `Runner.execute`.

        Raises:
            UnknownTaskError: no such task here.
            ArgumentsError: the stored arguments do not fit the function as it is now.
        """
        task = TASKS.get(job.name)
        if task is None:
            raise UnknownTaskError(job.name, TASKS, self._not_loaded)
        spec = self._spec(job)
        plan = plan_of(task.fn, task.name, task.signature)
        if task.depends or run.around:
            from penstock.dependencies.resolving import call

            value = call(task.fn, plan.bound(spec.args, spec.kwargs, run), run, is_async=task.is_async)
        else:
            value = plan.call(task.fn, spec.args, spec.kwargs, run)
        zone = job.metadata.get(FOLLOWS)
        if zone is None:
            return value
        return _awaited(value, zone) if task.is_async else answer_of(value, zone)

    def _spec(self, job: Job) -> TaskSpec:
        try:
            return _decoder.decode(job.spec)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise ArgumentsError(f"the arguments of job {job.id} cannot be read: {error}") from None

    def may_run_apart(self, job: Job) -> bool:
        """See `Runner.may_run_apart`: a child finds what stands at the top of a file."""
        task = TASKS.get(job.name)
        return task is not None and task.importable

    def child_setup(self, job: Job) -> Mapping[str, Any]:
        """See `Runner.child_setup`: the configured modules and folders, and where else this task stands."""
        setup: dict[str, Any] = {"tasks": list(self._tasks), "root": str(self._root or Path.cwd())}
        if self._trusting:
            setup["trust_world_writable"] = True
        task = TASKS.get(job.name)
        if task is None:
            return setup
        file = Path(task.source[0]).absolute()
        module = task.fn.__module__
        if module in ("__main__", SCRIPT_NAME):
            setup["script"] = str(file)
        elif not self._is_configured(file, module):
            setup["module"] = module
        if task.depends and self._config is not None:
            setup |= setup_of(self._config, self._root or Path.cwd())
        setup["watch"] = [str(path) for path in (file, *self._folders())]
        if (text := scan.kept_text(str(file))) is not None:
            # The child would read what is there now, which may be broken; this process has not taken it yet.
            setup["kept"] = {str(file): text}
        return setup

    def prepare_child(self, setup: Mapping[str, Any]) -> None:
        """See `Runner.prepare_child`."""
        if setup.get("tasks"):
            loaded = scan.load_tasks(
                setup["tasks"],
                root=Path(setup["root"]),
                trust_world_writable=setup.get("trust_world_writable", False),
                kept=setup.get("kept"),
            )
            self._not_loaded = "".join(f" Not loaded: {e.file}: {e.type}: {e.message}" for e in loaded.errors)
        if module := setup.get("module"):
            importlib.import_module(module)
        if script := setup.get("script"):
            _load_script(script)

    def _folders(self) -> list[Path]:
        root = self._root or Path.cwd()
        return [path for path in (root / name for name in self._tasks) if path.exists()]

    def _is_configured(self, file: Path, module: str) -> bool:
        return module in self._tasks or any(
            file == path or file.is_relative_to(path) for path in (p.absolute() for p in self._folders())
        )


async def _awaited(value: Awaitable[Any], zone: str) -> Answer:
    return answer_of(await value, zone)


def _load_script(script: str) -> None:
    runners.loading_script = script
    try:
        loaded = runpy.run_path(script, run_name=SCRIPT_NAME)
    finally:
        runners.loading_script = None
    # Functions look their module up by its name, to resolve string annotations.
    module = type(sys)(SCRIPT_NAME)
    module.__dict__.update(loaded)
    sys.modules[SCRIPT_NAME] = module


__all__ = ["SCRIPT_NAME", "TaskRunner", "TaskSpec", "task_spec"]
