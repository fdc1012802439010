"""``inline://``: runs each job in the call that publishes it. The reference reading of the backend contract."""

from __future__ import annotations

from penstock.backends.inline.queue import InlineBackend
from penstock.core.hookspecs import hookimpl


@hookimpl
def backend_class() -> type[InlineBackend]:
    """Offer the backend to the registry."""
    return InlineBackend
