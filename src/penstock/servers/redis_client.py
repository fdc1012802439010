"""Connections to the Redis that a URL names: to one server, or to whichever is the right one now.

On a cluster all keys of a namespace lie in one slot, so everything that holds for one server (several keys in one
transaction, scripts, blocking reads) holds there too; a namespace does not grow past one node.
"""

# redis-py's hints are partial: what comes out of it is unknown until it is put into ours.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportUnknownArgumentType=false

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from typing import Any

import redis
from redis import asyncio as aioredis
from redis import connection, sentinel
from redis.asyncio import connection as async_connection
from redis.asyncio import sentinel as async_sentinel
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError, NoPermissionError, ResponseError, TryAgainError

from penstock.servers.redis_url import Place, read_url

_OF_THE_SERVER = ("host", "port", "db", "username", "password", "client_name")
_ELSEWHERE = (AskError, ClusterDownError, TryAgainError)  # MovedError is an AskError
_Read = Callable[[Any, str], tuple[str, int] | None]
_CLUSTER_NODE = "this Redis is a node of a cluster; write redis+cluster://host:port,host:port"
_KEEPALIVE = {
    getattr(socket, name): value
    for name, value in (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 3))
    if hasattr(socket, name)
}
"""A read that waits for ever notices after a minute that its host has vanished; by default it takes two hours."""

_READ_SIZE_BYTES = 8192
"""redis-py 7.4.1 takes 64 KB for each read and gives back what an answer did not fill. With a dozen threads that leaves
holes: a worker's memory grew by a tenth in an hour (bar 20). Small reads cost a megabyte's answer 0.2 ms."""


class ClusterNodeError(ResponseError):
    """The URL of a single server names a node of a cluster; nothing was written."""


def pool(url: str, *, namespace: str = "", connect_timeout_s: float, **options: Any) -> Any:
    """Return redis-py's pool, whose connections wait for ever for an answer unless ``socket_timeout`` is given.

    Opens nothing. A connection to a master or a node that is no longer the right one ends with redis-py's
    ConnectionError; the next one goes to the right one. ``namespace`` is what `key_namespace` was given.

    Raises:
        ValueError: no URL of Redis, or with an option that redis-py does not know.
    """
    return _pool(read_url(url), namespace, connect_timeout_s, options, _Sync)


def async_pool(url: str, *, namespace: str = "", connect_timeout_s: float, **options: Any) -> Any:
    """Return the pool of `pool` for an event loop."""
    return _pool(read_url(url), namespace, connect_timeout_s, options, _Async)


def _pool(
    place: Place, namespace: str, connect_timeout_s: float, options: Mapping[str, Any], colour: type[_Sync | _Async]
) -> Any:
    given: dict[str, Any] = {"connection_class": colour.Connection, "socket_connect_timeout": connect_timeout_s}
    given["socket_read_size"] = _READ_SIZE_BYTES
    given |= {**options, **colour.parse_url(place.single_url)}
    given["socket_timeout"] = options.get("socket_timeout")  # redis-py 8 sets 5 s, which would end blocking reads
    kind: Any = given.pop("connection_class")
    if "path" not in given:
        given |= {"socket_keepalive": True, "socket_keepalive_options": _KEEPALIVE}
    try:
        kind(**given)  # opens nothing
    except TypeError as error:
        raise ValueError(f"an option is unknown: {error}") from None
    if place.form == "single":
        return colour.Pool(connection_class=kind, redis_connect_func=colour.not_in_a_cluster, **given)
    sign_in = {name: given.get(name) for name in ("username", "password")} if place.form == "cluster" else place.sign_in
    kept = {name: value for name, value in given.items() if name not in _OF_THE_SERVER}
    asking = {**kept, **sign_in, "socket_timeout": connect_timeout_s, "decode_responses": True}
    command, read = _question(place, namespace)

    def ask(host: str, port: int) -> Any:
        return colour.Pool(connection_class=kind, host=host, port=port, **asking)

    if place.form == "sentinel":
        given["redis_connect_func"] = colour.the_master
    following = colour.FollowingTls if issubclass(kind, colour.Tls) else colour.Following
    finder = colour.Finder(place.hosts, ask, command, read)
    return colour.FollowingPool(place.service or "cluster", finder, connection_class=following, **given)


