"""What penstock costs, beside the same engine used directly, in one run: ``make bench``.

Figures are medians of interleaved repetitions. The machines are noisy: compare the two columns of one row, not
rows of different runs. ``--write FILE`` puts the table into a document; ``--only NAME`` runs one benchmark.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import io
import logging
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
ROW = tuple[str, str, str, str, bool | None]
"""What, reached, beside, bar, whether the bar was met."""


@contextlib.contextmanager
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="penstock-bench-"))
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def median_of(times: int, measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(times))


# -- the ledger ---------------------------------------------------------------------------------------------------


def intents(count: int) -> list[Any]:
    from penstock.job.models import Intent, new_job_id

    return [Intent(id=new_job_id(), kind="task", name="noop", spec=b'{"args":[],"kwargs":{}}') for _ in range(count)]


def layer_time() -> list[ROW]:
    """Submit, claim and finish on the SQLite ledger, one at a time, one thread."""
    from penstock.job import lifecycle
    from penstock.ledger import open_ledger

    def measure() -> float:
        with folder() as path:
            ledger = open_ledger(f"sqlite:///{path}/ledger.db")
            wanted = intents(1000)
            started = time.perf_counter()
            for intent in wanted:
                ledger.insert([intent], grace_s=30)
                claimed = ledger.apply(lifecycle.claim(intent.id, owner="bench", lease_s=60))
                assert claimed is not None
                ledger.apply(lifecycle.succeed(intent.id, attempt=1))
            took = time.perf_counter() - started
            ledger.close()
            return took / len(wanted) * 1000

    took_ms = median_of(5, measure)
    return [("submit + claim + finish, SQLite ledger", f"{took_ms:.3f} ms/job", "", "<= 0.5 ms", took_ms <= 0.5)]


def bulk_enqueue() -> list[ROW]:
    from penstock import JobQueue
    from penstock.sources.decorators import task

    @task(name="bench_noop")
    def noop(number: int) -> None:
        pass

    def measure() -> float:
        with (
            folder() as path,
            JobQueue(f"huey+sqlite:///{path}/queue.db", ledger=f"sqlite:///{path}/ledger.db", root=path) as queue,
        ):
            queue.enqueue(noop, 0)
            started = time.perf_counter()
            queue.enqueue_many([noop.call(number) for number in range(5000)])
            return 5000 / (time.perf_counter() - started)

    rate = median_of(3, measure)
    return [("enqueue_many, ledger and engine", f"{rate:,.0f} jobs/s", "", ">= 5,000", rate >= 5000)]


def full_ledger() -> list[ROW]:
    """Claim and list with 200,000 finished jobs beside an empty ledger."""
    from penstock.job import lifecycle
    from penstock.job.models import JobQuery
    from penstock.ledger import open_ledger

    def finished(ledger: Any, count: int) -> None:
        for start in range(0, count, 2000):
            wanted = intents(min(2000, count - start))
            ledger.insert(wanted, grace_s=30)
            ledger.apply_many([lifecycle.claim(i.id, owner="bench", lease_s=60) for i in wanted])
            ledger.apply_many([lifecycle.succeed(i.id, attempt=1) for i in wanted])

    def claims_us(ledger: Any) -> float:
        wanted = intents(500)
        ledger.insert(wanted, grace_s=30)
        started = time.perf_counter()
        for intent in wanted:
            ledger.apply(lifecycle.claim(intent.id, owner="bench", lease_s=60))
        took = (time.perf_counter() - started) / len(wanted) * 1e6
        ledger.apply_many([lifecycle.succeed(i.id, attempt=1) for i in wanted])
        return took

    def lists_us(ledger: Any) -> float:
        queries = [
            JobQuery(limit=50),
            JobQuery(limit=50, name="noop"),
            JobQuery(limit=50, states=("succeeded",)),
            JobQuery(limit=50, states=("failed",)),
        ]
        started = time.perf_counter()
        for _ in range(20):
            for query in queries:
                ledger.find(query)
        return (time.perf_counter() - started) / 80 * 1e6

    with folder() as path:
        small = open_ledger(f"sqlite:///{path}/small.db")
        large = open_ledger(f"sqlite:///{path}/large.db")
        finished(small, 100)
        finished(large, 200_000)
        pairs = [(claims_us(small), claims_us(large), lists_us(small), lists_us(large)) for _ in range(7)]
        small.close()
        large.close()
    a, b, c, d = (statistics.median(pair[i] for pair in pairs) for i in range(4))
    return [
        ("claim, 200,000 finished jobs in the ledger", f"{b:.0f} us", f"empty: {a:.0f} us", "<= 1.5x", b <= 1.5 * a),
        ("list 50, 200,000 finished jobs", f"{d:.0f} us", f"empty: {c:.0f} us", "<= 1.5x", d <= 1.5 * c),
    ]


# -- through the engine -------------------------------------------------------------------------------------------


def plain_huey(path: Path, count: int, threads: int) -> float:
    """Jobs a second of Huey alone, with the storage class, the settings and the consumer that penstock uses."""
    from huey import Huey

    from penstock.backends.huey.engine import QuietConsumer, _Json
    from penstock.backends.huey.storage import QueueStorage

    done = threading.Semaphore(0)
    huey = Huey("plain", storage_class=QueueStorage, filename=str(path / "plain.db"), results=False, serializer=_Json())

    @huey.task(name="noop")
    def noop(number: int) -> None:
        done.release()

    huey.storage.put_messages(
        [("plain", huey.serialize_task(noop.task_class((n,), {})), 0, str(n)) for n in range(count)]
    )
    huey.storage.listen(["plain"])
    consumer = QuietConsumer(huey, workers=threads, periodic=False, initial_delay=0.005, max_delay=0.1, backoff=1.5)
    started = time.perf_counter()
    consumer.start()
    thread = threading.Thread(target=consumer.run_until_stopped)
    thread.start()
    for _ in range(count):
        done.acquire()
    rate = count / (time.perf_counter() - started)
    consumer.stop_flag.set()
    thread.join()
    huey.storage.close()
    return rate


def through_penstock(path: Path, count: int, threads: int) -> float:
    """Jobs a second through penstock: guarded claim and settlement, full history."""
    from penstock import JobQueue
    from penstock.sources.decorators import task

    @task(name="bench_drain")
    def noop(number: int) -> None:
        pass

    with JobQueue(f"huey+sqlite:///{path}/queue.db", ledger=f"sqlite:///{path}/ledger.db", root=path) as queue:
        queue.enqueue_many([noop.call(number) for number in range(count)])
        worker = queue.worker(concurrency=threads)
        finished = queue.execution.counts
        started = time.perf_counter()
        worker.start()
        while finished["returned"] < count:
            time.sleep(0.002)
        rate = count / (time.perf_counter() - started)
        worker.stop()
        assert queue.counts() == {"succeeded": count}, queue.counts()
    return rate


def drain() -> list[ROW]:
    rows: list[ROW] = []
    for threads in (1, 10):
        plain: list[float] = []
        ours: list[float] = []
        for _ in range(5):
            with folder() as path:
                plain.append(plain_huey(path, 4000, threads))
            with folder() as path:
                ours.append(through_penstock(path, 4000, threads))
        a, b = statistics.median(plain), statistics.median(ours)
        bar = ">= 70 %" if threads == 10 else ""
        rows.append(
            (
                f"no-op jobs drained, huey+sqlite, concurrency {threads}",
                f"{b:,.0f} jobs/s ({b / a:.0%})",
                f"plain Huey: {a:,.0f} jobs/s",
                bar,
                b >= 0.7 * a if bar else None,
            )
        )
    return rows


def control() -> list[ROW]:
    """What strikes, pauses, keys and limits cost a job that uses none of them."""
    from control import medians

    without, having, ratio = medians(folder)
    return [
        (
            "a job that no rule of control concerns, CPU",
            f"{having:.0f} us ({ratio - 1:+.1%})",
            f"with nothing that may hold it back: {without:.0f} us",
            "<= +5 %",
            ratio <= 1.05,
        )
    ]


# -- pipelines ----------------------------------------------------------------------------------------------------


def warm_pipeline() -> list[ROW]:
    """A FlowerPower job in a warm child beside the same run in a warm process of its own."""
    from penstock import JobQueue

    example = HERE.parent / "examples" / "flights"
    own = subprocess.run(
        [sys.executable, str(HERE / "pipeline_alone.py"), str(example)], capture_output=True, text=True, check=True
    )
    alone_ms = float(own.stdout.strip().splitlines()[-1])
    with folder() as path, JobQueue.for_project(example) as found:
        queue = JobQueue(
            f"huey+sqlite:///{path}/queue.db",
            ledger=f"sqlite:///{path}/ledger.db",
            config=found.config,
            root=found.root,
        )
        with queue, queue.worker(concurrency=1):
            call = queue.pipeline("delays_by_carrier", inputs={"day": "2013-01-02"})
            queue.enqueue(call).result(120)
            took: list[float] = []
            for _ in range(15):
                job = queue.enqueue(call)
                job.result(60)
                attempt = job.attempts()[-1]
                assert attempt.finished_at is not None
                took.append((attempt.finished_at - attempt.started_at).total_seconds() * 1000)
    job_ms = statistics.median(took)
    over = job_ms - alone_ms
    return [
        (
            "warm FlowerPower job above its own run",
            f"{over:.0f} ms",
            f"{job_ms:.0f} ms as a job, {alone_ms:.0f} ms alone",
            "<= 40 ms",
            over <= 40,
        )
    ]


# -- start and rest -----------------------------------------------------------------------------------------------


def import_time() -> list[ROW]:
    def took_ms(code: str) -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True)
        return (time.perf_counter() - started) * 1000

    for code in ("pass", "import penstock; penstock.JobQueue"):
        took_ms(code)
    bare, named, public, cli = ([] for _ in range(4))
    for _ in range(11):
        bare.append(took_ms("pass"))
        named.append(took_ms("import penstock"))
        public.append(took_ms("import penstock; penstock.JobQueue, penstock.task"))
        cli.append(
            took_ms(
                "import sys; sys.argv=['penstock','--help']\nfrom penstock.cli.main import main\nimport contextlib, io\nwith contextlib.suppress(SystemExit), contextlib.redirect_stdout(io.StringIO()): main()"
            )
        )
    a, b, c, d = (statistics.median(x) for x in (bare, named, public, cli))
    return [
        ("import penstock above bare Python", f"{b - a:.0f} ms", f"bare: {a:.0f} ms", "<= 80 ms", b - a <= 80),
        ("the same with JobQueue and task in use", f"{c - a:.0f} ms", "", "", None),
        ("penstock --help", f"{d:.0f} ms", "", "< 300 ms", d < 300),
    ]


def idle_worker() -> list[ROW]:
    with folder() as path:
        (path / "jobs").mkdir()
        (path / "jobs" / "hello.py").write_text("from penstock import task\n\n@task\ndef hello(): pass\n")
        (path / "penstock.toml").write_text('tasks = ["jobs/"]\n')
        worker = subprocess.Popen(
            [sys.executable, "-m", "penstock", "worker"], cwd=path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            time.sleep(3)
            status = Path(f"/proc/{worker.pid}/status").read_text()
        finally:
            worker.terminate()
            worker.wait(30)
    rss_mb = int(status.split("VmRSS:")[1].split()[0]) / 1024
    return [("memory of an idle worker without pipelines", f"{rss_mb:.0f} MB", "", "<= 60 MB", rss_mb <= 60)]


BENCHES: dict[str, Callable[[], list[ROW]]] = {
    "layer": layer_time, "bulk": bulk_enqueue, "drain": drain, "full": full_ledger, "control": control,
    "pipeline": warm_pipeline, "import": import_time, "idle": idle_worker,
}  # fmt: skip


def every_transport() -> str:
    from engines import table as measured

    return measured()


def table(rows: list[ROW]) -> str:
    if not rows:
        return ""
    out = io.StringIO()
    out.write("| what | reached | beside | bar | met |\n| --- | --- | --- | --- | --- |\n")
    for what, reached, beside, bar, met in rows:
        out.write(f"| {what} | {reached} | {beside} | {bar} | {'' if met is None else 'yes' if met else '**no**'} |\n")
    return out.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=sorted([*BENCHES, "engines"]), action="append")
    parser.add_argument("--write", type=Path)
    chosen = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[ROW] = []
    for name in chosen.only or BENCHES:
        if name in BENCHES:
            rows.extend(BENCHES[name]())
            print(f"{name} done", file=sys.stderr)
    text = table(rows)
    if not chosen.only or "engines" in chosen.only:
        text += f"\n{every_transport()}"
    print(text)
    if chosen.write is not None:
        head = (
            "# Performance\n\nWhat `make bench` printed last. Two shared cores: compare the columns of a row, not rows of "
            f"different runs.\n\n{dt.datetime.now(dt.UTC):%Y-%m-%d}, {os.cpu_count()} cores ({platform.machine()}), "
            f"Python {platform.python_version()}, {platform.system()} {platform.release().split('-')[0]}\n\n"
        )
        chosen.write.write_text(head + text)


if __name__ == "__main__":
    main()
