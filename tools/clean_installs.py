"""Install penstock as a user would, once for each extra, and run a job through what was resolved.

Each extra gets a new virtual environment into which pip installs ``penstock[extra]`` from this tree: no constraints, no
overrides. There `penstock enqueue`, `penstock worker` and `penstock result` are run against private servers, which
this process starts. At the end a table says what was resolved and what worked; the exit code is 1 if anything did not.

    python tools/clean_installs.py                          # every extra
    python tools/clean_installs.py rq arq                   # these
    python tools/clean_installs.py --python python3.13      # in environments of another Python
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

from penstock.testing import services

ROOT = Path(__file__).parents[1]
LIMIT_S = 600.0
IDLE_S = 7.0
"""How long a worker has nothing to do in the second part of a check: redis-py 8 gives up a read after 5 s."""

TASKS = """
from penstock import task

@task
def greet(name: str) -> str:
    return f"Hello {name}"
"""
GREET = ("greet", "name=Ada")
PIPELINE = "def rain(hours: list) -> float:\n    return sum(hours)\n"
INPUTS = ("--pipeline", "--inputs", '{"hours": [1, 2]}', "--final-vars", "rain")

SCREEN = """
import asyncio
from penstock import JobQueue
from penstock.tui.app import Top

async def draw():
    async with Top(JobQueue.from_config(), refresh_s=60).run_test(size=(120, 40)) as pilot:
        await pilot.pause()

asyncio.run(draw())
"""
WATCHING = """
import threading
from pathlib import Path
from penstock.sources.watching import Watcher

folder, seen = Path("watched"), threading.Event()
folder.mkdir()
watcher = Watcher(folder, lambda: seen.set() if list(folder.iterdir()) else None, interval_s=60, events=True)
watcher.start()
seen.wait(2)  # watchfiles is listening by then
(folder / "job.json").write_text("{}")
found = seen.wait(10)  # without an event it would be a minute
watcher.stop()
raise SystemExit(0 if found else "no event of a new file within 10 s")
"""

SQLITE = "huey+sqlite:///queue.db"
LEDGER = "sqlite:///ledger.db"


class Check(NamedTuple):
    """A job to run where certain extras are installed."""

    extras: str
    transport: str
    """What the table says of it."""
    backend: str = SQLITE
    ledger: str = LEDGER
    job: tuple[str, ...] = GREET
    prints: str = "Hello Ada"
    files: tuple[tuple[str, str], ...] = (("jobs/greet.py", TASKS), ("penstock.toml", 'tasks = ["jobs/"]\n'))
    script: str = ""
    """What else the extra is for: a program that is run there afterwards, and succeeds."""


CHECKS = (
    Check("", "huey+sqlite"),
    Check("huey", "huey+redis", backend="huey+{redis}"),
    Check("rq", "rq+redis", backend="rq+{redis}"),
    Check("dramatiq", "dramatiq+redis", backend="dramatiq+{redis}"),
    Check("dramatiq", "dramatiq+amqp", backend="dramatiq+{rabbitmq}"),
    Check("saq", "saq+redis", backend="saq+{redis}"),
    Check("saq,postgres", "saq+postgres", backend="saq+{postgres}"),
    Check("arq", "arq+redis", backend="arq+{redis}"),
    Check("taskiq", "taskiq+redis", backend="taskiq+{redis}"),
    Check("taskiq", "taskiq+amqp", backend="taskiq+{rabbitmq}"),
    Check("taskiq", "taskiq+nats", backend="taskiq+{nats}"),
    Check("postgres", "ledger postgres", ledger="{postgres}"),
    Check("redis", "ledger redis", ledger="{redis}"),
    Check(
        "rio", "penstock.rio",
        files=(("jobs/greet.py", f"import penstock.rio\n{TASKS}"), ("penstock.toml", 'tasks = ["jobs/"]\n')),
    ),
    Check("tui", "penstock top", script=SCREEN),
    Check("watch", "job files", script=WATCHING),
    Check(
        "hamilton", "a pipeline", job=("weather", *INPUTS), prints='{"rain":3}',
        files=(("modules/weather.py", PIPELINE), ("penstock.toml", 'projects = ["modules"]\n')),
    ),
    Check(
        "flowerpower", "a pipeline", job=("weather", *INPUTS), prints='{"rain":3}',
        files=(
            ("pipelines/weather.py", PIPELINE), ("conf/project.yml", "name: forecast\n"),
            ("conf/pipelines/weather.yml", "run:\n  executor: {type: synchronous}\n"),
        ),
    ),
)  # fmt: skip

MISSING = {
    "huey+redis": "huey", "rq+redis": "rq", "dramatiq+redis": "dramatiq", "dramatiq+amqp": "dramatiq",
    "saq+redis": "saq", "saq+postgres": "saq", "arq+redis": "arq", "taskiq+redis": "taskiq", "taskiq+amqp": "taskiq",
    "taskiq+nats": "taskiq", "postgres": "postgres", "redis": "redis",
}  # fmt: skip
"""What the base install has no driver for, and the extra that the message must name."""

_VERSIONS = """
import importlib.metadata as m, json, re, sys
wanted = {"redis"}
for line in m.requires("penstock"):
    name = re.match(r"[\\w.-]+", line)[0]
    if any(f'extra == "{e}"' in line.replace("'", '"') for e in sys.argv[1].split(",")):
        wanted.add(name)
    elif not sys.argv[1] and "extra" not in line:
        wanted.add(name)
