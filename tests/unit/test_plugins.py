"""What a plugin that joins by the hooks is asked and told."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import pytest

from penstock import JobQueue, registry, runners
from penstock.core.hookspecs import hookimpl
from penstock.core.running import Runner
from penstock.job.lifecycle import Event, Transition
from penstock.job.models import Job
from penstock.options import JobOptions
from penstock.sources.decorators import Call


class Greeting(msgspec.Struct):
    name: str


class GreetingRunner(Runner):
    kind: ClassVar[str] = "greeting"
    spec_type: ClassVar[type[msgspec.Struct]] = Greeting

    def execute(self, job: Job, run: Any) -> str:
        return f"Hello {msgspec.json.decode(job.spec, type=Greeting).name}"


class Plugin:
    def __init__(self) -> None:
        self.told: list[tuple[str, Event]] = []

    @hookimpl
    def runners(self) -> list[Runner]:
        return [GreetingRunner()]

    @hookimpl
    def job_changed(self, job: Job, transition: Transition) -> None:
        self.told.append((job.name, transition.event))


@pytest.fixture
def plugin() -> Any:
    plugin = Plugin()
    manager = registry.plugins()
    manager.register(plugin)
    yield plugin
    manager.unregister(plugin)
    runners._made.pop("greeting", None)


def greet(queue: JobQueue) -> Any:
    return queue.enqueue(Call("greeting", "greet", Greeting("Ada"), JobOptions(isolation="inline")))


def test_a_plugin_runs_a_kind_of_its_own(plugin: Plugin) -> None:
    with JobQueue("inline://", ledger="memory://") as queue:
        assert greet(queue).result(5) == "Hello Ada"


def test_a_plugin_is_told_of_a_job_that_ended(plugin: Plugin) -> None:
    with JobQueue("inline://", ledger="memory://") as queue:
        greet(queue).result(5)
    assert plugin.told == [("greet", Event.SUCCEED)]


def test_a_kind_that_nobody_runs_stays_queued_with_a_note() -> None:
    with JobQueue("inline://", ledger="memory://") as queue:
        job = greet(queue)
        assert job.state == "blocked"
        assert "no runner for jobs of kind 'greeting'" in (job.refresh().note or "")
