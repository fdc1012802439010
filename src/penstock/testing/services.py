"""Real servers for tests: Redis, PostgreSQL, NATS and RabbitMQ, private to the run, on free ports of 127.0.0.1.

`redis_server`, `postgres_server`, `nats_server` and `rabbitmq_server` start theirs on the first call and return its
URL; later calls return the same. ``new_redis`` and its kin return a `Server` for one test alone. What was started is
ended with this process, by pid, also when this process is killed, and its folder is removed.

With PENSTOCK_REQUIRE_SERVICES=1 a missing server fails the tests that need it; without, they are skipped, and
`tell_skipped` names them at the end. Where several processes share one run, the first starts the servers for all
with `share`; they are told by PENSTOCK_TEST_SERVERS, a JSON table of URLs by name, which also serves whoever wants the
tests to use servers of their own.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

from penstock.testing import providers
from penstock.testing.providers import new_nats, new_postgres, new_rabbitmq, new_redis
from penstock.testing.server import Server, ServiceMissingError

if TYPE_CHECKING:
    import pytest

__all__ = ["new_nats", "new_postgres", "new_rabbitmq", "new_redis"]

NAMES = ("redis", "postgres", "nats", "rabbitmq")
SKIPPED: dict[str, str] = {}
"""The services that tests were skipped for in this run, each with the reason."""

_SHARED = "PENSTOCK_TEST_SERVERS"
_running: dict[str, Server] = {}
_failed: dict[str, ServiceMissingError] = {}


def required() -> bool:
    """Whether a missing server is a failure (PENSTOCK_REQUIRE_SERVICES) and not a reason to skip."""
    return os.environ.get("PENSTOCK_REQUIRE_SERVICES", "") not in ("", "0")


def available(name: str) -> str | None:
    """Say why the tests of a service are to be skipped, or None when they are to run.

    None also where the service is missing and required: its provider then raises `ServiceMissingError`.
    """
    if required() or name in _shared() or (why_not := providers.missing(name)) is None:
        return None
    SKIPPED[name] = why_not
    return why_not


def tell_skipped() -> list[str]:
    """Return one line for each service whose tests were skipped, for the end of the run."""
    return [f"NOT TESTED: {name}: {why}" for name, why in sorted(SKIPPED.items())]


def server(name: str) -> Server:
    """Return this process's server of a name, started. Raises `ServiceMissingError`, at once after the first time."""
    if name in _failed:
        raise _failed[name]
    if name not in _running:
        try:
            started = providers.NEW[name]().start()
        except ServiceMissingError as error:
            _failed[name] = error
            raise
        _running[name] = started
        atexit.register(started.close)
    return _running[name]


def url(name: str) -> str:
    """Return the URL of this run's server of a name; it is started on the first call. Raises as `server`."""
    return _shared().get(name) or server(name).url


def redis_server() -> str:
    """Return the URL of this run's Redis, ``redis://127.0.0.1:PORT/0``; it has 16 databases."""
    return url("redis")


def postgres_server() -> str:
    """Return the URL of this run's PostgreSQL, ``postgres://penstock@127.0.0.1:PORT/postgres``."""
    return url("postgres")


def nats_server() -> str:
    """Return the URL of this run's NATS server, with JetStream."""
    return url("nats")


def rabbitmq_server() -> str:
    """Return the URL of this run's RabbitMQ, ``amqp://guest:guest@127.0.0.1:PORT/``."""
    return url("rabbitmq")


def rabbitmq_management() -> str:
    """Return the URL of the HTTP interface of this run's RabbitMQ, with user and password."""
    return _shared().get("rabbitmq_management") or providers.management_url(server("rabbitmq"))


def share() -> None:
    """Start every server that there is, for this process and those that it starts from now on.

    What does not start is left to those who need it: they fail, or skip, and say why.
    """
    told = _shared()

    def begin(name: str) -> None:
        with contextlib.suppress(ServiceMissingError):
            told[name] = server(name).url

    with ThreadPoolExecutor() as pool:
        list(pool.map(begin, [name for name in NAMES if name not in told and providers.missing(name) is None]))
    if "rabbitmq" in _running:
        told["rabbitmq_management"] = rabbitmq_management()
    os.environ[_SHARED] = json.dumps(told)


def share_in(config: pytest.Config) -> None:
    """`share` with the processes among which pytest-xdist is about to spread a run, unless it needs no server."""
    spread = getattr(config.option, "numprocesses", None) and not hasattr(config, "workerinput")
    if spread and "not servers" not in config.option.markexpr:
        share()


def _shared() -> dict[str, str]:
    return json.loads(os.environ.get(_SHARED, "{}"))


def _forget() -> None:
    # A forked child neither ends the servers of its parent nor holds them up.
    for started in _running.values():
        held: Any = started.__dict__["_keeper"]
        if held is not None and held.stdin is not None:
            with contextlib.suppress(OSError):
                held.stdin.close()
        atexit.unregister(started.close)
    _running.clear()


os.register_at_fork(after_in_child=_forget)
