"""Put the layers of settings together, check them, and keep track of who said what."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from penstock.core.config import Config
from penstock.core.durations import parse_duration_s
from penstock.core.exceptions import ConfigError
from penstock.core.secrets import mask_data, mask_text, remember, secrets_in
from penstock.core.typed import prepared
from penstock.settings.checks import troubles
from penstock.settings.environment import from_environment, from_flags, list_from_text
from penstock.settings.files import find, is_flowerpower, read_toml
from penstock.settings.keys import FREE, is_list, is_table, known
from penstock.settings.layers import Entry, Layer, flatten
from penstock.settings.paths import anchored
from penstock.settings.references import expand, is_reference

logger = logging.getLogger("penstock.config")

DEFAULT = "default"
_DERIVED = "default, a part of lease.ttl"


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The configuration that holds, with the origin of each value.

    ``config`` has the real values, with references followed and paths as written; `resolved` has absolute paths.
    Show `shown`, never ``config``: it may hold passwords.
    """

    config: Config
    origins: dict[str, str]
    """By dotted key, as ``penstock.toml:7``, ``env PENSTOCK_LEASE__TTL``, ``flag --url`` or ``default``."""
    root: Path
    """The folder that relative paths start from: that of the project's file, else where the search began."""
    project_file: Path | None
    flowerpower_root: Path | None
    written: dict[str, Any]
    """By dotted key, the values as they were written: references are not followed."""
    secrets: frozenset[str]
    """What references led to; hide these in any text that is shown (`core.secrets.mask_text`)."""

    def __repr__(self) -> str:
        return f"<settings of {self.project_file or self.root}>"

    def resolved(self) -> Config:
        """Return the config with absolute paths."""
        return anchored(self.config, self.root)

    def shown(self) -> list[tuple[str, Any, str]]:
        """Return (dotted key, value, origin) of every setting, as plain data with passwords and tokens hidden.

        A reference is shown as it is written (``env:REDIS_URL``), never what it leads to.
        """
        return [(key, mask_data(value, name=_last(key)), self.origins[key]) for key, value in self.written.items()]


def load(
    start: Path | None = None,
    *,
    file: Path | None = None,
    env: Mapping[str, str] | None = None,
    flags: Mapping[str, Any] | None = None,
) -> Settings:
    """Read the settings of the project that ``start`` (default: the current folder) lies in.

    Args:
        start: where the search for the project's file begins; it goes up from there.
        file: the project's file itself; nothing is searched. ``PENSTOCK_CONFIG`` says the same.
        env: the environment; default: that of this process.
        flags: what overrides everything, by dotted key (``{"worker.concurrency": 2}``); None means not given.

    Raises:
        ConfigError: a file, a key, a value or a reference is wrong; tells the file and line, or the variable.
    """
    env = os.environ if env is None else env
    begin = _folder((start or Path.cwd()).expanduser())
    if file is None and env.get("PENSTOCK_CONFIG"):
        file = begin / Path(env["PENSTOCK_CONFIG"]).expanduser()
    project = _project(begin, file, env.get("FP_CONFIG_DIR") or "conf")
    layer = _user_layer(env) | project.layer | from_environment(env) | from_flags(flags or {})
    if project.flowerpower_root is not None and "projects" not in layer:
        conf = env.get("FP_CONFIG_DIR") or "conf"
        here = "." if project.flowerpower_root == project.root else str(project.flowerpower_root)
        layer["projects"] = Entry(("projects",), [here], f"{conf}/project.yml")
    return _settings(layer, project, env)


def schema() -> dict[str, Any]:
    """Return the JSON Schema of ``penstock.toml``, for editors."""
    return msgspec.json.schema(Config)


# -- the project's file ----------------------------------------------------------------------------------------


class _Project(msgspec.Struct, frozen=True):
    root: Path
    file: Path | None
    flowerpower_root: Path | None
    layer: Layer


def _project(begin: Path, file: Path | None, conf: str) -> _Project:
    if file is not None:
        file = (begin / file).absolute()
        around = next((folder for folder in (begin, *begin.parents) if is_flowerpower(folder, conf)), None)
        if file.suffix in (".yml", ".yaml"):
            return _flowerpower(file.parent.parent, file.parent.name)
        layer = read_toml(file, file.name)
        _warn_of_open_file(file, layer)
        return _Project(file.parent, file, around, layer)
    found = find(begin, conf)
    if found is None:
        return _Project(begin, None, None, {})
    if found.file is None:
        return _flowerpower(found.folder, conf)
    layer = read_toml(found.file, found.file.name)
    _warn_of_open_file(found.file, layer)
    return _Project(found.folder, found.file, found.folder if found.flowerpower else None, layer)


def _flowerpower(root: Path, conf: str) -> _Project:
    from penstock.sources.flowerpower import find_project

    project = find_project(root)
    if project is None or project.root != root.resolve():
        raise ConfigError(f"{root}: no FlowerPower project; settings in YAML belong into its {conf}/queue.yml")
    block = project.job_queue()
    if block is None:
        return _Project(root, None, root, {})
    queue = next((file for name in ("queue.yml", "queue.yaml") if (file := root / conf / name).is_file()), None)
    label = f"{conf}/{queue.name}" if queue else f"{conf}/project.yml job_queue"
    layer = flatten(block, lambda _path: label)
    return _Project(root, queue or root / conf / "project.yml", root, layer)


