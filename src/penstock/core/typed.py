"""Makes msgspec ready for a type before threads decode it."""

from __future__ import annotations

import threading
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_lock = threading.Lock()


def prepared(type_: T) -> T:
    """Return a type that any number of threads may decode from now on. Raises what msgspec does for one it cannot read.

    msgspec 0.22.0 reads the fields of a Struct at its first use, and shows other threads what it has read so far: two
    that decode a Struct with another in it for the first time at once end the process with SIGSEGV. A decoder that is
    made at import, under the import lock, does as well.
    """
    with _lock:
        msgspec.json.Decoder[Any](type_)
    return type_
