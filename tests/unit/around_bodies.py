"""What a worker puts around bodies, and bodies that tell what is around them."""

from __future__ import annotations

import os
from contextlib import asynccontextmanager, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from penstock import CurrentJob, CurrentRun, Dependency, Depends, JobHandle, Run, TaskArgument, TaskKey, task

within: ContextVar[str] = ContextVar("within", default="nothing")


def note(text: str) -> None:
    with Path(os.environ["AROUND_NOTES"]).open("a") as notes:
        notes.write(f"{text}\n")


@asynccontextmanager
async def connection():
    note("connected")
    try:
        yield object()
    finally:
        note("disconnected")


@contextmanager
def traced(key: str = TaskKey(), run: Run = CurrentRun(), db: Any = Depends(connection)):
    note(f"begins {run.name} {key}")
    token = within.set(key)
    try:
        yield id(db)
    except Exception as error:
        note(f"failed with {type(error).__name__}")
        raise
    finally:
        within.reset(token)
        note(f"ends {run.name}")


def customer_of(customer: str | None = TaskArgument(optional=True), job: JobHandle = CurrentJob()) -> None:
    note(f"{job.job.kind} for {customer}")


class Marked(Dependency[None]):
    async def __aenter__(self) -> None:
        note("marked")


trace = Depends(traced)
everywhere = {"trace": trace, "customer": Depends(customer_of), "mark": Marked()}
not_one = traced


@task(name="around.sync")
def sync_body(customer: str, db: Any = Depends(connection)) -> str:
    note("body")
    return within.get()


@task(name="around.async")
async def async_body(customer: str, db: Any = Depends(connection)) -> str:
    note("body")
    return within.get()


@task(name="around.plain")
def plain_body(*customer: str, **more: str) -> str:
    note("body")
    return within.get()


@task(name="around.raises")
def raises() -> None:
    raise KeyError("lost")
