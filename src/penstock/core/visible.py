"""Texts that others wrote, as a terminal may show them: what would steer it is a sign that stands for it.

A log line, an error or a task's name can hold sequences that clear the screen, rename the window, write to the
clipboard or turn the letters around.
"""

from __future__ import annotations

import re

_TURNS = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))
"""Embeddings, overrides and isolates: what stands behind one is read in another order."""
_HIGH = (*range(0x80, 0xA0), *_TURNS)
_SIGNS = {
    **{code: chr(0x2400 + code) for code in range(0x20) if chr(code) not in "\t\n"},
    0x7F: "\u2421",
    **dict.fromkeys(_HIGH, "\ufffd"),
}
_STEERING = re.compile("[" + "".join(map(re.escape, map(chr, _SIGNS))) + "]")
_COLOURS = re.compile(r"\x1b\[[0-9;:]*m")
_IN_JSON = {code: f"\\u{code:04x}" for code in (0x7F, *_HIGH)}


def visible(text: str) -> str:
    """Return a text with a sign in the place of each control character; tabs and line breaks stay, colours go."""
    if _STEERING.search(text) is None:
        return text
    return _COLOURS.sub("", text).replace("\r\n", "\n").translate(_SIGNS)


def visible_json(document: str) -> str:
    """Return a JSON document that says the same, with what JSON lets stand as it is written as escapes."""
    return document if document.isascii() and "\x7f" not in document else document.translate(_IN_JSON)
