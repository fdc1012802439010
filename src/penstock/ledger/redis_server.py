"""The server of a Redis ledger: its URL, whether rows are safe there, its scripts, its errors in our words."""

from __future__ import annotations

import random
import re
import time
import warnings
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar, cast
from urllib.parse import parse_qsl, urlencode

import redis
import redis.exceptions
from redis.backoff import NoBackoff
from redis.retry import Retry

from penstock.core.base import Finding
from penstock.core.exceptions import ConfigError, LedgerError, LedgerUnavailableError
from penstock.core.secrets import mask_url
from penstock.ledger import versions
from penstock.ledger.redis_lua import Script
from penstock.servers import redis_client, redis_look

T = TypeVar("T")

SCHEMA = 1
"""The version of the rows and keys that this code writes; an added field needs no new one."""

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_TRIES = 4
_PATIENCE_S = 10.0  # no further try after so long; a silent server has then used it up in one
_EVICTS = "allkeys-"  # the volatile policies evict keys with a time to live, and no row has one
_OLDEST = (5, 0)  # scripts that ask for the time and then write
_UNAVAILABLE: tuple[type[redis.RedisError], ...] = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
)
_AGAIN = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)
_NEVER_AGAIN = (
    redis.exceptions.AuthenticationError,
    redis.exceptions.AuthorizationError,
)


class LedgerWarning(UserWarning):
    """The store of the ledger is set up so that jobs may be lost; the message says how to change it."""


Call = tuple[Script, Sequence[str], Sequence[Any]]
"""A script, its keys and its further arguments."""


