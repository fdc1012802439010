"""Hide passwords in what is shown, logged or put into an error."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any, cast

MASK = "***"

_SECRET_NAME = re.compile(
    r"passw|pwd|passphrase|token|secret|credential|authorization|signature|(?:^|[^a-z])(?:key|auth|sig|pin)(?:$|[^a-z])"
)
"""``key`` counts as a word only (``api_key``, ``apiKey``), not inside another (``monkey``, ``keyspace``)."""
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")
_PASSWORD = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://[^/:@?#\s\"']*:)(?!\d+(?:[/?#]|$))[^\s\"']*@")
"""Up to the last ``@``: a password with an unescaped ``/`` or ``@`` goes whole, at times with a host too many."""
_TOKEN = re.compile(r"(?P<head>[A-Za-z][A-Za-z0-9+.\-]*://)[^/:@?#\s\"']+@")
_PARAMETER = re.compile(r"(?P<lead>[?&;])(?P<name>[^=&;#\s\"']+)=(?P<value>[^&;#\s\"']*)")
_SHORTEST = 4
"""Shorter secrets are left in running text: masking each ``1`` or ``on`` would make it unreadable."""


def is_secret_name(name: str) -> bool:
    """Whether a key of this name holds a secret: password, token, secret, key, authorization and their like."""
    return _SECRET_NAME.search(_CAMEL.sub("_", name).lower()) is not None


def mask_url(text: str) -> str:
    """Hide the password and the secret query values of each URL in a text; the rest stays as it is.

    A user name that stands alone is hidden too: it may be a token (``https://token@host``). Never raises.
    """
    hidden = _PASSWORD.sub(rf"\g<head>{MASK}@", text)
    hidden = _TOKEN.sub(rf"\g<head>{MASK}@", hidden)
    return _PARAMETER.sub(_without_secret_value, hidden) if "://" in hidden else hidden


def mask_text(text: str, secrets: Iterable[str] = ()) -> str:
    """Hide URL passwords and each of these secrets in a text, the longest first.

    Secrets of fewer than four characters are left: they would turn up in every word.
    """
    hidden = text
    for secret in sorted({s for s in secrets if len(s) >= _SHORTEST}, key=len, reverse=True):
        hidden = hidden.replace(secret, MASK)
    return mask_url(hidden)


def mask_data(value: Any, secrets: Iterable[str] = (), *, name: str = "") -> Any:
    """Return a copy of nested plain data: what stands under a secret name is hidden, texts as in `mask_text`."""
    known = tuple(secrets)
    if name and is_secret_name(name) and value is not None and not isinstance(value, bool):
        return MASK
    if isinstance(value, str):
        return mask_text(value, known)
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {key: mask_data(inner, known, name=str(key)) for key, inner in items}
    if isinstance(value, list | tuple):
        return [mask_data(inner, known) for inner in cast("list[Any]", value)]
    return value


def _without_secret_value(found: re.Match[str]) -> str:
    if not found["value"] or not is_secret_name(found["name"]):
        return found[0]
    return f"{found['lead']}{found['name']}={MASK}"