def _question(place: Place, namespace: str) -> tuple[tuple[str, ...], _Read]:
    """Return what to ask a sentinel or a node, and how to read the address out of its answer."""
    if place.form == "sentinel":
        return (
            "SENTINEL",
            "GET-MASTER-ADDR-BY-NAME",
            place.service,
        ), lambda answer, _asked: (answer[0], int(answer[1])) if answer else None
    slot = key_slot(namespace.strip("{}").encode())

    def read(ranges: Any, asked: str) -> tuple[str, int] | None:
        for first, last, (host, port, *_), *_ in ranges:
            if first <= slot <= last:
                return host or asked, port  # a node that does not know its own name: the one that was asked
        return None

    return ("CLUSTER", "SLOTS"), read


def _gone(error: ResponseError) -> bool:
    """Whether a server says that it is no longer the one for our keys."""
    # Redis 6 wraps what a script meets into an error of its own.
    return isinstance(error, _ELSEWHERE) or any(word in str(error) for word in ("READONLY", "UNBLOCKED"))


# -- one connection that has been made ------------------------------------------------------------------------------


def _is_cluster_node(error: ResponseError) -> bool:
    return "cluster mode" in str(error)  # it refuses SELECT


# Read at redis-py 7.4.1: a lost connection that no pool hands out anew (that of a client with a single one) connects to
# the address it had. Here it asks again.


class _Following(sentinel.SentinelManagedConnection):
    """Ends when its server is no longer the right one."""

    _address_is_fresh = False

    def connect_to(self, address: Any) -> None:
        """Connect to what was found."""
        self._address_is_fresh = True
        try:
            super().connect_to(address)
        finally:
            self._address_is_fresh = False

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect, to what is found if nothing was."""
        if self._address_is_fresh:
            super().connect_check_health(*args, **options)
        else:
            self.connect()

    def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer."""
        try:
            return super().read_response(*args, **options)
        except ResponseError as error:
            if not _gone(error):
                raise
            self.disconnect()
            raise redis.ConnectionError(f"the server has handed over: {error}") from error


class _FollowingTls(_Following, redis.SSLConnection):
    pass


class _AsyncFollowing(async_sentinel.SentinelManagedConnection):
    """Ends when its server is no longer the right one."""

    _address_is_fresh = False

    async def connect_to(self, address: Any) -> None:
        """Connect to what was found."""
        self._address_is_fresh = True
        try:
            await super().connect_to(address)
        finally:
            self._address_is_fresh = False

    async def connect_check_health(self, *args: Any, **options: Any) -> None:
        """Connect, to what is found if nothing was."""
        if self._address_is_fresh:
            await super().connect_check_health(*args, **options)
        else:
            await self.connect()

    async def read_response(self, *args: Any, **options: Any) -> Any:
        """Read an answer."""
        try:
            return await super().read_response(*args, **options)
        except ResponseError as error:
            if not _gone(error):
                raise
            await self.disconnect()
            raise redis.ConnectionError(f"the server has handed over: {error}") from error


class _AsyncFollowingTls(_AsyncFollowing, aioredis.SSLConnection):
    pass


def _not_in_a_cluster(connection: Any) -> None:
    try:
        connection.on_connect()
        connection.send_command("INFO", "cluster")
        told = connection.read_response()
    except NoPermissionError:
        return  # this user may not ask
    except ResponseError as error:
        _refuse_node(_is_cluster_node(error))
        raise
    _refuse_node(b"cluster_enabled:1" in _bytes(told))


async def _anot_in_a_cluster(connection: Any) -> None:
    try:
        await connection.on_connect()
        await connection.send_command("INFO", "cluster")
        told = await connection.read_response()
    except NoPermissionError:
        return  # this user may not ask
    except ResponseError as error:
        _refuse_node(_is_cluster_node(error))
        raise
    _refuse_node(b"cluster_enabled:1" in _bytes(told))


