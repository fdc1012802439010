"""Settings: where they come from, which one wins, and how they are shown.

Later wins: defaults, ``~/.config/penstock/config.toml``, the project's file, ``PENSTOCK_*`` variables, flags.
"""

from __future__ import annotations

from penstock.settings.load import Settings, load, schema
from penstock.settings.paths import anchored

__all__ = ["Settings", "anchored", "load", "schema"]
