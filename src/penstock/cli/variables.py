"""Options from the environment: ``PENSTOCK_WORKER_BURST=true`` is ``penstock worker --burst``. A flag wins."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
from collections.abc import Generator, Iterator

import msgspec
from cyclopts import App, Parameter
from cyclopts.argument import Argument, ArgumentCollection, Token
from cyclopts.config import Env

from penstock.cli.failures import UsageError
from penstock.settings.options import EVERYWHERE, option_variable

LIST = "list"
"""What a group of commands does that is called without one: ``penstock schedules``."""
_YES = frozenset({"1", "t", "true", "y", "yes", "on"})
_NO = frozenset({"0", "f", "false", "n", "no", "off"})
_READ_WITH_THE_SETTINGS = frozenset({"PENSTOCK_BACKEND", "PENSTOCK_LEDGER", "PENSTOCK_CONFIG"})
_LINK = re.compile(r"(tcp|udp|sctp)://")
"""What Kubernetes writes into PENSTOCK_WORKER_HEALTH_PORT beside a Service named penstock-worker-health."""


class Variables(Env):
    """Gives the options of one call what their variables say."""

    def __init__(self) -> None:
        super().__init__("PENSTOCK_")
        self.given: dict[str, str] = {}
        """By option, the variable that spoke for it."""
        self._own: set[str] = set()

    def __call__(self, app: App, commands: tuple[str, ...], arguments: ArgumentCollection) -> None:
        """Fill in what no flag says. Raises `UsageError`, which names the variable, or the flag of a fraction."""
        for argument in filter(_is_option, arguments):
            self._fill(commands, argument)
            if argument.hint in (int, int | None):
                _refuse_fractions(argument)

    def _fill(self, commands: tuple[str, ...], argument: Argument) -> None:
        name = self._convert_argument(commands, argument)
        text = os.environ.get(name, "")  # an empty one counts as not set, as with settings
        if text == "" or name in _READ_WITH_THE_SETTINGS or _LINK.match(text):
            return
        if argument.name not in EVERYWHERE:
            self._own.add(name)
        if not argument.tokens:
            self.given[argument.name] = name
            for token in _tokens(name, text, argument):
                argument.append(token)

    def _convert_argument(self, commands: tuple[str, ...], argument: Argument) -> str:
        """Name the variable of an option; for the help page, which is to name none for a word without dashes."""
        if not _is_option(argument):
            argument.parameter = Parameter.combine(argument.parameter, Parameter(show_env_var=False))
        command = " ".join(word for word in commands if word != LIST)
        return EVERYWHERE.get(argument.name) or option_variable(command, argument.name)

    @contextlib.contextmanager
    def taken(self) -> Generator[None]:
        """Take the command's own variables out of the environment: what it starts, such as a job, has none of them."""
        kept = {name: os.environ.pop(name) for name in self._own}
        try:
            yield
        finally:
            os.environ.update(kept)

    def told(self, message: str) -> str:
        """Say which variables an error may come from: of the options that it names, else of all."""
        if any(name in message for name in self.given.values()):
            return message
        named = {option: name for option, name in self.given.items() if _names(message, option)}
        named = named or {option: name for option, name in self.given.items() if option not in EVERYWHERE}
        said = ", ".join(f"{option} is given by {name}" for option, name in named.items())
        return f"{message} ({said})" if said else message


def is_on(name: str) -> bool:
    """Whether a variable says anything but no."""
    return os.environ.get(name, "").lower() not in {"", *_NO}


def _is_option(argument: Argument) -> bool:
    return argument.parse and argument.field_info.kind is inspect.Parameter.KEYWORD_ONLY and not argument.children


def _refuse_fractions(argument: Argument) -> None:
    """The parser would round them."""
    for token in argument.tokens:
        if "." in token.value:
            raise UsageError(f"{token.keyword or argument.name} takes a whole number, not {token.value}")


def _tokens(name: str, text: str, argument: Argument) -> Iterator[Token]:
    if argument.parameter.count:
        yield Token(keyword=name, source="env", implicit_value=_count(name, text))
        return
    words = [text]
    if argument.hint in (bool, bool | None):
        words = [_yes_or_no(name, text)]
    elif argument.token_count()[1]:
        words = _list(name, text)
    for index, word in enumerate(words):
        yield Token(keyword=name, value=word, source="env", index=index)


def _count(name: str, text: str) -> int:
    if text.isdecimal():
        return int(text)
    return int(_yes_or_no(name, text) == "true")


def _yes_or_no(name: str, text: str) -> str:
    if text.lower() in _YES | _NO:
        return "true" if text.lower() in _YES else "false"
    raise UsageError(f"{name} takes true or false, not {text!r}")


def _list(name: str, text: str) -> list[str]:
    if not text.lstrip().startswith("["):
        return text.split()
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError as error:
        raise UsageError(f"{name}: {error}; write words with blanks between, or a list as JSON: not {text}") from None


def _names(message: str, option: str) -> bool:
    word = re.escape(option.lstrip("-")).replace(r"\-", "[-_ ]")
    return re.search(rf"(?<![\w-])(--)?{word}(?![\w-])", message, re.IGNORECASE) is not None
