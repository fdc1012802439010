"""Commands that installed packages add to ``penstock``, through the hook ``cli_commands``."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from importlib.metadata import entry_points
from typing import Any

from penstock.core.exceptions import ConfigError

PLUGINS = "penstock.plugins"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,39}", re.ASCII)


def plugin_commands(taken: Collection[str]) -> dict[str, Callable[..., Any]]:
    """Return the functions by the names of their commands; nothing is imported where no package adds anything.

    ``taken`` are names that cannot be had.

    Raises:
        ConfigError: a plugin cannot be imported, or what it adds is no command, or has a name that is taken.
    """
    if not entry_points(group=PLUGINS) and not _loaded():
        return {}
    found: dict[str, Callable[..., Any]] = {}
    for given in _asked():
        for name, function in given.items():
            if not _NAME.fullmatch(name):
                raise ConfigError(f"a plugin adds the command {name!r}: write a-z, 0-9 and -, 40 letters at most")
            if name in taken or name in found:
                raise ConfigError(f"a plugin adds the command {name!r}, which there is already; it has to rename it")
            if not callable(function):
                raise ConfigError(f"a plugin adds the command {name!r} with {function!r:.100}, which is no function")
            found[name] = function
    return found


def _loaded() -> bool:
    """Whether plugins have been registered in this process by hand."""
    import sys

    registry = sys.modules.get("penstock.registry")
    return registry is not None and registry.plugins.cache_info().currsize > 0


def _asked() -> list[Mapping[str, Callable[..., Any]]]:
    try:
        from penstock import registry

        return registry.plugins().hook.cli_commands()
    except Exception as error:
        raise ConfigError(f"a plugin of {PLUGINS} cannot be used: {type(error).__name__}: {error}") from error


def told_of(function: Callable[..., Any]) -> str:
    """Return the first sentence of what a command says of itself."""
    return (function.__doc__ or "").strip().partition("\n")[0].partition(". ")[0].rstrip(".")
