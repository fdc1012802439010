"""What lies in an engine's server after 10,000 jobs, every tenth of them failed: right after, and after its lives.

    python benchmarks/leftovers.py                      # every transport that can be served here
    python benchmarks/leftovers.py arq+redis            # these

Two runs each: with the settings as they are, looked at when the last job has ended and its worker is gone; and with
lives of a few seconds, looked at when a worker without work has stayed until nothing more goes.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

from bodies import fallible
from engines import URLS

from penstock import JobQueue
from penstock.core.config import Config
from penstock.testing import services
from penstock.testing.harness import wait_until
from penstock.testing.providers import NEW, management_url
from penstock.testing.server import Server

JOBS = 10_000
STEADY_S = 6.0
"""Nothing has gone for so long: what is there stays. RabbitMQ counts anew every 5 s."""

SHORT: dict[str, dict[str, object]] = {
    "rq": {"result_ttl_s": 2, "failure_ttl_s": 2, "maintenance_s": 1},
    "saq": {"finished_ttl_s": 2, "heartbeat_s": 1},
    "arq": {"failed_ttl_s": 2},
    "dramatiq": {"failure_ttl_s": 2},
}
Left = tuple[int, int]
"""How many things, and the bytes they take."""


def _in_redis(server: Server) -> Left:
    from redis import Redis

    with Redis.from_url(server.url) as client:
        keys = client.keys()
        return len(keys), sum(client.memory_usage(key, samples=0) or 0 for key in keys)


def _in_postgres(server: Server) -> Left:
    import psycopg
    from psycopg import sql

    with psycopg.connect(server.url, autocommit=True) as connection:
        found = connection.execute("SELECT relname FROM pg_class WHERE relkind = 'r' AND relname LIKE 'saq%'")
        rows = size = 0
        for (name,) in found.fetchall():
            connection.execute(sql.SQL("VACUUM {}").format(sql.Identifier(name)))
            counted = sql.SQL("SELECT count(*), pg_total_relation_size({}::regclass) FROM {}")
            told = connection.execute(counted.format(sql.Literal(name), sql.Identifier(name))).fetchone()
            rows, size = (rows + told[0], size + told[1]) if told else (rows, size)
        return rows, size


def _in_rabbitmq(server: Server) -> Left:
    time.sleep(STEADY_S)
    parts = urlsplit(management_url(server))
    login = base64.b64encode(f"{parts.username}:{parts.password}".encode()).decode()
    url = f"http://{parts.hostname}:{parts.port}/api/queues"
    with urllib.request.urlopen(urllib.request.Request(url, headers={"Authorization": f"Basic {login}"})) as answer:
        queues = json.load(answer)
    return sum(queue.get("messages", 0) for queue in queues), sum(queue.get("message_bytes", 0) for queue in queues)


def _in_nats(server: Server) -> Left:
    import asyncio

    import nats

    async def look() -> Left:
        client = await nats.connect(server.url)
        try:
            streams = await client.jetstream().streams_info()
            return sum(info.state.messages for info in streams), sum(info.state.bytes for info in streams)
        finally:
            await client.close()

    return asyncio.run(look())


def _in_file(path: Path) -> Left:
    import sqlite3

    with sqlite3.connect(path) as connection:
        tables = [str(name) for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        rows = sum(connection.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0] for name in tables)
        return rows, path.stat().st_size


LOOKS = {"redis": _in_redis, "postgres": _in_postgres, "rabbitmq": _in_rabbitmq, "nats": _in_nats}


def run(backend: str, settings: dict[str, object], look: Callable[[], Left], *, until_steady: bool) -> Left:
    """Run the jobs and return what is left: at once, or when nothing more goes."""
    folder = Path(tempfile.mkdtemp(prefix="penstock-left-"))
    name = backend.partition("+")[0]
    config = Config(
        backend=backend, ledger=f"sqlite:///{folder}/ledger.db", results=str(folder / "results"), tasks=("bodies",),
        namespace=f"l{uuid.uuid4().hex[:8]}", engines={name: settings},
    )  # fmt: skip
    lines = [f"{key} = {json.dumps(getattr(config, key))}" for key in ("backend", "ledger", "results", "namespace")]
    lines += ['tasks = ["bodies"]', f"[engines.{name}]", *(f"{key} = {value}" for key, value in settings.items())]
    (folder / "penstock.toml").write_text("\n".join(lines))
    queue = JobQueue(config=config, root=folder)
    queue.load_tasks()
    queue.enqueue_many([fallible.call(number) for number in range(JOBS)])
    command = [sys.executable, "-m", "penstock", "worker", "--concurrency", "10"]
    environ = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    with (folder / "log").open("wb") as log, subprocess.Popen(
        command, cwd=folder, env=environ, stdout=log, stderr=log
    ) as worker:  # fmt: skip
        try:
            ended = {"succeeded": JOBS - JOBS // 10, "failed": JOBS // 10}
            wait_until(lambda: ended.items() <= queue.counts().items(), what="all jobs ended", timeout_s=600)
            if until_steady:
                _steady(look)
        finally:
            worker.terminate()
            worker.wait(30)
    queue.close()
    left = look()
    shutil.rmtree(folder, ignore_errors=True)
    return left


def _steady(look: Callable[[], Left]) -> None:
    seen, since = look(), time.monotonic()
    while time.monotonic() - since < STEADY_S:
        time.sleep(0.5)
        now = look()
        if now[0] != seen[0]:
            seen, since = now, time.monotonic()


def row(transport: str) -> str:
    name, server_name = transport.partition("+")[0], URLS[transport]
    if server_name and (why_not := services.available(server_name)) is not None:
        return f"| {transport} | {why_not} | |"
    cells: list[str] = []
    for settings, until_steady in (({}, False), (SHORT.get(name, {}), True)):
        if server_name:
            with NEW[server_name]() as server:
                left = run(
                    f"{name}+{server.url}",
                    settings,
                    lambda at=server: LOOKS[server_name](at),
                    until_steady=until_steady,
                )
        else:
            file = Path(tempfile.mkdtemp(prefix="penstock-left-")) / "queue.db"
            left = run(f"{name}+sqlite:///{file}", settings, lambda at=file: _in_file(at), until_steady=until_steady)
        cells.append(f"{left[0]:,} ({left[1] / 1000:,.0f} kB)")
    return f"| {transport} | {' | '.join(cells)} |"


if __name__ == "__main__":
    print("| transport | things left right after (their size) | after short lives |\n| --- | --- | --- |")
    for chosen in sys.argv[1:] or URLS:
        print(row(chosen), flush=True)