def _warn_of_open_file(file: Path, layer: Layer) -> None:
    """Say that passwords stand in a file that every user of the machine may read."""
    try:
        open_to_all = file.stat().st_mode & stat.S_IROTH
    except OSError:
        return
    keys = [key for key, entry in layer.items() if open_to_all and _inline_secret(entry)]
    if keys:
        logger.warning(
            "%s: %s holds a secret, and any user of this machine may read the file; chmod o-r %s, or write "
            "env:NAME or file:/path in its place",
            file.name, ", ".join(keys), file,
        )  # fmt: skip


def _inline_secret(entry: Entry) -> bool:
    if entry.path[0] == "schedules":
        return False
    found = set(secrets_in(entry.value, entry.path[-1]))
    return any(not is_reference(secret) for secret in found)


def _user_layer(env: Mapping[str, str]) -> Layer:
    home = env.get("XDG_CONFIG_HOME") or (f"{env['HOME']}/.config" if env.get("HOME") else None)
    if home is None:
        return {}
    file = Path(home, "penstock", "config.toml")
    label = "~/.config/penstock/config.toml" if "XDG_CONFIG_HOME" not in env else str(file)
    return read_toml(file, label) if file.is_file() else {}


def _folder(start: Path) -> Path:
    start = start.absolute()
    if start.is_file():
        start = start.parent
    if not start.is_dir():
        raise ConfigError(f"there is no folder {start}")
    return Path(os.path.normpath(start))


# -- values ----------------------------------------------------------------------------------------------------


def _settings(layer: Layer, project: _Project, env: Mapping[str, str]) -> Settings:
    defaults = _flat_defaults()
    values: dict[str, Any] = dict(defaults)
    secrets: set[str] = set()
    free: dict[str, dict[str, Any]] = {name: {} for name in FREE}
    for key, entry in layer.items():
        told = f"{entry.origin}: {key}"
        value, text = entry.value, entry.text
        if entry.path[0] != "schedules":  # the inputs of a job are its own: "${X}" there is not ours to read
            followed = expand(value, env=env, root=project.root, told=told)
            secrets |= followed.secrets
            value, text = followed.value, text or bool(followed.secrets)
        if entry.path[0] in FREE:
            table = free[entry.path[0]].setdefault(entry.path[1], {})
            if len(entry.path) == 3:
                table[entry.path[2]] = value
        else:
            values[key] = _typed(key, value, told, text=text, secrets=secrets)
    origins = {key: layer[key].origin if key in layer else DEFAULT for key in values}
    _fit_short_lease(values, origins)
    for key, problem in troubles(values, lambda key: origins[key] not in (DEFAULT, _DERIVED)):
        named = problem if problem.startswith(key) else f"{key}: {problem}"
        raise ConfigError(mask_text(f"{origins[key]}: {named}", secrets))
    remember(secrets)
    written = {key: layer[key].value if key in layer else value for key, value in values.items()}
    for key, entry in layer.items():
        if entry.path[0] in FREE:
            origins[key], written[key] = entry.origin, entry.value
    return Settings(
        config=msgspec.convert(_nested(values) | free, prepared(Config)),
        origins=origins,
        root=project.root,
        project_file=project.file,
        flowerpower_root=project.flowerpower_root,
        written=msgspec.to_builtins(written),
        secrets=frozenset(secrets),
    )


def _typed(key: str, value: Any, told: str, *, text: bool, secrets: set[str]) -> Any:
    """Read a value as its setting's type; what came as text may be a number, a list or ``null``."""
    try:
        if text and isinstance(value, str):
            if is_list(key):
                value = list_from_text(value)
            elif value.startswith(("{", "[")) and is_table(key):
                value = msgspec.json.decode(value)
            elif value.lower() in ("null", "none") and type(None) in getattr(known()[key], "__args__", ()):
                return None
        return msgspec.convert(value, known()[key], strict=not text)
    except msgspec.ValidationError as error:
        problem = str(error).replace("`", "").partition(" - at")[0]
        problem = problem[0].lower() + problem[1:]
        hint = f'; write {_last(key)} = ["{value}"]' if is_list(key) and isinstance(value, str) else ""
        shown = mask_data(value, secrets, name=_last(key))
        raise ConfigError(f"{told} = {shown!r}: {problem}{hint}") from None
    except ValueError as error:
        raise ConfigError(f"{told}: {error}") from None


def _fit_short_lease(values: dict[str, Any], origins: dict[str, str]) -> None:
    """Shorten the heartbeat and the fence margin that nobody set to a lease that somebody set shorter."""
    try:
        ttl_s = parse_duration_s(values["lease.ttl"])
    except ValueError:
        return  # told by the checks
    for key, share in (("lease.heartbeat", 4), ("lease.fence_margin", 6)):
        if origins[key] == DEFAULT and 0 < ttl_s / share < parse_duration_s(values[key]):
            values[key] = ttl_s / share
            origins[key] = _DERIVED


def _flat_defaults() -> dict[str, Any]:
    config = Config()
    values: dict[str, Any] = {}
    for key in known():
        table, _, leaf = key.rpartition(".")
        values[key] = getattr(getattr(config, table) if table else config, leaf)
    return values


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for key, value in values.items():
        table, _, leaf = key.rpartition(".")
        (tree.setdefault(table, {}) if table else tree)[leaf] = value
    return tree


def _last(key: str) -> str:
    return key.rpartition(".")[2]
