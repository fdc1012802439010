"""`Secret`: a text that shows itself to nobody who does not ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NoReturn, cast

from penstock.core.secrets import learn

FIELD = "$secret"
"""How a secret stands in a job's input: ``{"$secret": "text"}``. The name itself says that it is one."""
_SHOWN = "**********"


class Secret:
    """A text whose ``repr`` and ``str`` are ``**********``; `reveal` gives it.

    As the argument of a task whose parameter is annotated ``Secret`` it arrives as one. The job's input in the ledger
    holds the text, since the worker needs it; screens, logs, errors and JSON hide it, wherever it turns up.
    """

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        """Wrap a text. Raises TypeError for anything else: an error must not quote what it was."""
        if not isinstance(text, str):  # pyright: ignore[reportUnnecessaryIsInstance] - users pass what they like
            raise TypeError(f"a Secret is made of a str, not of a {type(text).__name__}")
        self._text = text
        learn(text)

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return _SHOWN

    def __str__(self) -> str:
        return _SHOWN

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash((Secret, self._text))

    def __copy__(self) -> Secret:
        return self

    def __deepcopy__(self, _memo: object) -> Secret:
        return self

    def __reduce__(self) -> NoReturn:
        """Refuse to be pickled: it would be written in the clear."""
        raise TypeError("a Secret is not pickled")


def stored(secret: Secret) -> dict[str, str]:
    """Return what stands for it in a job's input."""
    return {FIELD: secret.reveal()}


def restored(value: Any) -> Secret:
    """Return the secret again, of what `stored` made, or of a text. Raises ValueError, which does not quote it."""
    if isinstance(value, Secret):
        return value
    if isinstance(value, str):
        return Secret(value)
    if isinstance(value, Mapping):
        fields = cast("Mapping[Any, Any]", value)
        if len(fields) == 1 and isinstance(text := fields.get(FIELD), str):
            return Secret(text)
    raise ValueError("Expected a `Secret` or `str`")
