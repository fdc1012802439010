"""Where the command starts. Nothing is loaded here that ``--help`` and ``--version`` do not need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from penstock import __version__


def _plugged() -> dict[str, str]:
    """Return what the commands of plugins say of themselves; a plugin that is broken does not take the page along."""
    from penstock.cli.commands import COMMANDS
    from penstock.core.exceptions import ConfigError
    from penstock.plugin_commands import plugin_commands, told_of

    try:
        found = plugin_commands({command.name.partition(" ")[0] for command in COMMANDS})
    except ConfigError as error:
        print(f"penstock: warning: {error}", file=sys.stderr)
        return {}
    return {name: told_of(function) for name, function in found.items()}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: see `failures.CODES`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in ([], ["--help"], ["-h"], ["help"]):
        from penstock.cli.commands import help_page

        print(help_page(color=sys.stdout.isatty() and "NO_COLOR" not in os.environ, plugged=_plugged()))
        return 0
    if words in (["--version"], ["-V"]):
        print(__version__)
        return 0
    from penstock.cli.dispatch import dispatch

    return dispatch(words)
