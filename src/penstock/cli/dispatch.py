"""The argument parser: the global options around the commands, and what becomes of an error."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

from cyclopts import App, Group, Parameter

from penstock import __version__
from penstock.cli import failures
from penstock.cli.commands import COMMANDS
from penstock.cli.failures import UsageError
from penstock.cli.variables import LIST, Variables, is_on
from penstock.plugin_commands import plugin_commands

_EVERYWHERE = Group("Everywhere", sort_key=100)
_TAKES_ARGV = (("enqueue",), ("run",), ("schedules", "add"))
_BUILT_IN = frozenset(command.name.partition(" ")[0] for command in COMMANDS)


def _global(*names: str, count: bool = False) -> Parameter:
    return Parameter(name=names, group=_EVERYWHERE, negative="", show_default=False, count=count)


def build(variables: Variables | None = None) -> App:
    """Make the parser. Commands are imported when they are called."""
    variables = variables or Variables()
    app = App(
        name="penstock",
        help="Run data pipelines as durable jobs on the job queue you already have.",
        version=__version__,
        help_format="plaintext",
        suppress_keyboard_interrupt=False,
        result_action="return_value",
    )
    groups: dict[str, App] = {}
    for command in COMMANDS:
        first, _, second = command.name.partition(" ")
        usage = f"Usage: penstock {command.name} {command.usage}"
        if first not in _grouped():
            app.command(command.target, name=first, usage=usage, help_format="plaintext", config=variables)
            continue
        if first not in groups:
            told = f"Usage: penstock {first} {'COMMAND' if second else '[COMMAND]'} [OPTIONS]"
            groups[first] = App(name=first, help=_told_of(first), usage=told, help_format="markdown")
            app.command(groups[first])
        groups[first].command(
            command.target, name=second or LIST, usage=usage, help_format="plaintext", show=False, config=variables
        )
    return app


def _plug_in(app: App) -> None:
    """Add the commands of plugins; asked for what is none of ours, so that ours cost nothing more."""
    for name, function in plugin_commands(_BUILT_IN).items():
        app.command(function, name=name, help_format="plaintext")


def _grouped() -> frozenset[str]:
    return frozenset(command.name.partition(" ")[0] for command in COMMANDS if " " in command.name)


def _told_of(group: str) -> str:
    """List the commands of a group: the parser cannot, before it has imported them."""
    named = [command for command in COMMANDS if command.name.partition(" ")[0] == group]
    return "\n\n".join(f"- **{command.name}**: {command.help}" for command in named)


def _completed(tokens: Sequence[str]) -> list[str]:
    """Name the command that is meant where a group is called with options alone."""
    if not tokens or tokens[0] not in _grouped() or all(command.name != tokens[0] for command in COMMANDS):
        return list(tokens)
    alone = all(token.startswith("-") for token in tokens[1:2]) and not {"--help", "-h"} & set(tokens[1:])
    return [tokens[0], LIST, *tokens[1:]] if alone else list(tokens)


def dispatch(words: Sequence[str]) -> int:
    """Parse, run, and map what is raised; return the exit code. Never raises."""
    words, argv = _split(words)
    # Read without the parser, because its own errors are told in the same way.
    as_json = "--json" in words or is_on("PENSTOCK_JSON")
    verbose = any(w == "--verbose" or _is_short_v(w) for w in words) or is_on("PENSTOCK_VERBOSE")
    variables = Variables()
    try:
        code = _run(build(variables), words, argv, variables)
        sys.stdout.flush()
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else 0 if error.code is None else failures.BUG
    except BaseException as error:  # noqa: BLE001 - the outermost door
        code = failures.tell(error, as_json=as_json, verbose=verbose, told=variables.told)
        if code == failures.BROKEN_PIPE:
            # Python would complain when it flushes stdout at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return code


def _is_short_v(word: str) -> bool:
    return word.startswith("-v") and set(word[1:]) == {"v"}


def _split(words: Sequence[str]) -> tuple[list[str], tuple[str, ...] | None]:
    """Cut off what stands behind the first ``--``: it is a command's argument list, not ours to read."""
    if "--" not in words:
        return list(words), None
    at = list(words).index("--")
    return list(words[:at]), tuple(words[at + 1 :])


def _run(app: App, words: list[str], argv: tuple[str, ...] | None, variables: Variables) -> int:
    may_be_ours = not _BUILT_IN.isdisjoint(words)  # or the value of an option is called so
    if not may_be_ours:
        _plug_in(app)  # now: the parser answers --help before `launch` is called

    @app.meta.default
    def launch(  # pyright: ignore[reportUnusedFunction] - the parser calls it
        *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)],
        url: Annotated[str | None, _global("--url", "--backend")] = None,
        ledger: Annotated[str | None, _global("--ledger")] = None,
        config: Annotated[Path | None, _global("--config")] = None,
        project: Annotated[Path | None, _global("--project")] = None,
        json: Annotated[bool, _global("--json")] = False,
        verbose: Annotated[int, _global("--verbose", "-v", count=True)] = 0,
        quiet: Annotated[bool, _global("--quiet", "-q")] = False,
        no_color: Annotated[bool, _global("--no-color")] = False,
    ) -> int:
        """Run data pipelines as durable jobs on the job queue you already have.

        Args:
            tokens: the command and its arguments
            url: The engine, such as saq+redis://localhost
            ledger: Where jobs are recorded, such as sqlite:///ledger.db
            config: Read this file instead of looking for one
            project: Look for the configuration from this folder upwards
            json: One JSON document, or JSON Lines for lists
            verbose: Say more; tracebacks; twice for debugging
            quiet: Say only what was asked for
            no_color: No colours (also: NO_COLOR, or a pipe)
        """
        if argv is not None and not any(tokens[: len(taker)] == taker for taker in _TAKES_ARGV):
            known = ", ".join(f"`penstock {' '.join(taker)} -- COMMAND`" for taker in _TAKES_ARGV)
            raise UsageError(f"only {known} take what follows `--`")
        if may_be_ours and tokens and tokens[0] not in _BUILT_IN:
            _plug_in(app)
        command, bound, ignored = app.parse_args(_completed(tokens), exit_on_error=False, print_error=False)
        if "session" not in ignored:
            return _code(command(*bound.args, **bound.kwargs))  # the parser's own: --help, --version
        from penstock.cli.session import Session

        session = Session(
            url=url, ledger=ledger, config=config, project=project, json=json, verbose=verbose, quiet=quiet,
            no_color=no_color, argv=argv,
        )  # fmt: skip
        session.listen()
        try:
            with variables.taken():
                return _code(command(*bound.args, **bound.kwargs, session=session))
        finally:
            session.close()

    app.meta.config = variables
    app.meta.suppress_keyboard_interrupt = False
    called: Callable[..., Any] = app.meta
    return _code(called(words, exit_on_error=False, print_error=False, result_action="return_value"))


def _code(result: Any) -> int:
    return result if isinstance(result, int) else failures.OK
