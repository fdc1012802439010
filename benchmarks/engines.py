"""Every transport beside its engine used directly, in one run: sent singly, in bulk, drained, started, at rest."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import stamps
from plain import ENGINES, Plain

HERE = Path(__file__).parent
REPEATS = 3
SINGLY, BULK = 300, 5000
LATENCY_OVER_MS = 5.0

URLS = {
    "huey+sqlite": "", "huey+redis": "redis", "rq+redis": "redis", "saq+redis": "redis", "saq+postgres": "postgres",
    "arq+redis": "redis", "taskiq+redis": "redis", "taskiq+amqp": "rabbitmq", "taskiq+nats": "nats",
    "dramatiq+redis": "redis", "dramatiq+amqp": "rabbitmq",
}  # fmt: skip


class Figures(msgspec.Struct):
    """What one side reached in one repetition."""

    singly_per_s: float
    bulk_per_s: float
    drained_per_s: float
    p50_ms: float
    p99_ms: float
    rss_mb: float


class Side:
    """Penstock or the engine alone, in a folder and with names of its own."""

    drained, started = Plain.drained, Plain.started

    def __init__(self, transport: str, server_url: str) -> None:
        self.transport = transport
        self.folder = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
        self.url = server_url or f"sqlite:///{self.folder}/queue.db"
        self.name = f"b{uuid.uuid4().hex[:10]}"
        self.stamps = self.folder / "stamps"

    def one(self) -> None:
        raise NotImplementedError

    def many(self, count: int) -> None:
        raise NotImplementedError

    def command(self) -> list[str]:
        raise NotImplementedError

    def close(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    @contextlib.contextmanager
    def worker(self) -> Iterator[int]:
        environ = {**os.environ, "BENCH_STAMPS": str(self.stamps), "PYTHONPATH": str(HERE)}
        with (self.folder / "worker.log").open("wb") as log:
            process = subprocess.Popen(self.command(), cwd=self.folder, env=environ, stdout=log, stderr=log)
            try:
                yield process.pid
            finally:
                process.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(5)
                process.kill()
                process.wait()

    def wait_for(self, count: int, timeout_s: float = 300) -> list[tuple[float, float]]:
        until = time.monotonic() + timeout_s
        while len(seen := stamps.read(self.stamps)) < count:
            if time.monotonic() > until:
                log = (self.folder / "worker.log").read_text(errors="replace")[-2000:]
                raise TimeoutError(f"{self.transport}, {type(self).__name__}: {len(seen)} of {count} ran; {log}")
            time.sleep(0.005)
        return seen


class Direct(Side):
    def __init__(self, transport: str, server_url: str) -> None:
        super().__init__(transport, server_url)
        self._plain: Plain = ENGINES[transport.partition("+")[0]](self.url, self.name)
        self.one, self.many, self.drained = self._plain.one, self._plain.many, self._plain.drained
        self.started = self._plain.started

    def command(self) -> list[str]:
        return [sys.executable, str(HERE / "plain.py"), self.transport, self.url, self.name, "work"]

    def close(self) -> None:
        self._plain.close()
        super().close()


class Ours(Side):
    def __init__(self, transport: str, server_url: str) -> None:
        super().__init__(transport, server_url)
        from penstock import JobQueue
        from penstock.core.config import Config

        engine = transport.partition("+")[0]
        config = Config(
            backend=f"{engine}+{self.url}",
            ledger=f"sqlite:///{self.folder}/ledger.db",
            results=str(self.folder / "results"),
            namespace=self.name,
            tasks=("bodies",),
        )
        (self.folder / "penstock.toml").write_text(
            f'backend = "{config.backend}"\nledger = "{config.ledger}"\nresults = "{config.results}"\n'
            f'namespace = "{config.namespace}"\ntasks = ["bodies"]\n'
        )
        self.queue = JobQueue(config=config, root=self.folder)
        self.queue.load_tasks()
        from bodies import astamped, stamped

        self.task: Any = astamped if engine in ("saq", "arq", "taskiq") else stamped

    def one(self) -> None:
        self.queue.enqueue(self.task, time.time())

    def many(self, count: int) -> None:
        self.queue.enqueue_many([self.task.call(time.time()) for _ in range(count)])

    def command(self) -> list[str]:
        return [sys.executable, "-m", "penstock", "worker", "--concurrency", "10"]

    def close(self) -> None:
        self.queue.close()
        super().close()


def measure(open_side: Callable[[], Side]) -> Figures:
    """One repetition of one side: first what it costs to send, then what it costs to run."""
    side = open_side()
    try:
        side.one()
        began = time.perf_counter()
        for _ in range(SINGLY):
            side.one()
        singly = SINGLY / (time.perf_counter() - began)
        began = time.perf_counter()
        side.many(BULK)
        bulk = BULK / (time.perf_counter() - began)
    finally:
        side.close()

    side = open_side()
    try:
        side.many(side.drained)
        with side.worker():
            ran = sorted(at for _, at in side.wait_for(side.drained))
        drained = (side.drained - 1) / (ran[-1] - ran[0])
    finally:
        side.close()

    side = open_side()
    try:
        with side.worker() as pid:
            side.one()
            side.wait_for(1)
            time.sleep(0.5)
            rss_mb = _rss_mb(pid)
            for count in range(side.started):
                side.one()
                side.wait_for(count + 2)
                time.sleep(0.01)
            took_ms = sorted((at - sent) * 1000 for sent, at in side.wait_for(side.started + 1)[1:])
    finally:
        side.close()
    return Figures(singly, bulk, drained, took_ms[len(took_ms) // 2], took_ms[int(len(took_ms) * 0.99)], rss_mb)


def _rss_mb(pid: int) -> float:
    return int(Path(f"/proc/{pid}/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def compare(transport: str, server_url: str) -> tuple[Figures, Figures]:
    """Return the medians of penstock and of the engine alone, repetitions interleaved."""
    pairs = [
        (measure(lambda: Ours(transport, server_url)), measure(lambda: Direct(transport, server_url)))
        for _ in range(REPEATS)
    ]
    medians = [
        Figures(
            *(statistics.median(getattr(pair[side], field) for pair in pairs) for field in Figures.__struct_fields__)
        )
        for side in (0, 1)
    ]
    return medians[0], medians[1]


def row(transport: str, ours: Figures, plain: Figures) -> str:
    """One line of the table; what misses its bar is bold."""
    ratio = ours.drained_per_s / plain.drained_per_s
    enough = ratio >= (1.0 if transport.startswith("rq") else 0.7)
    bulk_enough = ours.bulk_per_s >= 5000 or not transport.endswith("redis")
    soon = ours.p50_ms <= plain.p50_ms + LATENCY_OVER_MS

    def marked(text: str, met: bool) -> str:
        return text if met else f"**{text}**"

    cells = [
        transport,
        f"{ours.singly_per_s:,.0f} / {plain.singly_per_s:,.0f}",
        marked(f"{ours.bulk_per_s:,.0f}", bulk_enough) + f" / {plain.bulk_per_s:,.0f}",
        f"{ours.drained_per_s:,.0f} / {plain.drained_per_s:,.0f} " + marked(f"({ratio:.0%})", enough),
        marked(f"{ours.p50_ms:.1f}", soon) + f" / {plain.p50_ms:.1f}",
        f"{ours.p99_ms:.1f} / {plain.p99_ms:.1f}",
        f"{ours.rss_mb:.0f} / {plain.rss_mb:.0f}",
    ]
    return f"| {' | '.join(cells)} |"


HEAD = """\
## Every transport beside its engine used directly

Each cell: penstock / the engine alone, medians of interleaved repetitions in one run; no-op jobs, the ledger on SQLite,
one worker process of concurrency 10 (RQ's own worker forks for each job and takes one at a time). Bars: drained at
least 70 % of the engine's own (RQ: above its forking worker), bulk at least 5,000 jobs/s on Redis, p50 of the start
within 5 ms of the engine's own. What misses its bar is bold.

| transport | sent singly, jobs/s | in bulk, jobs/s | drained, jobs/s | start p50, ms | start p99, ms | idle worker, MB |
| --- | --- | --- | --- | --- | --- | --- |
"""


def table(only: list[str] | None = None) -> str:
    """Measure the transports that can be served here, and return the table."""
    from penstock.testing import services

    lines: list[str] = []
    for transport in only or URLS:
        name = URLS[transport]
        if name and (why_not := services.available(name)) is not None:
            lines.append(f"| {transport} | {why_not} | | | | | |")
            continue
        lines.append(row(transport, *compare(transport, services.url(name) if name else "")))
        print(lines[-1], file=sys.stderr, flush=True)
    return HEAD + "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(sys.argv[1:] or None))  # transports by name; none: all
