"""Hide passwords in what is shown, logged or put into an error.

What is hidden: the passwords and secret query values of URLs, what stands under a secret name, and each text that this
process was told to be a secret (`remember`), wherever it turns up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

MASK = "***"

_SECRET_NAME = re.compile(
    r"passw|pwd|passphrase|token|secret|credential|authorization|signature|(?:^|[^a-z])(?:keys?|auth|sig|pin)(?:$|[^a-z])"
)
"""``key`` counts as a word only (``api_key``, ``apiKey``), not inside another (``monkey``, ``keyspace``)."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
# Every repetition is bounded: whoever writes a log line must not be able to keep a worker busy with it.
_PASSWORD = re.compile(
    r"(?P<head>[A-Za-z][A-Za-z0-9+.\-]{0,40}://(?P<user>[^/:@?#\s\"']{0,256}):)(?!\d+(?:[/?#]|$))"
    r"(?P<secret>[^\s\"']{0,512})@"
)
"""Up to the last ``@``: a password with an unescaped ``/`` or ``@`` goes whole, at times with a host too many."""
_TOKEN = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.\-]{0,40}://)(?P<secret>[^/:@?#\s\"']{1,512})@")
_PARAMETER = re.compile(r"(?P<lead>[?&;])(?P<name>[^=&;#\s\"']{1,80})=(?P<value>[^&;#\s\"']*)")
_SHORTEST = 4
"""Shorter secrets are left in running text: masking each ``1`` or ``on`` would make it unreadable."""
_SHORTEST_NUMBER = 6
_SHORTEST_WORD = 8
"""Letters alone, such as ``guest`` or ``state``, which other texts hold too."""
_NO_SECRETS = frozenset({"true", "false", "none", "null", "default"})

# In running text a name alone says less ("KeyError: 'x'", "unexpected token: ]"): what is masked there is narrower.
_HINTS = ("passw", "pwd", "passphrase", "token", "secret", "credential", "authoriz", "key", "bearer")
_WORD = r"passw(?:or)?d|pwd|passphrase|token|secret|credential|(?:api|access|private)[_-]?key"
_VALUE = (
    r"""(?P<open>["']?)(?P<value>(?<=")(?:[^"\\\n]|\\.){0,4096}|(?<=')(?:[^'\\\n]|\\.){0,4096}"""
    r"""|[^\s"',;&)\]}]{1,4096})"""
)
_QUOTED = re.compile(
    rf"""(?P<head>(?P<q>["'])(?P<name>[\w.\- ]{{1,80}})(?P=q)\s{{0,4}}[:=]\s{{0,4}}[bru]?(?=["'])){_VALUE}"""
)
_ASSIGNED = re.compile(rf"(?P<head>(?:{_WORD})[\w\-]{{0,40}}\s{{0,4}}={{1,3}}\s{{0,4}}){_VALUE}", re.IGNORECASE)
_FLAG = re.compile(
    rf"(?P<head>(?<![\w-])--?[\w\-]{{0,40}}(?:{_WORD})[\w\-]{{0,40}} {{1,4}}(?!-)){_VALUE}", re.IGNORECASE
)
_TOLD = re.compile(
    r"(?P<head>\b(?:passw(?:or)?d|passphrase|secret|api[_-]?key|(?:access|auth)[_-]?token"
    r"|authorization)\s{0,4}:\s{0,4}(?:(?:Bearer|Basic|Digest|Token)\s{1,4})?)"
    rf"(?!(?:str|bytes|int|float|bool|dict|list|tuple|Any|None|object)\b)(?=\S){_VALUE}",
    re.IGNORECASE,
)
_TOKEN_TOLD = re.compile(
    r"\b(?P<head>token\s{0,4}:\s{0,4})(?=[^\s]{0,512}\d)[A-Za-z0-9._~+/=\-]{8,4096}", re.IGNORECASE
)
"""Of what parsers call a token ("unexpected token: ]") nothing is as long, with a digit in it."""
_PRIVATE_KEY = re.compile(r"(?P<head>-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----)[^-]{1,16384}")
_BEARER = re.compile(r"\b(?P<head>Bearer\s{1,4})[A-Za-z0-9._~+/=\-]{4,4096}", re.IGNORECASE)

_known: frozenset[str] = frozenset()
_known_pattern: re.Pattern[str] | None = None
_learnt: dict[str, None] = {}
_learnt_pattern: tuple[tuple[str, ...], re.Pattern[str]] | None = None
"""With the secrets that it was made of."""
_LEARNT_MAX = 128
"""Each job may bring secrets of its own, and a worker runs for months."""


