"""Every transport that is installed, with a harness each, and the ledgers that it is tested on."""

from __future__ import annotations

from collections.abc import Sequence

from penstock.core.exceptions import BackendNotInstalledError
from penstock.registry import backend_class, backend_names
from penstock.testing.harness import Harness, harness_for

MEMORY = "memory://"
SQLITE = "sqlite:///{folder}/ledger.db"
LEDGERS = (MEMORY, SQLITE, "{redis}", "{postgres}")
_TURN = (SQLITE, "{postgres}", "{redis}")
_URLS = {
    "": "{name}://",
    "sqlite": "{name}+sqlite:///{{folder}}/queue.db",
    "redis": "{name}+{{redis}}",
    "postgres": "{name}+{{postgres}}",
    "nats": "{name}+{{nats}}",
    "amqp": "{name}+{{rabbitmq}}",
}
"""By what stands behind the plus of a scheme. Other spellings (TLS, a socket) are no transports of their own."""


def transports() -> tuple[list[type[Harness]], dict[str, str]]:
    """Return a harness for each transport that is installed, and why the others are missing, by backend."""
    found: list[type[Harness]] = []
    missing: dict[str, str] = {}
    for name in backend_names():
        try:
            schemes = backend_class(name).schemes
        except BackendNotInstalledError as error:
            missing[name] = str(error)
            continue
        urls = ((scheme, _URLS.get(scheme.partition("+")[2])) for scheme in schemes)
        found += [harness_for(url.format(name=name), called=scheme) for scheme, url in urls if url is not None]
    return found, missing


def ledgers_for(harnesses: Sequence[type[Harness]]) -> dict[type[Harness], tuple[str, ...]]:
    """Choose the ledgers that each transport is tested on; ``--every-ledger`` is for all of them.

    Where many transports are tested, those that need a server have one ledger each, in turn, so that each ledger meets
    engines of either colour; those that need none, and a transport that is tested alone, have several.
    """
    return {harness: _ledgers(harness, place, len(harnesses)) for place, harness in enumerate(harnesses)}


def _ledgers(harness: type[Harness], place: int, of: int) -> tuple[str, ...]:
    if harness.needs_server and of >= len(_TURN):
        return (_TURN[place % len(_TURN)],)
    return (*(() if harness.needs_server else (MEMORY,)), SQLITE, ("{postgres}", "{redis}")[place % 2])