def _refuse_node(is_one: bool) -> None:
    if is_one:
        raise ClusterNodeError(_CLUSTER_NODE)


def _the_master(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("ROLE")
    try:
        _refuse_replica(connection.read_response())
    except NoPermissionError:
        return


async def _athe_master(connection: Any) -> None:
    await connection.on_connect()
    await connection.send_command("ROLE")
    try:
        _refuse_replica(await connection.read_response())
    except NoPermissionError:
        return


def _refuse_replica(role: Any) -> None:
    if _bytes(role[0]) != b"master":
        raise redis.ConnectionError("the sentinels name a server that is no master (any more, or yet)")


def _bytes(told: Any) -> bytes:
    return told.encode() if isinstance(told, str) else bytes(told)


# -- who is the right one -------------------------------------------------------------------------------------------


class _Finder:
    """Asks each sentinel or node in turn. redis-py's pools call ``discover_master`` before they connect."""

    def __init__(
        self, hosts: tuple[tuple[str, int], ...], pool: Callable[[str, int], Any], command: tuple[str, ...], read: _Read
    ) -> None:
        self._hosts = hosts
        self._pool = pool
        self._command = command
        self._read = read

    def _ask_first(self, host: tuple[str, int]) -> None:
        self._hosts = (host, *(other for other in self._hosts if other != host))

    def discover_master(self, service: str) -> tuple[str, int]:
        """Return an address. Raises redis-py's ConnectionError, with what each said."""
        told: list[str] = []
        for host, port in self._hosts:
            try:
                with redis.Redis.from_pool(self._pool(host, port)) as client:
                    found = self._read(client.execute_command(*self._command), host)
            except (redis.RedisError, OSError) as error:
                told.append(f"{host}:{port}: {error}")
                continue
            if found is not None:
                self._ask_first((host, port))
                return found
            told.append(f"{host}:{port} knows no {service}")
        raise sentinel.MasterNotFoundError("; ".join(told))


class _AsyncFinder(_Finder):
    async def discover_master(self, service: str) -> tuple[str, int]:  # type: ignore[override]
        """Return an address. Raises redis-py's ConnectionError, with what each said."""
        told: list[str] = []
        for host, port in self._hosts:
            try:
                async with aioredis.Redis.from_pool(self._pool(host, port)) as client:
                    found = self._read(await client.execute_command(*self._command), host)
            except (redis.RedisError, OSError) as error:
                told.append(f"{host}:{port}: {error}")
                continue
            if found is not None:
                self._ask_first((host, port))
                return found
            told.append(f"{host}:{port} knows no {service}")
        raise sentinel.MasterNotFoundError("; ".join(told))


class _Sync:
    """redis-py's classes of one colour."""

    parse_url: Any = staticmethod(connection.parse_url)
    Connection: Any = redis.Connection
    Tls: Any = redis.SSLConnection
    Pool: Any = redis.ConnectionPool
    FollowingPool: Any = sentinel.SentinelConnectionPool
    Following: Any = _Following
    FollowingTls: Any = _FollowingTls
    Finder: Any = _Finder
    not_in_a_cluster: Any = staticmethod(_not_in_a_cluster)
    the_master: Any = staticmethod(_the_master)


class _Async:
    """The same for an event loop."""

    parse_url: Any = staticmethod(async_connection.parse_url)
    Connection: Any = aioredis.Connection
    Tls: Any = aioredis.SSLConnection
    Pool: Any = aioredis.ConnectionPool
    FollowingPool: Any = async_sentinel.SentinelConnectionPool
    Following: Any = _AsyncFollowing
    FollowingTls: Any = _AsyncFollowingTls
    Finder: Any = _AsyncFinder
    not_in_a_cluster: Any = staticmethod(_anot_in_a_cluster)
    the_master: Any = staticmethod(_athe_master)
