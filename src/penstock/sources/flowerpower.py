"""FlowerPower projects as seen from outside: their folder, their pipelines, their settings.

FlowerPower itself is never imported here.
"""

from __future__ import annotations

import os
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import msgspec

from penstock.core.exceptions import ConfigError, UnknownPipelineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from penstock.core.config import Config
    from penstock.runners.retries import Retries


_LARGEST_BYTES = 1024 * 1024
"""Of a YAML file: a larger one holds no settings."""


class Project(msgspec.Struct, frozen=True):
    """A folder of pipelines: a FlowerPower project, or a folder of plain Hamilton modules."""

    name: str
    root: Path
    kind: Literal["flowerpower", "hamilton"] = "flowerpower"

    @property
    def conf(self) -> Path:
        """The folder of its settings."""
        return self.root / _conf()

    def pipelines(self) -> list[str]:
        """Return the names of the pipelines: of their files, nothing is imported."""
        found: set[str] = set()
        if self.kind == "flowerpower":
            found.update(_names_under(self.root / _conf() / _pipelines(), (".yml", ".yaml")))
            found.update(_names_under(self.root / _pipelines(), (".py",)))
        else:
            found.update(path.stem for path in self.root.glob("*.py") if not path.name.startswith(("_", ".")))
        return sorted(found)

    def has(self, pipeline: str) -> bool:
        """Whether there is a file for this pipeline."""
        return any(path.is_file() for path in self._files_of(pipeline))

    def check(self, pipeline: str) -> None:
        """Raise `UnknownPipelineError`, which lists those that exist, for a name without a file."""
        if not self.has(pipeline):
            raise UnknownPipelineError(pipeline, self.pipelines(), f"project {self.name}")

    def retry_of(self, pipeline: str) -> Retries | None:
        """Return what ``run.retry`` of the pipeline's YAML asks for, or None. Raises `ConfigError`."""
        retry = self.retry_fields(pipeline)
        if not retry:
            return None
        from penstock.runners.retries import retries_of

        try:
            return retries_of(retry, "run.retry")
        except ValueError as error:
            raise ConfigError(f"{self.yaml_of(pipeline)}: {error}") from None

    def retry_fields(self, pipeline: str) -> dict[str, Any]:
        """Return ``run.retry`` of the pipeline's YAML as it stands, with the deprecated flat fields added."""
        path = self.yaml_of(pipeline)
        if self.kind != "flowerpower" or path is None:
            return {}
        from penstock.runners.retries import RETRY_FIELDS

        run = _section(read_yaml(path), "run", path)
        flat = {name: run[name] for name in RETRY_FIELDS if name in run}
        return {**flat, **_section(run, "retry", path)}

    def job_queue(self) -> dict[str, Any] | None:
        """Return the project's own queue settings in the shape of `core.config.Config`, or None.

        Read from conf/queue.yml (the whole file), else from the ``job_queue:`` block of conf/project.yml; the block
        of FlowerPower before 0.21 (``type: rq``) is understood. Raises `ConfigError`, with file and line.
        """
        if self.kind != "flowerpower":
            return None
        from penstock.sources.job_queue import read_job_queue

        return read_job_queue(self.conf)

    def _files_of(self, pipeline: str) -> Iterator[Path]:
        parts = pipeline.replace("-", "_").split(".")
        if not all(part.isidentifier() for part in parts):
            return
        if self.kind == "hamilton":
            yield self.root.joinpath(*parts).with_suffix(".py")
            return
        yield self.root.joinpath(_pipelines(), *parts).with_suffix(".py")
        for suffix in (".yml", ".yaml"):
            yield self.root.joinpath(_conf(), _pipelines(), *parts).with_suffix(suffix)

    def yaml_of(self, pipeline: str) -> Path | None:
        """Return the settings of a pipeline; None: it has no such file."""
        yamls = [path for path in self._files_of(pipeline) if path.suffix != ".py"]
        return next((path for path in yamls if path.is_file()), None)


def find_project(start: Path | str) -> Project | None:
    """Return the FlowerPower project that a folder lies in, walking up; None where there is none."""
    start = Path(start).resolve()
    for folder in (start, *start.parents):
        if _project_yaml(folder) is not None:
            return project_at(folder)
    return None


def project_at(folder: Path) -> Project | None:
    """Return the project in this very folder; None for a folder that does not exist."""
    folder = folder.resolve()
    path = _project_yaml(folder)
    if path is not None:
        name = read_yaml(path).get("name")
        if name is not None and not isinstance(name, str):
            raise ConfigError(f"{path}: name is {name!r}; write a text")
        return Project(name or folder.name, folder)
    return Project(folder.name, folder, "hamilton") if folder.is_dir() else None


