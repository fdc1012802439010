"""What a Redis URL says: one server, its TLS or its socket, a master that sentinels name, a cluster.

::

    redis://host:6379/0                     rediss:// speaks TLS, unix:///run/redis.sock?db=0 is a socket
    redis+sentinel://h1:26379,h2/service/0  whichever server is the master of that service now
    redis+cluster://h1:6379,h2              whichever node holds the slot of our hash tag now

``rediss+sentinel`` and ``rediss+cluster`` speak TLS everywhere. The query takes what redis-py takes, such as
``ssl_ca_certs``, and ``sentinel_username`` and ``sentinel_password``.
"""

from __future__ import annotations

import re
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import msgspec

from penstock.core.exceptions import ConfigError
from penstock.core.secrets import mask_url

SENTINEL_SCHEMES = ("redis+sentinel", "rediss+sentinel")
CLUSTER_SCHEMES = ("redis+cluster", "rediss+cluster")
SCHEMES = ("redis", "rediss", "unix", *SENTINEL_SCHEMES, *CLUSTER_SCHEMES)

_FORM = re.compile(r"(?P<user>[^/?]*@)?(?P<hosts>[^/?@]*)(?P<path>/[^?]*)?(?:\?(?P<query>.*))?")
_PORTS = {"sentinel": 26379, "cluster": 6379}
_PATHS = {"sentinel": "/service/0", "cluster": ""}


class Place(msgspec.Struct, frozen=True, kw_only=True):
    """A URL, taken apart."""

    form: str
    """``single``, ``sentinel`` or ``cluster``."""
    single_url: str
    """What redis-py's own reader makes options from."""
    hosts: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sign_in: dict[str, str] = {}
    """How to sign in to a sentinel."""


def key_namespace(url: str, namespace: str) -> str:
    """Return what keys of a namespace are to hold: in braces on a cluster, whose nodes share keys out by that."""
    return f"{{{namespace}}}" if url.partition("://")[0] in CLUSTER_SCHEMES else namespace


def refuse_unreadable(backend_url: str) -> None:
    """Raise `ConfigError` for a backend's URL of Redis that `read_url` cannot read; others pass."""
    url = backend_url.partition("+")[2]
    if url.partition("://")[0] in SCHEMES:
        try:
            read_url(url)
        except ValueError as error:
            raise ConfigError(f"{mask_url(backend_url)}: {error}") from None


def read_url(url: str) -> Place:
    """Take a URL apart. Raises ValueError, which shows how it is written."""
    scheme, _, rest = url.partition("://")
    if scheme not in (*SENTINEL_SCHEMES, *CLUSTER_SCHEMES):
        if scheme == "unix" and not urlsplit(url).path:
            raise ValueError("write unix:///path/to/redis.sock?db=0")
        # redis-py 7 takes database 0 where the path is no number, and says nothing.
        if scheme != "unix" and re.fullmatch("/?|/[0-9]+/?", urlsplit(url).path) is None:
            raise ValueError(f"write {scheme}://host:6379/0: what follows the host is the number of a database")
        return Place(form="single", single_url=url)
    transport, _, form = scheme.partition("+")
    match = _FORM.fullmatch(rest)
    hosts = [_host(one, form) for one in match["hosts"].split(",")] if match else []
    if match is None or not all(host for host, _ in hosts):
        raise ValueError(f"write {scheme}://host:{_PORTS[form]},host:{_PORTS[form]}{_PATHS[form]}")
    service, _, db = (match["path"] or "").removeprefix("/").partition("/")
    if form == "cluster":
        service, db = "", service
    if bool(service) != (form == "sentinel") or not (db.isdecimal() or not db):
        raise ValueError(f"write {scheme}://{match['hosts']}{_PATHS[form]}")
    if form == "cluster" and db.strip("0"):
        raise ValueError("a Redis Cluster has no databases but 0")
    query = parse_qsl(match["query"] or "", keep_blank_values=True)
    sign_in = {name.removeprefix("sentinel_"): value for name, value in query if name.startswith("sentinel_")}
    theirs = urlencode([pair for pair in query if not pair[0].startswith("sentinel_")])
    host, port = hosts[0]
    address = f"[{host}]" if ":" in host else host
    return Place(
        form=form,
        single_url=f"{transport}://{match['user'] or ''}{address}:{port}/{db or 0}?{theirs}",
        hosts=tuple(hosts),
        service=unquote(service),
        sign_in=sign_in,
    )


def _host(text: str, form: str) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    return parts.hostname or "", parts.port or _PORTS[form]
