"""``spool:///folder``: messages are files of a folder that several processes see."""

from penstock.core.hookspecs import hookimpl
from penstock_spool.queue import SpoolBackend


@hookimpl
def backend_class() -> type[SpoolBackend]:
    return SpoolBackend