def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret: password, token, secret, key, authorization and their like."""
    return _SECRET_NAME.search(_CAMEL.sub("_", name).lower()) is not None


def remember(secrets: Iterable[str]) -> None:
    """Hide these texts from now on in everything that this process shows. Too short ones and plain words are left."""
    global _known, _known_pattern  # noqa: PLW0603 - what a process knows is the process's
    more = frozenset(secret for secret in secrets if _telling(secret)) - _known
    if more:
        _known |= more
        longest_first = sorted(_known, key=len, reverse=True)
        _known_pattern = re.compile("|".join(map(re.escape, longest_first)))


def learn(secret: str) -> None:
    """Hide a text that its owner called a secret, a plain word too; only the newest 128 of these are kept."""
    if len(secret) < _SHORTEST or secret.isspace() or secret == MASK:
        return
    _learnt[secret] = None
    for oldest in list(_learnt)[:-_LEARNT_MAX]:
        _learnt.pop(oldest, None)


def remembered() -> frozenset[str]:
    """Return what this process hides."""
    return _known.union(_learnt)


def mask_known(text: str) -> str:
    """Hide what `remember` and `learn` were told in a text, and nothing else."""
    global _learnt_pattern  # noqa: PLW0603 - as above
    hidden = text if _known_pattern is None else _known_pattern.sub(MASK, text)
    learnt = tuple(_learnt)
    if not learnt:
        return hidden
    made = _learnt_pattern
    if made is None or made[0] != learnt:
        longest_first = sorted(learnt, key=len, reverse=True)
        made = _learnt_pattern = (learnt, re.compile("|".join(map(re.escape, longest_first))))
    return made[1].sub(MASK, hidden)


def mask_url(text: str) -> str:
    """Hide the password and the secret query values of each URL in a text; the rest stays as it is.

    A user name that stands alone is hidden too: it may be a token (``https://token@host``). Never raises.
    """
    hidden = _PASSWORD.sub(rf"\g<head>{MASK}@", text)
    hidden = _TOKEN.sub(rf"\g<head>{MASK}@", hidden)
    return _PARAMETER.sub(_without_secret_value, hidden) if "://" in hidden else hidden


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide in running text: these secrets, what is remembered, the passwords of URLs, ``password=...`` and its like.

    Secrets of fewer than four characters are left: they would turn up in every word.
    """
    hidden = text
    for secret in sorted({s for s in secrets if len(s) >= _SHORTEST}, key=len, reverse=True):
        hidden = hidden.replace(secret, MASK)
    hidden = mask_known(hidden)
    if "://" in hidden:
        hidden = mask_url(hidden)
    lowered = hidden.lower()
    if not any(hint in lowered for hint in _HINTS):
        return hidden
    hidden = _QUOTED.sub(_without_quoted, hidden)
    hidden = _BEARER.sub(rf"\g<head>{MASK}", hidden)
    hidden = _ASSIGNED.sub(rf"\g<head>\g<open>{MASK}", hidden)
    hidden = _TOKEN_TOLD.sub(rf"\g<head>{MASK}", _PRIVATE_KEY.sub(rf"\g<head>{MASK}", hidden))
    hidden = _FLAG.sub(rf"\g<head>\g<open>{MASK}", hidden)
    return _TOLD.sub(rf"\g<head>\g<open>{MASK}", hidden)


def mask_data(value: Any, secrets: Iterable[str] = (), *, name: str = "") -> Any:
    """Return a copy of nested plain data: what stands under a secret name is hidden, texts as in `mask_text`.

    In a list, what follows a flag of such a name (``--password``, as in a command) is hidden too.
    """
    known = tuple(secrets)
    if name and is_secret_name(name) and value is not None and not isinstance(value, bool):
        return MASK
    if isinstance(value, str):
        return mask_text(value, known)
    if isinstance(value, Mapping):
        fields = cast("Mapping[Any, Any]", value)
        if len(fields) == 1 and "$secret" in fields:  # a `Secret`
            return MASK
        return {key: mask_data(inner, known, name=str(key)) for key, inner in fields.items()}
    if isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        return [mask_data(item, known, name=flag) for flag, item in zip(_flags(items), items, strict=True)]
    return value


def secrets_in(value: Any, name: str = "") -> Iterator[str]:
    """Yield what in nested plain data is secret: by its name, by the flag before it, or as a part of a URL."""
    if isinstance(value, str):
        if name and is_secret_name(name):
            yield value
        if "://" in value:
            yield from _secrets_of_urls(value)
    elif isinstance(value, int) and not isinstance(value, bool):
        if name and is_secret_name(name) and len(str(value)) >= _SHORTEST_NUMBER:
            yield str(value)
    elif isinstance(value, Mapping):
        for key, inner in cast("Mapping[Any, Any]", value).items():
            yield from secrets_in(inner, name if is_secret_name(name) else str(key))
    elif isinstance(value, list | tuple):
        items = cast("list[Any]", value)
        for flag, item in zip(_flags(items), items, strict=True):
            yield from secrets_in(item, flag or name)


def _flags(items: list[Any]) -> list[str]:
    """Return for each item the name of the flag that it belongs to, as the words of a command do."""
    before = [""] + [item if isinstance(item, str) and item.startswith("-") else "" for item in items[:-1]]
    return [flag.lstrip("-") if "=" not in flag else "" for flag in before][: len(items)]


def _secrets_of_urls(text: str) -> Iterator[str]:
    for found in _PASSWORD.finditer(text):
        if found["secret"] != found["user"]:  # guest:guest hides nothing, and would hide every guest
            yield found["secret"]
    for found in _PARAMETER.finditer(text):
        if is_secret_name(found["name"]):
            yield found["value"]


def _telling(secret: str) -> bool:
    if len(secret) < _SHORTEST or secret.lower() in _NO_SECRETS or secret == MASK or secret.isspace():
        return False
    if secret.isalpha() and len(secret) < _SHORTEST_WORD:
        return False
    return not secret.isdigit() or len(secret) >= _SHORTEST_NUMBER


def _without_quoted(found: re.Match[str]) -> str:
    if not is_secret_name(found["name"]):
        return found[0]
    return f"{found['head']}{found['open']}{MASK}"


def _without_secret_value(found: re.Match[str]) -> str:
    if not found["value"] or not is_secret_name(found["name"]):
        return found[0]
    return f"{found['lead']}{found['name']}={MASK}"
