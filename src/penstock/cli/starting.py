"""``init``: the first files of a project; nothing that is there is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from penstock.cli.failures import OK, UsageError
from penstock.cli.session import Session

_CONFIG = """\
# All settings: penstock config show
backend = "huey+sqlite:///.penstock/queue.db"    # the one line that picks the engine
ledger  = "sqlite:///.penstock/ledger.db"        # where every job is recorded
{tasks}
[defaults]
max_attempts = 3
backoff = "10s..10m"
timeout = "1h"

[worker]
concurrency = 4
"""
_TASKS = 'tasks   = ["jobs/"]                              # folders and modules that hold tasks\n'
_PROJECTS = 'projects = ["."]                                 # FlowerPower projects; this folder is one\n'

_TASK = '''\
"""The first task. Run it: penstock enqueue hello name=Ada && penstock worker --burst && penstock result hello"""

from penstock import Run, task


@task(max_attempts=3, timeout="5m")
def hello(name: str, run: Run) -> str:
    run.progress = 0.5
    print("greeting", name)
    return f"Hello {name}"
'''

_TEST = '''\
"""Run it: pytest. The fixture `job_queue` comes with penstock; it needs no server and no worker."""

from jobs.hello import hello


def test_hello_greets_by_name(job_queue):
    assert job_queue.enqueue(hello, "Ada").result(timeout=10) == "Hello Ada"
'''

_CONFTEST = '''\
"""Lets the tests import `jobs` from the project's folder."""
'''


def init(
    directory: Path | None = None,
    /,
    *,
    session: Annotated[Session, Parameter(parse=False)],
) -> int:
    """Write a first config, a first task and its test. Nothing that is there is touched.

    In a FlowerPower project the config names it, so that its pipelines can be enqueued at once.

    Args:
        directory: The folder; it is made when it is not there. Default: this one.
        session: Handed in by the parser.
    """
    root = directory or session.project or Path()
    if root.exists() and not root.is_dir():
        raise UsageError(f"{root} is a file; name a folder")
    flowerpower = (root / "conf" / "project.yml").is_file() or (root / "conf" / "pipelines").is_dir()
    wanted = {
        "penstock.toml": _CONFIG.format(tasks=_TASKS + (_PROJECTS if flowerpower else "")),
        "jobs/hello.py": _TASK,
        "tests/test_hello.py": _TEST,
        "conftest.py": _CONFTEST,
    }
    told: list[dict[str, str]] = []
    for name, text in wanted.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with path.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            told.append({"path": str(path), "outcome": "kept"})
        else:
            told.append({"path": str(path), "outcome": "written"})
    for entry in told:
        if session.json:
            session.document({"schema": "penstock.file/1", **entry})
        elif not session.pretty:
            session.write(f"{entry['outcome']}\t{entry['path']}")
        else:
            sign, style = ("✓", "green") if entry["outcome"] == "written" else ("=", "dim")
            from rich.text import Text

            session.console.print(Text.assemble((f"{sign} {entry['outcome']:<8}", style), f" {entry['path']}"))
    session.say(_next(root, flowerpower=flowerpower))
    return OK


def _next(root: Path, *, flowerpower: bool) -> str:
    enter = "" if root.resolve() == Path.cwd() else f"cd {root} && "
    lines = [f"\nnext: {enter}penstock enqueue hello name=Ada && penstock worker --burst && penstock result hello"]
    if flowerpower:
        lines.append("a FlowerPower project was found; its pipelines: penstock tasks")
    return "\n".join(lines)
