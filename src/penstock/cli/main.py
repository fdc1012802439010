"""Where the command starts. Nothing is loaded here that ``--help`` and ``--version`` do not need."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from penstock import __version__


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: see `failures.CODES`."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words in ([], ["--help"], ["-h"], ["help"]):
        from penstock.cli.commands import help_page

        print(help_page(color=sys.stdout.isatty() and "NO_COLOR" not in os.environ))
        return 0
    if words in (["--version"], ["-V"]):
        print(__version__)
        return 0
    from penstock.cli.dispatch import dispatch

    return dispatch(words)
