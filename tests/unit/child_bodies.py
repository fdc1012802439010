"""Tasks that the tests of child processes run."""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from penstock import Run, task


@task
def child_pid() -> int:
    return os.getpid()


@task
def child_talks(run: Run) -> str:
    run.progress = 0.5
    run.message = "half way"
    print("printed")
    logging.getLogger("shop").info("logged")
    os.system("echo from a program")
    return "told"


@task
def child_sleeps(mark: str, seconds: float = 30.0) -> None:
    try:
        Path(mark).write_text("began")
        time.sleep(seconds)
    finally:
        Path(mark).write_text("cleaned up")


@task
async def child_sleeps_async(mark: str) -> None:
    try:
        Path(mark).write_text("began")  # noqa: ASYNC240
        await asyncio.sleep(30)
    finally:
        Path(mark).write_text("cleaned up")  # noqa: ASYNC240


@task
def child_ignores_stops(mark: str) -> None:
    Path(mark).write_text("began")
    while True:
        try:
            time.sleep(30)
        except BaseException:
            continue


@task
def child_starts_a_program(mark: str) -> None:
    program = subprocess.Popen(["sleep", "60"])
    Path(mark).write_text(str(program.pid))
    time.sleep(30)


def _deeper(levels: int) -> None:
    ctypes.string_at(0) if levels == 0 else _deeper(levels - 1)


@task
def child_dies(how: str) -> None:
    print("last words", flush=True)
    if how == "segfault deep down":
        _deeper(60)
    if how == "exit":
        os._exit(7)
    if how == "kill":
        os.kill(os.getpid(), 9)
    ctypes.string_at(0)


@task
def child_raises(how: str) -> None:
    if how == "sys.exit":
        sys.exit(3)
    if how == "str":

        class Mute(Exception):  # noqa: N818
            def __str__(self) -> str:
                raise RuntimeError

        raise Mute
    secret = "hunter2"  # noqa: F841
    raise ValueError("not \udc80 text")


@task
def child_breaks_things() -> str:
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115, PTH123
    os.close(1)
    os.chdir("/")
    if os.fork() == 0:
        return "the forked process came out of the body"
    os.wait()
    logging.info("still heard")
    return "ok"


@task
def child_writes_bytes() -> None:
    sys.stdout.buffer.write(b"caf\xe9\n")
    os.write(2, b"raw \xff\n")


@task
def child_floods() -> None:
    for number in range(12_000):
        print(number)


@task
def child_leaves_a_thread(mark: str) -> None:
    import contextvars

    def later() -> None:
        time.sleep(0.2)
        print("too late")
        Path(mark).write_text("spoken")

    threading.Thread(target=contextvars.copy_context().run, args=(later,), daemon=True).start()


@task
def child_returns_a_table() -> object:
    import pandas as pd

    return pd.DataFrame({"a": [1, 2]})


@task
def child_stops_itself_when_asked(run: Run) -> None:
    while not run.cancelled:
        try:
            time.sleep(0.01)
        except BaseException:
            continue