class RedisServer:
    """One database of a Redis server, and the keys below one namespace there. Safe from any thread and after a fork.

    A call whose connection breaks is sent again: each script's guards make the second one harmless.

    Raises:
        ConfigError: the URL is wrong, the server evicts keys, is too old, or is a node of a cluster that the URL
            does not tell of.
        LedgerUnavailableError: it does not answer.

    Warns:
        LedgerWarning: it keeps no append-only file, or is a replica.
    """

    def __init__(self, url: str, *, namespace: str) -> None:
        self.url = mask_url(url)
        address, namespace = _parts(url, namespace)
        if not _NAMESPACE.fullmatch(namespace):
            raise ConfigError(f"ledger {self.url}: {namespace!r} is no namespace: 1 to 64 of A-Z a-z 0-9 _ . -")
        self.prefix = f"{{{namespace}}}:"
        self._address, self._namespace = address, namespace
        self._closed = False
        self.repeats = 0
        try:
            self._client = redis.Redis.from_pool(
                redis_client.pool(
                    address,
                    namespace=namespace,
                    connect_timeout_s=5,
                    socket_timeout=10,
                    health_check_interval=30,
                    retry=Retry(NoBackoff(), 0),  # `call` tries again, and tells its work so
                )
            )
        except ValueError as error:
            raise ConfigError(f"ledger {self.url}: {error}; write redis://host:6379/0") from error
        self._look()

    def call(self, work: Callable[[Any, bool], T]) -> T:
        """Let ``work(client, again)`` ask the server; ``again``: an earlier try may have been carried out unheard."""
        if self._closed:
            raise LedgerError(f"ledger {self.url} is closed")
        started = time.monotonic()
        with self._told():
            for number in range(_TRIES):
                try:
                    return work(self._client, number > 0)
                except _AGAIN as error:
                    late = time.monotonic() - started > _PATIENCE_S
                    if number == _TRIES - 1 or late or isinstance(error, _NEVER_AGAIN):
                        raise
                self.repeats += 1
                time.sleep(0.05 * 2**number * random.uniform(0.5, 1.0))  # noqa: S311 - jitter, not a secret
        raise AssertionError("unreachable")

    def run(self, script: Script, *arguments: Any, keys: Sequence[str] = ()) -> Any:
        """Run one script; it gets the prefix and ``arguments``."""
        return self.call(lambda client, _again: self._run(client, (script, keys, arguments)))

    def run_all(self, calls: Sequence[Call], *, together: bool = False) -> list[Any]:
        """Run scripts in one round trip, ``together``: all or none of them. Each is answered by itself."""
        return self.call(lambda client, _again: self.run_on(client, calls, together=together))

    def run_on(self, client: Any, calls: Sequence[Call], *, together: bool) -> list[Any]:
        """Do the work of `run_all`, within `call`."""
        if len(calls) == 1:
            return [self._run(client, calls[0])]
        answers = self._pipeline(client, calls, together)
        if any(isinstance(answer, redis.exceptions.NoScriptError) for answer in answers):
            for script in {call[0].sha: call[0] for call in calls}.values():
                client.script_load(script.text)
            # Whatever was carried out is refused by its guard now, and keeps its first answer.
            unknown = [isinstance(answer, redis.exceptions.NoScriptError) for answer in answers]
            missing = [call for call, lost in zip(calls, unknown, strict=True) if lost]
            later = iter(self._pipeline(client, missing, together))
            answers = [next(later) if lost else answer for answer, lost in zip(answers, unknown, strict=True)]
        for answer in answers:
            if isinstance(answer, Exception):
                raise answer
        return answers

    def _pipeline(self, client: Any, calls: Sequence[Call], together: bool) -> list[Any]:
        with client.pipeline(transaction=together) as pipe:
            for call in calls:
                pipe.evalsha(call[0].sha, *self._numbered(call))
            return pipe.execute(raise_on_error=False)

    def _run(self, client: Any, call: Call) -> Any:
        try:
            return client.evalsha(call[0].sha, *self._numbered(call))
        except redis.exceptions.NoScriptError:
            return client.eval(call[0].text, *self._numbered(call))  # it is loaded from then on

    def _numbered(self, call: Call) -> tuple[Any, ...]:
        _, keys, arguments = call
        # A key is always named, so that a proxy knows where to.
        return (len(keys) or 1, *(keys or (self.prefix,)), self.prefix, *arguments)

    def _look(self) -> None:
        info = cast("dict[str, Any]", self.call(lambda client, _again: client.info()))
        version = str(info.get("redis_version", "5.0"))
        if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
            raise ConfigError(f"ledger {self.url}: Redis {version} is too old; 5.0 is needed")
        if self.check_version() < SCHEMA:
            self.call(lambda client, _again: client.set(f"{self.prefix}schema", versions.packed(SCHEMA)))
        policy = str(info.get("maxmemory_policy", ""))
        if policy.startswith(_EVICTS):
            raise ConfigError(
                f"ledger {self.url}: this Redis evicts keys when its memory is full (maxmemory-policy {policy}), "
                "and an evicted row is a lost job; set maxmemory-policy noeviction, or use another server"
            )
        if info.get("role") == "slave":
            told = "is a replica, which takes no writes; name the master"
            warnings.warn(f"ledger {self.url} {told}", LedgerWarning, stacklevel=5)
        elif not info.get("aof_enabled", 1):
            told = "keeps no append-only file: a restart loses the newest jobs; set appendonly yes"
            warnings.warn(f"ledger {self.url} {told}", LedgerWarning, stacklevel=5)

    def check_version(self) -> int:
        """See `Ledger.check_version`; return the schema of the rows. Those without a word of it are the first's."""
        number = int(self.call(lambda client, _again: client.get(f"{self.prefix}schema")) or 1)
        return versions.refuse_newer(number, known=SCHEMA, told=f"ledger {self.url}")

    @contextmanager
    def _told(self) -> Generator[None]:
        try:
            yield
        except redis_client.ClusterNodeError as error:
            raise ConfigError(f"ledger {self.url}: {error}") from error
        except redis.exceptions.OutOfMemoryError as error:
            hint = "this Redis has no memory left; raise its maxmemory, or keep less history"
            raise LedgerUnavailableError(f"ledger {self.url}: {mask_url(str(error))}; {hint}") from error
        except _UNAVAILABLE as error:
            raise LedgerUnavailableError(
                f"ledger {self.url}: {mask_url(str(error))}; is Redis up and reachable?"
            ) from error
        except redis.RedisError as error:
            raise LedgerError(f"ledger {self.url}: {mask_url(str(error))}") from error

    def inspect(self) -> list[Finding]:
        """See `Ledger.inspect`."""
        return redis_look.look(self._address, "redis", holds="rows", namespace=self._namespace)

    def close(self) -> None:
        """Close the connections that are not at work; the others close when they are done."""
        self._closed = True
        self._client.close()


def _parts(url: str, namespace: str) -> tuple[str, str]:
    """Take our own query value ``namespace`` out of a URL; the others are redis-py's."""
    address, _, query = url.partition("?")
    pairs = parse_qsl(query, keep_blank_values=True)
    for name, value in pairs:
        if name == "namespace":
            namespace = value
    theirs = urlencode([pair for pair in pairs if pair[0] != "namespace"])
    return f"{address}?{theirs}" if theirs else address, namespace
