"""Finds backends and plugins: through the entry points a stranger's package would use, and on first use only."""

from __future__ import annotations

from functools import cache
from importlib.metadata import EntryPoint, entry_points

import pluggy

from penstock.core import hookspecs
from penstock.core.base import AsyncBackend, Backend
from penstock.core.exceptions import BackendNotInstalledError, ConfigError, UnknownBackendError, UnsupportedError

AnyBackendClass = type[Backend] | type[AsyncBackend]


def _entry_points() -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=hookspecs.GROUP)}


def backend_names() -> list[str]:
    """List the names of all backends that an installed package offers, without importing any."""
    return sorted(_entry_points())


@cache
def backend_class(name: str) -> AnyBackendClass:
    """Import one backend and return its class.

    Raises:
        UnknownBackendError: no package offers a backend of that name.
        BackendNotInstalledError: its engine is not installed; says the pip line.
    """
    if name not in _entry_points():
        raise UnknownBackendError(name, backend_names())
    plugins = pluggy.PluginManager(hookspecs.PROJECT)
    plugins.add_hookspecs(hookspecs)
    try:
        # The name is passed so that this one entry point is loaded; without it pluggy imports them all.
        plugins.load_setuptools_entrypoints(hookspecs.GROUP, name=name)
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.startswith("penstock"):
            raise
        raise BackendNotInstalledError(name) from error
    found = plugins.hook.backend_class()
    if found is None:
        raise ConfigError(f"the entry point {name!r} in {hookspecs.GROUP} offers no backend_class hook")
    return found


@cache
def plugins() -> pluggy.PluginManager:
    """Import the plugins that are installed (group ``penstock.plugins``) and return them."""
    found = pluggy.PluginManager(hookspecs.PROJECT)
    found.add_hookspecs(hookspecs)
    found.load_setuptools_entrypoints(hookspecs.PLUGINS)
    return found


def for_url(url: str) -> tuple[AnyBackendClass, str]:
    """Return the backend class that a URL names, and the URL's scheme.

    Raises:
        UnknownBackendError: the backend, or this transport of it, is unknown; lists those there are.
        UnsupportedError: its engine cannot serve this transport; says what to use instead.
    """
    scheme, separator, _ = url.partition("://")
    if not separator:
        raise ConfigError(f"{url!r} is not a backend URL; write 'huey+sqlite:///path', 'inline://', ...")
    found = backend_class(scheme.partition("+")[0])
    if why := found.refused.get(scheme):
        raise UnsupportedError(scheme.partition("+")[0], scheme.partition("+")[2], f" {why}")
    if scheme not in found.schemes:
        raise UnknownBackendError(scheme, found.schemes)
    return found, scheme
