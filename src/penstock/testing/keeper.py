"""Runs one test service in a process of its own, and ends it when the test run ends, in whatever way that ends.

A script that needs only the standard library: ``python -I -S keeper.py PLAN``. The plan is JSON::

    {"folder": "/tmp/x", "user": null, "group": null, "stop": 15, "end": 9, "commands": [["redis-server", ...]]}

It is told over stdin: ``s`` (stop, by the signal ``stop``) and ``k`` (kill); both keep the folder. The end of stdin
means that the test run is over: everything is ended by the signal ``end`` and the folder removed. Each command is in
a session of its own, so that its children go with it.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

_PATIENCE_S = 10.0  # then by SIGKILL


def _signal(children: list[subprocess.Popen[bytes]], number: int) -> None:
    for child in children:
        with contextlib.suppress(ProcessLookupError):  # the whole session has ended already
            os.killpg(child.pid, number)


def _end(children: list[subprocess.Popen[bytes]], number: int) -> None:
    if number != signal.SIGKILL:
        _signal(children, number)
        until = time.monotonic() + _PATIENCE_S
        while any(child.poll() is None for child in children) and time.monotonic() < until:
            time.sleep(0.01)
    _signal(children, signal.SIGKILL)
    for child in children:
        child.wait()


def main(plan_text: str) -> int:
    """Keep the plan's commands running; return 0 when told to end, 1 when one of them ended by itself."""
    plan = json.loads(plan_text)
    parent = os.getppid()
    for ignored in (signal.SIGINT, signal.SIGHUP):  # a Ctrl-C is for the test run, which then closes our stdin
        signal.signal(ignored, signal.SIG_IGN)
    with Path(plan["folder"], "log").open("ab") as log:
        children = [
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                user=plan["user"],
                group=plan["group"],
                extra_groups=None if plan["user"] is None else [],
                cwd=plan["folder"],
            )
            for command in plan["commands"]
        ]
    while True:
        readable, _, _ = select.select([sys.stdin.fileno()], [], [], 0.2)
        word = os.read(sys.stdin.fileno(), 1) if readable else None
        # A forked child of the test run may hold our stdin open: a new parent says as much as its end.
        if word == b"" or os.getppid() != parent:
            _end(children, plan["end"])
            shutil.rmtree(plan["folder"], ignore_errors=True)
            return 0
        if word is not None:
            _end(children, plan["stop"] if word == b"s" else signal.SIGKILL)
            return 0
        if any(child.poll() is not None for child in children):
            _end(children, signal.SIGKILL)
            return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
