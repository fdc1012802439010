"""Shipped test kit: helpers for your own tests, the pytest plugin, a harness per engine, the conformance suite.

The plugin is loaded in every pytest run, so the helpers are imported when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from penstock.testing.draining import Drained, adrain, drain
    from penstock.testing.expectations import assert_enqueued, assert_not_enqueued

_HOMES = {
    "Drained": "draining",
    "adrain": "draining",
    "assert_enqueued": "expectations",
    "assert_not_enqueued": "expectations",
    "drain": "draining",
}

__all__ = ["Drained", "adrain", "assert_enqueued", "assert_not_enqueued", "drain"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'penstock.testing' has no attribute {name!r}")
    return getattr(import_module(f"penstock.testing.{_HOMES[name]}"), name)