def project_root(project: Any) -> Path:
    """Return the folder of a project given as a path, a FlowerPowerProject or a PipelineManager.

    Raises:
        ConfigError: there is no FlowerPower project.
    """
    base = project
    if not isinstance(project, str | os.PathLike):
        manager = getattr(project, "pipeline_manager", project)
        base = getattr(manager, "_base_dir", None)
        if not isinstance(base, str | os.PathLike):
            raise ConfigError(f"{type(project).__name__} is no FlowerPower project; pass its folder")
    place = str(cast("Any", base)).removeprefix("file://")
    if "://" in place:
        raise ConfigError(f"the project {place} is not on this machine; penstock runs projects from local folders")
    found = find_project(place)
    if found is None:
        raise ConfigError(f"no FlowerPower project in {place} or above: there is no conf/project.yml")
    return found.root


def projects_of(config: Config, root: Path | None) -> dict[str, Project]:
    """Return the projects by name: those of ``config.projects``, and the FlowerPower project around ``root``.

    A folder without conf/project.yml is a folder of Hamilton modules. Without any project it is ``root`` itself.

    Raises:
        ConfigError: a folder does not exist, or two projects have one name.
    """
    return dict(_projects_of(config.projects, (root or Path.cwd()).resolve()))


@lru_cache(maxsize=8)
def _projects_of(folders: tuple[str, ...], root: Path) -> tuple[tuple[str, Project], ...]:
    found: dict[str, Project] = {}
    around = find_project(root)
    for project in [*(_listed(folder, root) for folder in folders), *([around] if around else [])]:
        other = found.setdefault(project.name, project)
        if other.root != project.root:
            raise ConfigError(
                f"two projects are named {project.name!r}: {other.root} and {project.root}; "
                "change `name:` in one conf/project.yml"
            )
    if not found:
        found[root.name] = Project(root.name, root, "hamilton")
    return tuple(found.items())


def _listed(folder: str, root: Path) -> Project:
    project = project_at(root / folder)
    if project is None:
        raise ConfigError(f"projects: there is no folder {root / folder}")
    return project


# -- reading ----------------------------------------------------------------------------------------------------


def read_yaml(path: Path) -> dict[str, Any]:
    """Return a YAML file's mapping, with ``${VAR}`` filled in as FlowerPower does. Read once per change of the file.

    Raises:
        ConfigError: the file cannot be read, PyYAML is missing, or it is not a mapping.
    """
    try:
        stamp = path.stat().st_mtime_ns
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    return _read_yaml(path, stamp)


@lru_cache(maxsize=256)
def _read_yaml(path: Path, _mtime_ns: int) -> dict[str, Any]:
    yaml = yaml_module()
    from penstock.sources.interpolate import interpolated

    try:
        if path.stat().st_size > _LARGEST_BYTES:
            raise ConfigError(f"{path}: larger than {_LARGEST_BYTES:,} bytes: that is no file of settings")
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"cannot read {path}: nested too deep") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise ConfigError(f"{path}: not a mapping")
    try:
        return interpolated(data)
    except ValueError as error:
        raise ConfigError(f"{path}: {error}") from None
    except RecursionError:
        raise ConfigError(f"{path}: nested too deep, or an alias of YAML that holds itself") from None


def yaml_module() -> Any:
    """Import PyYAML. Raises `ConfigError` with the pip line where it is not installed."""
    try:
        import yaml
    except ImportError:
        raise ConfigError(
            'reading a FlowerPower project needs PyYAML. Run: pip install "penstock[flowerpower]"'
        ) from None
    return yaml


def _section(data: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    found = data.get(name)
    if found is None:
        return {}
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: {name} is not a mapping")
    return cast("dict[str, Any]", found)


def _project_yaml(folder: Path) -> Path | None:
    paths = (folder / _conf() / f"project{suffix}" for suffix in (".yml", ".yaml"))
    return next((path for path in paths if path.is_file()), None)


def _names_under(folder: Path, suffixes: tuple[str, ...]) -> Iterator[str]:
    for path in folder.rglob("*"):
        parts = path.relative_to(folder).with_suffix("").parts
        if path.suffix in suffixes and not any(part.startswith(("_", ".")) for part in parts):
            yield ".".join(parts)


def _conf() -> str:
    return os.environ.get("FP_CONFIG_DIR", "conf")


def _pipelines() -> str:
    return os.environ.get("FP_PIPELINES_DIR", "pipelines")