there = {d.metadata["Name"].lower(): d.version for d in m.distributions()}
print(json.dumps({n: there[n.lower()] for n in sorted(wanted) if n.lower() in there}))
"""


class Failure(Exception):  # noqa: N818 - it is a check that has failed
    """A command did not do what it should."""


class Row(NamedTuple):
    """A line of the closing table."""

    extras: str
    transport: str
    versions: str
    outcome: str
    seconds: float


class Place:
    """A clean virtual environment."""

    def __init__(self, folder: Path, extras: str) -> None:
        self.folder = folder
        self.extras = extras
        self.environ = {
            name: value
            for name, value in os.environ.items()
            # What pins versions, or points at this tree, is not what a user has.
            if name not in ("PIP_CONSTRAINT", "PYTHONPATH", "VIRTUAL_ENV") and not name.startswith("PENSTOCK_")
        } | {"NO_COLOR": "1", "COLUMNS": "200", "PYTHONSAFEPATH": "1"}

    def run(
        self,
        *command: str | Path,
        cwd: Path | None = None,
        exits: int = 0,
        environ: dict[str, str] | None = None,
    ) -> str:
        """Run a command and return its stdout. Raises `Failure` for another exit code, with all that it said."""
        told = subprocess.run(
            [str(word) for word in command], cwd=cwd or self.folder, env=self.environ | (environ or {}), text=True,
            stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False,
        )  # fmt: skip
        if told.returncode != exits:
            raise Failure(f"{' '.join(map(str, command))}: exit {told.returncode}\n{told.stdout}{told.stderr}")
        return told.stdout or told.stderr

    def install(self, wheel: Path, python: str) -> None:
        """Make the environment; pip comes from outside, so that nothing is in it but what penstock asks for."""
        self.run(python, "-m", "venv", "--without-pip", self.folder / "venv", cwd=self.folder.parent)
        wanted = f"penstock[{self.extras}] @ {wheel.as_uri()}" if self.extras else f"penstock @ {wheel.as_uri()}"
        pip = (sys.executable, "-m", "pip", "--python", self.folder / "venv", "--disable-pip-version-check")
        self.run(*pip, "install", "--quiet", wanted)

    def penstock(
        self, *arguments: str, cwd: Path | None = None, exits: int = 0, environ: dict[str, str] | None = None
    ) -> str:
        """Run the command that the install has put there."""
        return self.run(self.folder / "venv/bin/penstock", *arguments, cwd=cwd, exits=exits, environ=environ)

    def versions(self) -> str:
        """Name what the extras asked for, as it was resolved."""
        found = json.loads(self.run(self.folder / "venv/bin/python", "-c", _VERSIONS, self.extras))
        return ", ".join(f"{name} {version}" for name, version in found.items())

    def check(self, check: Check, urls: dict[str, str]) -> None:
        """Run a job in a burst, and another one after the worker has had nothing to do for a while."""
        project = self.folder / check.transport.replace("+", "-").replace(" ", "-")
        for name, text in check.files:
            (project / name).parent.mkdir(parents=True, exist_ok=True)
            (project / name).write_text(text)
        environ = {
            "PENSTOCK_BACKEND": check.backend.format(**urls),
            "PENSTOCK_LEDGER": check.ledger.format(**urls),
            "PENSTOCK_NAMESPACE": f"clean-{project.name}",
        }
        first = self.penstock("enqueue", *check.job, cwd=project, environ=environ).strip()
        self.penstock("worker", "--burst", cwd=project, environ=environ)
        self._result(first, check, project, environ)
        log = (project / "worker.log").open("w+")
        command = [str(self.folder / "venv/bin/penstock"), "worker"]
        with log, subprocess.Popen(command, cwd=project, env=self.environ | environ, stdout=log, stderr=log) as worker:
            try:
                time.sleep(IDLE_S)
                second = self.penstock("enqueue", *check.job, cwd=project, environ=environ).strip()
                self._result(second, check, project, environ)
            finally:
                worker.terminate()
                worker.wait(30)
                log.seek(0)
                said = log.read()
        # An idle worker has nothing to warn of; a read that ends every 5 s would be told here.
        if worker.returncode != 0 or "WARNING" in said or "ERROR" in said:
            raise Failure(f"the worker ended with {worker.returncode} and said:\n{said}")
        if check.script:
            self.run(self.folder / "venv/bin/python", "-c", check.script, cwd=project, environ=environ)

    def _result(self, job: str, check: Check, project: Path, environ: dict[str, str]) -> None:
        printed = self.penstock("result", job, "--wait", "--wait-timeout", "30s", cwd=project, environ=environ).strip()
        if "".join(printed.split()) != "".join(check.prints.split()):
            raise Failure(f"the job returned {printed!r}, not {check.prints!r}")

    def check_base(self) -> None:
        """See that the base install helps, and says what to install for all that it lacks."""
        if "Usage:" not in self.penstock("--help"):
            raise Failure("penstock --help shows no usage")
        self.penstock("doctor")
        for scheme, extra in MISSING.items():
            option = "--backend" if "+" in scheme else "--ledger"
            told = self.penstock("worker", option, f"{scheme}://127.0.0.1:1/0", exits=3)
            if "pip install" not in told or f"penstock[{extra}" not in told:
                raise Failure(f"{scheme}: does not say to install penstock[{extra}]: {told}")


def _wheel(folder: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(folder), str(ROOT)],
        check=True, timeout=LIMIT_S,
    )  # fmt: skip
    (wheel,) = folder.glob("penstock-*.whl")
    return wheel


def _servers(checks: list[Check]) -> dict[str, str]:
    wanted = [name for name in services.NAMES if any(f"{{{name}}}" in c.backend + c.ledger for c in checks)]
    return {name: services.server(name).url for name in wanted}


def _place(folder: Path, extras: str, checks: list[Check], wheel: Path, python: str, urls: dict[str, str]) -> list[Row]:
    """Install one environment and run its checks; never raises `Failure`."""
    folder.mkdir()
    place = Place(folder, extras)
    rows: list[Row] = []
    name, versions, started = extras or "(none)", "", time.monotonic()
    steps = [("install", lambda: place.install(wheel, python))]
    steps += [(check.transport, lambda check=check: place.check(check, urls)) for check in checks]
    if not extras:
        steps.append(("help, doctor, what is missing", place.check_base))
    for title, step in steps:
        outcome = "ok"
        try:
            step()
            versions = versions or place.versions()
        except (Failure, OSError, subprocess.SubprocessError) as error:
            outcome = "FAILED"
            print(f"\n{name}, {title}: {error}\n", flush=True)
        rows.append(Row(name, title, versions, outcome, time.monotonic() - started))
        started = time.monotonic()
        if title == "install" and outcome != "ok":
            break
    print(f"{name}: {', '.join(f'{row.transport} {row.outcome}' for row in rows)}", flush=True)
    return rows


def _table(rows: list[Row]) -> str:
    cells = [("extra", "transport", "versions", "outcome", "seconds")]
    cells += [(r.extras, r.transport, r.versions, r.outcome, f"{r.seconds:.1f}") for r in rows]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


def main() -> int:
    """Run what the command line asks for; return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("extras", nargs="*", help="which extras, such as rq; base: none; default: every one")
    parser.add_argument("--python", default=sys.executable, help="the Python of the environments; default: this one")
    parser.add_argument("--at-once", type=int, default=2, help="environments that are made at the same time")
    parser.add_argument("--keep", action="store_true", help="leave the environments where they are")
    told = parser.parse_args()
    wanted = {"" if name == "base" else name for name in told.extras}
    checks = [check for check in CHECKS if not wanted or check.extras in wanted]
    if unknown := wanted - {check.extras for check in checks}:
        parser.error(f"no check for {', '.join(sorted(unknown))}; there are: {', '.join(c.extras for c in CHECKS)}")
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="penstock-clean-"))
    try:
        urls, wheel = _servers(checks), _wheel(folder)
        with ThreadPoolExecutor(told.at_once) as pool:
            places = [
                pool.submit(
                    _place, folder / (extras.replace(",", "-") or "base"), extras,
                    [check for check in checks if check.extras == extras], wheel, told.python, urls,
                )
                for extras in dict.fromkeys(check.extras for check in checks)
            ]  # fmt: skip
        rows = [row for place in places for row in place.result()]
    finally:
        if told.keep:
            print(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    failed = sum(row.outcome != "ok" for row in rows)
    print(f"\n{_table(rows)}\n")
    python = subprocess.run([told.python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(f"{python}: {len(rows) - failed} ok, {failed} failed, {time.monotonic() - started:.0f} s")
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
