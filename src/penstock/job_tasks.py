"""The types of tasks that a job file may name, and the calls that they become."""

from __future__ import annotations

import functools
import logging
import shlex
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from penstock import calls, registry
from penstock.core.exceptions import did_you_mean
from penstock.sources.decorators import Call
from penstock.sources.jobs_dir import Wrong

if TYPE_CHECKING:
    from penstock.client import JobQueue

logger = logging.getLogger("penstock.jobs_dir")

SHELL = ("/bin/sh", "-c")
_FOR_A_SHELL = frozenset({"|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1", "$("})

TaskType = Callable[["JobQueue", Mapping[str, Any]], Call]


def call_of(queue: JobQueue, task: Mapping[str, Any]) -> Call:
    """Return the call that the ``task`` table of a job file means.

    Raises:
        Wrong: a key is missing, unknown or of the wrong kind; says where.
        InvalidJobError: there is no such task or pipeline, or the input does not fit.
        Exception: whatever a plugin's type raises.
    """
    table = dict(task)
    if "type" not in table:
        raise Wrong(f"the task has no type; there are: {', '.join(_types())}", "task")
    name = table.pop("type")
    types = _types()
    if not isinstance(name, str) or name not in types:
        known = ", ".join(types)
        raise Wrong(
            f"no type of task {name!r:.100}; there are: {known}.{did_you_mean(str(name), types)}", "task", "type"
        )
    found = types[name](queue, table)
    if not isinstance(found, Call):  # pyright: ignore[reportUnnecessaryIsInstance] - a plugin returns what it likes
        raise Wrong(f"the plugin for type {name!r} returned {found!r:.100}, not a Call", "task", "type")
    return found


def _types() -> dict[str, TaskType]:
    types = dict(_OURS)
    for more in registry.plugins().hook.job_file_types():
        types.update({name: made for name, made in more.items() if name not in _OURS})
    return types


def _execute_command(queue: JobQueue, table: Mapping[str, Any]) -> Call:
    _known(table, "command", "shell", "cwd", "env", "on_exit")
    command, shell = table.get("command"), table.get("shell", False)
    if not isinstance(shell, bool):
        raise Wrong(f"shell is {shell!r:.100}; write true or false", "task", "shell")
    if isinstance(command, str) and shell:
        if not queue.config.security.allow_shell:
            raise Wrong(
                "shell = true is not allowed here: it takes security.allow_shell = true in the configuration; or write "
                "the command as a list",
                "task", "shell",
            )  # fmt: skip
        argv = [*SHELL, command]
    elif isinstance(command, str):
        argv = _split(command)
    elif isinstance(command, list) and command:
        if shell:
            raise Wrong("a shell takes one text, not a list", "task", "command")
        argv = _words(cast("list[Any]", command))
    else:
        raise Wrong('command is missing; write a text such as "echo hi", or a list ["echo", "hi"]', "task", "command")
    cwd = table.get("cwd")
    if isinstance(cwd, str):
        cwd = str(queue.root / Path(cwd).expanduser())
    with_env: Any = table.get("env") or {}
    if not isinstance(with_env, Mapping):
        raise Wrong("env is no table of names and texts", "task", "env")
    try:
        return queue.command(argv, cwd=cwd, env=cast("Mapping[str, str]", with_env), on_exit=table.get("on_exit"))
    except TypeError as error:
        raise Wrong(str(error), "task", "command") from None


def _words(command: list[Any]) -> list[str]:
    for index, word in enumerate(command):
        if not isinstance(word, str | int | float) or isinstance(word, bool):
            raise Wrong(f"argument {index} of the command is {word!r:.100}, not a text", "task", "command")
    return [str(word) for word in command]


def _split(command: str) -> list[str]:
    try:
        argv = shlex.split(command)
    except ValueError as error:
        raise Wrong(f"command cannot be split into words: {error}", "task", "command") from None
    if not argv:
        raise Wrong("command is empty", "task", "command")
    _warn_of_shell_words(command, tuple(argv))
    return argv


@functools.cache
def _warn_of_shell_words(command: str, argv: tuple[str, ...]) -> None:
    """Say once that there is no shell which would read ``|`` and its like."""
    if alone := next((word for word in argv if word in _FOR_A_SHELL), None):
        logger.warning(
            "the command %r is run without a shell: the program is given %r as it stands (shell = true in the file and "
            "security.allow_shell = true in the configuration would give it to /bin/sh)",
            command, alone,
        )  # fmt: skip


def _pipeline(queue: JobQueue, table: Mapping[str, Any]) -> Call:
    name, rest = _name(table, "pipeline")
    return queue.pipeline(name, **rest)


def _task(queue: JobQueue, table: Mapping[str, Any]) -> Call:
    name, rest = _name(table, "task")
    _known(rest, "args", "inputs", "kwargs")
    if "inputs" in rest and "kwargs" in rest:
        raise Wrong("inputs and kwargs are two words for the same; write one", "task", "kwargs")
    inputs = rest.get("inputs", rest.get("kwargs", {}))
    if not isinstance(inputs, Mapping):
        raise Wrong("inputs is no table of names and values", "task", "inputs" if "inputs" in rest else "kwargs")
    args = rest.get("args", [])
    if not isinstance(args, list):
        raise Wrong("args is no list", "task", "args")
    values = tuple(cast("list[Any]", args))
    return calls.named(queue, f"task:{name}", values, cast("Mapping[str, Any]", inputs), {})


def _name(table: Mapping[str, Any], kind: str) -> tuple[str, dict[str, Any]]:
    rest = dict(table)
    named = [key for key in ("name", kind) if key in rest]
    if len(named) != 1 or not isinstance(rest[named[0]], str):
        raise Wrong(f"a task of type {kind} takes one name = the {kind}'s name", "task", *named[:1])
    return rest.pop(named[0]), rest


def _known(table: Mapping[str, Any], *known: str) -> None:
    for key in table:
        if key not in known:
            hint = did_you_mean(key, known)
            raise Wrong(f"unknown key {key!r} in task; there are: type, {', '.join(known)}.{hint}", "task", key)


_OURS: dict[str, TaskType] = {"execute_command": _execute_command, "pipeline": _pipeline, "task": _task}
